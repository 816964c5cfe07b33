package backendtest

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"fmt"
	"math/big"
	"slices"
	"time"

	"github.com/google/uuid"

	"keyd/internal/boundary"
)

// take returns a key to be used outside the lock, as in a token with several
// sessions.
func (m *Memory) take(ctx context.Context, op, handle string) (*memoryKey, error) {
	return do(ctx, m, op, func() (*memoryKey, error) {
		key := m.live(handle)
		if key == nil {
			return nil, fmt.Errorf("%s: %w", op, boundary.ErrNoKey)
		}
		if key.disabled {
			return nil, fmt.Errorf("%s: %w", op, boundary.ErrDisabled)
		}
		same := *key // Swap puts another key in its place
		return &same, nil
	})
}

// Open opens an envelope.
func (m *Memory) Open(ctx context.Context, handle string, env *boundary.Envelope) (*boundary.Opened, error) {
	key, err := m.take(ctx, "open", handle)
	if err != nil {
		return nil, err
	}
	size, known := boundary.CEKLen(env.Enc)
	if boundary.KeyAlgorithm(env.Alg) != key.material.Algorithm || !known {
		return nil, fmt.Errorf("opening an envelope with %q and %q: %w", env.Alg, env.Enc, boundary.ErrUnsupported)
	}
	if err := env.CheckFloor(m.opts.Level); err != nil {
		return nil, fmt.Errorf("opening an envelope: %w", err)
	}
	start := time.Now()
	var plaintext []byte
	if key.onCurve != nil {
		plaintext, err = openAgreed(key, env)
	} else {
		plaintext, err = m.openRSA(key.private, env, size)
	}
	if err != nil {
		return nil, err
	}
	return &boundary.Opened{Plaintext: plaintext, Level: m.opts.Level, InToken: time.Since(start)}, nil
}

func openAgreed(key *memoryKey, env *boundary.Envelope) ([]byte, error) {
	if env.EPK == nil || env.EPK.Curve() != key.onCurve.Curve() {
		return boundary.OpenDerived(env, nil)
	}
	z, err := key.onCurve.ECDH(env.EPK)
	if err != nil {
		return boundary.OpenDerived(env, nil)
	}
	return boundary.OpenAgreed(env, z)
}

func (m *Memory) openRSA(key *rsa.PrivateKey, env *boundary.Envelope, size int) ([]byte, error) {
	if m.opts.Level == boundary.Raw {
		c := new(big.Int).SetBytes(env.EncryptedKey)
		if len(env.EncryptedKey) != key.Size() || c.Cmp(key.N) >= 0 {
			return boundary.OpenWithCEK(env, nil, 0)
		}
		return boundary.OpenRaw(env, c.Exp(c, key.D, key.N).FillBytes(make([]byte, key.Size())))
	}
	cek, err := rsa.DecryptOAEP(sha256.New(), rand.Reader, key, env.EncryptedKey, nil)
	ok := 1
	if err != nil || len(env.EncryptedKey) != key.Size() || len(cek) != size {
		ok = 0
	}
	return boundary.OpenWithCEK(env, cek, ok)
}

// Sign signs a digest.
func (m *Memory) Sign(ctx context.Context, handle string, digest []byte) ([]byte, error) {
	key, err := m.take(ctx, "sign", handle)
	if err != nil {
		return nil, err
	}
	if key.material.Algorithm != boundary.PS256 || len(digest) != sha256.Size {
		return nil, fmt.Errorf("signing %d bytes with a key for %s: %w", len(digest), key.material.Algorithm, boundary.ErrUnsupported)
	}
	return rsa.SignPSS(rand.Reader, key.private, crypto.SHA256, digest, &rsa.PSSOptions{SaltLength: sha256.Size})
}

// heldKey is the content key of an exchange.
type heldKey struct {
	enc string
	cek []byte
}

// Hold takes a content key in.
func (m *Memory) Hold(ctx context.Context, enc string, cek []byte) (string, error) {
	return do(ctx, m, "hold", func() (string, error) {
		if size, known := boundary.CEKLen(enc); !known || size != len(cek) {
			return "", fmt.Errorf("holding %d bytes for %q: %w", len(cek), enc, boundary.ErrUnsupported)
		}
		ref := uuid.NewString()
		m.held[ref] = heldKey{enc, slices.Clone(cek)}
		return ref, nil
	})
}

// OpenHeld opens an envelope under a content key that is held.
func (m *Memory) OpenHeld(ctx context.Context, ref string, env *boundary.Envelope) (*boundary.Opened, error) {
	return do(ctx, m, "open-held", func() (*boundary.Opened, error) {
		key, held := m.held[ref]
		if !held {
			return nil, fmt.Errorf("opening an answer: %w", boundary.ErrNoKey)
		}
		if env.Alg != boundary.Direct || env.Enc != key.enc {
			return nil, fmt.Errorf("opening an answer with %q and %q: %w", env.Alg, env.Enc, boundary.ErrUnsupported)
		}
		if err := env.CheckFloor(m.opts.Level); err != nil {
			return nil, fmt.Errorf("opening an answer: %w", err)
		}
		ok := 1
		if len(env.EncryptedKey) != 0 {
			ok = 0
		}
		plaintext, err := boundary.OpenWithCEK(env, key.cek, ok)
		if err != nil {
			return nil, err
		}
		return &boundary.Opened{Plaintext: plaintext, Level: m.opts.Level}, nil
	})
}

// Release forgets a content key.
func (m *Memory) Release(ctx context.Context, ref string) error {
	_, err := do(ctx, m, "release", func() (struct{}, error) {
		clear(m.held[ref].cek)
		delete(m.held, ref)
		return struct{}{}, nil
	})
	return err
}

// Restart is what a token's restart is to those who use it: keys stay, what was
// held for exchanges is gone.
func (m *Memory) Restart() {
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.held)
}
