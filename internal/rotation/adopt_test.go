package rotation_test

import (
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"keyd/internal/boundary"
	"keyd/internal/registry"
	"keyd/internal/rotation"
	"keyd/internal/rotation/backendtest"
)

func faultOf(op string, times int) backendtest.Fault { return backendtest.Fault{Op: op, Times: times} }

// quiet adds a key that the engine has not seen yet.
func quiet(w *world, key registry.Key) {
	w.t.Helper()
	w.pass(0)
	key.NextDue = time.Now().Add(365 * aDay)
	if err := w.reg.PutKey(key); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) plant(bits int) boundary.Found {
	w.t.Helper()
	found, err := w.token.Plant(oldLabel, "", bits)
	if err != nil {
		w.t.Fatal(err)
	}
	return found
}

func (w *world) adopt(change func(a *rotation.Adoption)) (rotation.Change, error) {
	w.t.Helper()
	a := rotation.Adoption{KID: oldKID, Find: oldLabel, ValidTill: time.Now().Add(5 * aDay), Told: true}
	if change != nil {
		change(&a)
	}
	return w.dry(func(dryRun bool) (rotation.Change, error) {
		return w.engine.Adopt(w.t.Context(), operator, keyName, a, dryRun)
	})
}

func TestAdoptTheFirstVersion(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		w.plant(2048)
		quiet(w, theKey(weekly()))
		got, err := w.adopt(func(a *rotation.Adoption) { a.ValidFrom = time.Now().Add(-100 * aDay) })
		if err != nil || !slices.Equal(named(got), []string{"adopt", "canary", "activate"}) {
			w.t.Fatalf("Adopt: %v, %v", got, err)
		}
		if v := w.versions()[0]; !v.State.Opens() {
			w.t.Errorf("it is %s when the answer comes", v.State)
		}
		w.partner.set(func(p *partner) {
			p.uses = oldKID
			p.uploads[oldKID] = upload{public: publicOf(w, oldKID), till: w.versions()[0].ValidTill}
		})
		w.pass(2 * time.Hour)
		v := w.the(registry.Active)
		if v.KID != oldKID || !v.Adopted || v.CanaryKID != oldKID || len(v.Evidence) == 0 || v.Number != 1 {
			w.t.Errorf("got %+v", v)
		}
		w.partner.set(func(p *partner) { p.uses = "" })
		w.pass(3*aDay + time.Hour) // its validTill is near: it is replaced
		if w.the(registry.Active).Number != 2 {
			w.t.Errorf("it was not replaced: %s", w.describe())
		}
		w.pass(2 * aDay)
		if v, _ := w.reg.Version(oldKID); v.State != registry.Destroyed {
			w.t.Errorf("after its validTill it is %s", v.State)
		}
	})
}

func TestAKeyCanWaitForItsFirstVersionToBeAdopted(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		w.plant(2048)
		key := theKey(weekly())
		key.Policy.First = rotation.FirstAdopt
		created, err := w.engine.Create(w.t.Context(), operator, key, false)
		if err != nil || !slices.Equal(named(created), []string{"adopt"}) || len(created.ByHand) != 1 {
			w.t.Fatalf("Create: %+v, %v", created, err)
		}
		w.pass(30 * aDay)
		if n := len(w.versions()); n != 0 || len(w.partner.uploads) != 0 {
			w.t.Errorf("%d versions and %d uploads before the adoption", n, len(w.partner.uploads))
		}
		if f := finding(w.engine.Problems(), "adopt"); f.Subject != keyName {
			w.t.Errorf("Problems do not say that it waits: %+v", w.engine.Problems())
		}
		if step, err := w.engine.Next(keyName); err != nil || step.Name != rotation.StepAdopt {
			w.t.Errorf("next is %+v, %v", step, err)
		}
		w.partner.set(func(p *partner) { p.silent = nil; p.uses = oldKID })
		if _, err := w.adopt(nil); err != nil {
			w.t.Fatal(err)
		}
		w.partner.set(func(p *partner) {
			p.uploads[oldKID] = upload{public: publicOf(w, oldKID), till: w.versions()[0].ValidTill}
		})
		w.pass(time.Hour)
		if v := w.the(registry.Active); v.KID != oldKID {
			w.t.Errorf("active is %s", w.describe())
		}
		w.partner.set(func(p *partner) { p.uses = "" })
		w.pass(8 * aDay)
		if v := w.the(registry.Active); v.Number < 2 {
			w.t.Errorf("the schedule does not go on from there: %s", w.describe())
		}
	})
}

func TestAdoptBesideAnActiveVersion(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		w.plant(3072)
		w.create(weekly())
		active := w.the(registry.Active)
		got, err := w.adopt(nil)
		if err != nil || !slices.Equal(named(got), []string{"adopt", "retire"}) {
			w.t.Fatalf("Adopt: %v, %v", got, err)
		}
		w.pass(0)
		v := w.the(registry.Draining)
		if v.KID != oldKID || v.Bits != 3072 || w.the(registry.Active).KID != active.KID {
			w.t.Errorf("got %s", w.describe())
		}
		if err := w.opens(v, publicOf(w, oldKID)); err != nil {
			w.t.Errorf("it does not open: %v", err)
		}
	})
}

func TestAdoptAndTellThePartner(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		w.plant(2048)
		w.create(weekly())
		got, err := w.adopt(func(a *rotation.Adoption) { a.Told = false })
		if err != nil || !slices.Equal(named(got), []string{"adopt", "announce", "canary", "activate", "drain"}) {
			w.t.Fatalf("Adopt: %v, %v", got, err)
		}
		w.pass(0)
		if w.the(registry.Active).KID != oldKID || w.partner.known()[oldKID].times != 1 {
			w.t.Errorf("got %s", w.describe())
		}
	})
}

func TestAdoptRefuses(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		w.plant(2048)
		w.create(weekly())
		active := w.the(registry.Active)
		if _, err := w.token.Plant("two of them", "", 2048); err != nil {
			w.t.Fatal(err)
		}
		if _, err := w.token.Plant("two of them", "", 2048); err != nil {
			w.t.Fatal(err)
		}
		before := w.snapshot()
		for name, c := range map[string]struct {
			change func(a *rotation.Adoption)
			want   error
		}{
			"a kid that is no UUID":            {func(a *rotation.Adoption) { a.KID = "prod-2024" }, rotation.ErrInvalid},
			"a kid in upper case":              {func(a *rotation.Adoption) { a.KID = strings.ToUpper(a.KID) }, rotation.ErrInvalid},
			"a kid in braces":                  {func(a *rotation.Adoption) { a.KID = "{" + a.KID + "}" }, rotation.ErrInvalid},
			"a kid that is taken":              {func(a *rotation.Adoption) { a.KID = active.KID }, registry.ErrExists},
			"no validTill":                     {func(a *rotation.Adoption) { a.ValidTill = time.Time{} }, rotation.ErrInvalid},
			"a validTill that has passed":      {func(a *rotation.Adoption) { a.ValidTill = time.Now() }, rotation.ErrInvalid},
			"a validTill before its validFrom": {func(a *rotation.Adoption) { a.ValidFrom = a.ValidTill }, rotation.ErrInvalid},
			"nothing found":                    {func(a *rotation.Adoption) { a.Find = "nothing" }, boundary.ErrNoKey},
			"two found":                        {func(a *rotation.Adoption) { a.Find = "two of them" }, boundary.ErrAmbiguous},
			"a version's own key":              {func(a *rotation.Adoption) { a.Find = active.Handle }, registry.ErrExists},
		} {
			if got, err := w.adopt(c.change); !errors.Is(err, c.want) {
				w.t.Errorf("%s: %v, %v, want %v", name, got, err, c.want)
			}
		}
		w.token.Inject(faultOf("open", 2))
		if _, err := w.adopt(nil); !errors.Is(err, rotation.ErrSelfTest) {
			w.t.Errorf("a key that does not open: %v", err)
		}
		if _, err := w.engine.Adopt(w.t.Context(), operator, "no-such-key", rotation.Adoption{}, false); !errors.Is(err, registry.ErrNotFound) {
			w.t.Errorf("an unknown key: %v", err)
		}
		if diff := cmp.Diff(before, w.snapshot()); diff != "" {
			w.t.Errorf("something changed: %s", diff)
		}
		w.partner.set(func(p *partner) { p.down = func() error { return errors.New("down") } })
		if _, err := w.op("rotate", keyName, ""); err != nil {
			w.t.Fatal(err)
		}
		w.pass(0)
		if _, err := w.adopt(nil); !errors.Is(err, registry.ErrInFlight) {
			w.t.Errorf("while a rotation is in flight: %v", err)
		}
	})
}

func TestAdoptHoldsTheFloor(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		w.plant(2048)
		key := theKey(weekly())
		key.Policy.MinBoundary = "sealed"
		quiet(w, key)
		if _, err := w.adopt(nil); !errors.Is(err, rotation.ErrBoundary) {
			w.t.Errorf("got %v, want it refused: the backend only unwraps", err)
		}
		key.Policy.MinBoundary = ""
		quiet(w, key)
	})
}

// publicOf is the recorded public key of a version.
func publicOf(w *world, kid string) *rsa.PublicKey {
	w.t.Helper()
	v, err := w.reg.Version(kid)
	if err != nil {
		w.t.Fatal(err)
	}
	pub, err := x509.ParsePKIXPublicKey(v.Public)
	if err != nil {
		w.t.Fatal(err)
	}
	return pub.(*rsa.PublicKey)
}

// A registry restored from a backup has lost a version that drains where the
// key no longer is.
func TestALostVersionIsAdoptedFromTheBackendItIsIn(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		w.create(weekly())
		w.must(w.move())
		_, err := w.engine.Rotate(w.t.Context(), operator, keyName, false)
		w.must(err)
		w.pass(0)
		w.plant(2048)
		if _, err := w.adopt(nil); !errors.Is(err, boundary.ErrNoKey) {
			w.t.Errorf("from the backend of the key: Adopt: %v", err)
		}
		if _, err := w.adopt(func(a *rotation.Adoption) { a.Backend = "attic" }); !errors.Is(err, rotation.ErrNoBackend) {
			w.t.Errorf("from one that is not there: Adopt: %v", err)
		}
		change, err := w.adopt(func(a *rotation.Adoption) { a.Backend = backendName })
		w.must(err)
		if !strings.Contains(reasons(change), "in "+backendName) {
			w.t.Errorf("it says %q", reasons(change))
		}
		w.pass(0)
		v, err := w.reg.Version(oldKID)
		if err != nil || v.State != registry.Draining || v.Backend != backendName {
			w.t.Errorf("got %+v, %v, want it to drain where it is", v, err)
		}
		w.must(w.opens(v, publicOf(w, oldKID)))
		if w.recorded("key.adopt", "backend", backendName) == 0 {
			w.t.Error("the audit log does not say where it is")
		}
	})
}
