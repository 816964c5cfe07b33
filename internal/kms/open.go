package kms

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"keyd/internal/boundary"
)

// Open has KMS do its part with the private key, and does the rest here.
func (b *Backend) Open(ctx context.Context, handle string, env *boundary.Envelope) (*boundary.Opened, error) {
	opened, err := b.open(ctx, handle, env)
	if err != nil && !errors.Is(err, boundary.ErrOpen) {
		return nil, fmt.Errorf("opening an envelope: %w", err)
	}
	return opened, err
}

func (b *Backend) open(ctx context.Context, handle string, env *boundary.Envelope) (*boundary.Opened, error) {
	algorithm := boundary.KeyAlgorithm(env.Alg)
	if _, known := boundary.CEKLen(env.Enc); algorithm == "" || !known {
		return nil, fmt.Errorf("%.32q and %.32q: %w", env.Alg, env.Enc, boundary.ErrUnsupported)
	}
	level := levels[algorithm]
	if err := errors.Join(b.checkHandle(handle), env.CheckFloor(level)); err != nil {
		return nil, err
	}
	if !level.AtLeast(b.cfg.MinBoundary) {
		return nil, fmt.Errorf("%w: AWS KMS opens %.32s at %q, and the config asks for %s", boundary.ErrBelowFloor, env.Alg, level, b.cfg.MinBoundary)
	}
	var plaintext []byte
	var took time.Duration
	var err error
	if algorithm == boundary.ECDHES {
		plaintext, took, err = b.openAgreed(ctx, handle, env)
	} else {
		plaintext, took, err = b.openWrapped(ctx, handle, env)
	}
	if err != nil {
		return nil, err
	}
	return &boundary.Opened{Plaintext: plaintext, Level: level, InToken: took}, nil
}

// openWrapped has KMS decrypt the content key.
func (b *Backend) openWrapped(ctx context.Context, handle string, env *boundary.Envelope) (plaintext []byte, took time.Duration, err error) {
	if len(env.EncryptedKey)%8 != 0 || rsaSpecs[len(env.EncryptedKey)*8] == "" {
		// No RSA key of KMS has a modulus of that length, which the sender
		// knows; so nothing is told by not asking.
		plaintext, err = boundary.OpenWithCEK(env, nil, 0)
		return plaintext, 0, err
	}
	release, err := b.slot(ctx)
	if err != nil {
		return nil, 0, err
	}
	defer release()
	start := time.Now()
	cek, ok, err := b.unwrap(ctx, handle, env.EncryptedKey)
	if err != nil {
		return nil, 0, err
	}
	defer clear(cek)
	took = time.Since(start)
	plaintext, err = boundary.OpenWithCEK(env, cek, ok)
	return plaintext, took, err
}

// unwrap decrypts a content key. ok is 0 where KMS says that it is none (RFC
// 7516 §11.5): the caller goes on to the tag all the same.
func (b *Backend) unwrap(ctx context.Context, handle string, wrapped []byte) (cek []byte, ok int, err error) {
	out, err := call(ctx, b, withRSA, "Decrypt", b.client.Decrypt,
		&kms.DecryptInput{KeyId: &handle, CiphertextBlob: wrapped, EncryptionAlgorithm: oaep256})
	if _, invalid := errors.AsType[*types.InvalidCiphertextException](err); invalid {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, b.clarify(ctx, handle, err)
	}
	if deref(out.KeyId) != handle || out.EncryptionAlgorithm != oaep256 {
		clear(out.Plaintext)
		return nil, 0, fmt.Errorf("%w: the answer to Decrypt is for another key or algorithm", ErrUnreachable)
	}
	return out.Plaintext, 1, nil
}

// slot waits for one of the envelopes and signatures that may be under way. A
// timer and not a context with a deadline: of hundreds that give up in the same
// moment, each such context would take a goroutine to do so.
func (b *Backend) slot(ctx context.Context) (release func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	release = func() { <-b.slots }
	select {
	case b.slots <- struct{}{}:
		return release, nil
	default:
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case b.slots <- struct{}{}:
		return release, nil
	case <-timer.C:
	case <-ctx.Done():
		if err := ctx.Err(); errors.Is(err, context.Canceled) {
			return nil, err
		}
	}
	return nil, throttled{after: retryAfter, cause: errSlots}
}

// Public reads a key's public half.
func (b *Backend) Public(ctx context.Context, handle string) (crypto.PublicKey, error) {
	if err := b.checkHandle(handle); err != nil {
		return nil, fmt.Errorf("reading a public key: %w", err)
	}
	public, err := b.public(ctx, handle)
	if err != nil {
		return nil, fmt.Errorf("reading a public key: %w", err)
	}
	return public, nil
}

// public reads the public half of a key that keyd can use.
func (b *Backend) public(ctx context.Context, id string) (crypto.PublicKey, error) {
	out, err := call(ctx, b, looking, "GetPublicKey", b.client.GetPublicKey, &kms.GetPublicKeyInput{KeyId: &id})
	if err != nil {
		return nil, b.clarify(ctx, id, err)
	}
	return parsePublic(out)
}
