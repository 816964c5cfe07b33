package rotation_test

import (
	"context"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"keyd/internal/audit"
	"keyd/internal/registry"
	"keyd/internal/rotation"
	"keyd/internal/rotation/backendtest"
)

// TestOnRealFiles takes a key through its life on bbolt and on the real audit
// log, with the daemon started anew for every part of it.
func TestOnRealFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	token := backendtest.NewMemory(backendtest.MemoryOptions{})
	trail := filepath.Join(dir, "audit.jsonl")
	daemon := func(part string, do func(ctx context.Context, e *rotation.Engine, reg *registry.Registry)) {
		t.Helper()
		reg, err := registry.Open(filepath.Join(dir, "keyd.db"), registry.Options{})
		if err != nil {
			t.Fatalf("%s: opening the registry: %v", part, err)
		}
		log, err := audit.Open(audit.Config{Path: trail, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatalf("%s: opening the audit log: %v", part, err)
		}
		e, err := rotation.New(rotation.Config{Registry: reg, Audit: log, Instance: "test", Logger: slog.New(slog.DiscardHandler),
			AuditTail: func(context.Context) ([]audit.Entry, error) { return log.Unsettled(), nil },
			Backends:  map[string]rotation.Backend{backendName: token},
			Partners:  map[string]rotation.Partner{partnerName: {}}, // an operator confirms
			Retry:     rotation.RetryPolicy{Base: time.Millisecond, Max: time.Millisecond}})
		if err != nil {
			t.Fatalf("%s: %v", part, err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- e.Run(ctx) }()
		do(ctx, e, reg)
		e.Reconcile(ctx)
		for _, f := range e.Check(ctx) {
			t.Errorf("%s: %+v", part, f)
		}
		cancel()
		if err := <-done; err != nil {
			t.Errorf("%s: Run: %v", part, err)
		}
		if err := reg.Close(); err != nil {
			t.Errorf("%s: closing the registry: %v", part, err)
		}
		if err := log.Close(); err != nil {
			t.Errorf("%s: closing the audit log: %v", part, err)
		}
	}
	must := func(_ rotation.Change, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	newest := func(reg *registry.Registry) registry.Version {
		all := reg.Versions(keyName)
		return all[len(all)-1]
	}
	daemon("create", func(ctx context.Context, e *rotation.Engine, _ *registry.Registry) {
		must(e.Create(ctx, operator, theKey(quarterly()), false))
	})
	daemon("confirm", func(ctx context.Context, e *rotation.Engine, reg *registry.Registry) {
		must(e.Confirm(ctx, operator, newest(reg).KID, "sent by mail", false))
	})
	daemon("rotate", func(ctx context.Context, e *rotation.Engine, reg *registry.Registry) {
		must(e.Rotate(ctx, operator, keyName, false))
		e.Reconcile(ctx)
		must(e.Confirm(ctx, operator, newest(reg).KID, "sent by mail", false))
	})
	daemon("compromise", func(ctx context.Context, e *rotation.Engine, reg *registry.Registry) {
		must(e.Compromise(ctx, operator, newest(reg).KID, "sent to the wrong address", false))
		must(e.Destroy(ctx, operator, reg.Versions(keyName)[1].KID, "worthless", false))
	})
	daemon("the end", func(_ context.Context, _ *rotation.Engine, reg *registry.Registry) {
		var states []registry.State
		for _, v := range reg.Versions(keyName) {
			states = append(states, v.State)
		}
		if len(states) != 3 || states[0] != registry.Draining || states[1] != registry.Destroyed || states[2] != registry.Announced {
			t.Errorf("got %v", states)
		}
	})
	report, err := audit.Verify(trail, nil)
	if err != nil || report.Entries == 0 {
		t.Errorf("the audit log: %+v, %v", report, err)
	}
}
