package rotation

import (
	"context"
	"crypto"
	"crypto/ecdh"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"keyd/internal/audit"
	"keyd/internal/boundary"
	"keyd/internal/registry"
)

const (
	// fetchTimeout bounds a fetch that several callers wait for.
	fetchTimeout = time.Minute
	// minPartnerBits is the smallest RSA key that requests are sealed to.
	minPartnerBits = 2048
)

// fetches lets those who want the same partner's key at the same time share
// one call: partners ask for it (one fetch after a failure, not one a request).
type fetches struct {
	mu      sync.Mutex
	running map[string]*fetch
}

type fetch struct {
	done    chan struct{} // closed when the rest is set
	key     registry.PartnerKey
	changed bool
	err     error
}

// PartnerKey returns the public key that requests to a partner are sealed to:
// the one stored, or, the first time, the one that the partner hands out.
func (e *Engine) PartnerKey(ctx context.Context, partner string) (registry.PartnerKey, error) {
	pk, err := e.reg.PartnerKey(partner)
	if err == nil {
		return pk, e.pinned(pk)
	}
	if !errors.Is(err, registry.ErrNotFound) {
		return registry.PartnerKey{}, fmt.Errorf("reading the public key of %s: %w", partner, err)
	}
	pk, _, err = e.RefreshPartnerKey(ctx, audit.System, partner)
	return pk, err
}

// RefreshPartnerKey fetches a partner's public key and reports whether it is
// another one than before. Calls for the same partner at the same time share
// one fetch, in the name of the first.
func (e *Engine) RefreshPartnerKey(ctx context.Context, actor audit.Actor, partner string) (registry.PartnerKey, bool, error) {
	p, ok := e.cfg.Partners[partner]
	if !ok {
		return registry.PartnerKey{}, false, fmt.Errorf("partner %q: %w", partner, ErrNoPartner)
	}
	if p.KeySource == nil {
		return registry.PartnerKey{}, false, fmt.Errorf("partner %s: %w", partner, ErrNoPartnerKey)
	}
	e.fetchs.mu.Lock()
	f := e.fetchs.running[partner]
	if f == nil {
		f = &fetch{done: make(chan struct{})}
		e.fetchs.running[partner] = f
		go e.fetch(context.WithoutCancel(ctx), f, actor, partner, p.KeySource)
	}
	e.fetchs.mu.Unlock()
	select {
	case <-f.done:
		return f.key, f.changed, f.err
	case <-ctx.Done():
		return registry.PartnerKey{}, false, fmt.Errorf("fetching the public key of %s: %w", partner, ctx.Err())
	}
}

// PeekPartnerKey fetches a partner's public key, stores nothing, and reports
// whether a refresh would find another one than before.
func (e *Engine) PeekPartnerKey(ctx context.Context, partner string) (pk registry.PartnerKey, changed bool, err error) {
	p, ok := e.cfg.Partners[partner]
	switch {
	case !ok:
		return pk, false, fmt.Errorf("partner %q: %w", partner, ErrNoPartner)
	case p.KeySource == nil:
		return pk, false, fmt.Errorf("partner %s: %w", partner, ErrNoPartnerKey)
	}
	if pk, err = fetchFrom(ctx, partner, p.KeySource); err != nil {
		return registry.PartnerKey{}, false, err
	}
	if err := e.pinned(pk); err != nil {
		return pk, true, err
	}
	before, err := e.reg.PartnerKey(partner)
	if errors.Is(err, registry.ErrNotFound) {
		return pk, false, nil
	}
	return pk, before.Fingerprint != pk.Fingerprint, err
}

// fetch runs apart from those who wait for it, so that the first of them going
// away does not fail the others.
func (e *Engine) fetch(ctx context.Context, f *fetch, actor audit.Actor, partner string, source KeySource) {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	defer func() {
		if r := recover(); r != nil {
			f.err = fmt.Errorf("fetching the public key of %s: panic: %v", partner, r)
		}
		e.fetchs.mu.Lock()
		delete(e.fetchs.running, partner)
		e.fetchs.mu.Unlock()
		close(f.done)
	}()
	record := audit.Entry{Action: "partner.fetch-key", Actor: actor, Partner: partner}
	f.err = e.journal(ctx, record, func(uint64) error {
		pk, err := fetchFrom(ctx, partner, source)
		if err != nil {
			return err
		}
		if err := e.pinned(pk); err != nil {
			return e.refuseKey(ctx, actor, pk, err)
		}
		e.refused.forget(partner)
		if f.changed, err = e.saw(ctx, actor, pk); err != nil {
			return err
		}
		f.key, err = e.reg.PartnerKey(partner)
		return err
	})
}

// fetchFrom asks a partner and holds the answer to what can be sealed to.
func fetchFrom(ctx context.Context, partner string, source KeySource) (registry.PartnerKey, error) {
	id, version, algorithm, public, err := source.FetchKey(ctx)
	if err != nil {
		return registry.PartnerKey{}, fmt.Errorf("fetching the public key of %s: %w", partner, err)
	}
	der, err := sealable(public)
	if err != nil {
		return registry.PartnerKey{}, fmt.Errorf("fetching the public key of %s: %w: %w", partner, ErrInvalid, err)
	}
	sum := sha256.Sum256(der)
	return registry.PartnerKey{Partner: partner, ID: id, Version: version, Algorithm: algorithm,
		Public: der, Fingerprint: hex.EncodeToString(sum[:])}, nil
}

// sealable encodes a public key that envelopes can be sealed to.
func sealable(public crypto.PublicKey) ([]byte, error) {
	switch pub := public.(type) {
	case *rsa.PublicKey:
		if pub != nil && pub.N != nil && pub.N.BitLen() >= minPartnerBits {
			return x509.MarshalPKIXPublicKey(pub)
		}
	case *ecdh.PublicKey:
		if pub != nil && slices.Contains(boundary.Curves, fmt.Sprint(pub.Curve())) {
			return x509.MarshalPKIXPublicKey(pub)
		}
	}
	return nil, fmt.Errorf("a %T: want an RSA key of at least %d bits or one on %s", public, minPartnerBits, strings.Join(boundary.Curves, ", "))
}

// saw stores a partner's key. That it is another one is an event of its own:
// nobody announces it, and whoever can make us seal to their key reads what we
// send.
func (e *Engine) saw(ctx context.Context, actor audit.Actor, pk registry.PartnerKey) (changed bool, err error) {
	before, err := e.reg.PartnerKey(pk.Partner)
	first := errors.Is(err, registry.ErrNotFound)
	if err != nil && !first {
		return false, err
	}
	changed = !first && before.Fingerprint != pk.Fingerprint
	if changed {
		event := audit.Entry{Phase: audit.PhaseEvent, Action: "partner.key-changed", Actor: actor, Partner: pk.Partner, Result: audit.ResultOK,
			Detail: map[string]string{"fingerprint": pk.Fingerprint, "before": before.Fingerprint, "id": pk.ID, "version": strconv.Itoa(pk.Version)}}
		if _, err := e.cfg.Audit.Append(ctx, event); err != nil {
			return false, fmt.Errorf("recording that the public key of %s changed: %w: %w", pk.Partner, ErrAudit, err)
		}
		e.tellKey(pk.Partner, KeyTaken)
		e.log.WarnContext(ctx, "a partner's public key changed", "partner", pk.Partner, "fingerprint", pk.Fingerprint, "before", before.Fingerprint)
	}
	if _, err := e.reg.SawPartnerKey(pk, now()); err != nil {
		return false, fmt.Errorf("storing the public key of %s: %w", pk.Partner, err)
	}
	return changed, nil
}
