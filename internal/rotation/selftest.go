package rotation

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"fmt"

	"keyd/internal/boundary"
	"keyd/internal/registry"
)

// prove shows that the private key under a handle belongs to the recorded
// public key and opens at a level that the policy allows. It does so by doing:
// an envelope is sealed with the standard library and opened by the backend.
func prove(ctx context.Context, b Backend, key registry.Key, handle string, public []byte) error {
	if err := matches(ctx, b, handle, public); err != nil {
		return err
	}
	parsed, err := x509.ParsePKIXPublicKey(public)
	if err != nil {
		return fmt.Errorf("%w: reading the recorded public key: %w", ErrSelfTest, err)
	}
	pub, ok := parsed.(*rsa.PublicKey)
	if !ok {
		return fmt.Errorf("%w: the recorded public key is a %T, want RSA", ErrSelfTest, parsed)
	}
	plaintext := make([]byte, 32)
	rand.Read(plaintext)
	env, err := sealTo(pub, plaintext)
	if err != nil {
		return fmt.Errorf("%w: sealing: %w", ErrSelfTest, err)
	}
	opened, err := b.Open(ctx, handle, env)
	if err != nil {
		return fmt.Errorf("%w: opening: %w", ErrSelfTest, err)
	}
	defer clear(opened.Plaintext)
	if subtle.ConstantTimeCompare(opened.Plaintext, plaintext) != 1 {
		return fmt.Errorf("%w: it opened to something else", ErrSelfTest)
	}
	return deepEnough(key, opened.Level)
}

// matches holds the backend's public key against the recorded one.
func matches(ctx context.Context, b Backend, handle string, public []byte) error {
	got, err := b.Public(ctx, handle)
	if err != nil {
		return fmt.Errorf("reading the public key: %w", err)
	}
	der, err := x509.MarshalPKIXPublicKey(got)
	if err != nil {
		return fmt.Errorf("%w: reading the backend's public key: %w", ErrSelfTest, err)
	}
	if !bytes.Equal(der, public) {
		return fmt.Errorf("%w: the backend's public key is not the recorded one", ErrSelfTest)
	}
	return nil
}

// deepEnough holds a boundary level against the policy's floor.
func deepEnough(key registry.Key, level boundary.Level) error {
	if level.AtLeast(boundary.Level(key.Policy.MinBoundary)) {
		return nil
	}
	return fmt.Errorf("%w: key %s wants %s or better, the backend works at %q", ErrBoundary, key.Name, key.Policy.MinBoundary, level)
}

// sealTo makes an envelope (RSA-OAEP-256, A256GCM) with the standard library.
func sealTo(pub *rsa.PublicKey, plaintext []byte) (*boundary.Envelope, error) {
	cek := make([]byte, 32)
	rand.Read(cek)
	defer clear(cek)
	wrapped, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, pub, cek, nil)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(cek)
	if err != nil {
		return nil, err
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		return nil, err
	}
	env := &boundary.Envelope{Alg: boundary.RSAOAEP256, Enc: "A256GCM", EncryptedKey: wrapped,
		IV: make([]byte, gcm.NonceSize()), AAD: []byte("keyd self-test")}
	rand.Read(env.IV)
	sealed := gcm.Seal(nil, env.IV, plaintext, env.AAD)
	cut := len(sealed) - gcm.Overhead()
	env.Ciphertext, env.Tag = sealed[:cut], sealed[cut:]
	return env, nil
}

func specOf(v registry.Version) boundary.Spec {
	return boundary.Spec{Key: v.Key, KID: v.KID, Algorithm: v.Algorithm, Bits: v.Bits}
}

// publicDER is the recorded form of a public key of the size asked for.
func publicDER(public any, bits int) ([]byte, error) {
	key, ok := public.(*rsa.PublicKey)
	if !ok || key == nil || key.N == nil {
		return nil, fmt.Errorf("got a %T, want an RSA public key", public)
	}
	if key.N.BitLen() != bits {
		return nil, fmt.Errorf("got an RSA key of %d bits, want %d", key.N.BitLen(), bits)
	}
	return x509.MarshalPKIXPublicKey(key)
}
