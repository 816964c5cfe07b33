package hsm_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"keyd/internal/boundary"
	"keyd/internal/hsm"
)

// deadline is a context whose deadline passes when the test says so: a clock would
// let it pass before anything has begun, on a busy machine.
type deadline struct {
	context.Context
	passed chan struct{}
}

func newDeadline(t *testing.T) *deadline {
	return &deadline{Context: context.WithoutCancel(t.Context()), passed: make(chan struct{})}
}

func (d *deadline) pass()                 { close(d.passed) }
func (d *deadline) Done() <-chan struct{} { return d.passed }

func (d *deadline) Err() error {
	select {
	case <-d.passed:
		return context.DeadlineExceeded
	default:
		return nil
	}
}

// managing are the operations that share one session.
func managing(token *hsm.Token, g boundary.Generated) map[string]func(context.Context) error {
	return map[string]func(context.Context) error{
		"Generate": func(ctx context.Context) error { _, err := token.Generate(ctx, newSpec()); return err },
		"Find":     func(ctx context.Context) error { _, err := token.Find(ctx, g.Handle); return err },
		"List":     func(ctx context.Context) error { _, err := token.List(ctx); return err },
		"Public":   func(ctx context.Context) error { _, err := token.Public(ctx, g.Handle); return err },
		"Discard":  func(ctx context.Context) error { return token.Discard(ctx, newSpec()) },
		"Destroy": func(ctx context.Context) error {
			gone, err := token.Destroy(ctx, g.Handle)
			if gone {
				return errors.Join(err, errors.New("it says that the key is gone"))
			}
			return err
		},
	}
}

func TestManagementCallThatHangsIsSaidSo(t *testing.T) {
	cfg := softHSM(t)
	f := withFaults(t, &cfg)
	token := open(t, cfg)
	kept := generate(t, token)
	spec := newSpec()
	eventually(t, "the generation to be over", func() bool { return !hsm.Managing(token) })
	hsm.LimitManagement(token, time.Millisecond, 500*time.Millisecond)
	f.fail("C_GenerateKeyPair hang")
	hung := func(name string, err error) {
		t.Helper()
		if !errors.Is(err, boundary.ErrUnavailable) || errors.Is(err, boundary.ErrBusy) || !strings.Contains(err.Error(), "call into the module (generate) has not come back") {
			t.Errorf("%s: %v, want boundary.ErrUnavailable and which call hangs", name, err)
		}
	}
	// The context has no end; the call has.
	_, err := token.Generate(t.Context(), spec)
	hung("the call that hangs", err)
	for name, op := range managing(token, kept) {
		hung(name, op(t.Context()))
	}
	if last := token.Health(t.Context()).Device["last_error"]; !strings.Contains(last, "has not come back") {
		t.Errorf("Health's last error is %q", last)
	}
	opens(t, token, kept)
	f.heal()
	hsm.LimitManagement(token, time.Minute, time.Minute)
	if _, err := token.Find(t.Context(), spec.KID); !errors.Is(err, boundary.ErrNoKey) {
		t.Errorf("a key that came too late: Find: %v, want boundary.ErrNoKey", err)
	}
	if _, err := token.Public(t.Context(), kept.Handle); err != nil {
		t.Errorf("after the call came back: Public: %v", err)
	}
}

func TestManagementEndsWithItsContext(t *testing.T) {
	cfg := softHSM(t)
	f := withFaults(t, &cfg)
	token := open(t, cfg)
	g := generate(t, token)
	f.forget()
	f.fail("C_GenerateKeyPair hang")
	first := newDeadline(t)
	go func() {
		eventually(t, "the generation to be in the module", func() bool { return f.calls("C_GenerateKeyPair") == 1 })
		first.pass()
	}()
	if _, err := token.Generate(first, newSpec()); !errors.Is(err, boundary.ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the call that hangs: %v, want boundary.ErrUnavailable and the deadline", err)
	}
	for name, op := range managing(token, g) {
		short := newDeadline(t)
		go func() {
			eventually(t, name+" to wait", func() bool { _, waiting := hsm.Waiting(token); return waiting == 1 })
			short.pass()
		}()
		// Another call has been in the module for a moment. That is not yet a fault.
		if err := op(short); !errors.Is(err, boundary.ErrBusy) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s behind it: %v, want boundary.ErrBusy and the deadline", name, err)
		}
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		if err := op(gone); !errors.Is(err, context.Canceled) || errors.Is(err, boundary.ErrUnavailable) {
			t.Errorf("%s for nobody: %v, want context.Canceled", name, err)
		}
	}
	f.heal()
	eventually(t, "the call that hung to come back", func() bool { return !hsm.Managing(token) })
}

func TestCloseDoesNotWaitForEver(t *testing.T) {
	cfg := softHSM(t)
	f := withFaults(t, &cfg)
	token, err := hsm.Open(t.Context(), cfg)
	must(t, err)
	g := generate(t, token)
	f.fail("C_Decrypt hang")
	f.forget()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	env := seal(t, g)
	go func() {
		defer close(done)
		_, _ = token.Open(ctx, g.Handle, env)
	}()
	eventually(t, "the call to be in the module", func() bool { return f.calls("C_Decrypt") == 1 })
	cancel()
	<-done
	if err := token.Close(); !errors.Is(err, boundary.ErrUnavailable) {
		t.Errorf("Close: %v, want boundary.ErrUnavailable", err)
	}
	if _, err := token.Open(t.Context(), g.Handle, env); !errors.Is(err, boundary.ErrUnavailable) {
		t.Errorf("Open after Close: %v, want boundary.ErrUnavailable", err)
	}
	must(t, token.Close()) // again
	f.heal()
	// Close took the other sessions; the one that hung comes back.
	eventually(t, "the call to come back", func() bool { return token.Health(t.Context()).InUse == cfg.Sessions-1 })
	ctx11, _, _ := initialised(t, cfg)
	must(t, ctx11.Finalize())
}

func TestCallThatDoesNotComeBackIsNoticed(t *testing.T) {
	for name, c := range map[string]struct {
		fault string
		do    func(ctx context.Context, token *hsm.Token, g boundary.Generated, ref string) error
	}{
		"opening": {"C_Decrypt hang", func(ctx context.Context, token *hsm.Token, g boundary.Generated, _ string) error {
			_, err := token.Open(ctx, g.Handle, seal(t, g))
			return err
		}},
		"health": {"C_GetTokenInfo hang", func(ctx context.Context, token *hsm.Token, _ boundary.Generated, _ string) error {
			return errors.New(token.Health(ctx).Err)
		}},
		"finding": {"C_FindObjectsInit hang", func(ctx context.Context, token *hsm.Token, g boundary.Generated, _ string) error {
			_, err := token.Find(ctx, g.Handle)
			return err
		}},
		"holding a content key": {"C_CreateObject hang", func(ctx context.Context, token *hsm.Token, _ boundary.Generated, _ string) error {
			_, err := token.Hold(ctx, boundary.A256GCM, make([]byte, 32))
			return err
		}},
		"releasing one": {"C_DestroyObject hang", func(ctx context.Context, token *hsm.Token, _ boundary.Generated, ref string) error {
			return token.Release(ctx, ref)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := softHSM(t)
			f := withFaults(t, &cfg)
			cfg.CallTimeout = 200 * time.Millisecond
			broken := brokenTo(&cfg)
			token := open(t, cfg)
			g := generate(t, token)
			ref, _ := held(t, token, 7)
			eventually(t, "nobody to be in the module", func() bool { return hsm.Settled(token) }) // who is would seem to hang
			hsm.LimitManagement(token, time.Minute, 200*time.Millisecond)
			f.fail(c.fault)
			defer f.heal()
			ctx, cancel := context.WithCancel(t.Context())
			came := make(chan error, 1)
			go func() { came <- c.do(ctx, token, g, ref) }()
			isBroken(t, broken, boundary.ErrUnavailable)
			cancel()
			if err := <-came; err == nil {
				t.Error("it came back")
			}
		})
	}
}

func TestQueueForSessionsHasAnEnd(t *testing.T) {
	cfg := softHSM(t)
	f := withFaults(t, &cfg)
	cfg.Sessions, cfg.SessionWait = 1, time.Minute
	token := open(t, cfg)
	g := generate(t, token)
	env := seal(t, g)
	f.fail("C_Decrypt hang")
	ctx, cancel := context.WithCancel(t.Context())
	most := hsm.MostWaiting(token) + 1 // and the one that hangs
	errs := make(chan error, most+20)
	for range most + 20 {
		go func() {
			_, err := token.Open(ctx, g.Handle, env)
			errs <- err
		}()
	}
	for range 20 {
		if err := <-errs; !errors.Is(err, boundary.ErrBusy) || errors.Is(err, context.Canceled) {
			t.Errorf("one too many: %v, want boundary.ErrBusy", err)
		}
	}
	cancel()
	for range most {
		if err := <-errs; !errors.Is(err, context.Canceled) {
			t.Errorf("one that waited: %v, want context.Canceled", err)
		}
	}
	f.heal()
}
