package rotation_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"keyd/internal/registry"
	"keyd/internal/rotation"
)

func TestCompromise(t *testing.T) {
	inWorld(t, func(w *world) {
		w.change = func(c *rotation.Config) {
			p := c.Partners[partnerName]
			p.Withdraw = "in the Developer Hub, under Authentication"
			c.Partners[partnerName] = p
		}
	}, func(w *world) {
		w.create(weekly())
		v := w.the(registry.Active)
		got, err := w.op("compromise", v.KID, "the backup tape is gone")
		if err != nil {
			w.t.Fatalf("Compromise: %v", err)
		}
		if closed, _ := w.reg.Version(v.KID); closed.State != registry.Compromised {
			w.t.Errorf("it is %s when the answer comes", closed.State)
		}
		if want := []string{"compromise", "intent", "generate", "self-test", "announce", "canary", "activate"}; !slices.Equal(named(got), want) {
			w.t.Errorf("got %v, want %v", named(got), want)
		}
		if text := strings.Join(got.ByHand, "\n"); !strings.Contains(text, v.KID) || !strings.Contains(text, "Developer Hub") || !strings.Contains(text, "keyd keys destroy") {
			w.t.Errorf("by hand: %s", text)
		}
		w.pass(0)
		if next := w.the(registry.Active); next.Number != 2 {
			w.t.Errorf("the rotation did not start at once: %s", w.describe())
		}
		w.refused("compromise", v.KID, rotation.ErrState)
		w.refused("activate", v.KID, rotation.ErrState)
		w.pass(20 * aDay)
		if kept, _ := w.reg.Version(v.KID); kept.State != registry.Compromised {
			w.t.Errorf("it is %s, want it kept until an operator destroys it", kept.State)
		}
		if _, err := w.token.Public(w.t.Context(), v.Handle); err != nil {
			w.t.Errorf("its private key is gone: %v", err)
		}
	})
}

func TestCompromiseWhileARotationIsInFlight(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		w.create(weekly())
		first := w.the(registry.Active)
		w.partner.set(func(p *partner) { p.down = func() error { return errors.New("down") } })
		if _, err := w.op("rotate", keyName, ""); err != nil {
			w.t.Fatal(err)
		}
		w.pass(0)
		if got, err := w.op("compromise", first.KID, "leaked"); err != nil || slices.Contains(named(got), "intent") {
			w.t.Errorf("the active one: %v, %v, want the rotation in flight to go on", got, err)
		}
		if second := w.the(registry.Announced); second.Number == 2 {
			if got, err := w.op("compromise", second.KID, "leaked too"); err != nil || !slices.Contains(named(got), "intent") {
				w.t.Errorf("the one in flight: %v, %v, want a new rotation", got, err)
			}
		}
		if f := finding(w.engine.Problems(), "no_active"); f.Subject != keyName {
			w.t.Errorf("Problems say %+v", f)
		}
		w.partner.set(func(p *partner) { p.down = nil })
		w.pass(2 * time.Hour)
		if w.the(registry.Active).Number != 3 || len(w.versions()) != 3 {
			w.t.Errorf("got %s, want one new version", w.describe())
		}
	})
}

func TestCompromiseOfAVersionNobodyHeardOf(t *testing.T) {
	inWorld(t, func(w *world) {
		w.token.Inject(faultOf("generate", 1000))
	}, func(w *world) {
		w.create(weekly())
		v := w.the(registry.Pending)
		got, err := w.op("compromise", v.KID, "")
		if err != nil || len(got.ByHand) != 0 {
			w.t.Errorf("Compromise: %v, %v, want nothing to be done at the partner", got, err)
		}
		w.token.Heal()
		w.pass(2 * time.Hour)
		w.the(registry.Active)
		if _, err := w.op("destroy", v.KID, ""); err != nil {
			w.t.Errorf("Destroy: %v", err)
		}
		w.pass(0)
		if v, _ := w.reg.Version(v.KID); v.State != registry.Destroyed {
			w.t.Errorf("it is %s", v.State)
		}
	})
}

func TestDestroy(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		w.create(weekly())
		first := w.the(registry.Active)
		w.refused("destroy", first.KID, rotation.ErrNeeded)
		w.refused("destroy", "7d3c0a52-58f0-4e8b-9a3e-0d3d6f1a2b3d", registry.ErrNotFound)
		w.partner.set(func(p *partner) { p.silent = errors.New("no playground") })
		if _, err := w.op("rotate", keyName, ""); err != nil {
			w.t.Fatal(err)
		}
		w.pass(0)
		w.refused("destroy", w.the(registry.Announced).KID, rotation.ErrNeeded)
		w.partner.set(func(p *partner) { p.silent = nil })
		w.pass(2 * time.Hour)
		w.refused("destroy", first.KID, rotation.ErrNeeded) // draining
		if _, err := w.op("compromise", first.KID, "leaked"); err != nil {
			w.t.Fatal(err)
		}
		w.pass(0)
		w.token.Inject(faultOf("destroy", 1))
		if got, err := w.op("destroy", first.KID, "no evidence"); err != nil || !slices.Equal(named(got), []string{"destroy"}) {
			w.t.Errorf("Destroy: %v, %v", got, err)
		}
		w.pass(0)
		if _, err := w.op("destroy", first.KID, "again"); err != nil {
			w.t.Errorf("Destroy while it is being destroyed: %v", err)
		}
		w.pass(2 * time.Hour)
		if v, _ := w.reg.Version(first.KID); v.State != registry.Destroyed {
			w.t.Errorf("it is %s", v.State)
		}
		w.refused("destroy", first.KID, rotation.ErrState)
	})
}

func TestDestroyOfAnIntent(t *testing.T) {
	inWorld(t, func(w *world) {
		w.token.Inject(faultOf("open", 1000)) // it is made, and never passes its self-test
	}, func(w *world) {
		w.create(weekly())
		v := w.the(registry.Pending)
		if _, err := w.op("destroy", v.KID, "it does not work"); err != nil {
			w.t.Fatalf("Destroy: %v", err)
		}
		w.token.Heal()
		w.pass(2 * time.Hour)
		if got, _ := w.reg.Version(v.KID); got.State != registry.Destroyed || w.the(registry.Active).Number != 2 {
			w.t.Errorf("got %s", w.describe())
		}
	})
}
