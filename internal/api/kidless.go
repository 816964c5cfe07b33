package api

import (
	"context"
	"errors"
	"slices"

	"keyd/internal/boundary"
	"keyd/internal/jwe"
	"keyd/internal/registry"
)

// Kidless is what is done with an envelope that names no version of ours.
type Kidless string

// What can be done with an envelope that names no version of ours.
const (
	KidlessRefuse Kidless = "refuse"
	KidlessActive Kidless = "active"   // it is opened under the active version
	KidlessAny    Kidless = "any-open" // and under the others that open, the newest first
)

// mostTried bounds how many versions an envelope without a kid is tried under:
// each costs the backend an operation, and whoever sends envelopes must not be
// able to make it cost many.
const mostTried = 4

// unnamed are the versions to try for an envelope whose kid led to err: it has
// none, or one of the partner's own making.
func (o *Opener) unnamed(partner string, err error) []registry.Version {
	if err == nil {
		return nil
	}
	p := o.partners[partner]
	switch {
	case p.Kidless == KidlessRefuse || p.Kidless == "":
		return nil
	case errors.Is(err, ErrUnknownKID) && !p.ForeignKID:
		return nil
	case !errors.Is(err, ErrMissingKID) && !errors.Is(err, ErrUnknownKID):
		return nil
	}
	var found []registry.Version
	for _, key := range o.cfg.Registry.Keys() {
		if key.Partner != partner || key.Algorithm == boundary.PS256 {
			continue
		}
		for _, v := range o.cfg.Registry.Versions(key.Name) {
			if v.State == registry.Active || p.Kidless == KidlessAny && v.State.Opens() {
				found = append(found, v)
			}
		}
	}
	slices.SortStableFunc(found, func(a, b registry.Version) int {
		if active := (b.State == registry.Active); active != (a.State == registry.Active) {
			return map[bool]int{true: 1, false: -1}[active]
		}
		return b.Number - a.Number
	})
	return found[:min(len(found), mostTried)]
}

// openUnnamed tries one version after the other. That none opens it is the same
// error as when one does not.
func (o *Opener) openUnnamed(ctx context.Context, a *attempt, msg *jwe.Message, tries []registry.Version) (opened *boundary.Opened, err error) {
	named := a.kid
	for _, v := range tries {
		a.kid = v.KID
		if opened, err = o.openNamed(ctx, a, msg); !errors.Is(err, boundary.ErrOpen) {
			return opened, err
		}
	}
	a.kid = named // none of those that were tried
	return nil, err
}
