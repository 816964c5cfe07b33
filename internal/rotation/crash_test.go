package rotation_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"keyd/internal/registry"
	"keyd/internal/rotation"
)

// stage is a part of a story: an operator does something, then time passes.
type stage struct {
	name string
	do   func(w *world) error // nil: only time passes
	done func(w *world) bool  // whether an operator who got no answer need not repeat it
	wait time.Duration
}

// story is a life of a key, and how many versions it has at the end. The
// effects before from are those of another story too.
type story struct {
	stages      []stage
	least, most int
	from        int
}

// The effects that creating a key and rotating it have, at least.
const (
	creating = 26
	rotating = creating + 22
)

// rest is long enough for every retry.
const rest = 6 * time.Hour

// stories are lives of a key, each told under every crash there can be.
func stories() map[string]story {
	create := stage{name: "create", wait: rest,
		do: func(w *world) error {
			_, err := w.engine.Create(w.t.Context(), operator, theKey(weekly()), false)
			return err
		},
		done: func(w *world) bool { _, err := w.reg.Key(keyName); return err == nil }}
	onVersion := func(name string, state, then registry.State, op func(w *world, kid string) error) stage {
		var kid string
		return stage{name: name, wait: rest,
			do: func(w *world) error {
				if kid == "" {
					kid = w.the(state).KID
				}
				return op(w, kid)
			},
			done: func(w *world) bool {
				v, err := w.reg.Version(kid)
				return err == nil && became(v, then) > 0
			}}
	}
	compromise := onVersion("compromise", registry.Active, registry.Compromised, func(w *world, kid string) error {
		_, err := w.engine.Compromise(w.t.Context(), operator, kid, "the token was stolen", false)
		return err
	})
	destroy := onVersion("destroy", registry.Compromised, registry.Destroying, func(w *world, kid string) error {
		_, err := w.engine.Destroy(w.t.Context(), operator, kid, "no longer needed", false)
		return err
	})
	rotate := stage{name: "rotate", wait: rest,
		do:   func(w *world) error { _, err := w.engine.Rotate(w.t.Context(), operator, keyName, false); return err },
		done: func(w *world) bool { return len(w.versions()) >= 2 }}
	back := stage{name: "roll back", wait: rest,
		do: func(w *world) error {
			old := w.versions(registry.Draining)
			_, err := w.engine.Activate(w.t.Context(), operator, old[len(old)-1].KID, "the new one does not work", false)
			return err
		},
		done: func(w *world) bool {
			return slices.ContainsFunc(w.versions(), func(v registry.Version) bool { return became(v, registry.Active) == 2 })
		}}
	adopt := stage{name: "adopt", wait: rest,
		do: func(w *world) error {
			_, err := w.engine.Adopt(w.t.Context(), operator, keyName, rotation.Adoption{KID: oldKID, Find: oldLabel,
				ValidFrom: time.Now().Add(-aDay), ValidTill: time.Now().Add(5 * aDay), Told: true}, false)
			return err
		},
		done: func(w *world) bool { _, err := w.reg.Version(oldKID); return err == nil }}
	move := stage{name: "move", wait: rest,
		do: func(w *world) error {
			if key, err := w.reg.Key(keyName); err != nil || key.Backend == backendName {
				if err := w.move(); err != nil {
					return err
				}
			}
			_, err := w.engine.Rotate(w.t.Context(), operator, keyName, false)
			return err
		},
		done: func(w *world) bool { return len(w.versions()) >= 2 }}
	var lost string // the version that is rescued
	inCloud := stage{name: "make in the cloud", wait: rest,
		do: func(w *world) error {
			if _, err := w.reg.Key(keyName); err == nil {
				return nil
			}
			key := theKey(weekly())
			key.Backend = cloudName
			_, err := w.engine.Create(w.t.Context(), operator, key, false)
			return err
		},
		done: create.done}
	rescue := stage{name: "rescue", wait: time.Minute,
		do: func(w *world) error {
			if lost == "" {
				lost = w.the(registry.Destroying).KID
			}
			_, err := w.engine.Rescue(w.t.Context(), operator, lost, "needed after all", false)
			return err
		},
		done: func(w *world) bool {
			v, err := w.reg.Version(lost)
			return err == nil && (became(v, registry.Compromised) == 2 || became(v, registry.Draining) == 2)
		}}
	waiting := func(n int) stage { return stage{name: fmt.Sprintf("%d days pass", n), wait: time.Duration(n) * aDay} }
	return map[string]story{
		"a rotation by an operator":  {[]stage{create, rotate}, 2, 2, 1},
		"a rotation and a roll back": {[]stage{create, rotate, back}, 2, 2, rotating},
		"a rotation by the schedule": {[]stage{create, waiting(3)}, 2, 2, creating},
		// If it is down on both Mondays, it makes up for them once.
		"a rotation, its drain, its end": {[]stage{create, rotate, waiting(11)}, 3, 4, rotating},
		// A crash in the middle of a compromise may start a rotation too many.
		"a compromise and a destruction": {[]stage{create, compromise, destroy}, 2, 3, creating},
		"a move to another backend":      {[]stage{create, move, back}, 2, 2, creating},
		"evidence destroyed too early":   {[]stage{inCloud, compromise, destroy, rescue}, 2, 3, creating},
		"an adoption and its end":        {[]stage{create, adopt, waiting(6)}, 3, 3, creating},
	}
}

// weekly is a policy whose rotations come on Mondays; the clock of every test
// begins on a Saturday.
func weekly() registry.Policy {
	return registry.Policy{Rotate: "0 3 * * 1", ValidFor: days(10), DrainFor: days(2), Canary: rotation.CanaryOpen}
}

const (
	oldKID   = "7d3c0a52-58f0-4e8b-9a3e-0d3d6f1a2b3c"
	oldLabel = "made by hand in 2024"
)

// tell goes through a story, starting the daemon again after every crash.
// again arms the next crash.
func tell(w *world, told story, again func()) {
	if _, err := w.token.Plant(oldLabel, "", 2048); err != nil {
		w.t.Fatalf("planting a key: %v", err)
	}
	w.start()
	crashed := false
	for _, s := range told.stages {
		for tries := 1; ; tries++ {
			if s.do != nil && (s.done == nil || !s.done(w)) {
				if err := s.do(w); err != nil && !w.power.isCut() {
					w.t.Fatalf("%s: %v", s.name, err)
				}
			}
			w.pass(s.wait)
			if !w.power.isCut() {
				break
			}
			if tries > 200 {
				w.t.Fatalf("%s: no progress: %s", s.name, w.describe())
			}
			crashed = true
			w.restart()
			again()
			s.wait = rest // what the stage waited for has come meanwhile
			w.pass(0)
		}
		if crashed { // until then, all the tales are the same
			w.check()
		}
	}
	w.power.restore()
	ended(w)
	if n := len(w.versions()); n < told.least || n > told.most {
		w.t.Errorf("%d versions were made, want %d to %d: %s", n, told.least, told.most, w.describe())
	}
}

// ended states what must be at the end of every story.
func ended(w *world) {
	w.t.Helper()
	w.check()
	if got := len(w.versions(registry.Active)); got != 1 {
		w.t.Errorf("%d versions are active, want one: %s", got, w.describe())
	}
	if left := w.versions(registry.Pending, registry.Announced, registry.Destroying); len(left) != 0 {
		w.t.Errorf("not finished: %s", w.describe())
	}
	known := w.partner.known()
	for _, v := range w.versions() {
		if _, ok := known[v.KID]; ok != (became(v, registry.Announced) > 0 && !v.Adopted) {
			w.t.Errorf("version %d, which is %s: that the partner was told of it is %v", v.Number, v.State, ok)
		}
		delete(known, v.KID)
	}
	if len(known) != 0 {
		w.t.Errorf("the partner was told of versions that are not the key's: %v", known)
	}
	held := w.versions(registry.Active, registry.Draining, registry.Compromised)
	inToken, _ := w.token.List(context.Background())
	inCloud, _ := w.cloud.List(context.Background())
	if len(inToken)+len(inCloud) != len(held)+planted(w) {
		w.t.Errorf("the token holds %d keys and the cloud %d, for %d versions", len(inToken), len(inCloud), len(held))
	}
	intents := map[string]int{}
	for _, e := range w.trail.all() {
		switch e.Phase {
		case "intent":
			intents[e.Op]++
		case "outcome":
			intents[e.Op]--
		}
	}
	for op, n := range intents {
		if n != 0 {
			w.t.Errorf("operation %s has %d intents more than outcomes", op, n)
		}
	}
}

// became counts how often a version came into a state.
func became(v registry.Version, state registry.State) (n int) {
	for _, e := range v.History {
		if e.To == state {
			n++
		}
	}
	return n
}

// planted is how many keys stand in the token that nobody has adopted.
func planted(w *world) int {
	if _, err := w.reg.Version(oldKID); err != nil {
		return 1
	}
	return 0
}

// TestRotationSurvivesACrashAtEveryEffect cuts the power at the first effect
// on the registry, the token, the partner or the audit log, then at the second,
// and so on until the story ends before the cut; each time before the effect,
// and after it with only the answer lost.
func TestRotationSurvivesACrashAtEveryEffect(t *testing.T) {
	for name, told := range stories() {
		for _, after := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, crash after the effect %v", name, after), func(t *testing.T) {
				t.Parallel()
				for n, reached := told.from, true; reached; n++ {
					synctest.Test(t, func(t *testing.T) {
						w := newWorld(t)
						w.power.cutAfter(n, after)
						tell(w, stories()[name], func() {})
						reached = w.power.count >= n
						if t.Failed() {
							t.Fatalf("the power was cut at effect %d, %s; all: %v", n, w.power.log[min(n, len(w.power.log))-1], w.power.log)
						}
					})
					if t.Failed() {
						return
					}
				}
			})
		}
	}
}

// TestRotationSurvivesCrashAfterCrash cuts the power again and again, every few
// effects, until the story is told nevertheless.
func TestRotationSurvivesCrashAfterCrash(t *testing.T) {
	for name := range stories() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for seed := range uint64(12) {
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t)
					dice := rand.New(rand.NewPCG(seed, 0))
					arm := func() { w.power.cutAfter(3+dice.IntN(8), dice.IntN(2) == 0) }
					arm()
					told := stories()[name]
					told.most = 100 // all this takes weeks
					tell(w, told, arm)
					if t.Failed() {
						t.Fatalf("seed %d: %v", seed, w.power.log)
					}
				})
				if t.Failed() {
					return
				}
			}
		})
	}
}
