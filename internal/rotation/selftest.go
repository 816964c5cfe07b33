package rotation

import (
	"bytes"
	"context"
	"crypto"
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
// public key and works at a level that the policy allows. It does so by doing:
// an envelope is sealed with the standard library and opened by the backend, or
// a signature made by the backend is verified with the standard library.
func prove(ctx context.Context, b Backend, key registry.Key, handle string, public []byte) (SelfTest, error) {
	none := SelfTest{}
	if err := matches(ctx, b, handle, public); err != nil {
		return none, err
	}
	pub, err := boundary.ParsePublic(public)
	if err != nil {
		return none, fmt.Errorf("%w: reading the recorded public key: %w", ErrSelfTest, err)
	}
	if key.Algorithm == boundary.PS256 {
		return SelfTest{Method: byVerifying, Result: passed, At: now()}, proveSigning(ctx, b, handle, pub)
	}
	plaintext := make([]byte, 32)
	rand.Read(plaintext)
	env, err := boundary.Seal(pub, key.Algorithm, boundary.A256GCM, plaintext, []byte("keyd self-test"))
	if err != nil {
		return none, fmt.Errorf("%w: sealing: %w", ErrSelfTest, err)
	}
	opened, err := b.Open(ctx, handle, env)
	if err != nil {
		return none, fmt.Errorf("%w: opening: %w", ErrSelfTest, err)
	}
	defer clear(opened.Plaintext)
	if subtle.ConstantTimeCompare(opened.Plaintext, plaintext) != 1 {
		return none, fmt.Errorf("%w: it opened to something else", ErrSelfTest)
	}
	test := SelfTest{Method: fmt.Sprintf(byOpening, env.Alg, env.Enc), Result: passed, Level: opened.Level, At: now()}
	return test, deepEnough(key, opened.Level)
}

// proveSigning has the private key sign, and verifies with the standard library
// (RFC 7518 §3.5).
func proveSigning(ctx context.Context, b Backend, handle string, public crypto.PublicKey) error {
	pub, isRSA := public.(*rsa.PublicKey)
	signer, signs := b.(Signer)
	if !isRSA || !signs {
		return fmt.Errorf("%w: signing with a %T in this backend: %w", ErrSelfTest, public, boundary.ErrUnsupported)
	}
	digest := make([]byte, sha256.Size)
	rand.Read(digest)
	signature, err := signer.Sign(ctx, handle, digest)
	if err != nil {
		return fmt.Errorf("%w: signing: %w", ErrSelfTest, err)
	}
	if err := rsa.VerifyPSS(pub, crypto.SHA256, digest, signature, &rsa.PSSOptions{SaltLength: sha256.Size}); err != nil {
		return fmt.Errorf("%w: the signature is not good: %w", ErrSelfTest, err)
	}
	return nil
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

// Reaches reports why a backend that is well cannot serve a key.
func Reaches(key registry.Key, health boundary.Health) error {
	level, can := health.Levels[key.Algorithm]
	if !can {
		return fmt.Errorf("it has no keys for %s: %w", key.Algorithm, boundary.ErrUnsupported)
	}
	if !level.AtLeast(health.Floor) {
		return fmt.Errorf("%w: the backend's min_boundary is %s, and it works at %q with keys for %s", ErrBoundary, health.Floor, level, key.Algorithm)
	}
	return deepEnough(key, level)
}

// keyMaterial and versionMaterial say what a key's versions, and one of them,
// are made of.
func keyMaterial(k registry.Key) boundary.Material {
	return boundary.Material{Algorithm: k.Algorithm, Bits: k.Bits, Curve: k.Curve}
}

func versionMaterial(v registry.Version) boundary.Material {
	return boundary.Material{Algorithm: v.Algorithm, Bits: v.Bits, Curve: v.Curve}
}

func specOf(v registry.Version) boundary.Spec {
	return boundary.Spec{Key: v.Key, KID: v.KID, Material: versionMaterial(v)}
}
