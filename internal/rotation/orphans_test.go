package rotation_test

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"keyd/internal/audit"
	"keyd/internal/boundary"
	"keyd/internal/registry"
	"keyd/internal/rotation"
	"keyd/internal/rotation/backendtest"
)

// stray makes a key in a backend under keyd's name that no registry knows.
func (w *world) stray(in *backendtest.Memory) boundary.Generated {
	w.t.Helper()
	g, err := in.Generate(context.Background(), boundary.Spec{Key: keyName, KID: uuid.NewString(), Material: boundary.Material{Algorithm: boundary.RSAOAEP256, Bits: 2048}})
	w.must(err)
	return g
}

func TestOrphansAreThoseThatNoVersionHas(t *testing.T) {
	t.Parallel()
	bubble(t, func(w *world) {
		w.create(weekly())
		g := w.stray(w.cloud.Memory)
		_, err := w.token.Plant("somebody else's", "", 2048)
		w.must(err)
		if found, err := w.engine.Orphans(w.t.Context(), backendName); err != nil || len(found) != 0 {
			w.t.Errorf("in the token: %+v, %v, want none", found, err)
		}
		found, err := w.engine.Orphans(w.t.Context(), cloudName)
		if err != nil || len(found) != 1 || found[0].Handle != g.Handle || found[0].Why != rotation.OrphanUnknown || found[0].Told {
			w.t.Errorf("in the cloud: %+v, %v, want the stray", found, err)
		}
		if _, err := w.engine.Orphans(w.t.Context(), "attic"); !errors.Is(err, rotation.ErrNoBackend) {
			w.t.Errorf("in a backend that is not there: %v", err)
		}
		if w.cloud.Calls("destroy")+w.token.Calls("destroy") != 0 {
			w.t.Error("looking destroyed something")
		}
	})
}

func TestAnOrphanIsDestroyedByItsHandleAlone(t *testing.T) {
	for name, in := range map[string]func(*world) (*backendtest.Memory, string, bool){
		"in a token": func(w *world) (*backendtest.Memory, string, bool) { return w.token, backendName, true },
		"in a KMS":   func(w *world) (*backendtest.Memory, string, bool) { return w.cloud.Memory, cloudName, false },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(w *world) {
				w.create(weekly())
				active := w.the(registry.Active)
				backend, backendName, atOnce := in(w)
				g, other := w.stray(backend), w.stray(backend)
				theirs, err := backend.Plant("keyd's neighbour", "", 2048)
				w.must(err)
				destroy := func(dryRun bool, handles ...string) ([]rotation.Orphan, error) {
					return w.engine.DestroyOrphans(w.t.Context(), operator, backendName, handles, "left by a crash", false, dryRun)
				}
				for what, c := range map[string]struct {
					handles []string
					want    error
				}{
					"a version's":           {[]string{g.Handle, active.Handle}, nil},
					"somebody else's":       {[]string{theirs.Handle}, boundary.ErrNoKey},
					"nobody's":              {[]string{g.Handle, "memory:none"}, boundary.ErrNoKey},
					"by its kid":            {[]string{w.active(g)}, boundary.ErrNoKey},
					"none":                  {nil, rotation.ErrInvalid},
					"a piece of the handle": {[]string{g.Handle[:20]}, boundary.ErrNoKey},
				} {
					if what == "a version's" {
						c.want = map[bool]error{true: rotation.ErrState, false: boundary.ErrNoKey}[backendName == active.Backend]
					}
					if _, err := destroy(false, c.handles...); !errors.Is(err, c.want) {
						w.t.Errorf("%s: %v, want %v", what, err, c.want)
					}
				}
				entries := len(w.trail.all())
				if found, err := destroy(true, g.Handle); err != nil || len(found) != 1 || found[0].Gone || len(w.trail.all()) != entries {
					w.t.Errorf("a dry run: %+v, %v", found, err)
				}
				if backend.Calls("destroy") != 0 {
					w.t.Fatal("something was destroyed")
				}
				found, err := destroy(false, g.Handle, g.Handle)
				if err != nil || len(found) != 1 || found[0].Gone != atOnce {
					w.t.Errorf("DestroyOrphans = %+v, %v", found, err)
				}
				if _, err := backend.Public(w.t.Context(), g.Handle); !errors.Is(err, boundary.ErrNoKey) {
					w.t.Errorf("it still stands: %v", err)
				}
				left, err := w.engine.Orphans(w.t.Context(), backendName)
				if err != nil || len(left) != 1 || left[0].Handle != other.Handle {
					w.t.Errorf("left are %+v, %v, want the other one", left, err)
				}
				if w.recorded("orphan.destroy", "gone", strconv.FormatBool(atOnce)) != 1 || w.outcomes("orphan.destroy", audit.ResultOK, "") != 1 || w.refusals("orphan.destroy") < 6 ||
					w.recorded("orphan.destroy", "handle", g.Handle) != 2 {
					w.t.Errorf("the audit log has %+v", w.trail.all()[entries:])
				}
			})
		})
	}
}

// refusals counts what was asked for and not begun.
func (w *world) refusals(action string) (n int) {
	for _, e := range w.trail.all() {
		if e.Phase == audit.PhaseEvent && e.Action == action && e.Result == audit.ResultRefused {
			n++
		}
	}
	return n
}

// active is the kid that a generated key's label ends in.
func (w *world) active(g boundary.Generated) string {
	label := g.Evidence.Attributes["CKA_LABEL"]
	return label[len(label)-36:]
}

// A registry that was restored from a backup knows less than the partner.
func TestAnOrphanThatThePartnerWasToldOfIsNotTakenForRubbish(t *testing.T) {
	t.Parallel()
	bubble(t, func(w *world) {
		w.create(weekly())
		lost := w.the(registry.Active)
		w.stop()
		w.store = newStore(w.power)
		w.start()
		found, err := w.engine.Orphans(w.t.Context(), backendName)
		if err != nil || len(found) != 1 || !found[0].Told || found[0].KID != lost.KID {
			w.t.Fatalf("Orphans = %+v, %v, want the lost version", found, err)
		}
		destroy := func(told bool) error {
			_, err := w.engine.DestroyOrphans(w.t.Context(), operator, backendName, []string{lost.Handle}, "", told, false)
			return err
		}
		if err := destroy(false); !errors.Is(err, rotation.ErrNeeded) {
			w.t.Errorf("DestroyOrphans: %v, want ErrNeeded", err)
		}
		w.change = func(c *rotation.Config) {
			c.ReadAudit = func(context.Context, uint64, int) ([]audit.Entry, error) { return nil, errDown }
		}
		w.restart()
		if err := destroy(true); !errors.Is(err, errDown) {
			w.t.Errorf("the audit log cannot be read: %v", err)
		}
		w.change = nil
		w.restart()
		w.must(destroy(true))
	})
}

// A key made twice, as the answer to its first making was lost, is none that the
// partner was told of, though its kid is.
func TestADuplicateOfAVersionIsNoLostVersion(t *testing.T) {
	t.Parallel()
	bubble(t, func(w *world) {
		active := w.createInCloud()
		g, err := w.cloud.Generate(w.t.Context(), boundary.Spec{Key: "second", KID: active.KID, Material: boundary.Material{Algorithm: boundary.RSAOAEP256, Bits: 2048}})
		w.must(err)
		found, err := w.engine.Orphans(w.t.Context(), cloudName)
		if err != nil || len(found) != 1 || found[0].Handle != g.Handle || found[0].Why != rotation.OrphanDuplicate || found[0].Told {
			w.t.Fatalf("Orphans = %+v, %v, want the duplicate", found, err)
		}
		if f := finding(w.engine.Check(w.t.Context()), "orphan"); f.Subject != active.KID || !strings.Contains(f.Message, "has another one") {
			w.t.Errorf("Check says %+v", f)
		}
		_, err = w.engine.DestroyOrphans(w.t.Context(), operator, cloudName, []string{g.Handle}, "made twice", false, false)
		w.must(err)
		w.check()
	})
}

// eager has somebody do something else just before a key is destroyed.
type eager struct {
	*backendtest.Memory
	meanwhile func()
}

func (b *eager) Destroy(ctx context.Context, handle string) (bool, error) {
	b.meanwhile()
	return b.Memory.Destroy(ctx, handle)
}

func TestAnOrphanIsNotAdoptedWhileItIsDestroyed(t *testing.T) {
	t.Parallel()
	bubble(t, func(w *world) {
		w.create(weekly())
		lost := w.stray(w.token)
		adopted := make(chan error, 1)
		w.change = func(c *rotation.Config) {
			c.Backends[backendName] = &eager{w.token, func() {
				go func() {
					_, err := w.engine.Adopt(context.Background(), operator, keyName,
						rotation.Adoption{KID: oldKID, Find: lost.Handle, ValidTill: time.Now().Add(5 * aDay), Told: true}, false)
					adopted <- err
				}()
				time.Sleep(time.Second) // ample, if nothing keeps it
			}}
		}
		w.restart()
		_, err := w.engine.DestroyOrphans(w.t.Context(), operator, backendName, []string{lost.Handle}, "", false, false)
		w.must(err)
		if err := <-adopted; !errors.Is(err, boundary.ErrNoKey) {
			w.t.Errorf("Adopt: %v, want boundary.ErrNoKey", err)
		}
		w.check()
	})
}

func TestWhatIsUnderWayIsNoOrphan(t *testing.T) {
	t.Parallel()
	bubble(t, func(w *world) {
		w.token.Inject(backendtest.Fault{Op: "generate", After: true, Times: 3}) // made, and not told
		w.create(weekly())
		pending := w.the(registry.Pending)
		all, err := w.token.List(w.t.Context())
		w.must(err)
		if len(all) != 1 || pending.Handle != "" {
			w.t.Fatalf("there stand %+v", all)
		}
		if found, err := w.engine.Orphans(w.t.Context(), backendName); err != nil || len(found) != 0 {
			w.t.Errorf("Orphans = %+v, %v", found, err)
		}
		_, err = w.engine.DestroyOrphans(w.t.Context(), operator, backendName, []string{all[0].Handle}, "", true, false)
		if err == nil || w.token.Calls("destroy") != 0 {
			w.t.Errorf("DestroyOrphans: %v", err)
		}
		w.pass(time.Hour)
		w.the(registry.Active)
	})
}

func TestAnOrphanWhoseDestructionFailsIsStillThere(t *testing.T) {
	for name, after := range map[string]bool{"failed": false, "failed but happened": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(w *world) {
				w.create(weekly())
				g := w.stray(w.token)
				w.token.Inject(backendtest.Fault{Op: "destroy", After: after})
				destroy := func() error {
					_, err := w.engine.DestroyOrphans(w.t.Context(), operator, backendName, []string{g.Handle}, "", false, false)
					return err
				}
				if err := destroy(); !errors.Is(err, boundary.ErrUnavailable) {
					w.t.Errorf("DestroyOrphans: %v", err)
				}
				if w.outcomes("orphan.destroy", audit.ResultFailed, "unavailable") != 1 {
					w.t.Error("the failure is not in the audit log")
				}
				want := map[bool]error{false: nil, true: boundary.ErrNoKey}[after]
				if err := destroy(); !errors.Is(err, want) {
					w.t.Errorf("again: %v, want %v", err, want)
				}
				w.check()
			})
		})
	}
}
