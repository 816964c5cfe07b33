package api_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"

	"keyd/internal/api"
	"keyd/internal/audit"
	"keyd/internal/boundary"
	"keyd/internal/registry"
	"keyd/internal/rotation"
	"keyd/internal/rotation/backendtest"
)

func TestNoLineOfTheErrorTableHidesAnother(t *testing.T) {
	for err, code := range api.Known() {
		if got := api.CodeOf(fmt.Errorf("doing: %w", err)); got != code {
			t.Errorf("%v is answered as %s, want %s", err, got, code)
		}
	}
	if got := api.CodeOf(errors.New("a bug")); got != "internal" {
		t.Errorf("an unknown error is answered as %s", got)
	}
}

// What an error is beside another: the first is what matters.
func TestTheWorseOfTwoErrorsIsAnswered(t *testing.T) {
	for _, c := range []struct {
		err  error
		code string
	}{
		{errors.Join(rotation.ErrState, fmt.Errorf("recording: %w: %w", rotation.ErrAudit, audit.ErrFailed)), "audit_unavailable"},
		{fmt.Errorf("%w: %w", api.ErrBackend, boundary.ErrNoKey), "backend_unavailable"},
		{fmt.Errorf("opening: %w: %w", boundary.ErrUnavailable, context.DeadlineExceeded), "backend_unavailable"},
		{fmt.Errorf("opening: %w: %w", boundary.ErrBusy, context.DeadlineExceeded), "backend_busy"},
		{fmt.Errorf("%w: opening: %w", rotation.ErrSelfTest, boundary.ErrOpen), "self_test"},
		{fmt.Errorf("%w: opening: %w", rotation.ErrSelfTest, boundary.ErrUnavailable), "backend_unavailable"},
		// The engine looks before it asks the registry; only between the two can these come.
		{fmt.Errorf("moving: %w", registry.ErrTransition), "transition"},
		{fmt.Errorf("moving: %w", registry.ErrSecondActive), "second_active"},
		{fmt.Errorf("moving: %w", registry.ErrLastOpenable), "last_openable"},
		{fmt.Errorf("amending: %w", registry.ErrImmutable), "immutable"},
	} {
		if got := api.CodeOf(c.err); got != c.code {
			t.Errorf("%v is answered as %s, want %s", c.err, got, c.code)
		}
	}
}

func TestABackendThatCannotTakeOverAKeySaysSo(t *testing.T) {
	for op, c := range map[string]struct {
		err    error
		status int
		code   string
	}{
		"find": {boundary.ErrUnsupported, 409, "unsupported"},
		"open": {boundary.ErrOpen, 409, "self_test"},
	} {
		t.Run(op, func(t *testing.T) {
			r := newRig(t)
			_, err := r.token.Plant("legacy", "", 2048)
			check(t, err)
			r.token.Inject(backendtest.Fault{Op: op, Err: c.err})
			body := fmt.Sprintf(`{"kid":%q,"find":"legacy","valid_till":%q}`, uuid.NewString(), time.Now().Add(time.Hour).UTC().Format(time.RFC3339))
			r.send(r.admin, "POST", "/v1/keys/"+keyName+"/adopt", body, "Content-Type: application/json").wants(t, c.status, c.code)
		})
	}
}
