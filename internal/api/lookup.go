package api

import (
	"context"
	"errors"
	"fmt"

	"keyd/internal/boundary"
	"keyd/internal/jwe"
	"keyd/internal/registry"
)

// find looks up the version that an envelope is for, and whether it may open
// it. Nothing here touches a private key, and nothing is decided by what is
// secret.
func (o *Opener) find(a *attempt, msg *jwe.Message) (floor boundary.Level, err error) {
	if a.kid == "" {
		return "", ErrMissingKID
	}
	v, err := o.cfg.Registry.Glance(a.kid)
	if errors.Is(err, registry.ErrNotFound) {
		return "", ErrUnknownKID
	} else if err != nil {
		return "", fmt.Errorf("looking up the kid: %w", err)
	}
	key, err := o.cfg.Registry.Key(v.Key)
	if err != nil {
		return "", fmt.Errorf("looking up the key of %s: %w", a.kid, err)
	}
	if key.Partner != a.partner {
		return "", ErrUnknownKID // whose it is, is not this partner's business
	}
	a.version = v
	if err := opens(v.State); err != nil {
		return "", err
	}
	if boundary.KeyAlgorithm(msg.Envelope.Alg) != v.Algorithm {
		return "", fmt.Errorf("%w: the version is for %s", jwe.ErrAlgorithm, v.Algorithm)
	}
	if !msg.Fits(boundary.Material{Algorithm: v.Algorithm, Bits: v.Bits, Curve: v.Curve}) {
		return "", boundary.ErrOpen // it was sealed to a key of another size
	}
	return boundary.Level(key.Policy.MinBoundary), nil
}

// still looks whether the version opens after it has opened: it may have been
// compromised meanwhile, and once that is answered nothing comes out under it.
func (o *Opener) still(a *attempt) error {
	v, err := o.cfg.Registry.Glance(a.kid)
	if err != nil {
		return fmt.Errorf("looking up the kid again: %w", err)
	}
	a.version = v
	return opens(v.State)
}

// neverAccepted tells what no config allows from what this partner's does not.
func neverAccepted(err error) error {
	if errors.Is(err, jwe.ErrNever) {
		return fmt.Errorf("%w: %w", errNever, err)
	}
	return err
}

// opens says why a version in a state does not open.
func opens(s registry.State) error {
	switch {
	case s.Opens():
		return nil
	case s == registry.Compromised:
		return ErrCompromised
	case s == registry.Destroying, s == registry.Destroyed:
		return ErrDestroyed
	}
	return ErrNotOpen
}

// backendFailure keeps the errors that the API knows, and makes every other a
// fault of the backend.
func backendFailure(err error) error {
	for _, known := range []error{boundary.ErrOpen, boundary.ErrBelowFloor, boundary.ErrBusy, boundary.ErrUnavailable, context.DeadlineExceeded, context.Canceled} {
		if errors.Is(err, known) {
			return err
		}
	}
	return fmt.Errorf("%w: %w", ErrBackend, err)
}
