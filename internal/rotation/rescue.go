package rotation

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"keyd/internal/audit"
	"keyd/internal/boundary"
	"keyd/internal/registry"
)

// disable keeps a compromised version's private key from being used by anybody,
// keyd or not, while it is kept as evidence.
func (e *Engine) disable(ctx context.Context, key registry.Key, v registry.Version) error {
	b, ok := e.cfg.Backends[v.Backend].(Disabler)
	if !ok {
		return fmt.Errorf("disabling %s in %s: %w", v.KID, v.Backend, boundary.ErrUnsupported)
	}
	return e.journal(ctx, entry("key.disable", audit.System, key, v.KID, ""), func(uint64) error {
		if err := b.Disable(ctx, v.Handle); err != nil && !errors.Is(err, boundary.ErrNoKey) {
			return fmt.Errorf("disabling %s in %s: %w", v.KID, v.Backend, err)
		}
		return e.mark(v.KID, func(v *registry.Version) { v.DisabledAt = now() })
	})
}

// Rescue calls off the deletion of a version's private key while the backend
// still waits with it. The version drains again, for as long as the policy lets
// versions drain; one that was compromised is only kept, as it was before.
func (e *Engine) Rescue(ctx context.Context, actor audit.Actor, kid, reason string, dryRun bool) (Change, error) {
	v, key, err := e.find(kid)
	record := entry("key.rescue", actor, key, kid, reason)
	if err == nil {
		err = e.rescuable(ctx, key, v)
	}
	if err != nil {
		return e.no(ctx, record, dryRun, fmt.Errorf("rescuing %s: %w", kid, err))
	}
	change := Change{Key: key.Name, KID: kid, Steps: []Step{{Name: "rescue", KID: kid, Reason: "its deletion in " + v.Backend + " is called off"}}}
	if move := back(key, v); move.To.Opens() {
		v.DrainUntil = move.DrainUntil
		change.Steps = append(change.Steps, Step{Name: StepDrain, KID: kid, At: DrainEnd(v), Reason: "it opens again until then; it is closed and destroyed after"})
	}
	if dryRun {
		return change, nil
	}
	// No pass may ask for the deletion again meanwhile.
	unlock, err := e.lock(ctx, key.Name)
	if err != nil {
		return Change{}, fmt.Errorf("rescuing %s: %w", kid, err)
	}
	defer unlock()
	return e.change(ctx, record, dryRun, change, func(seq uint64) error {
		return e.rescue(ctx, actor, key, kid, orDefault(reason, "asked for by an operator"), seq)
	})
}

// back is the move of a version to what it was before its deletion was asked for.
func back(key registry.Key, v registry.Version) registry.Move {
	if closed(v) {
		return registry.Move{KID: v.KID, To: registry.Compromised}
	}
	return drainNow(key, v.KID)
}

// rescue has the backend keep the private key and then, if the version is to
// open again, proves that it does.
func (e *Engine) rescue(ctx context.Context, actor audit.Actor, key registry.Key, kid, reason string, seq uint64) error {
	v, err := e.reg.Version(kid)
	if err != nil {
		return err
	}
	if v.State != registry.Destroying {
		return fmt.Errorf("%w: it has become %s", ErrState, v.State)
	}
	b := e.cfg.Backends[v.Backend]
	move := back(key, v)
	if err := b.(Rescuer).Rescue(ctx, v.Handle, move.To.Opens()); err != nil {
		return fmt.Errorf("calling off the deletion in %s: %w", v.Backend, err)
	}
	if move.To.Opens() {
		if _, err := prove(ctx, b, key, v.Handle, v.Public); err != nil {
			return fmt.Errorf("its deletion is called off, and it does not open yet: %w", err)
		}
		if err := e.mark(kid, func(v *registry.Version) { v.DisabledAt = time.Time{} }); err != nil {
			return err
		}
	}
	return e.move(actor, reason, seq, move)
}

// rescuable reports why a version cannot be had back.
func (e *Engine) rescuable(ctx context.Context, key registry.Key, v registry.Version) error {
	switch {
	case v.State != registry.Destroying:
		return fmt.Errorf("%w: it is %s; only a version whose deletion is under way can be rescued", ErrState, v.State)
	case v.Handle == "":
		return fmt.Errorf("%w: no key pair of it is known", ErrState)
	case !slices.ContainsFunc(v.History, func(e registry.Event) bool { return e.To.Opens() || e.To == registry.Compromised }):
		return fmt.Errorf("%w: nobody was ever told of it", ErrState)
	}
	b, err := e.backend(v.Backend)
	if err != nil {
		return err
	}
	if _, ok := b.(Rescuer); !ok {
		return fmt.Errorf("%s destroys private keys at once: %w", v.Backend, boundary.ErrUnsupported)
	}
	if closed(v) {
		return nil
	}
	return e.serves(ctx, key, v)
}

// closed reports whether a version was ever compromised: it never opens again.
func closed(v registry.Version) bool {
	return slices.ContainsFunc(v.History, func(e registry.Event) bool { return e.To == registry.Compromised })
}
