package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"keyd/internal/audit"
	"keyd/internal/boundary"
	"keyd/internal/exchange"
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
	Glance(kid string) (registry.Version, error)
	Key(name string) (registry.Key, error)
	Keys() []registry.Key
	Versions(key string) []registry.Version
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
	// Exchanges bounds those that are open at a time.
	Exchanges ExchangeLimits
	Meters    *Metrics
	Logger    *slog.Logger
}

// Opener opens what partners seal to us. Its methods may be called at the same
// time.
type Opener struct {
	cfg       OpenerConfig
	audit     *trail
	refused   *refusals
	policies  map[string]jwe.Policy // by partner
	partners  map[string]*Partner
	exchanges *exchange.Table
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
	o := &Opener{cfg: cfg, audit: &trail{AuditLog: cfg.Audit}, policies: map[string]jwe.Policy{}, partners: map[string]*Partner{}}
	if err := o.keepExchanges(); err != nil {
		return nil, err
	}
	o.refused = newRefusals(o.writeRefusal)
	for i, p := range cfg.Partners {
		o.partners[p.Name] = &cfg.Partners[i]
		o.policies[p.Name] = jwe.Policy{Algs: slices.Clone(p.Algs), Encs: slices.Clone(p.Encs), MaxSize: cfg.MaxEnvelope}
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
		problems = append(problems, p.check())
	}
	return errors.Join(problems...)
}

// Open opens an envelope in compact serialization that came from a partner.
// Whatever comes of it is recorded first; what cannot be recorded is not
// answered. Refusals that cost the backend nothing are counted together where
// they are many.
func (o *Opener) Open(ctx context.Context, actor audit.Actor, partner string, compact []byte) (*Opened, error) {
	start := time.Now()
	a := o.attempt(partner)
	opened, err := o.openKept(ctx, &a, compact)
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

// refuse records an envelope that was not taken in far enough to look at it.
// What cannot be recorded is answered as that.
func (o *Opener) refuse(ctx context.Context, actor audit.Actor, partner string, reason error) error {
	a := o.attempt(partner)
	if failed := o.record(ctx, actor, &a, reason); failed != nil {
		reason = failed
	}
	o.cfg.Meters.opened(&a, reason, 0)
	return reason
}

// attempt is what is known of an opening so far, for the record.
type attempt struct {
	partner string // "" for one that is not in the config
	kid     string // as the envelope names it
	version registry.Version
	level   boundary.Level
	inToken time.Duration
	spent   bool // the private key was used, whatever came of it
	// exchange is whose reply it is said to be; "" for one to a standing key.
	exchange string
}

// attempt begins one. Only names of the config get into metrics and the audit
// log: a caller who may name any partner could otherwise fill both.
func (o *Opener) attempt(partner string) attempt {
	if _, ok := o.policies[partner]; !ok {
		partner = ""
	}
	return attempt{partner: partner}
}

// openKept opens an envelope with a private key of ours: the one that its kid
// names or, where the partner names none, one of a few.
func (o *Opener) openKept(ctx context.Context, a *attempt, compact []byte) (*boundary.Opened, error) {
	policy, ok := o.policies[a.partner]
	if !ok {
		return nil, fmt.Errorf("%w: no such partner", errNotFound)
	}
	msg, err := jwe.Parse(compact, policy)
	if err != nil {
		return nil, neverAccepted(err)
	}
	a.kid = msg.KID
	opened, err := o.openNamed(ctx, a, msg)
	if tries := o.unnamed(a.partner, err); len(tries) > 0 {
		return o.openUnnamed(ctx, a, msg, tries)
	}
	return opened, err
}

// openNamed opens an envelope with the private key of the version a.kid.
func (o *Opener) openNamed(ctx context.Context, a *attempt, msg *jwe.Message) (*boundary.Opened, error) {
	floor, err := o.find(a, msg)
	if err != nil {
		return nil, err
	}
	backend, ok := o.cfg.Backends[a.version.Backend]
	if !ok {
		return nil, fmt.Errorf("%w: version %s is in %q, which is not configured", ErrBackend, a.kid, a.version.Backend)
	}
	// What must not be opened at a level must not be opened there, and the backend
	// alone knows at which this envelope would be.
	msg.Envelope.Floor = floor
	opened, err := backend.Open(ctx, a.version.Handle, &msg.Envelope)
	a.spent = err == nil || errors.Is(err, boundary.ErrOpen)
	if err != nil {
		return nil, backendFailure(err)
	}
	if err := o.still(a); err != nil {
		clear(opened.Plaintext)
		return nil, err
	}
	a.level, a.inToken = opened.Level, opened.InToken
	if !opened.Level.AtLeast(floor) {
		clear(opened.Plaintext)
		return nil, fmt.Errorf("%w: %s opened at %q, key %s asks for %q", boundary.ErrBelowFloor, a.version.Backend, opened.Level, a.version.Key, floor)
	}
	return opened, nil
}
