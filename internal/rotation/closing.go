package rotation

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"keyd/internal/audit"
	"keyd/internal/registry"
)

// Compromise closes a version at once and for good, and has Run start a
// rotation at once unless one is in flight that replaces it. Its private key
// is kept until an operator destroys it: it may be evidence. One whose deletion
// is under way is deleted all the same, and can no longer be rescued to open.
func (e *Engine) Compromise(ctx context.Context, actor audit.Actor, kid, reason string, dryRun bool) (Change, error) {
	v, key, err := e.find(kid)
	record := entry("key.compromise", actor, key, kid, reason)
	if err == nil && (!v.State.May(registry.Compromised) || v.State == registry.Destroying && closed(v)) {
		err = fmt.Errorf("%w: it is %s and never opens again", ErrState, v.State)
	}
	if err != nil {
		return e.no(ctx, record, dryRun, fmt.Errorf("closing %s as compromised: %w", kid, err))
	}
	if v.State == registry.Destroying {
		return e.compromiseLate(ctx, actor, key, record, reason, dryRun)
	}
	versions := e.reg.Versions(key.Name)
	successor := survey(key, versions, Facts{}).inFlight
	change := Change{Key: key.Name, KID: kid, ByHand: e.afterCompromise(v, key),
		Steps: []Step{{Name: "compromise", KID: kid, Reason: orDefault(reason, "asked for by an operator")}}}
	if facts := e.facts(key); v.Handle != "" && slices.Contains(facts.Disables, v.Backend) {
		change.Steps = append(change.Steps, Step{Name: StepDisable, KID: kid, Reason: "its private key is kept in " + v.Backend + ", and nobody is to use it"})
	}
	if successor == nil || successor.KID == kid {
		change.Steps = append(change.Steps, e.rotationSteps(key, without(versions, kid), "")...)
	} else {
		change.Steps = append(change.Steps, forecast(now(), key, without(versions, kid), *successor, e.facts(key))...)
	}
	change.ByHand = append(change.ByHand, e.byHand(key, change.Steps)...)
	return e.change(ctx, record, dryRun, change, func(seq uint64) error {
		if successor == nil || successor.KID == kid {
			// First, so that a crash between the two starts a rotation too many
			// and never one too few.
			if err := e.reg.SetDue(key.Name, now()); err != nil {
				return err
			}
		}
		return e.move(actor, orDefault(reason, "compromised"), seq, registry.Move{KID: kid, To: registry.Compromised})
	})
}

// compromiseLate closes for good a version whose deletion is under way.
func (e *Engine) compromiseLate(ctx context.Context, actor audit.Actor, key registry.Key, record audit.Entry, reason string, dryRun bool) (Change, error) {
	kid := record.KID
	change := Change{Key: key.Name, KID: kid, Steps: []Step{{Name: "compromise", KID: kid, Reason: orDefault(reason, "asked for by an operator")},
		{Name: StepDestroy, KID: kid, Reason: "its deletion goes on; keyd keys rescue keeps its private key as evidence, where that can be"}}}
	unlock, err := e.lock(ctx, key.Name) // no rescue meanwhile
	if err != nil {
		return Change{}, fmt.Errorf("closing %s as compromised: %w", kid, err)
	}
	defer unlock()
	return e.change(ctx, record, dryRun, change, func(seq uint64) error {
		if v, err := e.reg.Version(kid); err != nil || v.State != registry.Destroying {
			return fmt.Errorf("%w: it has become %s", errors.Join(ErrState, err), v.State)
		}
		return e.move(actor, orDefault(reason, "compromised"), seq,
			registry.Move{KID: kid, To: registry.Compromised}, registry.Move{KID: kid, To: registry.Destroying})
	})
}

// afterCompromise says what keyd cannot do for the operator.
func (e *Engine) afterCompromise(v registry.Version, key registry.Key) []string {
	if !v.State.Opens() {
		return nil // the partner never heard of it
	}
	withdraw := orDefault(e.cfg.Partners[key.Partner].Withdraw, "there is no call that withdraws a public key; ask your contact at the partner to remove it")
	return []string{
		fmt.Sprintf("have %s remove the public key %s: %s", key.Partner, v.KID, withdraw),
		fmt.Sprintf("until it is removed, or its validTill %s passes, %s may go on sealing to it; such answers are lost", v.ValidTill.Format(time.RFC3339), key.Partner),
		fmt.Sprintf("when nobody needs the private key as evidence any more: keyd keys destroy %s", v.KID),
	}
}

// Destroy deletes a version's private key from its backend. Run does so, and
// repeats it until the backend says that the key is gone.
func (e *Engine) Destroy(ctx context.Context, actor audit.Actor, kid, reason string, dryRun bool) (Change, error) {
	v, key, err := e.find(kid)
	record := entry("key.close", actor, key, kid, reason)
	if err == nil {
		err = disposable(now(), v)
	}
	if err != nil {
		return e.no(ctx, record, dryRun, fmt.Errorf("destroying %s: %w", kid, err))
	}
	change := Change{Key: key.Name, KID: kid, Steps: []Step{{Name: StepDestroy, KID: kid, Reason: orDefault(reason, "asked for by an operator")}}}
	if v.State == registry.Destroying {
		e.Wake()
		return change, nil
	}
	return e.change(ctx, record, dryRun, change, func(seq uint64) error {
		return e.move(actor, orDefault(reason, "asked for by an operator"), seq, registry.Move{KID: kid, To: registry.Destroying})
	})
}

// disposable reports why a version's private key must not be deleted yet.
func disposable(at time.Time, v registry.Version) error {
	switch v.State {
	case registry.Destroyed:
		return fmt.Errorf("%w: it is destroyed already", ErrState)
	case registry.Active:
		return fmt.Errorf("%w: it is the active version; rotate, or compromise it first", ErrNeeded)
	case registry.Announced, registry.Draining:
		end := v.ValidTill
		if v.State == registry.Draining {
			end = DrainEnd(v)
		}
		if at.Before(end) {
			return fmt.Errorf("%w: it is %s and the partner may seal to it until %s; compromise it first if it must go now",
				ErrNeeded, v.State, end.Format(time.RFC3339))
		}
	}
	return nil
}

// without leaves one version out.
func without(versions []registry.Version, kid string) []registry.Version {
	var rest []registry.Version
	for _, v := range versions {
		if v.KID != kid {
			rest = append(rest, v)
		}
	}
	return rest
}

// deletionPoll is how often a backend that deletes keys with a delay is asked
// whether it has.
const deletionPoll = 6 * time.Hour

// closeForGood ends a version's life but for the deletion of its private key.
func (e *Engine) closeForGood(ctx context.Context, actor audit.Actor, key registry.Key, v registry.Version, reason string) error {
	return e.journal(ctx, entry("key.close", actor, key, v.KID, reason), func(seq uint64) error {
		return e.move(actor, reason, seq, registry.Move{KID: v.KID, To: registry.Destroying})
	})
}

// destroy deletes the private key, and is repeated until the backend says that
// it is gone.
func (e *Engine) destroy(ctx context.Context, key registry.Key, v registry.Version) error {
	b, err := e.backend(v.Backend)
	if err != nil {
		return err
	}
	return e.journalSaying(ctx, entry("key.destroy", audit.System, key, v.KID, ""), func(seq uint64, said map[string]string) error {
		gone, err := e.remove(ctx, b, v)
		if err != nil {
			return fmt.Errorf("destroying %s in %s: %w", v.KID, v.Backend, err)
		}
		said[saidGone] = strconv.FormatBool(gone)
		if gone {
			return e.move(audit.System, "the backend says that the private key is gone", seq, registry.Move{KID: v.KID, To: registry.Destroyed})
		}
		_, err = e.reg.Amend(v.KID, func(v *registry.Version) error {
			v.Retry = registry.Retry{Step: StepDestroy, Next: now().Add(deletionPoll)}
			return nil
		})
		return err
	})
}

// remove deletes a version's private key. One that was never recorded may
// still have been made: it stands under the name that its intent gave it.
func (e *Engine) remove(ctx context.Context, b Backend, v registry.Version) (gone bool, err error) {
	if v.Handle != "" {
		return b.Destroy(ctx, v.Handle)
	}
	if err := e.disposes(ctx, v); err != nil {
		return false, err
	}
	return true, b.Discard(ctx, specOf(v))
}
