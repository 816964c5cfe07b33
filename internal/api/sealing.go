package api

import (
	"context"
	"errors"
	"fmt"
	"time"

	"keyd/internal/audit"
	"keyd/internal/field"
	"keyd/internal/registry"
	"keyd/internal/rotation"
)

// readSealing reads what a caller asks to be sealed. What it does not say is
// taken from what is known of the endpoint, where it names one.
func (x *visit) readSealing(s *Server, p *Partner) (w sealing, err error) {
	w.plaintext = x.body
	if len(x.body) == 0 {
		return w, fmt.Errorf("%w: the body is empty, there is nothing to seal", errBadRequest)
	}
	if w.path, err = x.sealedPath(); err != nil {
		return w, err
	}
	if w.verb, err = x.verb(); err != nil {
		return w, err
	}
	w.in = x.query.Get("form")
	for _, flag := range []struct {
		name string
		to   *bool
	}{{"refetch", &w.refetch}, {"direct", &w.direct}, {"ephemeral", &w.ephemeral}} {
		if *flag.to, err = x.flag(flag.name); err != nil {
			return w, err
		}
	}
	if w.fields, err = x.pointers("field"); err != nil {
		return w, err
	}
	if w.keyAt, err = field.ParsePointer(x.query.Get("public_key_at")); err != nil {
		return w, err
	}
	return w, s.complete(p, &w, x.query.Has)
}

// complete fills in what the caller did not say, and refuses what does not go
// with the partner.
func (s *Server) complete(p *Partner, w *sealing, said func(name string) bool) error {
	var endpoint Endpoint
	if w.path != "" {
		endpoint = p.Remote.Endpoint(w.verb, w.path)
	}
	refuse := func(format string, args ...any) error {
		return fmt.Errorf("%w: partner %s: %s", errBadRequest, p.Name, fmt.Sprintf(format, args...))
	}
	if !said("direct") {
		w.direct = endpoint.Direct
	}
	if w.direct && !p.Direct {
		return refuse("direct: no reply comes under the key of its request")
	}
	if p.Form == FormOwn {
		if w.in == "" {
			w.in = endpoint.Envelope
		}
		if w.in != InBody && w.in != InHeader {
			return refuse("say where the envelope goes: form=%s or form=%s, or name the endpoint with url", InBody, InHeader)
		}
	} else if said("form") {
		return refuse("its envelopes are JWE: no form")
	}
	if p.Form != FormFields {
		if said("field") || said("public_key_at") || said("ephemeral") {
			return refuse("its requests are sealed as a whole: no field, public_key_at or ephemeral")
		}
		return nil
	}
	if err := s.completeFields(p, w, endpoint, said); err != nil {
		return err
	}
	if len(w.fields) == 0 && w.keyAt.Whole() {
		return refuse("name the values to seal: field=/pointer, once for each")
	}
	return nil
}

// completeFields is complete for a body whose values are sealed.
func (s *Server) completeFields(p *Partner, w *sealing, endpoint Endpoint, said func(string) bool) (err error) {
	if !said("field") && len(endpoint.Seal) > 0 {
		if w.fields, err = parsePointers(endpoint.Seal); err != nil {
			return err
		}
	}
	if !said("public_key_at") && endpoint.PublicKey != "" {
		if w.keyAt, err = field.ParsePointer(endpoint.PublicKey); err != nil {
			return err
		}
	}
	switch {
	case w.keyAt.Whole():
		if w.ephemeral {
			return fmt.Errorf("%w: ephemeral: say where the public key goes, with public_key_at", errBadRequest)
		}
		return nil
	case !p.KeyInBody:
		return fmt.Errorf("%w: partner %s: it takes no public key of ours in a body", errBadRequest, p.Name)
	case !said("ephemeral"):
		w.ephemeral = !s.hasKey(p.Name)
	case !w.ephemeral && !s.hasKey(p.Name):
		return fmt.Errorf("%w: partner %s has no standing key of ours", errNoActive, p.Name)
	}
	return nil
}

// hasKey reports whether there is a standing key that opens what a partner seals.
func (s *Server) hasKey(partner string) bool {
	v, err := s.activeVersion(partner)
	return err != nil || v.KID != ""
}

// refetchEvery is how often callers can make keyd fetch a partner's key afresh:
// a partner that has trouble must not get a call for each request it refuses.
const refetchEvery = 30 * time.Second

// partnerKey is the public key to seal to. The caller may say that the partner
// refused the last envelope, which may mean that it has another key by now.
func (s *Server) partnerKey(ctx context.Context, actor audit.Actor, p *Partner, refetch bool) (registry.PartnerKey, error) {
	if p.CallersKey && Authorization(ctx) == "" {
		if _, err := s.cfg.Registry.PartnerKey(p.Name); refetch || errors.Is(err, registry.ErrNotFound) {
			return registry.PartnerKey{}, fmt.Errorf("partner %s: %w", p.Name, errNeedsToken)
		}
	}
	if refetch && s.refetch.may(p.Name, time.Now()) {
		pk, _, err := s.cfg.Engine.RefreshPartnerKey(ctx, actor, p.Name)
		return pk, partnerFailure(ctx, err)
	}
	pk, err := s.cfg.Engine.PartnerKey(ctx, p.Name)
	return pk, partnerFailure(ctx, err)
}

type authorizationKey struct{}

// withAuthorization carries a caller's own authority at a partner to where the
// partner is spoken to. It is in no log and no error.
func withAuthorization(ctx context.Context, authorization string) context.Context {
	return context.WithValue(ctx, authorizationKey{}, authorization)
}

// Authorization is what a caller brought along for the partner, such as "Bearer
// TOKEN"; "" is nothing.
func Authorization(ctx context.Context) string {
	authorization, _ := ctx.Value(authorizationKey{}).(string)
	return authorization
}

// partnerFailure tells what a partner did wrong from what we did.
func partnerFailure(ctx context.Context, err error) error {
	switch {
	case err == nil, ctx.Err() != nil, errors.Is(err, rotation.ErrAudit), errors.Is(err, rotation.ErrNoPartner), errors.Is(err, rotation.ErrNoPartnerKey), errors.Is(err, rotation.ErrNotPinned):
		return err
	}
	return fmt.Errorf("%w: %w", errPartner, err)
}
