package rotation

import (
	"context"
	"fmt"
	"regexp"
	"time"

	"keyd/internal/audit"
	"keyd/internal/boundary"
	"keyd/internal/registry"
)

// Change is what an operation did, or would do.
type Change struct {
	Key    string   `json:"key"`
	KID    string   `json:"kid,omitempty"`
	Steps  []Step   `json:"steps"`             // in order; Run takes those that are not done yet
	ByHand []string `json:"by_hand,omitempty"` // what a person must still do
}

// names are those that a label in a token can hold and a URL path can name.
var names = regexp.MustCompile(`^[a-z][a-z0-9-]{0,62}$`)

// Create adds a key. Its first version is made by Run, at once.
func (e *Engine) Create(ctx context.Context, actor audit.Actor, key registry.Key, dryRun bool) (Change, error) {
	material := keyMaterial(key).Usual()
	key.Algorithm, key.Bits, key.Curve = material.Algorithm, material.Bits, material.Curve
	record := audit.Entry{Action: "key.create", Actor: actor, Key: key.Name, Partner: key.Partner}
	if err := e.usable(key); err != nil {
		return e.no(ctx, record, dryRun, fmt.Errorf("creating key %q: %w", key.Name, err))
	}
	steps := e.firstSteps(key)
	change := Change{Key: key.Name, Steps: steps, ByHand: e.byHand(key, steps)}
	if dryRun {
		return change, nil
	}
	key.CreatedAt = now()
	err := e.journal(ctx, withPolicy(record, key), func(uint64) (err error) {
		if key.NextDue, err = NextDue(key.Policy, key.CreatedAt); err != nil {
			return err
		}
		return e.reg.PutKey(key)
	})
	if err != nil {
		return Change{}, fmt.Errorf("creating key %q: %w", key.Name, err)
	}
	e.Wake()
	return change, nil
}

// usable reports why a key cannot be created.
func (e *Engine) usable(key registry.Key) error {
	if !names.MatchString(key.Name) {
		return fmt.Errorf("%w: the name: want lower-case letters, digits and dashes, a letter first, at most 63", ErrInvalid)
	}
	if _, err := e.reg.Key(key.Name); err == nil {
		return fmt.Errorf("%w: a key of this name", registry.ErrExists)
	}
	for _, other := range e.reg.Keys() {
		if other.Partner == key.Partner && signs(other) == signs(key) {
			return fmt.Errorf("%w: partner %s already has the key %s", ErrInvalid, key.Partner, other.Name)
		}
	}
	return e.fits(key)
}

// fits reports why a key cannot be worked with under this config.
func (e *Engine) fits(key registry.Key) error {
	if err := e.configuredFor(key); err != nil {
		return err
	}
	if err := keyMaterial(key).Check(); err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if err := ValidatePolicy(key.Policy); err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return nil
}

// signs reports whether a key signs, instead of opening envelopes. A partner
// may have one of each: callers name the partner, not the key.
func signs(key registry.Key) bool { return key.Algorithm == boundary.PS256 }

// Rotate starts a rotation now.
func (e *Engine) Rotate(ctx context.Context, actor audit.Actor, name string, dryRun bool) (Change, error) {
	record := audit.Entry{Action: "key.rotate", Actor: actor, Key: name}
	key, err := e.reg.Key(name)
	if err != nil {
		return e.no(ctx, record, dryRun, fmt.Errorf("rotating %q: %w", name, err))
	}
	versions := e.reg.Versions(name)
	if v := survey(key, versions, Facts{}).inFlight; v != nil {
		return e.no(ctx, record, dryRun, fmt.Errorf("rotating %s: %w: version %s is %s", name, registry.ErrInFlight, v.KID, v.State))
	}
	if err := e.configuredFor(key); err != nil {
		return e.no(ctx, record, dryRun, fmt.Errorf("rotating %s: %w", name, err))
	}
	var kid string
	if !dryRun {
		v, err := e.begin(ctx, actor, key, "asked for by an operator")
		if err != nil {
			return Change{}, fmt.Errorf("rotating %s: %w", name, err)
		}
		kid = v.KID
		e.Wake()
	}
	steps := e.rotationSteps(key, versions, kid)
	return Change{Key: name, KID: kid, Steps: steps, ByHand: e.byHand(key, steps)}, nil
}

// firstSteps lists what follows the creation of a key.
func (e *Engine) firstSteps(key registry.Key) []Step {
	if first := survey(key, nil, Facts{}).due(now()); first.Name == StepAdopt {
		return []Step{first}
	}
	return e.rotationSteps(key, nil, "")
}

// rotationSteps lists the steps of a rotation that begins now.
func (e *Engine) rotationSteps(key registry.Key, versions []registry.Version, kid string) []Step {
	at := now()
	v := registry.Version{KID: kid, Key: key.Name, State: registry.Pending, Backend: key.Backend,
		ValidFrom: at.Add(-clockSkew), ValidTill: at.Add(time.Duration(key.Policy.ValidFor))}
	intent := Step{Name: StepIntent, KID: kid, Reason: "a new version is written down" + survey(key, versions, Facts{}).moving()}
	return append([]Step{intent}, forecast(at, key, versions, v, e.facts(key))...)
}

// byHand names what the steps leave to a person.
func (e *Engine) byHand(key registry.Key, steps []Step) []string {
	for _, s := range steps {
		if s.Name == StepAdopt {
			return []string{"run keyd keys adopt " + key.Name + ": until then it has no version"}
		}
		if s.Name == StepConfirm {
			return []string{fmt.Sprintf("hand the new version's public key to %s (keyd keys show --public), then run keyd keys confirm", key.Partner)}
		}
	}
	return nil
}

// Confirm records that an operator has told the partner.
func (e *Engine) Confirm(ctx context.Context, actor audit.Actor, kid, reason string, dryRun bool) (Change, error) {
	v, key, err := e.find(kid)
	record := entry("key.confirm", actor, key, kid, reason)
	switch {
	case err != nil:
	case v.State != registry.Announced:
		err = fmt.Errorf("%w: it is %s; only an announced version waits for the partner", ErrState, v.State)
	case !v.ToldAt.IsZero():
		err = fmt.Errorf("%w: the partner has had it since %s", ErrState, v.ToldAt.Format(time.RFC3339))
	case !now().Before(v.ValidTill):
		err = fmt.Errorf("%w: its validTill, %s, has passed", ErrState, v.ValidTill.Format(time.RFC3339))
	}
	if err != nil {
		return e.no(ctx, record, dryRun, fmt.Errorf("confirming %s: %w", kid, err))
	}
	told := v
	told.ToldAt = now()
	change := Change{Key: key.Name, KID: kid, Steps: append([]Step{{Name: StepConfirm, KID: kid, Reason: "the partner has the public key"}},
		forecast(now(), key, e.reg.Versions(key.Name), told, e.facts(key))...)}
	return e.change(ctx, record, dryRun, change, func(uint64) error {
		return e.mark(kid, func(v *registry.Version) { v.ToldAt = now() })
	})
}

// Activate makes a version the active one now: it hurries an announced one, or
// goes back to one that drains. The version that was active drains.
func (e *Engine) Activate(ctx context.Context, actor audit.Actor, kid, reason string, dryRun bool) (Change, error) {
	v, key, err := e.find(kid)
	record := entry("key.activate", actor, key, kid, reason)
	switch at := now(); {
	case err != nil:
	case !v.State.May(registry.Active):
		err = fmt.Errorf("%w: it is %s; only an announced or draining version can become active", ErrState, v.State)
	case v.ToldAt.IsZero():
		err = fmt.Errorf("%w: the partner has not been told of it; confirm it first if it has", ErrState)
	case at.Before(v.ValidFrom):
		err = fmt.Errorf("%w: it is not valid before %s", ErrState, v.ValidFrom.Format(time.RFC3339))
	case !at.Before(v.ValidTill):
		err = fmt.Errorf("%w: its validTill, %s, has passed", ErrState, v.ValidTill.Format(time.RFC3339))
	default:
		err = e.serves(ctx, key, v)
	}
	if err != nil {
		return e.no(ctx, record, dryRun, fmt.Errorf("activating %s: %w", kid, err))
	}
	change := Change{Key: key.Name, KID: kid, Steps: []Step{{Name: StepActivate, KID: kid, Reason: orDefault(reason, "asked for by an operator")}}}
	if old, ok := e.activeOf(key.Name); ok {
		old.DrainUntil = drainNow(key, old.KID).DrainUntil
		change.Steps = append(change.Steps, drainOf(old, v.Backend))
	}
	if dryRun {
		return change, nil
	}
	if err := e.activate(ctx, actor, key, v, orDefault(reason, "asked for by an operator")); err != nil {
		return Change{}, fmt.Errorf("activating %s: %w", kid, err)
	}
	e.Wake()
	return change, nil
}

// find returns a version and its key.
func (e *Engine) find(kid string) (registry.Version, registry.Key, error) {
	v, err := e.reg.Version(kid)
	if err != nil {
		return registry.Version{}, registry.Key{}, err
	}
	key, err := e.reg.Key(v.Key)
	return v, key, err
}

// no is the end of an operation that is refused. Dry runs leave no trace.
func (e *Engine) no(ctx context.Context, record audit.Entry, dryRun bool, err error) (Change, error) {
	if !dryRun {
		err = e.refuse(ctx, record, err)
	}
	return Change{}, err
}

// change makes a change unless it is a dry run, and wakes Run.
func (e *Engine) change(ctx context.Context, record audit.Entry, dryRun bool, c Change, act func(seq uint64) error) (Change, error) {
	return e.changeSaying(ctx, record, dryRun, c, func(seq uint64, _ map[string]string) error { return act(seq) })
}

// changeSaying is change for an act as journalSaying takes it.
func (e *Engine) changeSaying(ctx context.Context, record audit.Entry, dryRun bool, c Change, act func(seq uint64, said map[string]string) error) (Change, error) {
	if dryRun {
		return c, nil
	}
	if err := e.journalSaying(ctx, record, act); err != nil {
		return Change{}, fmt.Errorf("%s of %s: %w", record.Action, orDefault(record.KID, record.Key), err)
	}
	e.Wake()
	return c, nil
}

func orDefault[T comparable](value, otherwise T) T {
	var zero T
	if value == zero {
		return otherwise
	}
	return value
}
