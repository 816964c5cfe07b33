package rotation_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"keyd/internal/audit"
	"keyd/internal/boundary"
	"keyd/internal/registry"
	"keyd/internal/rotation"
	"keyd/internal/rotation/backendtest"
)

func TestABackendChangedInTheConfigTakesEffectAtTheNextRotation(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		w.create(weekly())
		first := w.the(registry.Active)
		w.must(w.move())
		w.pass(aDay)
		if v := w.the(registry.Active); v.KID != first.KID || v.Backend != backendName {
			w.t.Errorf("before the rotation: %s", w.describe())
		}
		if next, _ := w.engine.Next(keyName); !strings.Contains(next.Reason, cloudName) {
			w.t.Errorf("Next = %+v, want it to say where the next version will be", next)
		}
		change, err := w.engine.Rotate(w.t.Context(), operator, keyName, true)
		w.must(err)
		if said := reasons(change); !strings.Contains(said, "it will be in cloud, the active one is in memory") ||
			!strings.Contains(said, "made in cloud") || !strings.Contains(said, "memory must stay configured") {
			w.t.Errorf("the dry run says %q", said)
		}
		w.pass(aDay + 4*time.Hour) // Monday
		second := w.the(registry.Active)
		if second.Number != 2 || second.Backend != cloudName || w.cloud.Calls("generate") != 1 {
			w.t.Errorf("after the rotation: %+v", second)
		}
		if old := w.the(registry.Draining); old.Backend != backendName || w.opens(old, publicOf(w, old.KID)) != nil {
			w.t.Errorf("the old version does not open where it was: %+v", old)
		}
		w.must(w.move()) // and back
		w.pass(7 * aDay)
		third := w.the(registry.Active)
		if third.Number != 3 || third.Backend != backendName {
			w.t.Errorf("moved back: %s", w.describe())
		}
		w.pass(11 * aDay) // past the second's validTill
		if v, _ := w.reg.Version(second.KID); v.State != registry.Destroying {
			w.t.Errorf("the cloud deletes late, and the version is %s", v.State)
		}
		w.pass(31 * aDay)
		if v, _ := w.reg.Version(second.KID); v.State != registry.Destroyed {
			w.t.Errorf("after the cloud's delay it is %s", v.State)
		}
		if n := w.recorded("key.policy", "backend_before", backendName) + w.recorded("key.policy", "backend_before", cloudName); n != 4 {
			w.t.Errorf("the two moves stand in %d entries of the audit log, want 4", n)
		}
		if w.recorded("key.rotate", "backend", cloudName) == 0 || w.recorded("key.generate", "backend", cloudName) == 0 {
			w.t.Error("the audit log does not say where the new version is")
		}
	})
}

func TestARotationUnderWayEndsWhereItBegan(t *testing.T) {
	inWorld(t, func(w *world) { w.token.Inject(faultOf("generate", 2)) }, func(w *world) {
		w.create(weekly())
		w.the(registry.Pending)
		w.must(w.move())
		w.pass(time.Hour)
		if v := w.the(registry.Active); v.Backend != backendName || w.cloud.Calls("generate") != 0 {
			w.t.Errorf("it ended in %s: %s", v.Backend, w.describe())
		}
	})
}

func TestRollingBackNeedsTheOldBackend(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		w.create(weekly())
		first := w.the(registry.Active)
		w.must(w.move())
		_, err := w.engine.Rotate(w.t.Context(), operator, keyName, false)
		w.must(err)
		w.pass(0)
		w.token.Inject(faultOf("health", 1))
		if _, err := w.engine.Activate(w.t.Context(), operator, first.KID, "", false); !errors.Is(err, boundary.ErrUnavailable) {
			w.t.Errorf("the old backend is down: Activate: %v", err)
		}
		if v := w.the(registry.Active); v.Backend != cloudName {
			w.t.Errorf("a version that would not open is active")
		}
		_, err = w.engine.Activate(w.t.Context(), operator, first.KID, "the cloud is slow", false)
		w.must(err)
		if v := w.the(registry.Active); v.KID != first.KID {
			w.t.Errorf("after the rollback: %s", w.describe())
		}
	})
}

func TestAFloorHoldsInEveryBackendOfAKey(t *testing.T) {
	t.Parallel()
	bubble(t, func(w *world) {
		w.stop()
		w.cloud = &backendtest.KMS{Memory: backendtest.NewMemory(backendtest.MemoryOptions{Name: cloudName, Level: boundary.Sealed})}
		w.restart()
		w.create(weekly())
		key := theKey(weekly())
		key.Backend, key.Policy.MinBoundary = cloudName, "sealed"
		w.must(w.engine.EnsureKeys(w.t.Context(), []registry.Key{key}))
		f := finding(w.engine.Check(w.t.Context()), "boundary_low")
		if f.Subject != keyName || !strings.Contains(f.Message, backendName) {
			w.t.Errorf("Check says %+v, want the backend of the version that still opens", f)
		}
		if homes := rotation.Homes(key, w.versions()); len(homes) != 2 || homes[0] != cloudName || homes[1] != backendName {
			w.t.Errorf("Homes = %q", homes)
		}
	})
}

func TestABackendThatIsStillNeededIsMissed(t *testing.T) {
	for name, c := range map[string]struct {
		end      bool // the version is destroying when its backend goes
		severity string
		says     string
	}{
		"by a version that opens":                  {false, rotation.Failure, "should open in the backend \"cloud\""},
		"by a version whose deletion is under way": {true, rotation.Warning, "cannot be destroyed"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(w *world) {
				w.open()
				w.must(w.reg.PutKey(theKey(weekly())))
				w.must(w.move())
				w.restart()
				w.pass(0)
				old := w.the(registry.Active)
				w.must(w.move())
				_, err := w.engine.Rotate(w.t.Context(), operator, keyName, false)
				w.must(err)
				w.pass(0)
				if c.end {
					_, err = w.engine.Compromise(w.t.Context(), operator, old.KID, "", false)
					w.must(err)
					_, err = w.engine.Destroy(w.t.Context(), operator, old.KID, "", false)
					w.must(err)
					w.pass(0)
				}
				w.change = func(cfg *rotation.Config) { delete(cfg.Backends, cloudName) }
				w.restart()
				for where, found := range map[string][]rotation.Finding{"Problems": w.engine.Problems(), "Check": w.engine.Check(w.t.Context())} {
					if f := finding(found, "no_backend"); f.Severity != c.severity || !strings.Contains(f.Message, c.says) || !strings.Contains(f.Message, old.KID) || f.Hint == "" {
						w.t.Errorf("%s: found %+v", where, found)
					}
				}
			})
		})
	}
}

// A rotation ends where it began; without that place it does not end, and says so.
func TestARotationThatLostItsBackendSaysSoAndCanBeGivenUp(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		w.create(weekly())
		w.must(w.move())
		w.cloud.Inject(faultOf("generate", 1000))
		_, err := w.engine.Rotate(w.t.Context(), operator, keyName, false)
		w.must(err)
		w.pass(0)
		w.must(w.engine.EnsureKeys(w.t.Context(), []registry.Key{theKey(weekly())})) // back
		w.change = func(cfg *rotation.Config) { delete(cfg.Backends, cloudName) }
		w.restart()
		w.pass(time.Hour)
		stuck := w.the(registry.Pending)
		if f := finding(w.engine.Problems(), "no_backend"); f.Severity != rotation.Failure || !strings.Contains(f.Message, stuck.KID+" is to be made in") {
			w.t.Errorf("Problems say %+v", f)
		}
		_, err = w.engine.Destroy(w.t.Context(), operator, stuck.KID, "", false)
		w.must(err)
		_, err = w.engine.Rotate(w.t.Context(), operator, keyName, false)
		w.must(err)
		w.pass(0)
		if v := w.the(registry.Active); v.Number != 3 || v.Backend != backendName {
			w.t.Errorf("the next rotation: %s", w.describe())
		}
		w.change = nil
		w.cloud.Heal()
		w.restart()
		w.pass(aDay)
	})
}

// A backend's name means another kind of backend now: it knows nothing of the key.
func TestNothingIsDestroyedByABackendThatOnlyHasTheName(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		v := w.createInCloud()
		w.must(w.move())
		_, err := w.engine.Compromise(w.t.Context(), operator, v.KID, "", false)
		w.must(err)
		w.pass(0)
		w.change = func(cfg *rotation.Config) { cfg.Backends[cloudName] = &renamed{w.token} }
		w.restart()
		_, err = w.engine.Destroy(w.t.Context(), operator, v.KID, "", false)
		w.must(err)
		w.pass(aDay)
		if got, _ := w.reg.Version(v.KID); got.State != registry.Destroying || !strings.Contains(got.Retry.Last, "not one of this backend's") {
			w.t.Errorf("it is %s: %q", got.State, got.Retry.Last)
		}
		w.change = nil
		w.restart()
		w.pass(aDay) // the next try is up to an hour away
	})
}

// renamed is a backend whose handles are of another kind.
type renamed struct{ *backendtest.Memory }

func (b *renamed) Destroy(ctx context.Context, handle string) (bool, error) {
	return b.Memory.Destroy(ctx, "arn:"+handle)
}

// reasons is all that the steps of a change say.
func reasons(c rotation.Change) string {
	var all []string
	for _, s := range c.Steps {
		all = append(all, s.Reason)
	}
	return strings.Join(all, "\n")
}

// recorded counts the entries of an action that carry a detail.
func (w *world) recorded(action, name, value string) int {
	n := 0
	for _, e := range w.trail.all() {
		if e.Action == action && e.Detail[name] == value && e.Phase != audit.PhaseEvent {
			n++
		}
	}
	return n
}
