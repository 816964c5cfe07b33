package hsm

import (
	"context"
	"fmt"
	"maps"

	"github.com/miekg/pkcs11"

	"keyd/internal/boundary"
)

// Health asks the token whether it is there, knows this process as its user,
// and still has the keys it had. A session alone proves nothing: SoftHSM opens
// them with its directory gone.
func (t *Token) Health(ctx context.Context) boundary.Health {
	h := boundary.Health{
		Backend: t.cfg.Name, Kind: "pkcs11", Floor: t.cfg.MinBoundary,
		Device: maps.Clone(t.slot.device), Sessions: cap(t.pool.slots), InUse: t.pool.inUse(),
	}
	if last := t.lastError.Load(); last != nil {
		h.Device["last_error"] = *last
	}
	ctx, cancel := context.WithTimeout(ctx, healthWait)
	defer cancel()
	_, err := run(ctx, t, t.check, "health", func(u *use) (struct{}, error) {
		if err := t.ready(u.session); err != nil {
			return struct{}{}, err
		}
		return struct{}{}, t.knowsKeys(u.session)
	}, nil)
	if err != nil {
		h.Err = err.Error()
	}
	h.Levels = t.mode.Load().levels() // which it may have found out anew just now
	return h
}

// knowsKeys looks whether one of a few known keys is there. That a single one
// has gone is for whoever asks for it to say.
func (t *Token) knowsKeys(s pkcs11.SessionHandle) error {
	keys := t.keys.some(8)
	var err error
	for _, k := range keys {
		if _, err = t.attributes(s, k.object, pkcs11.CKA_MODULUS); err == nil {
			return nil
		}
	}
	if err != nil {
		return fmt.Errorf("none of the keys that the token had can be read any more: %w: %w", boundary.ErrUnavailable, err)
	}
	return nil
}
