package registry

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"
)

// PartnerKey returns the public key that a partner was last seen with.
func (r *Registry) PartnerKey(partner string) (PartnerKey, error) {
	ix, err := r.current()
	if err != nil {
		return PartnerKey{}, err
	}
	keys := ix.partnerKeys[partner]
	if len(keys) == 0 {
		return PartnerKey{}, fmt.Errorf("public key of %q: %w", partner, ErrNotFound)
	}
	return keys[len(keys)-1].clone(), nil
}

// PartnerKeys returns every public key that a partner was seen with, the last
// one at the end; none if the registry cannot be read.
func (r *Registry) PartnerKeys(partner string) []PartnerKey {
	ix, err := r.current()
	if err != nil {
		return nil
	}
	keys := make([]PartnerKey, 0, len(ix.partnerKeys[partner]))
	for _, pk := range ix.partnerKeys[partner] {
		keys = append(keys, pk.clone())
	}
	return keys
}

// SawPartnerKey records that a partner showed a public key. A key is known by
// its fingerprint; id, version and algorithm are what they were at the last
// sight. changed reports whether it is another key than the one seen before;
// the first is no change.
func (r *Registry) SawPartnerKey(pk PartnerKey, at time.Time) (changed bool, err error) {
	if err = checkPartnerKey(&pk, at); err == nil {
		_, err = r.update(func(d *draft) error {
			changed, err = d.saw(pk, at.UTC())
			return err
		})
	}
	if err != nil {
		return false, fmt.Errorf("recording a public key of %q: %w", pk.Partner, err)
	}
	return changed, nil
}

func checkPartnerKey(pk *PartnerKey, at time.Time) error {
	if len(pk.Public) == 0 || at.IsZero() {
		return fmt.Errorf("%w: want a public key and when it was seen", ErrInvalid)
	}
	sum := sha256.Sum256(pk.Public)
	fingerprint := hex.EncodeToString(sum[:])
	if pk.Fingerprint != "" && pk.Fingerprint != fingerprint {
		return fmt.Errorf("%w: its fingerprint is %s, not %s", ErrInvalid, fingerprint, pk.Fingerprint)
	}
	pk.Fingerprint = fingerprint
	return checkName("partner", pk.Partner)
}

func (d *draft) saw(pk PartnerKey, at time.Time) (changed bool, err error) {
	pk.FirstSeen = at
	keys := d.partnerKeys[pk.Partner]
	for _, known := range keys {
		if known.Fingerprint == pk.Fingerprint {
			pk.FirstSeen = known.FirstSeen
		}
	}
	if n := len(keys); n > 0 {
		last := keys[n-1]
		changed = last.Fingerprint != pk.Fingerprint
		// What is seen now is the latest, even if the clock was put back.
		if changed && !at.After(last.LastSeen) {
			at = last.LastSeen.Add(1)
		} else if at.Before(last.LastSeen) {
			at = last.LastSeen
		}
	}
	pk.LastSeen = at
	return changed, d.putPartnerKey(pk)
}
