package rotation_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"keyd/internal/audit"
	"keyd/internal/boundary"
	"keyd/internal/registry"
	"keyd/internal/rotation"
)

// named are the steps of a change.
func named(c rotation.Change) []string {
	var names []string
	for _, s := range c.Steps {
		names = append(names, s.Name)
	}
	return names
}

// dry runs an operation without effect, sees to it that there is none, and
// then runs it.
func (w *world) dry(op func(dryRun bool) (rotation.Change, error)) (rotation.Change, error) {
	w.t.Helper()
	before, entries := w.snapshot(), len(w.trail.all())
	would, dryErr := op(true)
	if diff := cmp.Diff(before, w.snapshot()); diff != "" || len(w.trail.all()) != entries {
		w.t.Errorf("a dry run changed something (%d audit entries more): %s", len(w.trail.all())-entries, diff)
	}
	did, err := op(false)
	if (dryErr == nil) != (err == nil) {
		w.t.Errorf("the dry run said %v, then came %v", dryErr, err)
	}
	if diff := cmp.Diff(named(would), named(did)); diff != "" && err == nil {
		w.t.Errorf("the dry run announced other steps: %s", diff)
	}
	return did, err
}

func (w *world) snapshot() any {
	list, _ := w.token.List(w.t.Context())
	var handles []string
	for _, f := range list {
		handles = append(handles, f.Handle)
	}
	return []any{w.reg.Keys(), w.versions(), handles, len(w.partner.known())}
}

func (w *world) op(name string, kid, reason string) (rotation.Change, error) {
	w.t.Helper()
	return w.dry(func(dryRun bool) (rotation.Change, error) {
		switch name {
		case "confirm":
			return w.engine.Confirm(w.t.Context(), operator, kid, reason, dryRun)
		case "activate":
			return w.engine.Activate(w.t.Context(), operator, kid, reason, dryRun)
		case "compromise":
			return w.engine.Compromise(w.t.Context(), operator, kid, reason, dryRun)
		case "destroy":
			return w.engine.Destroy(w.t.Context(), operator, kid, reason, dryRun)
		case "rotate":
			return w.engine.Rotate(w.t.Context(), operator, kid, dryRun)
		}
		panic(name)
	})
}

// refused: the operation has no effect, and that it was asked for is recorded.
func (w *world) refused(name, kid string, want error) {
	w.t.Helper()
	before := w.snapshot()
	change, err := w.op(name, kid, "because")
	if !errors.Is(err, want) {
		w.t.Errorf("%s of %s: %v, %v, want %v", name, kid, change, err, want)
	}
	if diff := cmp.Diff(before, w.snapshot()); diff != "" {
		w.t.Errorf("%s of %s changed something: %s", name, kid, diff)
	}
	if !slices.ContainsFunc(w.trail.all(), func(e audit.Entry) bool {
		return e.Result == audit.ResultRefused && e.Phase == audit.PhaseEvent && e.Actor == operator && e.Code != "" && e.Detail["error"] == err.Error()
	}) {
		w.t.Errorf("%s of %s left no entry in the audit log", name, kid)
	}
}

func TestCreate(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		create := func(change func(*registry.Key)) (rotation.Change, error) {
			key := theKey(weekly())
			change(&key)
			return w.dry(func(dryRun bool) (rotation.Change, error) {
				return w.engine.Create(w.t.Context(), operator, key, dryRun)
			})
		}
		for name, c := range map[string]struct {
			change func(*registry.Key)
			want   error
		}{
			"no name":           {func(k *registry.Key) { k.Name = "" }, rotation.ErrInvalid},
			"a path for a name": {func(k *registry.Key) { k.Name = "../x" }, rotation.ErrInvalid},
			"unknown partner":   {func(k *registry.Key) { k.Partner = "acme" }, rotation.ErrNoPartner},
			"unknown backend":   {func(k *registry.Key) { k.Backend = "attic" }, rotation.ErrNoBackend},
			"unknown algorithm": {func(k *registry.Key) { k.Algorithm = "RSA1_5" }, rotation.ErrInvalid},
			"too few bits":      {func(k *registry.Key) { k.Bits = 1024 }, rotation.ErrInvalid},
			"a bad policy":      {func(k *registry.Key) { k.Policy.DrainFor = 0 }, rotation.ErrInvalid},
		} {
			if got, err := create(c.change); !errors.Is(err, c.want) {
				w.t.Errorf("%s: %v, %v, want %v", name, got, err, c.want)
			}
		}
		if len(w.reg.Keys()) != 0 {
			w.t.Fatalf("keys came to exist: %v", w.reg.Keys())
		}
		got, err := create(func(k *registry.Key) { k.Algorithm, k.Bits = "", 0 })
		if err != nil {
			w.t.Fatalf("Create: %v", err)
		}
		if want := []string{"intent", "generate", "self-test", "announce", "canary", "activate"}; !slices.Equal(named(got), want) || got.ByHand != nil {
			w.t.Errorf("got %v by hand %v, want %v", named(got), got.ByHand, want)
		}
		w.pass(0)
		if v := w.the(registry.Active); v.Bits != 2048 || v.Algorithm != boundary.RSAOAEP256 {
			w.t.Errorf("got %+v, want the defaults", v)
		}
		if _, err := create(func(*registry.Key) {}); !errors.Is(err, registry.ErrExists) {
			w.t.Errorf("the same name again: %v", err)
		}
		if _, err := create(func(k *registry.Key) { k.Name = "second" }); !errors.Is(err, rotation.ErrInvalid) {
			w.t.Errorf("a second key for the partner: %v", err)
		}
	})
}

func TestRotate(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		w.refused("rotate", "no-such-key", registry.ErrNotFound)
		w.create(weekly())
		first := w.the(registry.Active)
		got, err := w.op("rotate", keyName, "")
		if err != nil {
			w.t.Fatalf("Rotate: %v", err)
		}
		if want := []string{"intent", "generate", "self-test", "announce", "canary", "activate", "drain"}; !slices.Equal(named(got), want) {
			w.t.Errorf("got %v, want %v", named(got), want)
		}
		if last := got.Steps[len(got.Steps)-1]; last.KID != first.KID || !last.At.Equal(first.ValidTill) {
			w.t.Errorf("got %+v, want the old version's end", last)
		}
		if _, err := w.engine.Rotate(w.t.Context(), operator, keyName, false); !errors.Is(err, registry.ErrInFlight) {
			w.t.Errorf("Rotate again: %v", err)
		}
		w.pass(0)
		second := w.the(registry.Active)
		if second.KID != got.KID || second.History[0].By != operator.String() {
			w.t.Errorf("got %+v, want the version that Rotate named, begun by the operator", second)
		}
		if old := w.the(registry.Draining); old.KID != first.KID || !old.DrainUntil.Equal(time.Now().Add(2*aDay)) {
			w.t.Errorf("the old version: %+v", old)
		}
	})
}

func TestActivate(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		w.create(weekly())
		first := w.the(registry.Active)
		w.refused("activate", "7d3c0a52-58f0-4e8b-9a3e-0d3d6f1a2b3d", registry.ErrNotFound)
		w.refused("activate", first.KID, rotation.ErrState)
		if _, err := w.op("rotate", keyName, ""); err != nil {
			w.t.Fatal(err)
		}
		w.pass(0)
		second := w.the(registry.Active)
		got, err := w.op("activate", first.KID, "the new one is refused")
		if err != nil || !slices.Equal(named(got), []string{"activate", "drain"}) {
			w.t.Fatalf("rolling back: %v, %v", got, err)
		}
		w.pass(time.Hour)
		if w.the(registry.Active).KID != first.KID || w.the(registry.Draining).KID != second.KID {
			w.t.Errorf("after the roll back: %s", w.describe())
		}
		if last := w.the(registry.Active).History; last[len(last)-1].Reason != "the new one is refused" || last[len(last)-1].By != operator.String() {
			w.t.Errorf("its history ends with %+v", last[len(last)-1])
		}
		w.opensAll()

		// A version that the canary holds up may be hurried.
		w.partner.set(func(p *partner) { p.silent = errors.New("no playground") })
		if _, err := w.op("rotate", keyName, ""); err != nil {
			w.t.Fatal(err)
		}
		w.pass(0)
		third := w.the(registry.Announced)
		if _, err := w.op("activate", third.KID, "hurry"); err != nil {
			w.t.Errorf("hurrying: %v", err)
		}
		w.pass(0)
		if w.the(registry.Active).KID != third.KID {
			w.t.Errorf("after hurrying: %s", w.describe())
		}
		// One whose time has passed may not come back.
		if err := w.reg.SetDue(keyName, time.Now().Add(365*aDay)); err != nil {
			w.t.Fatal(err)
		}
		w.stop()
		w.pass(time.Until(first.ValidTill))
		w.refused("activate", first.KID, rotation.ErrState)
		w.start()
	})
}

func TestAVersionThatThePartnerDoesNotHaveCannotBeHurried(t *testing.T) {
	inWorld(t, func(w *world) {
		w.partner.down = func() error { return errors.New("down") }
	}, func(w *world) {
		w.create(weekly())
		v := w.the(registry.Announced)
		w.refused("activate", v.KID, rotation.ErrState)
		w.partner.set(func(p *partner) { p.down = nil })
		w.pass(2 * time.Hour)
	})
}

func TestConfirm(t *testing.T) {
	inWorld(t, func(w *world) {
		w.change = func(c *rotation.Config) { c.Partners = map[string]rotation.Partner{partnerName: {}} }
	}, func(w *world) {
		got, err := w.dry(func(dryRun bool) (rotation.Change, error) {
			return w.engine.Create(w.t.Context(), operator, theKey(weekly()), dryRun)
		})
		if err != nil || !slices.Equal(named(got), []string{"intent", "generate", "self-test", "confirm", "activate"}) || len(got.ByHand) != 1 {
			w.t.Fatalf("Create: %v, %v", got, err)
		}
		w.pass(0)
		v := w.the(registry.Announced)
		w.refused("activate", v.KID, rotation.ErrState)
		if got, err := w.op("confirm", v.KID, "by mail"); err != nil || !slices.Equal(named(got), []string{"confirm", "activate"}) {
			w.t.Errorf("Confirm: %v, %v", got, err)
		}
		w.pass(0)
		w.refused("confirm", v.KID, rotation.ErrState)
		w.refused("confirm", "7d3c0a52-58f0-4e8b-9a3e-0d3d6f1a2b3d", registry.ErrNotFound)

		if _, err := w.op("rotate", keyName, ""); err != nil {
			w.t.Fatal(err)
		}
		w.pass(0)
		late := w.the(registry.Announced)
		w.stop()
		w.pass(10 * aDay)
		w.refused("confirm", late.KID, rotation.ErrState)
		w.start()
	})
}

func TestConfirmTwice(t *testing.T) {
	inWorld(t, func(w *world) {
		w.partner.silent = errors.New("no playground") // it stays announced
	}, func(w *world) {
		w.create(weekly())
		w.refused("confirm", w.the(registry.Announced).KID, rotation.ErrState)
	})
}
