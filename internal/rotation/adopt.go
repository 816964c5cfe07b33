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

// Adoption names a key pair that already exists in a backend.
type Adoption struct {
	KID       string    // under which the partner knows it, or is to know it
	Find      string    // CKA_ID in hex, label or handle of the private key
	Backend   string    // that holds it; default the one of the key's next version
	ValidFrom time.Time // as told to the partner; default now
	ValidTill time.Time // as told to the partner
	Told      bool      // the partner has it already
}

// Adopt takes over a key pair that was made elsewhere. It opens from now on.
// If the partner has it already it becomes active, or drains beside the version
// that is; otherwise the partner is told and it goes the way of a new version.
func (e *Engine) Adopt(ctx context.Context, actor audit.Actor, name string, a Adoption, dryRun bool) (Change, error) {
	key, err := e.reg.Key(name)
	key.Name = name // for the record, even if there is none
	a.Backend = orDefault(a.Backend, key.Backend)
	record := withDetail(entry("key.adopt", actor, key, a.KID, ""), "backend", a.Backend)
	unlock, refused := e.claim(ctx, a.Backend)
	if refused != nil {
		return Change{}, fmt.Errorf("adopting %q for %s: %w", a.Find, name, refused)
	}
	defer unlock()
	var c candidate
	if err == nil {
		c, err = e.candidate(ctx, key, a)
	}
	if err != nil {
		return e.no(ctx, record, dryRun, fmt.Errorf("adopting %q for %s: %w", a.Find, name, err))
	}
	record = withDetail(record, "handle", c.Handle)
	change := Change{Key: name, KID: c.KID, Steps: append([]Step{{Name: "adopt", KID: c.KID, Reason: "its private key is in " + a.Backend + " and passed its self-test"}},
		forecast(now(), key, e.reg.Versions(name), c.Version, e.facts(key))...)}
	change.ByHand = e.byHand(key, change.Steps)
	return e.changeSaying(ctx, record, dryRun, change, func(seq uint64, said map[string]string) error {
		if len(e.reg.Versions(name)) == 0 {
			// Its schedule begins with it: what was missed while the key waited
			// for it is not made up for.
			due, err := NextDue(key.Policy, now())
			if err == nil {
				err = e.reg.SetDue(name, due)
			}
			if err != nil {
				return err
			}
		}
		v, err := c.under(seq)
		if err != nil {
			return err
		}
		commitMade(said, v.Public, v.Evidence)
		commitTested(said, v.SelfTest)
		_, err = e.reg.Adopt(v, actor.String(), "adopted from the backend", seq)
		return err
	})
}

// candidate is a version that is to be adopted.
type candidate struct {
	registry.Version
	evidence boundary.Evidence
	test     SelfTest
}

// under is the version with its documents, which name the intent's entry.
func (c candidate) under(seq uint64) (registry.Version, error) {
	v, test := c.Version, c.test
	test.Audit = seq
	var err1, err2 error
	v.Evidence, err1 = json.Marshal(Evidence{c.evidence, seq})
	v.SelfTest, err2 = json.Marshal(test)
	if err := errors.Join(err1, err2); err != nil {
		return v, fmt.Errorf("keeping what came with %s: %w", v.KID, err)
	}
	return v, nil
}

// candidate is the version that an adoption would make, if all is well with it.
func (e *Engine) candidate(ctx context.Context, key registry.Key, a Adoption) (candidate, error) {
	none := candidate{}
	at := now()
	if err := e.newKID(a.KID); err != nil {
		return none, err
	}
	from := orDefault(a.ValidFrom, at.Add(-clockSkew)).UTC().Truncate(time.Second)
	till := a.ValidTill.UTC().Truncate(time.Second)
	if !till.After(at) || !till.After(from) {
		return none, fmt.Errorf("%w: valid from %s till %s: it ends in the past or before it begins", ErrInvalid, from.Format(time.RFC3339), till.Format(time.RFC3339))
	}
	if v := survey(key, e.reg.Versions(key.Name), Facts{}).inFlight; v != nil {
		return none, fmt.Errorf("%w: version %s is %s; adopt when it is active", registry.ErrInFlight, v.KID, v.State)
	}
	b, err := e.backend(a.Backend)
	if err != nil {
		return none, err
	}
	found, err := b.Find(ctx, a.Find)
	if err != nil {
		return none, err
	}
	if other, ok := e.holder(a.Backend, found.Handle); ok {
		return none, fmt.Errorf("%w: version %s has that private key", registry.ErrExists, other)
	}
	material := boundary.MaterialOf(key.Algorithm, found.Public)
	if err := material.Check(); err != nil {
		return none, fmt.Errorf("%w: its public half in the backend: %w", ErrInvalid, err)
	}
	der, err := material.MarshalPublic(found.Public)
	if err != nil {
		return none, fmt.Errorf("recording the key pair: %w", err)
	}
	test, err := prove(ctx, b, key, found.Handle, der)
	if err != nil {
		return none, err
	}
	v := registry.Version{KID: a.KID, Key: key.Name, State: registry.Announced, Backend: a.Backend,
		Handle: found.Handle, Public: der, Algorithm: material.Algorithm, Bits: material.Bits, Curve: material.Curve,
		ValidFrom: from, ValidTill: till, GeneratedAt: at, TestedAt: test.At, Adopted: true}
	if a.Told {
		v.ToldAt = at.Add(-time.Second) // before us; the plan tells by it (arrived)
		if from.Before(v.ToldAt) {
			v.ToldAt = from
		}
	}
	return candidate{v, found.Evidence, test}, nil
}

// newKID holds a kid to the one form in which keyd and partners write it.
func (e *Engine) newKID(kid string) error {
	if id, err := uuid.Parse(kid); err != nil || id.String() != kid {
		return fmt.Errorf("%w: the kid %q is not a UUID in lower case", ErrInvalid, kid)
	}
	if v, err := e.reg.Version(kid); err == nil {
		return fmt.Errorf("%w: the kid %s is version %d of %s", registry.ErrExists, kid, v.Number, v.Key)
	}
	return nil
}

// holder names the version that has a private key.
func (e *Engine) holder(backend, handle string) (kid string, ok bool) {
	for _, key := range e.reg.Keys() {
		for _, v := range e.reg.Versions(key.Name) {
			if v.Backend == backend && v.Handle == handle {
				return v.KID, true
			}
		}
	}
	return "", false
}
