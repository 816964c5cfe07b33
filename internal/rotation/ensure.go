package rotation

import (
	"context"
	"errors"
	"fmt"

	"keyd/internal/audit"
	"keyd/internal/registry"
)

// EnsureKeys makes the keys that the config names exist and have the policy it
// gives them. It is called before Run. A key that the config no longer names is
// left alone: the partner may still be using it.
func (e *Engine) EnsureKeys(ctx context.Context, keys []registry.Key) error {
	var problems []error
	for _, key := range keys {
		if err := e.ensure(ctx, key); err != nil {
			problems = append(problems, fmt.Errorf("key %s of the config: %w", key.Name, err))
		}
	}
	return errors.Join(problems...)
}

func (e *Engine) ensure(ctx context.Context, key registry.Key) error {
	old, err := e.reg.Key(key.Name)
	if errors.Is(err, registry.ErrNotFound) {
		_, err := e.Create(ctx, audit.System, key, false)
		return err
	}
	if err != nil {
		return err
	}
	for _, fixed := range []struct{ what, old, new string }{
		{"partner", old.Partner, key.Partner},
		{"algorithm", old.Algorithm, key.Algorithm},
	} {
		if fixed.old != fixed.new {
			return fmt.Errorf("%w: it was created with the %s %q, which cannot become %q; create a key of another name", ErrState, fixed.what, fixed.old, fixed.new)
		}
	}
	if err := e.fits(key); err != nil {
		return err
	}
	if old.Policy == key.Policy && old.Bits == key.Bits && old.Curve == key.Curve && old.Backend == key.Backend {
		return nil
	}
	return e.adjust(ctx, old, key)
}

// adjust gives a key a new policy, size or backend. It is for the versions that
// are still to come: those in being keep the dates that the partner was told,
// and stay in the backend that they were made in until their end.
func (e *Engine) adjust(ctx context.Context, old, key registry.Key) error {
	changed := old
	changed.Policy, changed.Backend = key.Policy, key.Backend
	changed.Bits, changed.Curve = key.Bits, key.Curve
	record := withPolicy(audit.Entry{Action: "key.policy", Actor: audit.System, Key: key.Name, Partner: key.Partner}, changed)
	if old.Backend != key.Backend {
		record = withDetail(record, "backend_before", old.Backend)
	}
	return e.journal(ctx, record, func(uint64) (err error) {
		if old.Policy.Rotate != key.Policy.Rotate {
			// Counted from now: a new schedule makes up for nothing missed
			// under the old one, unless that was due already.
			if changed.NextDue, err = NextDue(key.Policy, now()); err != nil {
				return err
			}
			if !old.NextDue.After(now()) {
				changed.NextDue = old.NextDue
			}
		}
		return e.reg.PutKey(changed)
	})
}

// withPolicy adds a key's policy to an entry.
func withPolicy(entry audit.Entry, key registry.Key) audit.Entry {
	p := key.Policy
	for _, d := range [][2]string{{"backend", key.Backend}, {"size", keyMaterial(key).Size()}, {"rotate", p.Rotate},
		{"valid_for", p.ValidFor.String()}, {"drain_for", p.DrainFor.String()}, {"settle_for", p.SettleFor.String()},
		{"canary", p.Canary}, {"min_boundary", p.MinBoundary}} {
		entry = withDetail(entry, d[0], d[1])
	}
	return entry
}
