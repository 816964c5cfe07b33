package kms_test

import (
	"context"
	"crypto"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"keyd/internal/audit"
	"keyd/internal/boundary"
	"keyd/internal/kms"
	"keyd/internal/kms/kmstest"
	"keyd/internal/registry"
	"keyd/internal/rotation"
)

// trail is an audit log that keeps its entries in memory.
type trail struct {
	mu      sync.Mutex
	entries []audit.Entry
}

func (tr *trail) Append(_ context.Context, e audit.Entry) (audit.Head, error) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	e.Seq = uint64(len(tr.entries) + 1)
	tr.entries = append(tr.entries, e)
	return audit.Head{Seq: e.Seq}, nil
}

func (tr *trail) Head() audit.Head {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	return audit.Head{Seq: uint64(len(tr.entries))}
}

// knows is a partner that takes every public key.
type knows struct{}

func (knows) Announce(context.Context, string, crypto.PublicKey, time.Time, time.Time) error {
	return nil
}

// life is an engine with a key of each kind, all in KMS.
type life struct {
	*testing.T
	server  *kmstest.Server
	backend *kms.Backend
	reg     *registry.Registry
	engine  *rotation.Engine
}

// inKMS runs a test in a bubble: its days pass in no time, in KMS too.
func inKMS(t *testing.T, test func(l *life)) {
	synctest.Test(t, func(t *testing.T) {
		l := &life{T: t, server: kmstest.New(kmstest.Options{Quotas: kmstest.Quotas})}
		l.backend = open(t, l.server, func(c *kms.Config) { c.Budget = kms.Budget{} })
		var err error
		if l.reg, err = registry.Open(filepath.Join(t.TempDir(), "keyd.db"), registry.Options{}); err != nil {
			t.Fatal(err)
		}
		partners := map[string]rotation.Partner{}
		for _, m := range materials {
			partners[m.Algorithm] = rotation.Partner{Announcer: knows{}, Verifier: knows{}}
		}
		l.engine, err = rotation.New(rotation.Config{Registry: l.reg, Audit: &trail{}, Instance: "test", Logger: slog.New(slog.DiscardHandler),
			Backends: map[string]rotation.Backend{"aws": l.backend}, Partners: partners})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error)
		go func() { ended <- l.engine.Run(ctx) }()
		defer func() { // after a Fatal too: the bubble ends with its goroutines
			cancel()
			if err := <-ended; err != nil {
				t.Errorf("Run: %v", err)
			}
			if err := l.reg.Close(); err != nil {
				t.Error(err)
			}
		}()
		test(l)
	})
}

func (l *life) pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// create names a key of each kind: rotated on Mondays, each version valid for
// ten days and drained for two.
func (l *life) create() {
	l.Helper()
	for name, m := range map[string]boundary.Material{"opens": materials[0], "agrees": materials[1], "signs": materials[2]} {
		_, err := l.engine.Create(l.Context(), audit.System, registry.Key{Name: name, Partner: m.Algorithm, Backend: "aws",
			Algorithm: m.Algorithm, Bits: m.Bits, Curve: m.Curve, Policy: registry.Policy{Rotate: "0 3 * * 1", Canary: rotation.CanaryOff,
				ValidFor: registry.Duration(10 * day), DrainFor: registry.Duration(2 * day)}}, false)
		if err != nil {
			l.Fatal(err)
		}
	}
	l.pass(time.Hour) // some step may have been a try too early for the budget
}

// check states what must hold at every moment.
func (l *life) check() {
	l.Helper()
	for _, f := range l.engine.Check(l.Context()) {
		l.Errorf("Check: %s %s: %s", f.Code, f.Subject, f.Message)
	}
	if n := l.server.Throttled(); n != 0 {
		l.Errorf("KMS throttled %d requests", n)
	}
}

func (l *life) states(key string) (all []registry.State) {
	for _, v := range l.reg.Versions(key) {
		all = append(all, v.State)
	}
	return all
}

func TestEveryKindOfKeyLivesAndIsDestroyedWhenItsWindowEnds(t *testing.T) {
	inKMS(t, func(l *life) {
		l.create() // on a Saturday
		l.check()
		l.pass(2*day + 4*time.Hour)
		for _, key := range []string{"opens", "agrees", "signs"} {
			if s := l.states(key); len(s) != 2 || s[0] != registry.Draining || s[1] != registry.Active {
				t.Fatalf("%s on Monday: %v", key, s)
			}
		}
		l.check()
		l.pass(8 * day) // past the first ones' validTill
		first := map[string]registry.Version{}
		for _, key := range []string{"opens", "agrees", "signs"} {
			v := l.reg.Versions(key)[0]
			if first[key] = v; v.State != registry.Destroying {
				t.Fatalf("%s: its first version is %s, want its deletion to wait", key, v.State)
			}
		}
		var until time.Time
		for _, k := range l.server.Keys() {
			if k.ARN == first["agrees"].Handle {
				until = k.Deletion
			}
		}
		l.check()
		l.pass(time.Until(until) - time.Minute)
		for key, v := range first {
			if now, _ := l.reg.Version(v.KID); now.State != registry.Destroying {
				t.Errorf("%s: a minute before the window's end it is %s", key, now.State)
			}
		}
		l.pass(7 * time.Hour) // KMS is asked every six
		for key, v := range first {
			if now, _ := l.reg.Version(v.KID); now.State != registry.Destroyed {
				t.Errorf("%s: after the window it is %s", key, now.State)
			}
		}
		l.check()
		for _, k := range l.server.Keys() {
			if k.ARN == first["opens"].Handle {
				t.Errorf("KMS still has %+v", k)
			}
		}
	})
}

// A crash, or a lost answer, at the one request that cannot be repeated.
func TestNoLostAnswerLeavesAKeyThatNobodyKnows(t *testing.T) {
	inKMS(t, func(l *life) {
		l.server.Inject(kmstest.Fault{Op: "CreateKey", After: true, Drop: true, Times: 2})
		l.server.Inject(kmstest.Fault{Op: "CreateAlias", After: true, Drop: true, Times: 4})
		l.create()
		l.pass(time.Hour)
		l.check()
		if keys := l.server.Keys(); len(keys) != 3 {
			t.Errorf("there stand %d keys, want three", len(keys))
		}
		for _, key := range []string{"opens", "agrees", "signs"} {
			if s := l.states(key); len(s) != 1 || s[0] != registry.Active {
				t.Errorf("%s: %v", key, s)
			}
		}
		orphans, err := l.engine.Orphans(l.Context(), "aws")
		if err != nil || len(orphans) != 0 {
			t.Errorf("Orphans = %+v, %v", orphans, err)
		}
	})
}

// What an operator may do within the window, on the true client.
func TestADestructionIsCalledOffWithinItsWindow(t *testing.T) {
	inKMS(t, func(l *life) {
		l.create()
		v := l.reg.Versions("opens")[0]
		if _, err := l.engine.Compromise(l.Context(), audit.System, v.KID, "drill", false); err != nil {
			t.Fatal(err)
		}
		l.pass(time.Minute)
		stateOf := func() string {
			for _, k := range l.server.Keys() {
				if k.ARN == v.Handle {
					return k.State
				}
			}
			return "gone"
		}
		if got := stateOf(); got != kmstest.Disabled {
			t.Errorf("compromised, its key is %s, want it disabled", got)
		}
		l.check()
		if _, err := l.engine.Destroy(l.Context(), audit.System, v.KID, "drill over", false); err != nil {
			t.Fatal(err)
		}
		l.pass(29 * day)
		if got := stateOf(); got != kmstest.PendingDeletion {
			t.Errorf("destroyed, its key is %s", got)
		}
		if _, err := l.engine.Rescue(l.Context(), audit.System, v.KID, "not yet", false); err != nil {
			t.Fatal(err)
		}
		if now, _ := l.reg.Version(v.KID); now.State != registry.Compromised || stateOf() != kmstest.Disabled {
			t.Errorf("rescued, it is %s and its key %s, want it compromised and disabled", now.State, stateOf())
		}
		drained := l.reg.Versions("agrees")[0]
		if _, err := l.engine.Rescue(l.Context(), audit.System, drained.KID, "an answer turned up", false); err != nil {
			t.Fatal(err)
		}
		if now, _ := l.reg.Version(drained.KID); now.State != registry.Draining {
			t.Errorf("rescued, a drained version is %s", now.State)
		}
		l.check()
	})
}

// What somebody else does to a key in AWS, doctor tells apart, with what to do.
func TestWhatIsDoneToAKeyInAWSIsFoundOut(t *testing.T) {
	for name, c := range map[string]struct{ op, code, hint string }{
		"disabled":  {"DisableKey", "key_disabled", "enable it there"},
		"scheduled": {"ScheduleKeyDeletion", "key_missing", "call that off now"},
	} {
		t.Run(name, func(t *testing.T) {
			inKMS(t, func(l *life) {
				l.create()
				v := l.reg.Versions("opens")[0]
				request(t, l.server, c.op, map[string]any{"KeyId": v.Handle})
				found := l.engine.Check(l.Context())
				if len(found) != 1 || found[0].Code != c.code || found[0].Subject != v.KID || !strings.Contains(found[0].Hint, c.hint) {
					t.Errorf("found %+v", found)
				}
			})
		})
	}
}
