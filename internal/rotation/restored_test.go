package rotation_test

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"keyd/internal/audit"
	"keyd/internal/boundary"
	"keyd/internal/registry"
	"keyd/internal/rotation"
)

// restored is a world whose registry was restored from a backup: it holds as
// pending a version that the partner uses since. No engine runs yet.
func restored(w *world) (used registry.Version) {
	w.t.Helper()
	w.token.Inject(faultOf("generate", 1))
	w.create(weekly())
	w.the(registry.Pending)
	w.store.mu.RLock()
	kept := w.store.buckets // each commit puts others in their place
	w.store.mu.RUnlock()
	w.pass(time.Hour)
	used = w.the(registry.Active)
	w.stop()
	w.store = newStore(w.power)
	w.store.buckets = kept
	return used
}

func TestAKeyPairInUseIsNotMadeAnewForARestoredRegistry(t *testing.T) {
	t.Parallel()
	bubble(t, func(w *world) {
		used := restored(w)
		generated := w.token.Calls("generate")
		w.start()
		w.pass(time.Hour)
		got := w.the(registry.Active)
		if got.KID != used.KID || got.Handle != used.Handle || !bytes.Equal(got.Public, used.Public) || len(got.Evidence) == 0 {
			w.t.Errorf("got %+v,\nwant the key pair that the partner has", got)
		}
		if w.token.Calls("generate") != generated {
			w.t.Errorf("it was made anew %d times", w.token.Calls("generate")-generated)
		}
		w.opensAll()
	})
}

func TestAKeyPairInUseIsNotThrownAwayForARestoredRegistry(t *testing.T) {
	t.Parallel()
	bubble(t, func(w *world) {
		used := restored(w)
		w.token.Inject(faultOf("find", 1000)) // so that it cannot be taken up
		w.start()
		w.pass(0)
		_, err := w.engine.Destroy(w.t.Context(), operator, used.KID, "it hangs", false)
		w.must(err)
		w.pass(aDay)
		if v, _ := w.reg.Version(used.KID); v.State != registry.Destroying || !strings.Contains(v.Retry.Last, "compromise it to give it up") {
			w.t.Fatalf("it is %s: %q", v.State, v.Retry.Last)
		}
		if _, err := w.token.Public(w.t.Context(), used.Handle); err != nil {
			w.t.Errorf("the key pair that the partner has is gone: %v", err)
		}
		_, err = w.engine.Compromise(w.t.Context(), operator, used.KID, "given up", false)
		w.must(err)
		w.pass(aDay)
		if _, err := w.token.Public(w.t.Context(), used.Handle); !errors.Is(err, boundary.ErrNoKey) {
			w.t.Errorf("given up, it stands: %v", err)
		}
	})
}

// Without the log nobody knows whether it is in use, and nothing is made.
func TestNothingIsMadeForAnOldIntentWhileTheAuditLogCannotBeRead(t *testing.T) {
	t.Parallel()
	bubble(t, func(w *world) {
		used := restored(w)
		w.change = func(c *rotation.Config) {
			c.ReadAudit = func(context.Context, uint64, int) ([]audit.Entry, error) { return nil, errDown }
		}
		generated := w.token.Calls("generate")
		w.start()
		w.pass(aDay)
		if v := w.the(registry.Pending); w.token.Calls("generate") != generated || v.Retry.Tries == 0 {
			w.t.Errorf("%d calls, %d tries", w.token.Calls("generate")-generated, v.Retry.Tries)
		}
		w.change = nil
		w.restart()
		w.pass(2 * time.Hour)
		if got := w.the(registry.Active); got.Handle != used.Handle {
			w.t.Errorf("got %+v", got)
		}
	})
}
