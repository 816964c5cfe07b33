package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"keyd/internal/api"
	"keyd/internal/audit"
	"keyd/internal/boundary"
	"keyd/internal/exchange"
	"keyd/internal/hsm"
	"keyd/internal/registry"
	"keyd/internal/rotation"
)

// keyd is the daemon with all its parts, in the order in which they are made.
// Wiring is the only place that knows every concrete type.
type keyd struct {
	cfg      *config
	log      *slog.Logger
	metrics  *api.Metrics
	audit    *audit.Log
	store    registry.Engine // of registry, which closes it
	registry *registry.Registry
	backends map[string]rotation.Backend
	closers  []io.Closer       // of the backends that hold something open
	remotes  map[string]remote // the partners
	opener   *api.Opener
	engine   *rotation.Engine
	server   *api.Server
}

const registryFile = "keyd.db"

// wire makes every part. What was made is closed again when a later part fails.
func wire(ctx context.Context, cfg *config, log *slog.Logger) (_ *keyd, err error) {
	d := &keyd{cfg: cfg, log: log, metrics: api.NewMetrics(), backends: map[string]rotation.Backend{}, remotes: map[string]remote{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.close())
		}
	}()
	for _, make := range []func(context.Context) error{
		d.lockRegistry, atOnce(d.makeRegistry, d.makeAudit, d.makeBackends), d.sameAge, d.makePartners, d.makeOpener, d.makeEngine, d.makeServer,
	} {
		if err := make(ctx); err != nil {
			return nil, err
		}
	}
	return d, nil
}

// atOnce makes parts that need nothing of each other: a large audit log and a
// large registry are read while a large token is. Every failure is returned; none
// ends the others, because a login that is broken off counts as a PIN refused.
func atOnce(makes ...func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		errs := make([]error, len(makes))
		var all sync.WaitGroup
		for i, part := range makes {
			all.Go(func() { errs[i] = part(ctx) })
		}
		all.Wait()
		return errors.Join(errs...)
	}
}

// lockRegistry comes first: the lock keeps a second daemon away from everything
// else.
func (d *keyd) lockRegistry(context.Context) (err error) {
	d.store, err = registry.OpenBolt(d.state(registryFile), registry.Options{Check: true})
	return err
}

func (d *keyd) makeRegistry(context.Context) (err error) {
	if d.registry, err = registry.New(d.store); err != nil {
		return fmt.Errorf("opening the registry %s: %w", d.state(registryFile), err)
	}
	return nil
}

func (d *keyd) makeAudit(context.Context) (err error) {
	d.audit, err = audit.Open(audit.Config{Path: d.state(auditFile), HeadPath: d.state(auditHeadFile), Logger: d.part("audit"),
		Progress: func(done, total int64) { d.log.Info("verifying the audit log", "bytes", done, "of", total) }})
	return err
}

// errAuditCut: the audit log ends before entries that the registry knows of.
var errAuditCut = errors.New("the audit log has been cut off or replaced")

// sameAge holds the audit log against the registry. Every change of state names
// an entry that was on disk before it, so a log that ends earlier is not the
// one that belongs to the registry, and numbers would be given out twice.
func (d *keyd) sameAge(context.Context) error {
	head := d.audit.Head().Seq
	for _, key := range d.registry.Keys() {
		for _, v := range d.registry.Versions(key.Name) {
			for _, event := range v.History {
				if event.Audit > head {
					return fmt.Errorf("%w: it ends at entry %d, and version %s became %s under entry %d", errAuditCut, head, v.KID, event.To, event.Audit)
				}
			}
		}
	}
	return nil
}

func (d *keyd) makePartners(context.Context) error {
	for _, name := range slices.Sorted(maps.Keys(d.cfg.Partners)) {
		observe := func(op string, status int, took time.Duration, err error) {
			d.metrics.ObservePartnerCall(name, op, status, took, err)
		}
		r, err := newRemote(name, d.cfg.Partners[name], dealings{log: d.part("partner"), observe: observe, signer: d.signer(name), most: d.cfg.Limits.carried()})
		if err != nil {
			return fmt.Errorf("partner %s: %w", name, err)
		}
		d.remotes[name] = r
	}
	return nil
}

func (d *keyd) makeOpener(context.Context) (err error) {
	openers := map[string]api.Backend{}
	for name, backend := range d.backends {
		openers[name] = backend
	}
	d.opener, err = api.NewOpener(api.OpenerConfig{
		Registry: d.registry, Audit: d.audit, Backends: openers, Partners: d.partnerFacts(),
		Decrypts: d.cfg.Audit.Decrypts, MaxEnvelope: d.cfg.Limits.Envelope, Exchanges: d.cfg.Limits.exchanges(), Meters: d.metrics, Logger: d.part("open"),
	})
	return err
}

// partnerFacts is what the API knows of the partners.
func (d *keyd) partnerFacts() []api.Partner {
	var all []api.Partner
	for _, name := range slices.Sorted(maps.Keys(d.remotes)) {
		all = append(all, facts(name, d.cfg.Partners[name], d.remotes[name]))
	}
	return all
}

func (d *keyd) makeEngine(ctx context.Context) (err error) {
	partners := map[string]rotation.Partner{}
	for name, r := range d.remotes {
		partners[name] = d.dealingsOf(name, r)
	}
	d.engine, err = rotation.New(rotation.Config{
		Instance: d.cfg.Instance, Registry: d.registry, Audit: d.audit, Logger: d.part("rotation"),
		Backends: d.backends, Partners: partners,
		ReadAudit: func(_ context.Context, after uint64, limit int) ([]audit.Entry, error) {
			return audit.Read(d.state(auditFile), after, limit)
		},
		PartnerKey: d.metrics.ObservePartnerKey,
		AuditTail:  func(context.Context) ([]audit.Entry, error) { return d.audit.Unsettled(), nil },
	})
	if err != nil {
		return fmt.Errorf("making the rotation engine: %w", err)
	}
	if err := d.floors(ctx); err != nil {
		return err
	}
	return d.engine.EnsureKeys(ctx, d.cfg.registryKeys())
}

// errHomeless: versions that open are in a backend that the config does not name.
var errHomeless = errors.New("not in the config, and still needed")

// floors refuses to start when a backend that a key needs is not there, or does
// not reach the level that the key asks for: those of its versions that are
// there would not open. A backend that does not answer is not judged.
func (d *keyd) floors(ctx context.Context) error {
	var problems []error
	for _, key := range d.keys() {
		for _, name := range rotation.Homes(key, d.registry.Versions(key.Name)) {
			backend, ok := d.backends[name]
			if !ok {
				problems = append(problems, fmt.Errorf("backend %s: %w: versions of key %s open there", name, errHomeless, key.Name))
				continue
			}
			if health := backend.Health(ctx); health.Err == "" {
				if err := rotation.Reaches(key, health); err != nil {
					problems = append(problems, fmt.Errorf("key %s: backend %s: %w", key.Name, name, err))
				}
			}
		}
	}
	return errors.Join(problems...)
}

// keys are those of the config, and those of the registry that it does not name.
func (d *keyd) keys() []registry.Key {
	keys := d.cfg.registryKeys()
	for _, key := range d.registry.Keys() {
		if _, named := d.cfg.Keys[key.Name]; !named {
			keys = append(keys, key)
		}
	}
	return keys
}

// registryKeys are the keys that the config names.
func (c *config) registryKeys() []registry.Key {
	var keys []registry.Key
	for _, name := range slices.Sorted(maps.Keys(c.Keys)) {
		k := c.Keys[name]
		keys = append(keys, registry.Key{Name: name, Partner: k.Partner, Backend: k.Backend,
			Algorithm: k.Algorithm, Bits: k.Bits, Curve: k.Curve, Policy: k.policy()})
	}
	return keys
}

func (d *keyd) makeServer(context.Context) error {
	client, err1 := d.cfg.Listen.Client.socket()
	admin, err2 := d.cfg.Listen.Admin.socket()
	rules, err3 := d.cfg.Roles.rules()
	if err := errors.Join(err1, err2, err3); err != nil {
		return err
	}
	metrics := d.cfg.Listen.Metrics
	if metrics == "off" {
		metrics = ""
	}
	var err error
	d.server, err = api.New(api.Config{
		Instance: d.cfg.Instance, Version: buildVersion(), Client: client, Admin: admin, Metrics: metrics, Rules: rules,
		Registry: d.registry, Engine: d.engine, Opener: d.opener, Audit: d.audit, AuditPath: d.state(auditFile),
		MaxPlaintext: int64(d.cfg.Limits.Plaintext), Calls: d.cfg.Limits.Calls, Meters: d.metrics, Logger: d.part("api"),
	})
	return err
}

func (d *keyd) state(file string) string { return filepath.Join(d.cfg.StateDir, file) }

func (d *keyd) part(name string) *slog.Logger { return d.log.With("part", name) }

// close closes what was made, the last part first.
func (d *keyd) close() error {
	var errs []error
	for _, backend := range d.closers {
		errs = append(errs, backend.Close())
	}
	switch {
	case d.registry != nil:
		errs = append(errs, d.registry.Close())
	case d.store != nil:
		errs = append(errs, d.store.Close())
	}
	if d.audit != nil {
		errs = append(errs, d.audit.Close())
	}
	return errors.Join(errs...)
}

// wiseWithdraws is what a person does at Wise, which has no call for it.
const wiseWithdraws = "Wise has no call for it: revoke the key in the Developer Hub (Authentication, JOSE), or have your implementation manager do so"

// startError marks the failures that the next start would only repeat: systemd
// is told by the exit code not to try again.
func startError(err error) error {
	for _, known := range []struct {
		err  error
		hint string
		code int
	}{
		{hsm.ErrPINLocked, "have the token's security officer reset the PIN", exitConfig}, // before ErrPINRefused, which it is too
		{hsm.ErrPINRefused, "put the right PIN where the config's pin points; a changed PIN is tried again", exitConfig},
		{rotation.ErrBoundary, "use another token or backend for the key, or another floor: min_boundary in the config is the level it must reach", exitConfig},
		{boundary.ErrUnsupported, "use a token that can do it; min_boundary in the config is the level it must reach", exitConfig},
		{errHomeless, "name it in the config until keyd status shows its versions as destroyed; type: lost if its device is gone for good", exitConfig},
		{registry.ErrNewerSchema, "install the newer keyd; nothing was changed", exitConfig},
		{registry.ErrCorrupt, "restore keyd.db from a backup, then run keyd doctor", exitConfig},
		{exchange.ErrMemory, "raise LimitMEMLOCK of the service, or lower limits.exchanges in the config", exitConfig},
		{errAuditCut, "find the copy that goes further and put it in its place; keyd keeps to the registry it belongs to", exitConfig},
		{audit.ErrBroken, "keep the file and find out what happened; keyd audit verify --file tells where it is broken", exitConfig},
		// These may be over at the next try, so the service tries again.
		{registry.ErrLocked, "one keyd per state_dir: stop the other one, or give this one its own", exitFailed},
		{boundary.ErrUnavailable, "see whether the device is there; token_label, token_serial and the module's own config decide which one is meant", exitFailed},
	} {
		if errors.Is(err, known.err) {
			return &hintError{error: err, hint: known.hint, code: known.code}
		}
	}
	return err
}
