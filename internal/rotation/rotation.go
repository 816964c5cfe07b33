// Package rotation moves versions of keys through their lives: it makes key
// pairs, tells partners about them, puts them to use and destroys them.
//
// Deciding and acting are apart. Plan is a pure function from what the
// registry holds and the time to the next step. The Engine takes that step and
// looks again, until there is nothing left to do now; a schedule, a timer or an
// operator only wakes it. Whatever a crash leaves behind is therefore one more
// state to plan from, and not a case of its own.
//
// Every step writes its intent to the audit log, acts, records what it did in
// the registry and then its outcome in the audit log, and may be repeated from
// any point of that. If the audit log cannot be written, nothing is changed.
package rotation

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"keyd/internal/audit"
	"keyd/internal/registry"
)

var (
	// ErrAudit: the audit log could not be written. Where it is returned for an
	// intent, nothing was changed.
	ErrAudit = errors.New("the audit log cannot be written")
	// ErrInvalid: the request itself is not usable (a bad policy, a kid that is
	// not a UUID, dates in the past).
	ErrInvalid = errors.New("not a usable request")
	// ErrState: the version or key is not in a state in which this can be done.
	ErrState = errors.New("not possible in this state")
	// ErrNeeded: the version may still be needed to open what the partner
	// sends; it must be compromised before it can be destroyed.
	ErrNeeded = errors.New("the version may still be needed")
	// ErrNoBackend: no backend of that name is configured.
	ErrNoBackend = errors.New("no such backend is configured")
	// ErrNoPartner: no partner of that name is configured.
	ErrNoPartner = errors.New("no such partner is configured")
	// ErrNoPartnerKey: the partner has no API that hands out its public key,
	// and none is stored.
	ErrNoPartnerKey = errors.New("the partner's public key is not known")
	// ErrBoundary: the backend works at a lower boundary level than the key's
	// policy allows.
	ErrBoundary = errors.New("the boundary level is below the policy's floor")
	// ErrSelfTest: the private key in the backend does not do what it should.
	ErrSelfTest = errors.New("the key pair failed its self-test")

	errPanic = errors.New("panic")
)

// Auditor is the audit log as the engine uses it. Append returns when the
// entry is on disk.
type Auditor interface {
	Append(ctx context.Context, e audit.Entry) (audit.Head, error)
	Head() audit.Head
}

// RetryPolicy spaces the tries of a step that fails: before try n+1 it waits a
// random time of up to Base·2ⁿ, at most Max, and no less than the partner asked
// for with Retry-After.
type RetryPolicy struct {
	Base time.Duration // default 10s
	Max  time.Duration // default 1h
}

// Config is what an Engine works with.
type Config struct {
	Registry *registry.Registry
	Audit    Auditor
	// AuditTail returns the newest entries of the audit log, oldest first, as
	// far back as an interrupted operation may lie. Run reads it once, to write
	// the outcomes that a crash kept from being written. Nil leaves them out.
	AuditTail func(ctx context.Context) ([]audit.Entry, error)
	// ReadAudit returns up to limit entries after one, oldest first. Check holds
	// them against the histories; nil leaves that out.
	ReadAudit func(ctx context.Context, after uint64, limit int) ([]audit.Entry, error)
	Backends  map[string]Backend // by their names in the config
	Partners  map[string]Partner
	Retry     RetryPolicy
	// StopWithin is how long a step may go on when Run is told to end. Default 20s.
	StopWithin time.Duration
	// PartnerKey, if set, is told when a partner shows another public key than
	// before: KeyTaken or KeyRefused.
	PartnerKey func(partner, what string)
	// Instance names this keyd; orphans are described with it.
	Instance string
	Logger   *slog.Logger
}

// Engine moves versions on. Its methods may be called at the same time.
type Engine struct {
	cfg     Config
	reg     *registry.Registry
	log     *slog.Logger
	wake    chan struct{} // holds one
	slots   chan struct{} // one per pass that may run at the same time
	fetchs  fetches
	refused refused
	// began is where the audit log ended when the engine was made: what stands
	// there without an outcome was interrupted, what follows may be under way.
	began uint64

	mu    sync.Mutex
	locks map[string]chan struct{} // by key: held by the pass over it
	holds map[string]hold          // by key: failures that the registry cannot hold
	used  map[string]bool          // by kid: what inUse found
}

// hold keeps the engine from a key after a failure that could not be recorded
// in the registry: no version exists yet, or the audit log or the registry
// itself cannot be written.
type hold struct {
	tries int
	until time.Time
	last  string
}

// concurrentPasses bounds how many keys are worked on at once.
const concurrentPasses = 8

// New makes an engine; Run sets it going.
func New(cfg Config) (*Engine, error) {
	var problems []error
	missing := func(what string, is bool) {
		if is {
			problems = append(problems, fmt.Errorf("rotation: no %s given", what))
		}
	}
	missing("registry", cfg.Registry == nil)
	missing("audit log", cfg.Audit == nil)
	missing("logger", cfg.Logger == nil)
	missing("instance", cfg.Instance == "")
	for name, b := range cfg.Backends {
		missing(fmt.Sprintf("backend for %q", name), b == nil)
	}
	if cfg.StopWithin == 0 {
		cfg.StopWithin = 20 * time.Second
	}
	if cfg.Retry.Base == 0 {
		cfg.Retry.Base = 10 * time.Second
	}
	if cfg.Retry.Max == 0 {
		cfg.Retry.Max = max(time.Hour, cfg.Retry.Base)
	}
	if cfg.Retry.Base < 0 || cfg.Retry.Max < cfg.Retry.Base {
		problems = append(problems, fmt.Errorf("rotation: retries from %s to %s: want a positive base and no smaller maximum", cfg.Retry.Base, cfg.Retry.Max))
	}
	if len(problems) > 0 {
		return nil, errors.Join(problems...)
	}
	return &Engine{
		cfg: cfg, reg: cfg.Registry, log: cfg.Logger,
		wake:    make(chan struct{}, 1),
		slots:   make(chan struct{}, concurrentPasses),
		fetchs:  fetches{running: map[string]*fetch{}},
		refused: refused{keys: map[string]registry.PartnerKey{}},
		locks:   map[string]chan struct{}{},
		holds:   map[string]hold{},
		used:    map[string]bool{},
		began:   cfg.Audit.Head().Seq,
	}, nil
}

// Wake makes Run look at every key now. It never blocks.
func (e *Engine) Wake() {
	select {
	case e.wake <- struct{}{}:
	default: // it is awake already
	}
}

// Next is the step that a key needs next.
func (e *Engine) Next(name string) (Step, error) {
	key, err := e.reg.Key(name)
	if err != nil {
		return Step{}, err
	}
	step := Plan(now(), key, e.reg.Versions(name), e.facts(key))
	if h, ok := e.holdOf(name); ok && step.ready(now()) {
		step.At = h.until
		step.Reason += "; the last try failed: " + h.last
	}
	return step, nil
}

func (e *Engine) facts(key registry.Key) Facts {
	facts := Facts{Announcer: e.announcer(key) != nil, Canary: e.probe(key) != nil}
	for name, b := range e.cfg.Backends {
		if _, ok := b.(Disabler); ok {
			facts.Disables = append(facts.Disables, name)
		}
	}
	return facts
}

// announcer is who tells the partner of a key's versions.
func (e *Engine) announcer(key registry.Key) Announcer {
	if signs(key) {
		return e.cfg.Partners[key.Partner].Verifier
	}
	return e.cfg.Partners[key.Partner].Announcer
}

// probe is the canary of a key: nothing is sealed to one that signs.
func (e *Engine) probe(key registry.Key) Canary {
	if signs(key) {
		return nil
	}
	return e.cfg.Partners[key.Partner].Canary
}

func (e *Engine) backend(name string) (Backend, error) {
	b := e.cfg.Backends[name]
	if b == nil {
		return nil, fmt.Errorf("backend %q: %w", name, ErrNoBackend)
	}
	return b, nil
}

// now is the time as it is written down.
func now() time.Time { return time.Now().UTC() }
