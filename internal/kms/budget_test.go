package kms_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"keyd/internal/boundary"
	"keyd/internal/kms"
	"keyd/internal/kms/kmstest"
	"keyd/internal/rotation/backendtest"
)

func TestABudgetRefusesAtOnceWhatWouldWaitTooLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := kmstest.New(kmstest.Options{})
		b := open(t, s, func(c *kms.Config) { c.Budget.RSA = 4 })
		g := generate(t, b, spec())
		env := backendtest.Seal(t, rsaOf(t, g.Public), boundary.A256GCM, []byte("x"), nil)
		start := time.Now()
		for range 3 { // at 0, 250 and 500 ms
			if _, err := b.Open(t.Context(), g.Handle, env); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(start); took != 500*time.Millisecond {
			t.Errorf("three took %s, want 500ms", took)
		}
		var wg sync.WaitGroup
		var mu sync.Mutex
		busy := 0
		for range 10 {
			wg.Go(func() {
				_, err := b.Open(t.Context(), g.Handle, env)
				mu.Lock()
				defer mu.Unlock()
				if errors.Is(err, boundary.ErrBusy) {
					busy++
				} else if err != nil {
					t.Errorf("Open: %v", err)
				}
			})
		}
		wg.Wait()
		if busy != 8 {
			t.Errorf("%d of 10 were refused, want 8", busy)
		}
		short, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		before := s.Calls("Decrypt")
		if _, err := b.Open(short, g.Handle, env); !errors.Is(err, boundary.ErrBusy) || s.Calls("Decrypt") != before {
			t.Errorf("a caller in a hurry: %v, want boundary.ErrBusy and no request", err)
		}
	})
}

// A retry is a request that KMS counts.
func TestRetriesAreWithinTheBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := kmstest.New(kmstest.Options{})
		b := open(t, s, func(c *kms.Config) { c.Budget.RSA = 0.5 }) // one in two seconds
		g := generate(t, b, spec())
		env := backendtest.Seal(t, rsaOf(t, g.Public), boundary.A256GCM, []byte("x"), nil)
		s.Inject(kmstest.Fault{Op: "Decrypt", Code: "KMSInternalException"})
		start := time.Now()
		if _, err := b.Open(t.Context(), g.Handle, env); err != nil || time.Since(start) != 2*time.Second {
			t.Errorf("Open: %v after %s, want the second try after 2s", err, time.Since(start))
		}
	})
}

func TestNoRetryOutlivesItsCaller(t *testing.T) {
	for name, tt := range map[string]struct {
		code string
		want error
	}{
		"throttled": {"ThrottlingException", boundary.ErrBusy},
		"down":      {"KMSInternalException", boundary.ErrUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := kmstest.New(kmstest.Options{})
				b := open(t, s, func(c *kms.Config) { c.Budget.RSA = 0.5 })
				g := generate(t, b, spec())
				env := backendtest.Seal(t, rsaOf(t, g.Public), boundary.A256GCM, []byte("x"), nil)
				s.Inject(kmstest.Fault{Op: "Decrypt", Code: tt.code, Times: 9})
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				start := time.Now()
				_, err := b.Open(ctx, g.Handle, env)
				if !errors.Is(err, tt.want) || errors.Is(err, context.DeadlineExceeded) || time.Since(start) != 0 {
					t.Errorf("Open: %v after %s, want what KMS said, at once", err, time.Since(start))
				}
				if s.Calls("Decrypt") != 1 {
					t.Errorf("%d requests, want one", s.Calls("Decrypt"))
				}
			})
		})
	}
}

// Nor for a time that the budget has: a try that would come too late is none.
func TestNoTryIsWaitedForInVain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := kmstest.New(kmstest.Options{})
		use := uses["Decrypt"](t, open(t, s))
		s.Inject(kmstest.Fault{Op: "Decrypt", Code: "ThrottlingException", Times: 9})
		start := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Nanosecond)
		defer cancel()
		if err := use(ctx); !errors.Is(err, boundary.ErrBusy) || errors.Is(err, context.DeadlineExceeded) || time.Since(start) != 0 {
			t.Errorf("%v after %s, want what KMS said, at once", err, time.Since(start))
		}
	})
}

func TestNoMoreCallsAreUnderWayThanConfigured(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := kmstest.New(kmstest.Options{})
		b := open(t, s, func(c *kms.Config) { c.Concurrency = 1 })
		g := generate(t, b, spec())
		env := backendtest.Seal(t, rsaOf(t, g.Public), boundary.A256GCM, []byte("x"), nil)
		s.Inject(kmstest.Fault{Op: "Decrypt", Delay: 5 * time.Second})
		done := make(chan error)
		go func() {
			_, err := b.Open(t.Context(), g.Handle, env)
			done <- err
		}()
		synctest.Wait()
		if h := b.Health(t.Context()); h.InUse != 1 || h.Sessions != 1 {
			t.Errorf("Health = %+v, want the one slot in use", h)
		}
		if _, err := b.Open(t.Context(), g.Handle, env); !errors.Is(err, boundary.ErrBusy) {
			t.Errorf("Open: %v, want boundary.ErrBusy", err)
		}
		if err := <-done; err != nil {
			t.Errorf("the slow one: %v", err)
		}
	})
}

func TestACallEndsAtItsTimeoutAndAtItsCallers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := kmstest.New(kmstest.Options{})
		b := open(t, s, func(c *kms.Config) { c.Timeout = 2 * time.Second })
		s.Inject(kmstest.Fault{Delay: time.Hour, Times: 9})
		start := time.Now()
		if _, err := b.List(t.Context()); !errors.Is(err, kms.ErrUnreachable) || time.Since(start) != 2*time.Second {
			t.Errorf("List: %v after %s, want ErrUnreachable after 2s", err, time.Since(start))
		}
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := b.List(short); !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, kms.ErrUnreachable) {
			t.Errorf("List: %v, want the caller's deadline", err)
		}
	})
}
