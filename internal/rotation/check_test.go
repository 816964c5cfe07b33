package rotation_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/uuid"

	"keyd/internal/audit"
	"keyd/internal/boundary"
	"keyd/internal/registry"
	"keyd/internal/rotation"
	"keyd/internal/rotation/backendtest"
)

// TestCheckFinds breaks one thing at a time.
func TestCheckFinds(t *testing.T) {
	for name, c := range map[string]struct {
		damage func(w *world, active registry.Version)
		code   string
	}{
		"a lost private key":  {func(w *world, v registry.Version) { w.token.Lose(v.Handle) }, "key_missing"},
		"another private key": {func(w *world, v registry.Version) { w.must(w.token.Swap(v.Handle)) }, "key_mismatch"},
		"a key that the registry does not know": {func(w *world, _ registry.Version) {
			_, err := w.token.Generate(context.Background(), boundary.Spec{Key: keyName, KID: uuid.NewString(), Material: boundary.Material{Algorithm: boundary.RSAOAEP256, Bits: 2048}})
			w.must(err)
		}, "orphan"},
		"a second key under a version's kid": {func(w *world, v registry.Version) {
			_, err := w.token.Generate(context.Background(), boundary.Spec{Key: "other", KID: v.KID, Material: boundary.Material{Algorithm: boundary.RSAOAEP256, Bits: 2048}})
			w.must(err)
		}, "orphan"},
		"a destroyed key that came back": {func(w *world, v registry.Version) {
			_, err := w.engine.Compromise(context.Background(), operator, v.KID, "", false)
			w.must(err)
			w.pass(0)
			_, err = w.engine.Destroy(context.Background(), operator, v.KID, "", false)
			w.must(err)
			w.pass(0)
			_, err = w.token.Generate(context.Background(), boundary.Spec{Key: keyName, KID: v.KID, Material: boundary.Material{Algorithm: boundary.RSAOAEP256, Bits: 2048}})
			w.must(err)
		}, "undead"},
		"an audit log that was cut off": {func(w *world, _ registry.Version) {
			w.trail.mu.Lock()
			defer w.trail.mu.Unlock()
			w.trail.entries = w.trail.entries[:3]
		}, "audit_truncated"},
		"an audit log in which another stands in a change's place": {func(w *world, v registry.Version) {
			w.trail.mu.Lock()
			defer w.trail.mu.Unlock()
			seq := v.History[0].Audit
			w.trail.entries[seq-1].KID = uuid.NewString()
		}, "audit_mismatch"},
		"an audit log that lost an entry in its middle": {func(w *world, v registry.Version) {
			w.trail.mu.Lock()
			defer w.trail.mu.Unlock()
			i := int(v.History[1].Audit) - 1
			w.trail.entries = append(w.trail.entries[:i:i], w.trail.entries[i+1:]...)
		}, "audit_missing"},
		"an audit log that claims what the registry does not have": {func(w *world, v registry.Version) {
			op := uuid.NewString()
			for _, phase := range []string{audit.PhaseIntent, audit.PhaseOutcome} {
				e := audit.Entry{Op: op, Phase: phase, Action: "key.activate", Actor: operator, Key: v.Key, KID: v.KID}
				if phase == audit.PhaseOutcome {
					e.Result = audit.ResultOK
				}
				_, err := w.trail.Append(w.t.Context(), e)
				w.must(err)
			}
		}, "audit_claims"},
		"an audit log that cannot be read": {func(w *world, _ registry.Version) {
			w.change = func(c *rotation.Config) {
				c.ReadAudit = func(context.Context, uint64, int) ([]audit.Entry, error) { return nil, errDown }
			}
			w.restart()
		}, "audit_unchecked"},
		"a change without an entry": {func(w *world, v registry.Version) {
			_, err := w.reg.Move([]registry.Move{{KID: v.KID, To: registry.Compromised}}, "a hand", "", 0, time.Now())
			w.must(err)
		}, "unaudited"},
		"a backend that is down":         {func(w *world, _ registry.Version) { w.token.Inject(faultOf("health", 1)) }, "backend_down"},
		"a backend that lists nothing":   {func(w *world, _ registry.Version) { w.token.Inject(faultOf("list", 1)) }, "backend_unchecked"},
		"a backend that does not answer": {func(w *world, _ registry.Version) { w.token.Inject(faultOf("public", 1)) }, "key_unchecked"},
		"a backend that is not configured": {func(w *world, _ registry.Version) {
			w.change = func(c *rotation.Config) { c.Backends = nil }
			w.restart()
		}, "no_backend"},
		"what the registry finds itself": {func(w *world, _ registry.Version) {
			w.store.mu.Lock()
			defer w.store.mu.Unlock()
			delete(w.store.buckets["keys"], keyName)
		}, "no_key"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(w *world) {
				w.create(weekly())
				w.check()
				c.damage(w, w.the(registry.Active))
				if f := finding(w.engine.Check(w.t.Context()), c.code); f.Code == "" || f.Subject == "" || f.Message == "" {
					w.t.Errorf("found %+v, want %s", w.engine.Check(w.t.Context()), c.code)
				}
			})
		})
	}
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func TestCheckShowsWhatTheBackendSaid(t *testing.T) {
	t.Parallel()
	bubble(t, func(w *world) {
		w.stop()
		w.change = func(c *rotation.Config) {
			c.Backends = map[string]rotation.Backend{backendName: &talkative{w.token}}
		}
		w.restart()
		w.create(weekly())
		if f := finding(w.engine.Check(w.t.Context()), "evidence"); f.Severity != rotation.Warning || f.Subject != w.the(registry.Active).KID {
			w.t.Errorf("found %+v", f)
		}
	})
}

// talkative is a backend that has something to say of every key.
type talkative struct{ *backendtest.Memory }

func (b *talkative) Generate(ctx context.Context, s boundary.Spec) (boundary.Generated, error) {
	g, err := b.Memory.Generate(ctx, s)
	g.Evidence.Problems = []string{"CKA_LOCAL is false"}
	return g, err
}

// TestCheckWhileVersionsComeAndGo: what is under way is no finding.
func TestCheckWhileVersionsComeAndGo(t *testing.T) {
	inWorld(t, func(w *world) { w.partner.wait = time.Minute }, func(w *world) {
		w.create(weekly())
		for range 24 * 60 {
			w.pass(10 * time.Minute)
			if found := w.engine.Check(w.t.Context()); len(found) != 0 {
				w.t.Fatalf("found %+v in %s", found, w.describe())
			}
		}
	})
}

func TestProblems(t *testing.T) {
	for name, c := range map[string]struct {
		prepare func(w *world)
		code    string
	}{
		"no active version": {func(w *world) {
			w.token.Inject(faultOf("generate", 100))
			w.create(weekly())
		}, "no_active"},
		"a step that fails": {func(w *world) {
			w.token.Inject(faultOf("generate", 100))
			w.create(weekly())
		}, "retrying"},
		"an active version that ends soon": {func(w *world) {
			w.create(weekly())
			w.partner.set(func(p *partner) { p.down = func() error { return errDown } })
			w.pass(9*aDay + time.Hour)
		}, "expires"},
		"an active version that has ended": {func(w *world) {
			w.create(weekly())
			w.partner.set(func(p *partner) { p.down = func() error { return errDown } })
			w.pass(10 * aDay)
		}, "expired"},
		"a partner that is not configured any more": {func(w *world) {
			w.create(weekly())
			w.change = func(c *rotation.Config) { c.Partners = nil }
			w.restart()
		}, "no_partner"},
		"a backend that is not configured any more": {func(w *world) {
			w.create(weekly())
			w.change = func(c *rotation.Config) { c.Backends = nil }
			w.restart()
		}, "no_backend"},
		"the last version that opens is past its drain": {func(w *world) {
			w.create(weekly())
			w.partner.set(func(p *partner) { p.silent = errDown })
			_, err := w.engine.Rotate(w.t.Context(), operator, keyName, false)
			w.must(err)
			w.pass(0)
			second := w.the(registry.Announced)
			_, err = w.engine.Activate(w.t.Context(), operator, second.KID, "", false)
			w.must(err)
			w.partner.set(func(p *partner) { p.down = func() error { return errDown } })
			w.token.Inject(faultOf("generate", 1000))
			_, err = w.engine.Compromise(w.t.Context(), operator, second.KID, "", false)
			w.must(err)
			w.pass(11 * aDay)
		}, "last_open"},
		"a version that never became active, and nothing else opens": {func(w *world) {
			w.create(weekly())
			w.partner.set(func(p *partner) { p.silent = errDown })
			_, err := w.engine.Compromise(w.t.Context(), operator, w.the(registry.Active).KID, "", false)
			w.must(err)
			w.pass(11 * aDay)
		}, "never_active"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(w *world) {
				c.prepare(w)
				if f := finding(w.engine.Problems(), c.code); f.Code == "" || f.Subject == "" || f.Message == "" {
					w.t.Errorf("found %+v, want %s; %s", w.engine.Problems(), c.code, w.describe())
				}
			})
		})
	}
}

func TestAHealthyWorldHasNoProblems(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		w.create(weekly())
		for range 30 {
			w.pass(aDay)
			if found := w.engine.Problems(); len(found) != 0 {
				w.t.Fatalf("found %+v", found)
			}
		}
	})
}

func TestEnsureKeys(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		ensure := func(change func(*registry.Key)) error {
			key := theKey(weekly())
			change(&key)
			return w.engine.EnsureKeys(w.t.Context(), []registry.Key{key})
		}
		w.must(ensure(func(*registry.Key) {}))
		w.pass(0)
		first := w.the(registry.Active)
		entries := len(w.trail.all())
		w.must(ensure(func(*registry.Key) {}))
		if len(w.trail.all()) != entries {
			w.t.Error("nothing changed, and something was recorded")
		}
		for name, change := range map[string]func(*registry.Key){
			"partner":   func(k *registry.Key) { k.Partner = "other" },
			"algorithm": func(k *registry.Key) { k.Algorithm = "RSA1_5" },
		} {
			if err := ensure(change); !errors.Is(err, rotation.ErrState) || !contains(err, name) {
				w.t.Errorf("another %s: %v", name, err)
			}
		}
		if err := ensure(func(k *registry.Key) { k.Backend = "other" }); !errors.Is(err, rotation.ErrNoBackend) {
			w.t.Errorf("a backend that is not there: %v", err)
		}
		if err := ensure(func(k *registry.Key) { k.Policy.Canary = "" }); !errors.Is(err, rotation.ErrInvalid) {
			w.t.Errorf("a bad policy: %v", err)
		}
		if err := ensure(func(k *registry.Key) { k.Name = "Bad Name" }); !errors.Is(err, rotation.ErrInvalid) {
			w.t.Errorf("a bad name: %v", err)
		}
		w.must(ensure(func(k *registry.Key) { k.Policy.Rotate, k.Bits = "0 4 * * 2", 3072 }))
		key, _ := w.reg.Key(keyName)
		if want := time.Date(2000, 1, 4, 4, 0, 0, 0, time.UTC); !key.NextDue.Equal(want) || key.Policy.Rotate != "0 4 * * 2" {
			w.t.Errorf("got %+v, want the new schedule from now on", key)
		}
		if w.outcomes("key.policy", audit.ResultOK, "") != 1 {
			w.t.Error("the change is not in the audit log")
		}
		w.engine.Wake()
		w.pass(5 * aDay)
		second := w.the(registry.Active)
		if second.Bits != 3072 || !second.History[0].At.Equal(time.Date(2000, 1, 4, 4, 0, 0, 0, time.UTC)) {
			w.t.Errorf("got %+v, want it made under the new policy", second)
		}
		if old, _ := w.reg.Version(first.KID); !old.ValidTill.Equal(first.ValidTill) {
			w.t.Errorf("the dates of a version that the partner knows changed")
		}
	})
}

func TestANewScheduleDoesNotSwallowAMissedRotation(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		w.create(weekly())
		w.stop()
		w.pass(3 * aDay)
		w.open()
		key := theKey(weekly())
		key.Policy.Rotate = "0 4 * * 2"
		w.must(w.engine.EnsureKeys(w.t.Context(), []registry.Key{key}))
		w.start()
		w.pass(0)
		if w.the(registry.Active).Number != 2 {
			w.t.Errorf("Monday's rotation was not made up for: %s", w.describe())
		}
	})
}
