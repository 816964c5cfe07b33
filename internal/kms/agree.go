package kms

import (
	"context"
	"crypto/ecdh"
	"crypto/x509"
	"fmt"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms"

	"keyd/internal/boundary"
)

// openAgreed has KMS agree on the secret with the sender's ephemeral key.
func (b *Backend) openAgreed(ctx context.Context, handle string, env *boundary.Envelope) (plaintext []byte, took time.Duration, err error) {
	release, err := b.slot(ctx)
	if err != nil {
		return nil, 0, err
	}
	defer release()
	curve, err := b.curve(ctx, handle)
	if err != nil {
		return nil, 0, err
	}
	if env.EPK == nil || env.EPK.Curve() != curve {
		// The sender knows which curve the key is on; so nothing is told by not
		// asking, and KMS sees no point that is not on it.
		plaintext, err = boundary.OpenDerived(env, nil)
		return plaintext, 0, err
	}
	start := time.Now()
	z, err := b.derive(ctx, handle, env.EPK)
	if err != nil {
		return nil, 0, err
	}
	defer clear(z)
	took = time.Since(start)
	plaintext, err = boundary.OpenAgreed(env, z)
	return plaintext, took, err
}

// derive returns the x-coordinate of the agreed point, as many bytes as the
// curve's field has.
func (b *Backend) derive(ctx context.Context, handle string, epk *ecdh.PublicKey) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(epk)
	if err != nil {
		return nil, fmt.Errorf("encoding the ephemeral key: %w", err)
	}
	out, err := call(ctx, b, withECC, "DeriveSharedSecret", b.client.DeriveSharedSecret,
		&kms.DeriveSharedSecretInput{KeyId: &handle, KeyAgreementAlgorithm: agree, PublicKey: der})
	if err != nil {
		return nil, b.clarify(ctx, handle, err)
	}
	want := (len(epk.Bytes()) - 1) / 2 // an uncompressed point: 4, x, y
	if deref(out.KeyId) != handle || out.KeyAgreementAlgorithm != agree || len(out.SharedSecret) != want {
		clear(out.SharedSecret)
		return nil, fmt.Errorf("%w: the answer to DeriveSharedSecret is for another key or algorithm", ErrUnreachable)
	}
	return out.SharedSecret, nil
}

// curve is that of a key for ECDH. It never changes, so it is asked for once.
func (b *Backend) curve(ctx context.Context, handle string) (ecdh.Curve, error) {
	if known, ok := b.curves.Load(handle); ok {
		return known.(ecdh.Curve), nil
	}
	public, err := b.public(ctx, handle)
	if err != nil {
		return nil, err
	}
	key, ok := public.(*ecdh.PublicKey)
	if !ok {
		return nil, fmt.Errorf("%w: %s agrees on nothing", ErrUsage, handle)
	}
	b.curves.Store(handle, key.Curve())
	return key.Curve(), nil
}
