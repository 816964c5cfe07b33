package rotation_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"keyd/internal/boundary"
	"keyd/internal/registry"
	"keyd/internal/rotation"
	"keyd/internal/rotation/backendtest"
)

// inWorld runs a test in a bubble, in a world whose engine runs.
func inWorld(t *testing.T, prepare func(w *world), test func(w *world)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		if prepare != nil {
			prepare(w)
		}
		w.start()
		test(w)
		w.pass(0)
		w.check()
	})
}

// bubble is inWorld for what is meant to be out of order at its end.
func bubble(t *testing.T, test func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.start()
		test(w)
	})
}

func TestANewKeyGetsAnActiveVersion(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		began := time.Now()
		w.create(weekly())
		v := w.the(registry.Active)
		up := w.partner.known()[v.KID]
		if up.times != 1 || !up.from.Equal(began.Add(-5*time.Minute)) || !up.till.Equal(began.Add(10*aDay)) {
			w.t.Errorf("the partner was told %+v", up)
		}
		if v.CanaryKID != v.KID || v.TestedAt.IsZero() || len(v.Evidence) == 0 || v.Number != 1 {
			w.t.Errorf("got %+v, want every mark of a rotation", v)
		}
		if next, err := w.engine.Next(keyName); err != nil || next.Name != rotation.StepIntent || !next.At.Equal(time.Date(2000, 1, 3, 3, 0, 0, 0, time.UTC)) {
			w.t.Errorf("Next = %+v, %v, want the rotation of Monday morning", next, err)
		}
	})
}

func TestAYearOfWeeklyRotations(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		w.create(weekly())
		for range 52 {
			w.pass(7 * aDay)
			if n := len(w.versions(registry.Active)); n != 1 {
				w.t.Fatalf("%d versions are active: %s", n, w.describe())
			}
			w.opensAll()
			if n := len(w.versions(registry.Draining)); n > 2 {
				w.t.Errorf("%d versions drain, want two at most", n)
			}
		}
		if n := len(w.versions()); n != 53 {
			w.t.Errorf("%d versions were made, want the first and one each week", n)
		}
		for _, v := range w.versions()[1:] {
			if at := v.History[0].At; at.Weekday() != time.Monday || at.Hour() != 3 || at.Minute() != 0 || at.Second() != 0 {
				w.t.Errorf("version %d was begun at %s, want Monday at three sharp", v.Number, at)
			}
		}
		for kid, up := range w.partner.known() {
			if up.times != 1 {
				w.t.Errorf("%s was uploaded %d times", kid, up.times)
			}
		}
	})
}

func TestMissedRotationsAreMadeUpForOnce(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		w.create(weekly())
		w.stop()
		w.pass(30 * aDay) // four Mondays
		w.restart()
		w.pass(0)
		if n := len(w.versions()); n != 2 {
			w.t.Fatalf("%d versions: %s; want one made at the start, and no more", n, w.describe())
		}
		if w.the(registry.Active).Number != 2 {
			w.t.Errorf("the new version is not active: %s", w.describe())
		}
		if key, _ := w.reg.Key(keyName); !key.NextDue.Equal(time.Date(2000, 1, 31, 3, 0, 0, 0, time.UTC)) {
			w.t.Errorf("next due %s, want this Monday at three", key.NextDue)
		}
	})
}

// tooMany is how a partner says 429.
func (tooMany) Error() string { return "429 Too Many Requests" }
func TestAVersionThatCouldNotBecomeActiveInTimeIsReplaced(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		w.create(weekly())
		w.partner.set(func(p *partner) { p.silent = errors.New("no playground today") })
		w.pass(14 * aDay) // validTill of the version begun on Monday
		if n := len(w.versions(registry.Announced)); n != 1 {
			w.t.Fatalf("%d versions are announced: %s", n, w.describe())
		}
		if v := w.versions()[1]; v.State != registry.Destroyed || became(v, registry.Active) != 0 {
			w.t.Errorf("version 2 is %s, want it given up", v.State)
		}
		w.partner.set(func(p *partner) { p.silent = nil })
		w.pass(2 * time.Hour)
		if v := w.the(registry.Active); v.Number != 3 {
			w.t.Errorf("version %d is active, want 3: %s", v.Number, w.describe())
		}
	})
}

func TestAVersionIsReplacedBeforeItsValidTill(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		w.create(weekly())
		// The clock of the schedule is far away; the version ends in ten days.
		if err := w.reg.SetDue(keyName, time.Now().Add(365*aDay)); err != nil {
			w.t.Fatal(err)
		}
		w.pass(8*aDay - time.Minute)
		if n := len(w.versions()); n != 1 {
			w.t.Errorf("%d versions before the drain begins, want one", n)
		}
		w.pass(2 * time.Minute)
		if v := w.the(registry.Active); v.Number != 2 {
			w.t.Errorf("version %d is active, want its successor: %s", v.Number, w.describe())
		}
	})
}

func TestAnOldVersionOpensUntilItsValidTillAndNoLonger(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		w.create(weekly())
		old := w.the(registry.Active)
		w.pass(2*aDay + 4*time.Hour) // Monday; it drains until Wednesday, and is valid till the 11th
		w.pass(time.Until(old.ValidTill) - time.Second)
		if v, _ := w.reg.Version(old.KID); v.State != registry.Draining || !v.DrainUntil.Before(time.Now()) {
			w.t.Errorf("a second before its validTill it is %s, drained at %s", v.State, v.DrainUntil)
		}
		w.pass(time.Second)
		if v, _ := w.reg.Version(old.KID); v.State != registry.Destroyed {
			w.t.Errorf("at its validTill it is %s", v.State)
		}
		if _, err := w.token.Public(context.Background(), old.Handle); !errors.Is(err, boundary.ErrNoKey) {
			w.t.Errorf("its private key is still there: %v", err)
		}
	})
}

func TestSettling(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		p := weekly()
		p.SettleFor = registry.Duration(6 * time.Hour)
		w.create(p)
		w.pass(6*time.Hour - time.Second)
		w.the(registry.Announced)
		w.pass(time.Second)
		w.the(registry.Active)
	})
}

func TestTheCanary(t *testing.T) {
	for name, c := range map[string]struct {
		policy string
		uses   func(w *world) string // what the partner seals to; nil: what it was told last
		active int                   // version
	}{
		"the new version, open":   {rotation.CanaryOpen, nil, 2},
		"the new version, kid":    {rotation.CanaryKID, nil, 2},
		"the old version, open":   {rotation.CanaryOpen, func(w *world) string { return w.versions()[0].KID }, 2},
		"the old version, kid":    {rotation.CanaryKID, func(w *world) string { return w.versions()[0].KID }, 1},
		"no version of ours":      {rotation.CanaryOpen, func(*world) string { return "6f7b7c5a-8d5b-4a53-93a3-6d6b4b2f0000" }, 1},
		"no version of ours, off": {rotation.CanaryOff, func(*world) string { return "6f7b7c5a-8d5b-4a53-93a3-6d6b4b2f0000" }, 2},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, nil, func(w *world) {
				p := weekly()
				p.Canary = c.policy
				w.create(p)
				if c.uses != nil {
					w.partner.set(func(p *partner) { p.uses = c.uses(w) })
				}
				w.pass(3 * aDay)
				v := w.the(registry.Active)
				if v.Number != c.active {
					w.t.Errorf("version %d is active, want %d: %s", v.Number, c.active, w.describe())
				}
				if c.active == 2 && c.policy != rotation.CanaryOff && (v.CanaryAt.IsZero() || v.CanaryKID == "") {
					w.t.Errorf("the canary left no mark: %+v", v)
				}
			})
		})
	}
}

func TestAPartnerWithoutAnAPI(t *testing.T) {
	manual := func(w *world) {
		w.change = func(c *rotation.Config) { c.Partners = map[string]rotation.Partner{partnerName: {}} }
	}
	inWorld(t, manual, func(w *world) {
		w.create(weekly())
		v := w.the(registry.Announced)
		if next, _ := w.engine.Next(keyName); next.Name != rotation.StepConfirm || next.KID != v.KID {
			w.t.Errorf("Next = %+v, want it to wait for an operator", next)
		}
		if f := finding(w.engine.Problems(), "confirm"); f.Subject != v.KID {
			w.t.Errorf("Problems say %+v", f)
		}
		if _, err := w.engine.Confirm(w.t.Context(), operator, v.KID, "sent by mail", false); err != nil {
			w.t.Fatalf("Confirm: %v", err)
		}
		w.pass(0)
		if got := w.the(registry.Active); got.KID != v.KID || got.ToldAt.IsZero() {
			w.t.Errorf("after the confirmation: %s", w.describe())
		}
		w.pass(3 * aDay) // Monday has passed, nobody was at the office
		if got := w.the(registry.Active); got.KID != v.KID {
			w.t.Errorf("an unconfirmed version is active")
		}
	})
}

func TestABackendThatDeletesWithADelay(t *testing.T) {
	inWorld(t, func(w *world) {
		w.token = backendtest.NewMemory(backendtest.MemoryOptions{Adopts: true, DestroyDelay: 7 * aDay})
	}, func(w *world) {
		w.create(weekly())
		w.pass(11 * aDay)
		v := w.versions()[0]
		if v.State != registry.Destroying || v.Retry.Tries != 0 {
			w.t.Fatalf("it is %s (%+v), want it to wait for the backend", v.State, v.Retry)
		}
		if f := finding(w.engine.Problems(), "retrying"); f.Code != "" {
			w.t.Errorf("waiting for the backend is no problem: %+v", f)
		}
		w.pass(7 * aDay)
		if v := w.versions()[0]; v.State != registry.Destroyed {
			w.t.Errorf("it is %s after the backend's delay", v.State)
		}
	})
}

// wrong is a backend that does what none should.
func TestAFloorKeepsAKeyFromAShallowBackend(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		p := weekly()
		p.MinBoundary = "sealed"
		w.create(p)
		w.pass(aDay)
		v := w.versions()[0]
		if v.State != registry.Pending || !v.GeneratedAt.IsZero() {
			w.t.Errorf("it is %s", v.State)
		}
		if f := finding(w.engine.Check(w.t.Context()), "boundary_low"); f.Subject != keyName {
			w.t.Errorf("Check says %+v", f)
		}
		w.stop()
		w.token = backendtest.NewMemory(backendtest.MemoryOptions{Level: boundary.Sealed})
		w.restart()
		w.pass(2 * time.Hour)
		w.the(registry.Active)
	})
}

// finding returns the first of a code.
func finding(all []rotation.Finding, code string) rotation.Finding {
	i := slices.IndexFunc(all, func(f rotation.Finding) bool { return f.Code == code })
	if i < 0 {
		return rotation.Finding{}
	}
	return all[i]
}

func TestNewRefusesAnIncompleteConfig(t *testing.T) {
	_, err := rotation.New(rotation.Config{Backends: map[string]rotation.Backend{"hsm": nil}, Retry: rotation.RetryPolicy{Base: -1}})
	for _, what := range []string{"registry", "audit log", "logger", "instance", `backend for "hsm"`, "retries"} {
		if err == nil || !contains(err, what) {
			t.Errorf("got %v, want it to name the %s", err, what)
		}
	}
}
