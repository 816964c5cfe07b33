package exchange

import (
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

	"keyd/internal/boundary"
	"keyd/internal/jwe"
)

// secret is what opens the reply of one exchange. It is used by one at a time.
type secret interface {
	// open opens an envelope in compact serialization of at most max bytes. One
	// that is refused in plain sight has one of the errors of package jwe.
	open(ctx context.Context, compact []byte, max int) (*boundary.Opened, error)
	forget(ctx context.Context) error
}

// contentKey is the content key of a request, wherever it is held.
type contentKey struct {
	holder   Holder
	ref, enc string
}

func (s contentKey) open(ctx context.Context, compact []byte, max int) (*boundary.Opened, error) {
	msg, err := jwe.ParseDirect(compact, s.enc, max)
	if err != nil {
		return nil, err
	}
	return s.holder.OpenHeld(ctx, s.ref, &msg.Envelope)
}

func (s contentKey) forget(ctx context.Context) error { return s.holder.Release(ctx, s.ref) }

// memory is the Holder for partners whose backend is none.
type memory struct {
	vault *vault

	mu   sync.Mutex
	held map[string]heldKey
	last uint64
}

type heldKey struct {
	slot int
	enc  string
}

func newMemory(v *vault) *memory { return &memory{vault: v, held: map[string]heldKey{}} }

// Hold copies a content key into the vault.
func (m *memory) Hold(_ context.Context, enc string, cek []byte) (string, error) {
	if size, known := boundary.CEKLen(enc); !known || size != len(cek) {
		return "", fmt.Errorf("holding a content key of %d bytes for %+.32q: %w", len(cek), enc, boundary.ErrUnsupported)
	}
	slot, ok := m.vault.put(cek)
	if !ok {
		return "", ErrFull
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.last++
	ref := strconv.FormatUint(m.last, 10)
	m.held[ref] = heldKey{slot, enc}
	return ref, nil
}

// OpenHeld opens an envelope under a content key in the vault.
func (m *memory) OpenHeld(_ context.Context, ref string, env *boundary.Envelope) (opened *boundary.Opened, err error) {
	key, ok := m.find(ref)
	switch {
	case !ok:
		return nil, boundary.ErrNoKey
	case env.Alg != boundary.Direct || env.Enc != key.enc:
		return nil, fmt.Errorf("an envelope of alg %+.32q and enc %+.32q under a key for %s: %w", env.Alg, env.Enc, key.enc, boundary.ErrUnsupported)
	case len(env.EncryptedKey) > 0:
		return nil, boundary.ErrOpen
	}
	m.vault.use(key.slot, func(cek []byte) {
		var plaintext []byte
		if plaintext, err = boundary.OpenWithCEK(env, cek, 1); err == nil {
			opened = &boundary.Opened{Plaintext: plaintext, Level: Host}
		}
	})
	return opened, err
}

// Release wipes a content key.
func (m *memory) Release(_ context.Context, ref string) error {
	if key, ok := m.find(ref); ok {
		m.mu.Lock()
		delete(m.held, ref)
		m.mu.Unlock()
		m.vault.drop(key.slot)
	}
	return nil
}

func (m *memory) find(ref string) (heldKey, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	key, ok := m.held[ref]
	return key, ok
}

// ephemeralKey is a private key that was made for one reply.
type ephemeralKey struct {
	vault *vault
	slot  int
	curve string
	algs  []string
	encs  []string
}

// newEphemeral makes a key pair. Only its private half is secret, and only for
// as long as it takes to copy it is anywhere but in the vault.
func newEphemeral(v *vault, curve string, algs, encs []string) (secret, *ecdh.PublicKey, error) {
	on := boundary.CurveOf(curve)
	if on == nil {
		return nil, nil, fmt.Errorf("an ephemeral key on the curve %+.16q, want %s: %w", curve, strings.Join(boundary.Curves, ", "), boundary.ErrUnsupported)
	}
	private, err := on.GenerateKey(rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	raw := private.Bytes()
	defer clear(raw)
	slot, ok := v.put(raw)
	if !ok {
		return nil, nil, ErrFull
	}
	return ephemeralKey{v, slot, curve, slices.Clone(algs), slices.Clone(encs)}, private.PublicKey(), nil
}

func (s ephemeralKey) open(_ context.Context, compact []byte, max int) (opened *boundary.Opened, err error) {
	msg, err := jwe.Parse(compact, jwe.Policy{Algs: s.algs, Encs: s.encs, MaxSize: max})
	if err != nil {
		return nil, err
	}
	env := &msg.Envelope
	if !msg.Fits(boundary.Material{Algorithm: boundary.ECDHES, Curve: s.curve}) {
		return nil, boundary.ErrOpen // sealed to a key on another curve
	}
	s.vault.use(s.slot, func(raw []byte) {
		var plaintext, z []byte
		var private *ecdh.PrivateKey
		if private, err = boundary.CurveOf(s.curve).NewPrivateKey(raw); err != nil {
			return
		}
		if z, err = private.ECDH(env.EPK); err != nil {
			err = boundary.ErrOpen
			return
		}
		defer clear(z)
		if plaintext, err = boundary.OpenAgreed(env, z); err == nil {
			opened = &boundary.Opened{Plaintext: plaintext, Level: Host}
		}
	})
	return opened, err
}

func (s ephemeralKey) forget(context.Context) error {
	s.vault.drop(s.slot)
	return nil
}
