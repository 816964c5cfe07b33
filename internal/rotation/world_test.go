package rotation_test

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
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
// token, the partner, the audit log - and the daemon's engine, which does not.
type world struct {
	t       *testing.T
	power   *power
	store   *store
	token   *backendtest.Memory
	partner *partner
	trail   *trail
	// change alters what the engine is made of; nil leaves it.
	change func(*rotation.Config)

	reg    *registry.Registry
	engine *rotation.Engine
	stop   func() // ends the engine and waits for it
}

const keyName, partnerName, backendName = "wise-response", "wise", "memory"

// newWorld makes a world in which no engine runs yet.
func newWorld(t *testing.T) *world {
	p := &power{}
	w := &world{t: t, power: p, store: newStore(p), token: backendtest.NewMemory(backendtest.MemoryOptions{}), trail: &trail{power: p}}
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
	cfg := rotation.Config{Registry: reg, Audit: w.trail, AuditTail: w.trail.tail, Instance: "test",
		Backends: map[string]rotation.Backend{backendName: &powered{w.token, w.power}},
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
}

// opens does what the API does with an envelope for a version.
func (w *world) opens(v registry.Version, public *rsa.PublicKey) error {
	if !v.State.Opens() {
		return fmt.Errorf("a version that is %s opens nothing", v.State)
	}
	env := backendtest.Seal(w.t, public, "A256GCM", []byte("statement"), nil)
	opened, err := w.token.Open(context.Background(), v.Handle, env)
	if err == nil && string(opened.Plaintext) != "statement" {
		err = errors.New("it opened to something else")
	}
	return err
}

// auditComplete: every change of state has its intent in the log.
func (w *world) auditComplete() {
	w.t.Helper()
	entries, _ := w.trail.tail(context.Background())
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

// upload is a public key as the partner has it.
type upload struct {
	public     *rsa.PublicKey
	from, till time.Time
	times      int
}

// partner is Wise, as far as the engine sees it. It keeps what it was told,
// also when its answer was lost.
type partner struct {
	world *world

	mu      sync.Mutex
	uploads map[string]upload
	last    string // the kid uploaded last
	down    func() error
	silent  error          // what the playground answers
	uses    string         // the kid that it seals to; "" is the last
	theirs  *rsa.PublicKey // what requests are to be sealed to
	version int            // of theirs
	fetches int
	wait    time.Duration    // before answering
	crash   func(kid string) // called before an upload
}

func (p *partner) Announce(ctx context.Context, kid string, public crypto.PublicKey, from, till time.Time) error {
	return p.world.power.do("announce", func() error {
		if p.crash != nil {
			p.crash(kid)
		}
		if err := sleep(ctx, p.wait); err != nil {
			return err
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.down != nil {
			if err := p.down(); err != nil {
				return err
			}
		}
		pub, ok := public.(*rsa.PublicKey)
		if !ok {
			return fmt.Errorf("the partner got a %T", public)
		}
		old, again := p.uploads[kid]
		if again && (!old.public.Equal(pub) || !old.from.Equal(from) || !old.till.Equal(till)) {
			p.world.t.Errorf("%s was announced again with other material or dates", kid)
		}
		if !from.Before(time.Now()) || !till.After(time.Now()) || from.Nanosecond()+till.Nanosecond() != 0 {
			p.world.t.Errorf("%s was announced at %s as valid from %s till %s", kid, time.Now(), from, till)
		}
		p.uploads[kid] = upload{public: pub, from: from, till: till, times: old.times + 1}
		p.last = kid
		// The second it has the key, it may use it.
		if v, err := p.world.reg.Version(kid); err != nil {
			p.world.t.Errorf("announced %s, which the registry does not know", kid)
		} else if err := p.world.opens(v, pub); err != nil {
			p.world.t.Errorf("announced %s: %v", kid, err)
		}
		return nil
	})
}

func (p *partner) Probe(ctx context.Context, _ string) (string, error) {
	var used string
	err := p.world.power.do("probe", func() error {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.silent != nil {
			return p.silent
		}
		used = p.last
		if p.uses != "" {
			used = p.uses
		}
		v, err := p.world.reg.Version(used)
		if err != nil {
			return nil // sealed to a key that is not ours; the engine sees to it
		}
		return p.world.opens(v, p.uploads[used].public)
	})
	return used, err
}

func (p *partner) FetchKey(ctx context.Context) (string, int, string, crypto.PublicKey, error) {
	if err := sleep(ctx, p.wait); err != nil {
		return "", 0, "", nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fetches++
	if p.down != nil {
		if err := p.down(); err != nil {
			return "", 0, "", nil, err
		}
	}
	return "id", p.version, "RSA_OAEP_256", p.theirs, nil
}

func (p *partner) known() map[string]upload {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.uploads)
}

// set changes the partner while the engine runs.
func (p *partner) set(f func(p *partner)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f(p)
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// trail is an audit log in memory.
type trail struct {
	power *power

	mu      sync.Mutex
	entries []audit.Entry
	broken  bool
}

func (tr *trail) Append(_ context.Context, e audit.Entry) (audit.Head, error) {
	err := tr.power.do("audit", func() error {
		tr.mu.Lock()
		defer tr.mu.Unlock()
		if tr.broken {
			return audit.ErrFailed
		}
		e.Seq, e.At = uint64(len(tr.entries)+1), time.Now()
		tr.entries = append(tr.entries, e)
		return nil
	})
	if err != nil {
		return audit.Head{}, err
	}
	return audit.Head{Seq: e.Seq}, nil
}

func (tr *trail) Head() audit.Head {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	return audit.Head{Seq: uint64(len(tr.entries))}
}

func (tr *trail) tail(context.Context) ([]audit.Entry, error) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	return slices.Clone(tr.entries), nil
}

func (tr *trail) break_(broken bool) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.broken = broken
}

// powered is a backend whose effects the power can be cut at.
type powered struct {
	*backendtest.Memory
	power *power
}

func (b *powered) Generate(ctx context.Context, s boundary.Spec) (g boundary.Generated, err error) {
	err = b.power.do("generate", func() (err error) { g, err = b.Memory.Generate(ctx, s); return err })
	return g, err
}

func (b *powered) Discard(ctx context.Context, s boundary.Spec) error {
	return b.power.do("discard", func() error { return b.Memory.Discard(ctx, s) })
}

func (b *powered) Destroy(ctx context.Context, handle string) (gone bool, err error) {
	err = b.power.do("destroy", func() (err error) { gone, err = b.Memory.Destroy(ctx, handle); return err })
	return gone && err == nil, err
}

func (b *powered) Open(ctx context.Context, handle string, env *boundary.Envelope) (o *boundary.Opened, err error) {
	err = b.power.do("open", func() (err error) { o, err = b.Memory.Open(ctx, handle, env); return err })
	return o, err
}

// power can be cut at the nth effect on anything that outlives the daemon,
// either before the effect or after it, when only the answer is lost. From
// then on nothing has an effect any more.
type power struct {
	mu    sync.Mutex
	count int
	at    int // 0: never
	after bool
	cut   bool
	log   []string
	die   func() // ends the daemon
}

var errCut = errors.New("the power was cut")

func (p *power) do(what string, act func() error) error {
	p.mu.Lock()
	if p.cut {
		p.mu.Unlock()
		return errCut
	}
	p.count++
	p.log = append(p.log, what)
	p.cut = p.count == p.at
	cut, after := p.cut, p.after
	p.mu.Unlock()
	if !cut {
		return act()
	}
	if after {
		_ = act()
	}
	if p.die != nil {
		p.die()
	}
	return fmt.Errorf("%s: %w", what, errCut)
}

func (p *power) restore() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut, p.at = false, 0
}

// cutAfter arms the next cut n effects from now.
func (p *power) cutAfter(n int, after bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.at, p.after = p.count+n, after
}

func (p *power) dies(die func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.die = die
}

func (p *power) isCut() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cut
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
