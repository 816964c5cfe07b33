package rotation

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"keyd/internal/audit"
	"keyd/internal/boundary"
	"keyd/internal/registry"
)

// clockSkew is how far validFrom is put into the past: a partner whose clock is
// behind ours must not take a new key for one of the future.
const clockSkew = 5 * time.Minute

// stepWithin bounds one step. A device or a partner that hangs is a failed try,
// which status shows, and not a rotation that silently stands still.
const stepWithin = 5 * time.Minute

// take takes one step.
func (e *Engine) take(ctx context.Context, key registry.Key, s Step) error {
	ctx, cancel := context.WithTimeout(ctx, stepWithin)
	defer cancel()
	if s.Name == StepIntent {
		_, err := e.begin(ctx, audit.System, key, s.Reason)
		return err
	}
	v, err := e.reg.Version(s.KID)
	if err != nil {
		return fmt.Errorf("reading the version: %w", err)
	}
	switch s.Name {
	case StepGenerate:
		return e.generate(ctx, key, v)
	case StepSelfTest:
		return e.selfTest(ctx, key, v)
	case StepAnnounce:
		return e.announce(ctx, key, v)
	case StepCanary:
		return e.canary(ctx, key, v)
	case StepActivate:
		return e.activate(ctx, audit.System, key, v, s.Reason)
	case StepDisable:
		return e.disable(ctx, key, v)
	case StepRetire:
		return e.retire(ctx, key, v)
	case StepDrain:
		return e.closeForGood(ctx, audit.System, key, v, s.Reason)
	case StepDestroy:
		return e.destroy(ctx, key, v)
	}
	return fmt.Errorf("step %s: nobody takes it", s.Name)
}

// entry describes an action on a version.
func entry(action string, actor audit.Actor, key registry.Key, kid, reason string) audit.Entry {
	return withDetail(audit.Entry{Action: action, Actor: actor, Key: key.Name, KID: kid, Partner: key.Partner}, "reason", reason)
}

// configuredFor reports whether a key's partner and backend are there.
func (e *Engine) configuredFor(key registry.Key) error {
	if _, ok := e.cfg.Partners[key.Partner]; !ok {
		return fmt.Errorf("partner %q: %w", key.Partner, ErrNoPartner)
	}
	_, err := e.backend(key.Backend)
	return err
}

// begin chooses a kid and the dates and writes them down, before anything else
// happens under that name.
func (e *Engine) begin(ctx context.Context, actor audit.Actor, key registry.Key, reason string) (registry.Version, error) {
	if err := e.configuredFor(key); err != nil {
		return registry.Version{}, err
	}
	at := now()
	due, err := NextDue(key.Policy, at)
	if err != nil {
		return registry.Version{}, err
	}
	v := registry.Version{KID: uuid.NewString(), Key: key.Name, State: registry.Pending, Backend: key.Backend,
		Algorithm: key.Algorithm, Bits: key.Bits, Curve: key.Curve,
		ValidFrom: at.Add(-clockSkew).Truncate(time.Second),
		ValidTill: at.Add(time.Duration(key.Policy.ValidFor)).Truncate(time.Second)}
	err = e.journal(ctx, withDetail(entry("key.rotate", actor, key, v.KID, reason), "backend", v.Backend), func(seq uint64) error {
		v, err = e.reg.Begin(v, actor.String(), reason, seq, due)
		return err
	})
	return v, err
}

// generate makes the key pair and records what the backend says of it.
func (e *Engine) generate(ctx context.Context, key registry.Key, v registry.Version) error {
	b, err := e.backend(v.Backend)
	if err != nil {
		return err
	}
	if err := e.serves(ctx, key, v); err != nil {
		return err
	}
	return e.journalSaying(ctx, withDetail(entry("key.generate", audit.System, key, v.KID, ""), "backend", v.Backend), func(seq uint64, said map[string]string) error {
		g, err := e.make(ctx, b, v)
		if err != nil {
			return fmt.Errorf("generating %s in %s: %w", v.KID, v.Backend, err)
		}
		return e.made(v, g, seq, said)
	})
}

// made records a key pair that now exists, and has the outcome commit to it.
func (e *Engine) made(v registry.Version, g boundary.Generated, seq uint64, said map[string]string) error {
	der, err := versionMaterial(v).MarshalPublic(g.Public)
	if err != nil {
		return fmt.Errorf("reading the public key of %s: %w", v.KID, err)
	}
	evidence, err := json.Marshal(Evidence{g.Evidence, seq})
	if err != nil {
		return fmt.Errorf("keeping the evidence for %s: %w", v.KID, err)
	}
	commitMade(said, der, evidence)
	return e.mark(v.KID, func(v *registry.Version) {
		v.Handle, v.Public, v.Evidence, v.GeneratedAt = g.Handle, der, evidence, now()
	})
}

// mark records that a step's side effect is done, and forgets its tries.
func (e *Engine) mark(kid string, f func(v *registry.Version)) error {
	_, err := e.reg.Amend(kid, func(v *registry.Version) error {
		f(v)
		v.Retry = registry.Retry{}
		return nil
	})
	return err
}

// selfTest opens through the backend what was sealed to the recorded key.
func (e *Engine) selfTest(ctx context.Context, key registry.Key, v registry.Version) error {
	b, err := e.backend(v.Backend)
	if err != nil {
		return err
	}
	return e.journalSaying(ctx, entry("key.self-test", audit.System, key, v.KID, ""), func(seq uint64, said map[string]string) error {
		test, err := prove(ctx, b, key, v.Handle, v.Public)
		if err != nil {
			return fmt.Errorf("testing %s in %s: %w", v.KID, v.Backend, err)
		}
		test.Audit = seq
		tested, err := json.Marshal(test)
		if err != nil {
			return fmt.Errorf("keeping the self-test of %s: %w", v.KID, err)
		}
		commitTested(said, tested)
		return e.mark(v.KID, func(v *registry.Version) { v.SelfTest, v.TestedAt = tested, test.At })
	})
}

// announce tells the partner. From the moment it is asked to, the partner may
// use the key, even if its answer is lost; so the version opens before the
// first byte leaves.
func (e *Engine) announce(ctx context.Context, key registry.Key, v registry.Version) error {
	announcer := e.announcer(key)
	return e.journalSaying(ctx, entry("key.announce", audit.System, key, v.KID, ""), func(seq uint64, said map[string]string) error {
		if v.State == registry.Pending {
			if err := e.move(audit.System, "the partner is being told", seq, registry.Move{KID: v.KID, To: registry.Announced}); err != nil {
				return err
			}
		}
		if announcer == nil {
			return nil // an operator tells the partner, and then us
		}
		public, err := boundary.ParsePublic(v.Public)
		if err != nil {
			return fmt.Errorf("reading the public key of %s: %w", v.KID, err)
		}
		// An operator may have closed it since the pass began. A partner cannot
		// be made to forget a key before its validTill.
		if now, err := e.reg.Version(v.KID); err != nil || now.State != registry.Announced {
			return fmt.Errorf("announcing %s to %s: %w: it has become %s", v.KID, key.Partner, errors.Join(ErrState, err), now.State)
		}
		if err := announcer.Announce(ctx, v.KID, public, v.ValidFrom, v.ValidTill); err != nil {
			return fmt.Errorf("announcing %s to %s: %w", v.KID, key.Partner, err)
		}
		said["public"] = Fingerprint(v.Public)
		said["valid_from"], said["valid_till"] = v.ValidFrom.Format(time.RFC3339), v.ValidTill.Format(time.RFC3339)
		return e.mark(v.KID, func(v *registry.Version) { v.ToldAt = now() })
	})
}

// move changes states in one transaction.
func (e *Engine) move(actor audit.Actor, reason string, seq uint64, moves ...registry.Move) error {
	_, err := e.reg.Move(moves, actor.String(), reason, seq, now())
	return err
}

// canary has the partner seal something to us, and notes under which kid.
func (e *Engine) canary(ctx context.Context, key registry.Key, v registry.Version) error {
	probe := e.probe(key)
	return e.journalSaying(ctx, entry("key.canary", audit.System, key, v.KID, ""), func(_ uint64, said map[string]string) error {
		used, err := probe.Probe(ctx, v.KID)
		if err != nil {
			return fmt.Errorf("asking %s for an answer sealed to %s: %w", key.Partner, v.KID, err)
		}
		said["used"] = used
		if other, err := e.reg.Version(used); err != nil || other.Key != key.Name {
			return fmt.Errorf("asking %s for an answer sealed to %s: it named %q, which is no version of %s", key.Partner, v.KID, used, key.Name)
		}
		if key.Policy.Canary == CanaryKID && used != v.KID {
			return fmt.Errorf("asking %s for an answer sealed to %s: it used %s", key.Partner, v.KID, used)
		}
		return e.mark(v.KID, func(v *registry.Version) { v.CanaryAt, v.CanaryKID = now(), used })
	})
}

// activate makes v the version that requests name; the one before drains.
func (e *Engine) activate(ctx context.Context, actor audit.Actor, key registry.Key, v registry.Version, reason string) error {
	return e.journal(ctx, entry("key.activate", actor, key, v.KID, reason), func(seq uint64) error {
		var moves []registry.Move
		if active, ok := e.activeOf(key.Name); ok {
			moves = append(moves, drainNow(key, active.KID))
		}
		return e.move(actor, reason, seq, append(moves, registry.Move{KID: v.KID, To: registry.Active})...)
	})
}

// drainNow is the move of a version that no longer is the active one.
func drainNow(key registry.Key, kid string) registry.Move {
	return registry.Move{KID: kid, To: registry.Draining, DrainUntil: now().Add(time.Duration(key.Policy.DrainFor)).Truncate(time.Second)}
}

// retire puts an adopted version, which the partner may still be using, beside
// the active one. The table knows no way to draining but through active, so
// the two change places twice, in one transaction.
func (e *Engine) retire(ctx context.Context, key registry.Key, v registry.Version) error {
	const reason = "adopted beside an active version"
	return e.journal(ctx, entry("key.retire", audit.System, key, v.KID, reason), func(seq uint64) error {
		active, ok := e.activeOf(key.Name)
		if !ok {
			return fmt.Errorf("retiring %s: %w: no other version is active", v.KID, ErrState)
		}
		return e.move(audit.System, reason, seq,
			drainNow(key, active.KID), registry.Move{KID: v.KID, To: registry.Active},
			drainNow(key, v.KID), registry.Move{KID: active.KID, To: registry.Active})
	})
}

func (e *Engine) activeOf(key string) (registry.Version, bool) {
	for _, v := range e.reg.Versions(key) {
		if v.State == registry.Active {
			return v, true
		}
	}
	return registry.Version{}, false
}
