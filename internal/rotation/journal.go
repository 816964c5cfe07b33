package rotation

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime/debug"

	"github.com/google/uuid"

	"keyd/internal/audit"
)

type requestKey struct{}

// WithRequest makes the audit entries of what is done under ctx carry the id of
// the request that asked for it.
func WithRequest(ctx context.Context, id string) context.Context {
	return context.WithValue(ctx, requestKey{}, id)
}

func withRequest(ctx context.Context, entry audit.Entry) audit.Entry {
	id, _ := ctx.Value(requestKey{}).(string)
	return withDetail(entry, "request", id)
}

// journal writes an intent, acts, and writes the outcome. act gets the number
// of the intent's entry, for the histories of the versions it moves. If the
// intent cannot be written, act is not called.
func (e *Engine) journal(ctx context.Context, entry audit.Entry, act func(seq uint64) error) error {
	return e.journalSaying(ctx, entry, func(seq uint64, _ map[string]string) error { return act(seq) })
}

// journalSaying is journal for an act whose outcome has details of its own,
// such as the digest of what it made: act puts them into said.
func (e *Engine) journalSaying(ctx context.Context, entry audit.Entry, act func(seq uint64, said map[string]string) error) error {
	entry = withRequest(ctx, entry)
	entry.Op, entry.Phase = uuid.NewString(), audit.PhaseIntent
	head, err := e.cfg.Audit.Append(ctx, entry)
	if err != nil {
		return fmt.Errorf("recording the intent of %s, which was not begun: %w: %w", entry.Action, ErrAudit, err)
	}
	said := map[string]string{}
	failure := e.safely(func() error { return act(head.Seq, said) })
	entry.Phase, entry.Result = audit.PhaseOutcome, audit.ResultOK
	for name, value := range said {
		entry = withDetail(entry, name, value)
	}
	if failure != nil {
		entry.Result, entry.Code = audit.ResultFailed, codeOf(failure)
		entry = withDetail(entry, "error", failure.Error())
	}
	// What was done is recorded even if whoever asked for it has gone.
	if _, err := e.cfg.Audit.Append(context.WithoutCancel(ctx), entry); err != nil {
		return errors.Join(failure, fmt.Errorf("recording the outcome of %s: %w: %w", entry.Action, ErrAudit, err))
	}
	return failure
}

// safely makes a panic, in a driver or in our own code, an error of the one
// operation that met it: the daemon goes on opening envelopes.
func (e *Engine) safely(act func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			e.log.Error("panic", "value", fmt.Sprint(r), "stack", string(debug.Stack()))
			err = fmt.Errorf("%w: %v", errPanic, r)
		}
	}()
	return act()
}

// refuse records that an operation was asked for and not begun.
func (e *Engine) refuse(ctx context.Context, entry audit.Entry, reason error) error {
	entry = withRequest(ctx, entry)
	entry.Phase, entry.Result, entry.Code = audit.PhaseEvent, audit.ResultRefused, codeOf(reason)
	entry = withDetail(entry, "error", reason.Error())
	if _, err := e.cfg.Audit.Append(context.WithoutCancel(ctx), entry); err != nil {
		return errors.Join(reason, fmt.Errorf("recording the refusal of %s: %w: %w", entry.Action, ErrAudit, err))
	}
	return reason
}

// withDetail adds a detail without touching the map of the entry's copies.
func withDetail(entry audit.Entry, name, value string) audit.Entry {
	if value == "" {
		return entry
	}
	detail := map[string]string{name: value}
	maps.Copy(detail, entry.Detail)
	detail[name] = value
	entry.Detail = detail
	return entry
}

// settle writes the outcomes that are missing because the daemon ended between
// an intent and its outcome. The registry says what was done: each change of a
// version's state, and each document kept of its key pair, names the intent it
// belongs to. Of any other step, such as an upload, only the partner or the
// backend could say; such a step is repeated, and that stands in the log after
// this.
func (e *Engine) settle(ctx context.Context) error {
	if e.cfg.AuditTail == nil {
		return nil
	}
	entries, err := e.cfg.AuditTail(ctx)
	if err != nil {
		return fmt.Errorf("reading the audit log for unfinished operations: %w", err)
	}
	for _, intent := range unsettled(entries, e.began) {
		outcome := intent
		outcome.Seq, outcome.Phase, outcome.Result = 0, audit.PhaseOutcome, audit.ResultOK
		outcome = withDetail(outcome, "settled", "after a restart: the change stands in the registry")
		said, kept := e.kept(intent)
		for name, value := range said {
			outcome = withDetail(outcome, name, value)
		}
		if !kept && !e.stands(intent.Seq) {
			outcome.Result, outcome.Code = audit.ResultFailed, "interrupted"
			outcome = withDetail(outcome, "settled", "after a restart: interrupted; no change of state stands in the registry")
		}
		if _, err := e.cfg.Audit.Append(ctx, outcome); err != nil {
			return fmt.Errorf("settling %s: %w: %w", intent.Action, ErrAudit, err)
		}
		e.log.InfoContext(ctx, "settled an operation that a restart had interrupted",
			"action", intent.Action, "kid", intent.KID, "result", outcome.Result)
	}
	return nil
}

// unsettled returns the intents of engines before this one, up to an entry,
// that no outcome follows.
func unsettled(entries []audit.Entry, upTo uint64) []audit.Entry {
	var open []audit.Entry
	done := map[string]bool{}
	for _, entry := range entries {
		if entry.Phase == audit.PhaseOutcome {
			done[entry.Op] = true
		}
	}
	for _, entry := range entries {
		if entry.Phase == audit.PhaseIntent && entry.Seq <= upTo && actions[entry.Action] && !done[entry.Op] {
			open = append(open, entry)
		}
	}
	return open
}

// stands reports whether a version's history names the intent.
func (e *Engine) stands(seq uint64) bool {
	for _, key := range e.reg.Keys() {
		for _, v := range e.reg.Versions(key.Name) {
			for _, event := range v.History {
				if event.Audit == seq {
					return true
				}
			}
		}
	}
	return false
}
