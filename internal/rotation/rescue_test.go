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

// createInCloud makes the key where deletions wait.
func (w *world) createInCloud() registry.Version {
	w.t.Helper()
	key := theKey(weekly())
	key.Backend = cloudName
	_, err := w.engine.Create(w.t.Context(), operator, key, false)
	w.must(err)
	w.pass(0)
	return w.the(registry.Active)
}

// close ends a version's life, by way of a compromise or a rotation.
func (w *world) close(v registry.Version, compromised bool) {
	w.t.Helper()
	if compromised {
		_, err := w.engine.Compromise(w.t.Context(), operator, v.KID, "", false)
		w.must(err)
		_, err = w.engine.Destroy(w.t.Context(), operator, v.KID, "", false)
		w.must(err)
		w.pass(0)
		return
	}
	w.pass(11 * aDay) // past its validTill
	w.the(registry.Destroying)
}

func (w *world) rescue(kid string) (rotation.Change, error) {
	return w.engine.Rescue(w.t.Context(), operator, kid, "asked for by the court", false)
}

func TestACompromisedVersionsPrivateKeyIsDisabledWhereItCanBe(t *testing.T) {
	inWorld(t, func(w *world) { w.cloud.Inject(backendtest.Fault{Op: "disable", Times: 2}) }, func(w *world) {
		v := w.createInCloud()
		change, err := w.engine.Compromise(w.t.Context(), operator, v.KID, "", true)
		if err != nil || !strings.Contains(reasons(change), "nobody is to use it") {
			w.t.Errorf("a dry run: %+v, %v", change, err)
		}
		_, err = w.engine.Compromise(w.t.Context(), operator, v.KID, "leaked", false)
		w.must(err)
		w.pass(time.Hour) // KMS refused twice
		if got := w.the(registry.Compromised); got.DisabledAt.IsZero() || got.Retry.Tries != 0 {
			w.t.Errorf("got %+v, want it disabled", got)
		}
		env := backendtest.Seal(w.t, publicOf(w, v.KID), "A256GCM", []byte("x"), nil)
		if _, err := w.cloud.Open(w.t.Context(), v.Handle, env); !errors.Is(err, boundary.ErrDisabled) {
			w.t.Errorf("whoever has the credentials still opens: %v", err)
		}
		if f := finding(w.engine.Problems(), "compromised_held"); !strings.Contains(f.Message, "(disabled)") {
			w.t.Errorf("Problems say %+v", f)
		}
		if w.outcomes("key.disable", audit.ResultOK, "") != 1 {
			w.t.Error("it is not in the audit log")
		}
	})
}

func TestAKeyThatSomebodyDisabledIsFoundOut(t *testing.T) {
	t.Parallel()
	bubble(t, func(w *world) {
		v := w.createInCloud()
		w.must(w.cloud.Disable(w.t.Context(), v.Handle))
		if f := finding(w.engine.Check(w.t.Context()), "key_disabled"); f.Subject != v.KID || f.Severity != rotation.Failure || !strings.Contains(f.Hint, v.Handle) {
			w.t.Errorf("Check says %+v", f)
		}
	})
}

func TestARescuedVersionDrainsAgain(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		v := w.createInCloud()
		w.close(v, false)
		public := publicOf(w, v.KID)
		w.pass(20 * aDay) // of the 30 that the cloud waits
		entries := len(w.trail.all())
		change, err := w.engine.Rescue(w.t.Context(), operator, v.KID, "", true)
		if err != nil || len(change.Steps) != 2 || len(w.trail.all()) != entries {
			w.t.Errorf("a dry run: %+v, %v", change, err)
		}
		_, err = w.rescue(v.KID)
		w.must(err)
		got, _ := w.reg.Version(v.KID)
		if got.State != registry.Draining || !got.DrainUntil.Equal(time.Now().Add(2*aDay)) {
			w.t.Errorf("it is %s until %s, want it to drain for the policy's two days", got.State, got.DrainUntil)
		}
		w.must(w.opens(got, public))
		w.check()
		w.pass(2*aDay + time.Minute)
		if got, _ := w.reg.Version(v.KID); got.State != registry.Destroying {
			w.t.Errorf("after its drain it is %s", got.State)
		}
		w.pass(31 * aDay)
		if got, _ := w.reg.Version(v.KID); got.State != registry.Destroyed {
			w.t.Errorf("after the cloud's delay it is %s", got.State)
		}
		gone, waits := w.recorded("key.destroy", "gone", "true"), w.recorded("key.destroy", "gone", "false")
		if gone != len(w.versions(registry.Destroyed)) || waits < 2 {
			w.t.Errorf("the audit log says %d times that a key is gone, and %d times that its deletion waits: %s", gone, waits, w.describe())
		}
		if _, err := w.rescue(v.KID); !errors.Is(err, rotation.ErrState) {
			w.t.Errorf("when it is gone: Rescue: %v, want ErrState", err)
		}
	})
}

func TestARescuedCompromisedVersionIsEvidenceAndNothingElse(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		v := w.createInCloud()
		w.close(v, true)
		_, err := w.rescue(v.KID)
		w.must(err)
		w.pass(0)
		got, _ := w.reg.Version(v.KID)
		if got.State != registry.Compromised || got.DisabledAt.IsZero() {
			w.t.Errorf("got %+v, want it compromised and disabled as before", got)
		}
		env := backendtest.Seal(w.t, publicOf(w, v.KID), "A256GCM", []byte("x"), nil)
		if _, err := w.cloud.Open(w.t.Context(), v.Handle, env); !errors.Is(err, boundary.ErrDisabled) {
			w.t.Errorf("it can be used: %v", err)
		}
		_, err = w.engine.Destroy(w.t.Context(), operator, v.KID, "the court has it", false)
		w.must(err)
		w.pass(31 * aDay)
		if got, _ := w.reg.Version(v.KID); got.State != registry.Destroyed {
			w.t.Errorf("it is %s", got.State)
		}
	})
}

// Somebody at the backend called the deletion off first, and enabled the key.
func TestARescuedCompromisedVersionIsDisabledAgain(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		v := w.createInCloud()
		w.close(v, true)
		w.must(w.cloud.Rescue(context.Background(), v.Handle, true))
		_, err := w.rescue(v.KID)
		w.must(err)
		w.pass(0)
		if got, _ := w.reg.Version(v.KID); got.State != registry.Compromised || got.DisabledAt.IsZero() {
			w.t.Errorf("got %+v, want it compromised and disabled", got)
		}
		env := backendtest.Seal(w.t, publicOf(w, v.KID), "A256GCM", []byte("x"), nil)
		if _, err := w.cloud.Open(w.t.Context(), v.Handle, env); !errors.Is(err, boundary.ErrDisabled) {
			w.t.Errorf("it is said to be disabled and opens: %v", err)
		}
	})
}

func TestACompromisedKeyThatSomebodyEnabledIsFoundOut(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		v := w.createInCloud()
		_, err := w.engine.Compromise(w.t.Context(), operator, v.KID, "", false)
		w.must(err)
		w.pass(0)
		w.check() // disabled, as it should be
		w.must(w.cloud.Rescue(context.Background(), v.Handle, true))
		if f := finding(w.engine.Check(w.t.Context()), "key_enabled"); f.Subject != v.KID || f.Severity != rotation.Warning || !strings.Contains(f.Hint, v.Handle) {
			w.t.Errorf("Check says %+v", w.engine.Check(w.t.Context()))
		}
		w.must(w.cloud.Disable(w.t.Context(), v.Handle))
	})
}

// A leak shows when the version's deletion has begun. It could be had back, and
// would open.
func TestAVersionThatIsBeingDestroyedCanStillBeCompromised(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		v := w.createInCloud()
		w.close(v, false)
		compromise := func(dryRun bool) (rotation.Change, error) {
			return w.engine.Compromise(w.t.Context(), operator, v.KID, "found in a log", dryRun)
		}
		change, err := compromise(true)
		if err != nil || !strings.Contains(reasons(change), "its deletion goes on") {
			w.t.Errorf("a dry run: %+v, %v", change, err)
		}
		versions := len(w.versions())
		_, err = compromise(false)
		w.must(err)
		w.pass(0)
		got, _ := w.reg.Version(v.KID)
		if got.State != registry.Destroying || len(w.versions()) != versions {
			w.t.Errorf("it is %s, want its deletion to go on, and no rotation for what no longer opens: %s", got.State, w.describe())
		}
		if _, err := compromise(false); !errors.Is(err, rotation.ErrState) {
			w.t.Errorf("again: Compromise: %v, want ErrState", err)
		}
		w.check()
		_, err = w.rescue(v.KID)
		w.must(err)
		w.pass(0)
		if got, _ := w.reg.Version(v.KID); got.State != registry.Compromised || got.DisabledAt.IsZero() {
			w.t.Errorf("rescued, it is %s (disabled %s)", got.State, got.DisabledAt)
		}
		env := backendtest.Seal(w.t, publicOf(w, v.KID), "A256GCM", []byte("x"), nil)
		if _, err := w.cloud.Open(w.t.Context(), v.Handle, env); !errors.Is(err, boundary.ErrDisabled) {
			w.t.Errorf("it can be used: %v", err)
		}
	})
}

func TestWhatCannotBeRescued(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		w.create(weekly())
		inToken := w.the(registry.Active)
		w.token.Inject(faultOf("destroy", 1000))
		w.close(inToken, true)
		for name, c := range map[string]struct {
			kid  string
			want error
		}{
			"a version that is active": {w.the(registry.Active).KID, rotation.ErrState},
			"a token destroys at once": {inToken.KID, boundary.ErrUnsupported},
			"a version of nobody":      {oldKID, registry.ErrNotFound},
		} {
			if _, err := w.rescue(c.kid); !errors.Is(err, c.want) {
				w.t.Errorf("%s: Rescue: %v, want %v", name, err, c.want)
			}
		}
		w.token.Heal()
		w.must(w.move())
		w.cloud.Inject(faultOf("generate", 1000))
		_, err := w.engine.Rotate(w.t.Context(), operator, keyName, false)
		w.must(err)
		w.cloud.Inject(faultOf("discard", 1000))
		unheard := w.the(registry.Pending)
		_, err = w.engine.Destroy(w.t.Context(), operator, unheard.KID, "", false)
		w.must(err)
		w.pass(0)
		if _, err := w.rescue(unheard.KID); !errors.Is(err, rotation.ErrState) {
			w.t.Errorf("a version that nobody was told of: Rescue: %v, want ErrState", err)
		}
		_, err = w.engine.Rotate(w.t.Context(), operator, keyName, false)
		w.must(err)
		unmade := w.the(registry.Pending)
		_, err = w.engine.Compromise(w.t.Context(), operator, unmade.KID, "", false)
		w.must(err)
		_, err = w.engine.Destroy(w.t.Context(), operator, unmade.KID, "", false)
		w.must(err)
		if _, err := w.rescue(unmade.KID); !errors.Is(err, rotation.ErrState) || w.cloud.Calls("rescue") != 0 {
			w.t.Errorf("a version that was never made: Rescue: %v, want ErrState", err)
		}
		w.cloud.Heal()
		w.pass(2 * time.Hour)
	})
}

// Faults in pairs: nothing was done, or all of it but the answer.
func TestARescueThatFailsCanBeRepeated(t *testing.T) {
	for name, fault := range map[string]backendtest.Fault{
		"refused":                   {Op: "rescue"},
		"done, its answer lost":     {Op: "rescue", After: true},
		"enabled, and not yet used": {Op: "open", Err: boundary.ErrDisabled},
		"its backend down":          {Op: "health"},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, nil, func(w *world) {
				v := w.createInCloud()
				w.close(v, false)
				w.cloud.Inject(fault)
				if _, err := w.rescue(v.KID); !errors.Is(err, boundary.ErrUnavailable) {
					w.t.Errorf("Rescue: %v", err)
				}
				if got, _ := w.reg.Version(v.KID); got.State != registry.Destroying {
					w.t.Errorf("it is %s", got.State)
				}
				_, err := w.rescue(v.KID)
				w.must(err)
				got, _ := w.reg.Version(v.KID)
				w.must(w.opens(got, publicOf(w, v.KID)))
			})
		})
	}
}

// A deletion that was called off and not followed up is asked for again.
func TestARescueThatIsGivenUpEndsInTheDeletion(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		v := w.createInCloud()
		w.close(v, false)
		w.must(w.cloud.Rescue(context.Background(), v.Handle, true)) // by somebody else, or by a keyd that died then
		w.pass(aDay)
		if _, err := w.cloud.Public(w.t.Context(), v.Handle); !errors.Is(err, boundary.ErrNoKey) {
			w.t.Errorf("its private key is to be used again: %v", err)
		}
		w.pass(31 * aDay)
		if got, _ := w.reg.Version(v.KID); got.State != registry.Destroyed {
			w.t.Errorf("it is %s", got.State)
		}
	})
}
