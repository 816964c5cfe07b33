package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"keyd/internal/audit"
	"keyd/internal/boundary"
	"keyd/internal/jwe"
	"keyd/internal/registry"
)

// Backend is a key backend as the API uses it.
type Backend interface {
	Open(ctx context.Context, handle string, env *boundary.Envelope) (*boundary.Opened, error)
	Health(ctx context.Context) boundary.Health
}

// Versions is the registry as an Opener uses it: answers from memory, and a
// mark that waits for nothing.
type Versions interface {
	Version(kid string) (registry.Version, error)
	Key(name string) (registry.Key, error)
	TouchOpened(kid string, at time.Time)
}

// Which openings the audit log has entries of.
const (
	AuditAll      = "all"
	AuditFailures = "failures"
	AuditOff      = "off"
)

// OpenerConfig is what an Opener works with. All of it is required.
type OpenerConfig struct {
	Registry Versions
	Backends map[string]Backend // by their names in the config
	Partners []Partner
	Audit    AuditLog
	// Decrypts is which openings are recorded: AuditAll, AuditFailures or AuditOff.
	Decrypts string
	// MaxEnvelope is the largest envelope looked at, in bytes.
	MaxEnvelope int
	Meters      *Metrics
	Logger      *slog.Logger
}

// Opener opens what partners seal to us. Its methods may be called at the same
// time.
type Opener struct {
	cfg      OpenerConfig
	audit    *trail
	policies map[string]jwe.Policy // by partner
	// levels are what backends last opened at; nil where that is not known.
	levels map[string]*atomic.Pointer[boundary.Level]
}

// Opened is what an envelope held. Whoever gets it wipes Plaintext.
type Opened struct {
	KID       string
	Key       string
	Plaintext []byte
	Level     boundary.Level
}

// NewOpener makes an opener.
func NewOpener(cfg OpenerConfig) (*Opener, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	o := &Opener{cfg: cfg, audit: &trail{AuditLog: cfg.Audit}, policies: map[string]jwe.Policy{}, levels: map[string]*atomic.Pointer[boundary.Level]{}}
	for _, p := range cfg.Partners {
		o.policies[p.Name] = jwe.Policy{Algs: []string{boundary.RSAOAEP256}, Encs: slices.Clone(p.Encs), MaxSize: cfg.MaxEnvelope}
	}
	for name := range cfg.Backends {
		o.levels[name] = &atomic.Pointer[boundary.Level]{}
	}
	return o, nil
}

func (c OpenerConfig) check() error {
	var problems []error
	missing := func(what string, is bool) {
		if is {
			problems = append(problems, fmt.Errorf("api: opener: no %s given", what))
		}
	}
	missing("registry", c.Registry == nil)
	missing("audit log", c.Audit == nil)
	missing("metrics", c.Meters == nil)
	missing("logger", c.Logger == nil)
	missing("largest envelope", c.MaxEnvelope <= 0)
	for name, b := range c.Backends {
		missing(fmt.Sprintf("backend for %q", name), b == nil)
	}
	if !slices.Contains([]string{AuditAll, AuditFailures, AuditOff}, c.Decrypts) {
		problems = append(problems, fmt.Errorf("api: opener: auditing %q, want all, failures or off", c.Decrypts))
	}
	seen := map[string]bool{}
	for _, p := range c.Partners {
		if p.Name == "" || seen[p.Name] {
			problems = append(problems, fmt.Errorf("api: opener: a partner without a name of its own: %q", p.Name))
		}
		seen[p.Name] = true
		missing(fmt.Sprintf("content encryption for partner %q", p.Name), len(p.Encs) == 0)
		missing(fmt.Sprintf("headers for partner %q", p.Name), p.Headers == nil || p.GetHeaders == nil)
		if _, known := boundary.ContentOf(p.SealEnc); !known {
			problems = append(problems, fmt.Errorf("api: opener: partner %q: content encryption %q is not known", p.Name, p.SealEnc))
		}
		for _, enc := range p.Encs {
			if _, known := boundary.ContentOf(enc); !known {
				problems = append(problems, fmt.Errorf("api: opener: partner %q: content encryption %q is not known", p.Name, enc))
			}
		}
	}
	return errors.Join(problems...)
}

// Open opens an envelope in compact serialization that came from a partner.
// Whatever comes of it is recorded first; what cannot be recorded is not
// answered.
func (o *Opener) Open(ctx context.Context, actor audit.Actor, partner string, compact []byte) (*Opened, error) {
	start := time.Now()
	a := attempt{partner: partner}
	opened, err := o.open(ctx, &a, compact)
	if recorded := o.record(ctx, actor, &a, err); recorded != nil {
		if opened != nil {
			clear(opened.Plaintext)
		}
		err = recorded
	}
	o.cfg.Meters.opened(&a, err, time.Since(start))
	if err != nil {
		return nil, err
	}
	o.cfg.Registry.TouchOpened(a.kid, start)
	return &Opened{KID: a.kid, Key: a.version.Key, Plaintext: opened.Plaintext, Level: opened.Level}, nil
}

// attempt is what is known of an opening so far, for the record.
type attempt struct {
	partner string
	kid     string // as the envelope names it
	version registry.Version
	level   boundary.Level
	inToken time.Duration
}

func (o *Opener) open(ctx context.Context, a *attempt, compact []byte) (*boundary.Opened, error) {
	policy, ok := o.policies[a.partner]
	if !ok {
		return nil, fmt.Errorf("%w: partner %+.64q", errNotFound, a.partner)
	}
	msg, err := jwe.Parse(compact, policy)
	if err != nil {
		return nil, err
	}
	a.kid = msg.KID
	floor, err := o.find(a, msg)
	if err != nil {
		return nil, err
	}
	backend, ok := o.cfg.Backends[a.version.Backend]
	if !ok {
		return nil, fmt.Errorf("%w: version %s is in %q, which is not configured", ErrBackend, a.kid, a.version.Backend)
	}
	// Before the envelope goes there: what must not be opened at this level
	// must not be opened.
	if floor != "" {
		if level := o.level(ctx, a.version.Backend, floor); !level.AtLeast(floor) {
			return nil, fmt.Errorf("%w: %s works at %q, key %s asks for %s", ErrBelowFloor, a.version.Backend, level, a.version.Key, floor)
		}
	}
	opened, err := backend.Open(ctx, a.version.Handle, &msg.Envelope)
	if err != nil {
		return nil, backendFailure(err)
	}
	a.level, a.inToken = opened.Level, opened.InToken
	if last := o.levels[a.version.Backend]; last.Load() == nil || *last.Load() != opened.Level {
		level := opened.Level
		last.Store(&level)
	}
	if !opened.Level.AtLeast(floor) {
		clear(opened.Plaintext)
		return nil, fmt.Errorf("%w: %s opened at %q, key %s asks for %q", ErrBelowFloor, a.version.Backend, opened.Level, a.version.Key, floor)
	}
	return opened, nil
}

// find looks up the version that an envelope is for, and whether it may open
// it. Nothing here touches a private key, and nothing is decided by what is
// secret.
func (o *Opener) find(a *attempt, msg *jwe.Message) (floor boundary.Level, err error) {
	if a.kid == "" {
		return "", ErrMissingKID
	}
	v, err := o.cfg.Registry.Version(a.kid)
	if errors.Is(err, registry.ErrNotFound) {
		return "", ErrUnknownKID
	} else if err != nil {
		return "", fmt.Errorf("looking up the kid: %w", err)
	}
	key, err := o.cfg.Registry.Key(v.Key)
	if err != nil {
		return "", fmt.Errorf("looking up the key of %s: %w", a.kid, err)
	}
	if key.Partner != a.partner {
		return "", ErrUnknownKID // whose it is, is not this partner's business
	}
	a.version = v
	if err := opens(v.State); err != nil {
		return "", err
	}
	if msg.Envelope.Alg != v.Algorithm {
		return "", fmt.Errorf("%w: the version is for %s", jwe.ErrAlgorithm, v.Algorithm)
	}
	if !msg.FitsRSA(v.Bits) {
		return "", boundary.ErrOpen // it was sealed to a key of another size
	}
	return boundary.Level(key.Policy.MinBoundary), nil
}

// opens says why a version in a state does not open.
func opens(s registry.State) error {
	switch {
	case s.Opens():
		return nil
	case s == registry.Compromised:
		return ErrCompromised
	case s == registry.Destroying, s == registry.Destroyed:
		return ErrDestroyed
	}
	return ErrNotOpen
}

// backendFailure keeps the errors that the API knows, and makes every other a
// fault of the backend.
func backendFailure(err error) error {
	for _, known := range []error{boundary.ErrOpen, boundary.ErrBusy, boundary.ErrUnavailable, context.DeadlineExceeded, context.Canceled} {
		if errors.Is(err, known) {
			return err
		}
	}
	return fmt.Errorf("%w: %w", ErrBackend, err)
}

// level is what a backend works at: what it last opened at or, where that is
// not known or not enough, what it says.
func (o *Opener) level(ctx context.Context, name string, floor boundary.Level) boundary.Level {
	last := o.levels[name].Load()
	if last != nil && last.AtLeast(floor) {
		return *last
	}
	health := o.cfg.Backends[name].Health(ctx)
	if health.Err == "" {
		o.levels[name].Store(&health.Level)
	}
	return health.Level
}

// record writes what came of an attempt.
func (o *Opener) record(ctx context.Context, actor audit.Actor, a *attempt, err error) error {
	if o.cfg.Decrypts == AuditOff || o.cfg.Decrypts == AuditFailures && err == nil {
		return nil
	}
	e := audit.Entry{Phase: audit.PhaseEvent, Action: "decrypt", Actor: actor, Partner: a.partner,
		KID: a.kid, Key: a.version.Key, Result: audit.ResultOK, Detail: map[string]string{}}
	if id := requestIDFrom(ctx); id != "" {
		e.Detail["request"] = id
	}
	if a.level != "" {
		e.Detail["boundary"] = string(a.level)
	}
	if err != nil {
		e.Result, e.Code = audit.ResultFailed, kindOf(err).code
	}
	// Also when the caller has gone: it happened.
	if failed := o.audit.Record(context.WithoutCancel(ctx), e); failed != nil {
		o.cfg.Logger.ErrorContext(ctx, "an opening could not be recorded", "partner", a.partner, "kid", a.kid, "err", failed)
		return fmt.Errorf("%w: %w", ErrAudit, failed)
	}
	return nil
}
