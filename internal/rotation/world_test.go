package rotation_test

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"keyd/internal/audit"
	"keyd/internal/boundary"
	"keyd/internal/registry"
	"keyd/internal/rotation"
	"keyd/internal/rotation/backendtest"
)

var operator = audit.Actor{UID: 1000, User: "olga", Role: "operator"}

// world is everything that outlives the daemon - the registry's file, the
// token and the cloud, the partner, the audit log - and the daemon's engine,
// which does not.
type world struct {
	t       *testing.T
	power   *power
	store   *store
	token   *backendtest.Memory
	cloud   *backendtest.KMS // the backend that keys can be moved to: it adopts, and deletes late
	partner *partner
	trail   *trail
	// change alters what the engine is made of; nil leaves it.
	change func(*rotation.Config)

	reg    *registry.Registry
	engine *rotation.Engine
	stop   func() // ends the engine and waits for it
}

const keyName, partnerName, backendName, cloudName = "wise-response", "wise", "memory", "cloud"

// newWorld makes a world in which no engine runs yet.
func newWorld(t *testing.T) *world {
	p := &power{}
	w := &world{t: t, power: p, store: newStore(p), token: backendtest.NewMemory(backendtest.MemoryOptions{}), trail: &trail{power: p}}
	w.cloud = backendtest.NewKMS(cloudName, 30*aDay)
	w.partner = &partner{world: w, uploads: map[string]upload{}}
	t.Cleanup(func() {
		if w.stop != nil {
			w.stop()
		}
	})
	return w
}

// open reads the registry and makes an engine, without running it.
func (w *world) open() {
	w.t.Helper()
	reg, err := registry.New(w.store)
	if w.power.isCut() {
		w.power.restore()
		reg, err = registry.New(w.store)
	}
	if err != nil {
		w.t.Fatalf("opening the registry: %v", err)
	}
	w.reg = reg
	cfg := rotation.Config{Registry: reg, Audit: w.trail, AuditTail: w.trail.tail, ReadAudit: w.trail.read, Instance: "test",
		Backends: map[string]rotation.Backend{backendName: &powered{w.token, w.power}, cloudName: &poweredKMS{powered{w.cloud.Memory, w.power}, w.cloud}},
		Partners: map[string]rotation.Partner{partnerName: {Announcer: w.partner, Canary: w.partner, KeySource: w.partner}},
		Logger:   slog.New(slog.NewTextHandler(logTo(w.t), &slog.HandlerOptions{Level: slog.LevelWarn}))}
	if w.change != nil {
		w.change(&cfg)
	}
	if w.engine, err = rotation.New(cfg); err != nil {
		w.t.Fatalf("making an engine: %v", err)
	}
}

// start opens and runs an engine.
func (w *world) start() {
	w.t.Helper()
	w.open()
	ctx, cancel := context.WithCancel(context.Background())
	w.power.dies(cancel)
	done := make(chan struct{})
	engine := w.engine
	go func() {
		defer close(done)
		if err := engine.Run(ctx); err != nil {
			w.t.Errorf("Run: %v", err)
		}
	}()
	w.stop = func() {
		cancel()
		<-done
		w.stop = nil
	}
}

// restart is the daemon started again after a crash.
func (w *world) restart() {
	w.t.Helper()
	if w.stop != nil {
		w.stop()
	}
	w.power.restore()
	w.start()
}

// create makes the key and has the engine bring it to its first active version.
func (w *world) create(p registry.Policy) {
	w.t.Helper()
	if _, err := w.engine.Create(w.t.Context(), operator, theKey(p), false); err != nil {
		w.t.Fatalf("Create: %v", err)
	}
	w.pass(0)
}

func theKey(p registry.Policy) registry.Key {
	return registry.Key{Name: keyName, Partner: partnerName, Backend: backendName, Algorithm: boundary.RSAOAEP256, Bits: 2048, Policy: p}
}

// pass lets time pass, and then everything come to rest.
func (w *world) pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// versions returns the key's versions that are in one of the states; none is all.
func (w *world) versions(states ...registry.State) []registry.Version {
	return slices.DeleteFunc(slices.Clone(w.reg.Versions(keyName)), func(v registry.Version) bool {
		return len(states) > 0 && !slices.Contains(states, v.State)
	})
}

// the returns the one version in a state.
func (w *world) the(state registry.State) registry.Version {
	w.t.Helper()
	found := w.versions(state)
	if len(found) != 1 {
		w.t.Fatalf("%d versions are %s, want one: %s", len(found), state, w.describe())
	}
	return found[0]
}

func (w *world) describe() string {
	var lines []string
	for _, v := range w.versions() {
		lines = append(lines, fmt.Sprintf("%d %s %s (tries %d: %s)", v.Number, v.KID, v.State, v.Retry.Tries, v.Retry.Last))
	}
	return strings.Join(lines, "; ")
}

// check states what must hold at every moment.
func (w *world) check() {
	w.t.Helper()
	for _, f := range w.engine.Check(context.Background()) {
		w.t.Errorf("Check: %s %s: %s", f.Code, f.Subject, f.Message)
	}
	w.opensAll()
	w.auditComplete()
}

// opensAll: whatever the partner may seal to opens, unless an operator has
// closed it.
func (w *world) opensAll() {
	w.t.Helper()
	for kid, up := range w.partner.known() {
		v, err := w.reg.Version(kid)
		if err != nil {
			w.t.Errorf("the partner has %s, the registry does not: %v", kid, err)
			continue
		}
		if !time.Now().Before(up.till) || became(v, registry.Compromised) > 0 {
			continue
		}
		if err := w.opens(v, up.public); err != nil {
			w.t.Errorf("the partner may seal to %s (%s): %v", kid, v.State, err)
		}
	}
	for _, v := range w.versions() { // those that it had before us
		if !v.Adopted || v.ToldAt.IsZero() || !time.Now().Before(v.ValidTill) || became(v, registry.Compromised) > 0 {
			continue
		}
		if err := w.opens(v, publicOf(w, v.KID)); err != nil {
			w.t.Errorf("the partner may seal to the adopted %s (%s): %v", v.KID, v.State, err)
		}
	}
}

// opens does what the API does with an envelope for a version.
func (w *world) opens(v registry.Version, public *rsa.PublicKey) error {
	if !v.State.Opens() {
		return fmt.Errorf("a version that is %s opens nothing", v.State)
	}
	env := backendtest.Seal(w.t, public, "A256GCM", []byte("statement"), nil)
	opened, err := w.home(v).Open(context.Background(), v.Handle, env)
	if err == nil && string(opened.Plaintext) != "statement" {
		err = errors.New("it opened to something else")
	}
	return err
}

// home is the backend that a version is in.
func (w *world) home(v registry.Version) *backendtest.Memory {
	return map[string]*backendtest.Memory{backendName: w.token, cloudName: w.cloud.Memory}[v.Backend]
}

// auditComplete: every change of state has its intent in the log.
func (w *world) auditComplete() {
	w.t.Helper()
	entries := w.trail.all()
	for _, v := range w.versions() {
		for _, event := range v.History {
			if event.Audit == 0 || event.Audit > uint64(len(entries)) {
				w.t.Errorf("%s became %s under entry %d of %d", v.KID, event.To, event.Audit, len(entries))
			} else if e := entries[event.Audit-1]; e.Phase != audit.PhaseIntent || e.KID != v.KID && e.Action != "key.activate" && e.Action != "key.retire" {
				w.t.Errorf("%s became %s under %+v, which is not its intent", v.KID, event.To, e)
			}
		}
	}
}

// logTo hands the engine's log to the test's, and drops what comes after it.
func logTo(t *testing.T) io.Writer { return t.Output() }

func rsaKey(t *testing.T, bits int) *rsa.PublicKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatalf("making a key: %v", err)
	}
	return &key.PublicKey
}
