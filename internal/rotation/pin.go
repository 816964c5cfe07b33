package rotation

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"

	"keyd/internal/audit"
	"keyd/internal/registry"
)

// ErrNotPinned: the config pins the public keys that may be sealed to, and the
// partner's is none of them.
var ErrNotPinned = errors.New("the partner's public key is not one that is pinned")

// What is told to Config.PartnerKey.
const (
	KeyTaken   = "taken"   // it is another one than before, and is sealed to from now on
	KeyRefused = "refused" // it is not pinned, and is not
)

// refused remembers the keys that partners were last refused for.
type refused struct {
	mu   sync.Mutex
	keys map[string]registry.PartnerKey
}

func (r *refused) note(pk registry.PartnerKey) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.keys[pk.Partner] = pk
}

func (r *refused) forget(partner string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.keys, partner)
}

func (r *refused) last(partner string) (registry.PartnerKey, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	pk, ok := r.keys[partner]
	return pk, ok
}

// pinned holds a partner's key against the config.
func (e *Engine) pinned(pk registry.PartnerKey) error {
	pins := e.cfg.Partners[pk.Partner].Pins
	if len(pins) == 0 || slices.Contains(pins, pk.Fingerprint) {
		return nil
	}
	return fmt.Errorf("partner %s: %s: %w", pk.Partner, pk.Fingerprint, ErrNotPinned)
}

// refuseKey records a key that is not pinned. It is not stored: what was sealed to
// before still is.
func (e *Engine) refuseKey(ctx context.Context, actor audit.Actor, pk registry.PartnerKey, why error) error {
	pk.LastSeen = now()
	e.refused.note(pk)
	e.tellKey(pk.Partner, KeyRefused)
	e.log.ErrorContext(ctx, "a partner showed a public key that is not pinned", "partner", pk.Partner, "fingerprint", pk.Fingerprint)
	event := audit.Entry{Phase: audit.PhaseEvent, Action: "partner.key-refused", Actor: actor, Partner: pk.Partner, Result: audit.ResultRefused,
		Detail: map[string]string{"fingerprint": pk.Fingerprint, "id": pk.ID, "version": strconv.Itoa(pk.Version)}}
	if _, err := e.cfg.Audit.Append(ctx, event); err != nil {
		return fmt.Errorf("recording that the public key of %s was refused: %w: %w", pk.Partner, ErrAudit, err)
	}
	return why
}

func (e *Engine) tellKey(partner, what string) {
	if e.cfg.PartnerKey != nil {
		e.cfg.PartnerKey(partner, what)
	}
}

// pins reports partners that nothing is sealed to, or that showed another key
// than those that are pinned.
func (e *Engine) pins() []Finding {
	var found []Finding
	for _, name := range slices.Sorted(maps.Keys(e.cfg.Partners)) {
		const hint = "compare the fingerprint with what the partner says, by another way than its API; if it is right, add it to pin in the config"
		if pk, err := e.reg.PartnerKey(name); err == nil && e.pinned(pk) != nil {
			found = append(found, Finding{Failure, "partner_key_unpinned", name, fmt.Sprintf("its public key %s is not pinned: nothing is sealed to it", pk.Fingerprint), hint + "; keyd partners refresh looks whether it has another by now"})
		}
		if pk, ok := e.refused.last(name); ok {
			found = append(found, Finding{Failure, "partner_key_refused", name, fmt.Sprintf("on %s it showed the public key %s, which is not pinned: it was not taken", day(pk.LastSeen), pk.Fingerprint), hint})
		}
	}
	return found
}
