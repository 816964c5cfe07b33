package kms

import (
	"context"
	"crypto"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"keyd/internal/boundary"
)

// oaep256 is RSAES-OAEP with SHA-256 and MGF1-SHA-256: RSA-OAEP-256 of
// RFC 7518 §4.3. It is named in every request; KMS would not guess it right.
const oaep256 = types.EncryptionAlgorithmSpecRsaesOaepSha256

// Open has KMS decrypt the content key and opens the content with it.
func (b *Backend) Open(ctx context.Context, handle string, env *boundary.Envelope) (*boundary.Opened, error) {
	if _, known := boundary.CEKLen(env.Enc); env.Alg != boundary.RSAOAEP256 || !known {
		return nil, fmt.Errorf("opening an envelope with %.32q and %.32q: %w", env.Alg, env.Enc, boundary.ErrUnsupported)
	}
	if err := b.checkHandle(handle); err != nil {
		return nil, fmt.Errorf("opening an envelope: %w", err)
	}
	switch len(env.EncryptedKey) {
	case 2048 / 8, 3072 / 8, 4096 / 8:
	default:
		// No RSA key of KMS has a modulus of that length, which the sender
		// knows; so nothing is told by not asking.
		plaintext, err := boundary.OpenWithCEK(env, nil, 0)
		return opened(plaintext, 0, err)
	}
	release, err := b.slot(ctx)
	if err != nil {
		return nil, fmt.Errorf("opening an envelope: %w", err)
	}
	defer release()
	start := time.Now()
	cek, ok, err := b.unwrap(ctx, handle, env.EncryptedKey)
	if err != nil {
		return nil, fmt.Errorf("opening an envelope: %w", err)
	}
	defer clear(cek)
	took := time.Since(start)
	plaintext, err := boundary.OpenWithCEK(env, cek, ok)
	return opened(plaintext, took, err)
}

func opened(plaintext []byte, took time.Duration, err error) (*boundary.Opened, error) {
	if err != nil {
		return nil, err
	}
	return &boundary.Opened{Plaintext: plaintext, Level: boundary.Unwrap, InToken: took}, nil
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

// slot waits for one of the Decrypt calls that may be under way.
func (b *Backend) slot(ctx context.Context) (release func(), err error) {
	limited, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	select {
	case b.slots <- struct{}{}:
		return func() { <-b.slots }, nil
	case <-limited.Done():
		if err := ctx.Err(); errors.Is(err, context.Canceled) {
			return nil, err
		}
		return nil, throttled{after: retryAfter, cause: errSlots}
	}
}

// Public reads a key's public half.
func (b *Backend) Public(ctx context.Context, handle string) (crypto.PublicKey, error) {
	if err := b.checkHandle(handle); err != nil {
		return nil, fmt.Errorf("reading a public key: %w", err)
	}
	public, _, err := b.public(ctx, handle)
	if err != nil {
		return nil, fmt.Errorf("reading a public key: %w", err)
	}
	return public, nil
}

// public reads the public half of a key that decrypts with RSA-OAEP-256.
func (b *Backend) public(ctx context.Context, id string) (*rsa.PublicKey, *kms.GetPublicKeyOutput, error) {
	out, err := call(ctx, b, looking, "GetPublicKey", b.client.GetPublicKey, &kms.GetPublicKeyInput{KeyId: &id})
	if err != nil {
		return nil, nil, b.clarify(ctx, id, err)
	}
	if !decrypts(out.KeyUsage, out.EncryptionAlgorithms) {
		return nil, nil, fmt.Errorf("%w: %s, %s", ErrUsage, out.KeySpec, out.KeyUsage)
	}
	parsed, err := x509.ParsePKIXPublicKey(out.PublicKey)
	if err != nil {
		return nil, nil, fmt.Errorf("parsing the public key of %s: %w", deref(out.KeyId), err)
	}
	public, isRSA := parsed.(*rsa.PublicKey)
	if !isRSA {
		return nil, nil, fmt.Errorf("%w: a public key of type %T", ErrUsage, parsed)
	}
	return public, out, nil
}

// Destroy schedules a key's deletion. The key is gone when KMS no longer knows
// it; until then nothing but this Region's KMS can tell.
func (b *Backend) Destroy(ctx context.Context, handle string) (gone bool, err error) {
	if err := b.checkHandle(handle); err != nil {
		return false, fmt.Errorf("destroying a key: %w", err)
	}
	key, err := b.describe(ctx, handle)
	switch {
	case errors.Is(err, boundary.ErrNoKey):
		return true, nil
	case err != nil:
		return false, fmt.Errorf("destroying a key: %w", err)
	case leaving(key.KeyState):
		return false, nil
	}
	if err := b.schedule(ctx, handle); err != nil {
		return false, fmt.Errorf("destroying a key: %w", err)
	}
	return false, nil
}

// schedule asks for a key's deletion. That somebody was faster is no error.
func (b *Backend) schedule(ctx context.Context, arn string) error {
	days := int32(b.cfg.DeletionWindowDays)
	_, err := call(ctx, b, changing, "ScheduleKeyDeletion", b.client.ScheduleKeyDeletion,
		&kms.ScheduleKeyDeletionInput{KeyId: &arn, PendingWindowInDays: &days})
	if err = b.clarify(ctx, arn, err); errors.Is(err, boundary.ErrNoKey) {
		return nil
	}
	return err
}
