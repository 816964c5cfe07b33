package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"keyd/internal/audit"
)

// record writes what came of an attempt. One that cost nothing may be held back
// and counted.
func (o *Opener) record(ctx context.Context, actor audit.Actor, a *attempt, err error) error {
	if o.cfg.Decrypts == AuditOff || o.cfg.Decrypts == AuditFailures && err == nil {
		return nil
	}
	e := audit.Entry{Phase: audit.PhaseEvent, Action: "decrypt", Actor: actor, Partner: a.partner,
		KID: printable(a.kid), Key: a.version.Key, Result: audit.ResultOK, Detail: map[string]string{}}
	if id := requestIDFrom(ctx); id != "" {
		e.Detail["request"] = id
	}
	if a.exchange != "" {
		e.Detail["exchange"] = printable(a.exchange)
	}
	if a.level != "" {
		e.Detail["boundary"] = string(a.level)
	}
	if err != nil {
		e.Result, e.Code = audit.ResultFailed, kindOf(err).code
	}
	if err != nil && !a.spent && !o.refused.own(e) {
		if failed := o.audit.failure(); failed != nil { // it could not be recorded later either
			return fmt.Errorf("%w: %w", ErrAudit, failed)
		}
		return nil
	}
	// Also when the caller has gone: it happened.
	if failed := o.audit.Record(context.WithoutCancel(ctx), e); failed != nil {
		o.cfg.Logger.ErrorContext(ctx, "an opening could not be recorded", "partner", a.partner, "kid", a.kid, "err", failed)
		return fmt.Errorf("%w: %w", ErrAudit, failed)
	}
	return nil
}

// writeRefusal records refusals that were held back.
func (o *Opener) writeRefusal(e audit.Entry) {
	if err := o.audit.Record(context.Background(), e); err != nil {
		o.cfg.Logger.Error("refusals could not be recorded", "code", e.Code, "times", e.Detail["times"], "caller", e.Actor.String(), "err", err)
	}
}

// recordRefusal records a request that was refused before anything that records
// its own refusals saw it. It returns what is answered.
func (s *Server) recordRefusal(x *visit, err error) error {
	forbidden := errors.Is(err, errForbidden) || errors.Is(err, errNotClient)
	switch {
	case !forbidden && !unusable(err):
	case !forbidden && x.route.opens():
		return s.cfg.Opener.refuse(x.r.Context(), x.actor, x.r.PathValue("partner"), err)
	case forbidden, x.tried():
		e := audit.Entry{Phase: audit.PhaseEvent, Action: x.route.action, Actor: x.actor, Result: audit.ResultRefused, Code: kindOf(err).code,
			Key: printable(x.r.PathValue("key")), KID: printable(x.r.PathValue("kid")), Partner: printable(x.r.PathValue("partner")),
			Detail: map[string]string{"request": x.id}}
		if !forbidden {
			e.Detail["error"] = detail(err, kindOf(err))
		}
		if s.refused.own(e) {
			s.writeRefusal(e)
		}
	}
	return err
}

// unusable reports whether the request itself is at fault.
func unusable(err error) bool {
	for _, fault := range []error{errBadRequest, errTooLarge, errMedia, errSlow, errNotFound} {
		if errors.Is(err, fault) {
			return true
		}
	}
	return false
}

// tried reports whether an operator tried to change something.
func (x *visit) tried() bool {
	if x.route.on != adminSocket || x.route.method != http.MethodPost {
		return false
	}
	dry, bad := x.flag("dry_run")
	return !dry || bad != nil
}

// writeRefusal writes who was refused what. That it cannot be written does not
// make the refusal an answer.
func (s *Server) writeRefusal(e audit.Entry) {
	if err := s.audit.Record(context.Background(), e); err != nil {
		s.log.Error("a refusal could not be recorded", "request", e.Detail["request"], "caller", e.Actor.String(), "err", err)
	}
}
