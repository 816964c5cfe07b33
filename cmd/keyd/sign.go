package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"

	"keyd/internal/audit"
	"keyd/internal/boundary"
	"keyd/internal/partner"
	"keyd/internal/registry"
	"keyd/internal/rotation"
)

// errNoSigner: a partner wants assertions signed, and there is no key to sign
// them with.
var errNoSigner = errors.New("there is no active version of a key with algorithm PS256 for it")

// signer signs the assertions with which keyd makes itself known to a partner,
// in the backend, under the active version of the key that is made for it.
func (d *keyd) signer(name string) partner.Signer {
	return func(ctx context.Context) (string, func([]byte) ([]byte, error), error) {
		v, err := d.signs(name)
		if err != nil {
			return "", nil, fmt.Errorf("partner %s: %w", name, err)
		}
		return v.KID, func(input []byte) ([]byte, error) { return d.signed(ctx, name, v, input) }, nil
	}
}

// signed signs and records that it did.
func (d *keyd) signed(ctx context.Context, partner string, v registry.Version, input []byte) ([]byte, error) {
	signature, err := d.sign(ctx, v, input)
	e := audit.Entry{Phase: audit.PhaseEvent, Action: "sign", Actor: audit.System, Partner: partner, Key: v.Key, KID: v.KID, Result: audit.ResultOK}
	if err != nil {
		e.Result = audit.ResultFailed
	}
	if failed := d.audit.Record(context.WithoutCancel(ctx), e); failed != nil {
		return nil, fmt.Errorf("recording a signature: %w", failed)
	}
	return signature, err
}

// signs finds the version to sign with.
func (d *keyd) signs(partner string) (registry.Version, error) {
	for _, key := range d.registry.Keys() {
		if key.Partner != partner || key.Algorithm != boundary.PS256 {
			continue
		}
		for _, v := range d.registry.Versions(key.Name) {
			if v.State == registry.Active {
				return v, nil
			}
		}
	}
	return registry.Version{}, errNoSigner
}

func (d *keyd) sign(ctx context.Context, v registry.Version, input []byte) ([]byte, error) {
	signer, ok := d.backends[v.Backend].(rotation.Signer)
	if !ok {
		return nil, fmt.Errorf("backend %s signs nothing: %w", v.Backend, boundary.ErrUnsupported)
	}
	digest := sha256.Sum256(input)
	return signer.Sign(ctx, v.Handle, digest[:])
}
