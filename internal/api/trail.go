package api

import (
	"context"
	"errors"
	"sync/atomic"

	"keyd/internal/audit"
)

// trail is the audit log with a memory of its failure: a log that has failed
// stays so until keyd is restarted, and keyd is not ready meanwhile.
type trail struct {
	AuditLog
	failed atomic.Pointer[error]
}

func (t *trail) Append(ctx context.Context, e audit.Entry) (audit.Head, error) {
	head, err := t.AuditLog.Append(ctx, e)
	t.note(err)
	return head, err
}

func (t *trail) Record(ctx context.Context, e audit.Entry) error {
	err := t.AuditLog.Record(ctx, e)
	t.note(err)
	return err
}

// note remembers an error if the log takes nothing more after it. That one
// entry was refused says nothing of the next.
func (t *trail) note(err error) {
	if errors.Is(err, audit.ErrFailed) || errors.Is(err, audit.ErrClosed) {
		t.failed.Store(&err)
	}
}

// failure is why nothing can be recorded any more; nil if it can.
func (t *trail) failure() error {
	if err := t.failed.Load(); err != nil {
		return *err
	}
	return nil
}
