package hsm

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"keyd/internal/boundary"
)

// signing is how a token signs with PS256 (RFC 7518 §3.5).
type signing struct {
	// pss: the token encodes the digest itself. Else the host does, and the token
	// does the bare RSA operation.
	pss bool
}

// level: there is no content key to be seen. At raw the token would put the
// private key to whatever block it is given.
func (s *signing) level() boundary.Level {
	if s.pss {
		return boundary.Sealed
	}
	return boundary.Raw
}

var errSignature = errors.New("the token's signature is not good")

// sign signs a digest. What comes out is verified before it leaves: a fault in
// RSA with the Chinese remainder theorem gives the private key away.
func (s *signing) sign(t *Token, u *use, k *key, digest []byte) ([]byte, error) {
	block := digest
	if !s.pss {
		block = encodePSS(digest, k.rsa.N.BitLen()-1)
	}
	signature, err := t.module.calls.sign(u.session, s.pss, k.object, block, k.rsa.Size())
	if err != nil {
		return nil, err
	}
	if err := rsa.VerifyPSS(k.rsa, crypto.SHA256, digest, signature, &rsa.PSSOptions{SaltLength: sha256.Size, Hash: crypto.SHA256}); err != nil {
		return nil, fmt.Errorf("%w: %w", errSignature, boundary.ErrUnavailable)
	}
	return signature, nil
}

// Sign makes an RSASSA-PSS signature with SHA-256 and a salt of 32 bytes over a
// SHA-256 digest.
func (t *Token) Sign(ctx context.Context, handle string, digest []byte) ([]byte, error) {
	signature, err := t.sign(ctx, handle, digest)
	if err != nil {
		return nil, fmt.Errorf("signing: %w", err)
	}
	return signature, nil
}

func (t *Token) sign(ctx context.Context, handle string, digest []byte) ([]byte, error) {
	if len(digest) != sha256.Size {
		return nil, fmt.Errorf("a digest of %d bytes: %w", len(digest), boundary.ErrUnsupported)
	}
	k, err := t.keys.get(handle)
	if err != nil {
		return nil, err
	}
	how := t.mode.Load().signing
	switch {
	case how == nil || k.rsa == nil:
		return nil, fmt.Errorf("%s with this key and token: %w", boundary.PS256, boundary.ErrUnsupported)
	case !k.uses.sign || k.uses.decrypt || k.uses.unwrap:
		// NIST SP 800-57 part 1 rev. 5 §5.2: one key, one use.
		return nil, fmt.Errorf("the key is not one that only signs: %w", boundary.ErrUnsupported)
	case !how.level().AtLeast(t.cfg.MinBoundary):
		return nil, fmt.Errorf("%w: the token signs at %q, and the backend's min_boundary is %s", boundary.ErrBelowFloor, how.level(), t.cfg.MinBoundary)
	}
	return run(ctx, t, t.pool, "sign", func(u *use) ([]byte, error) {
		k, err := t.keys.get(handle)
		if err != nil {
			return nil, err
		}
		signature, err := how.sign(t, u, k, digest)
		if errors.Is(err, boundary.ErrNoKey) {
			if k, err = t.again(u.session, handle, k, err); err == nil {
				return how.sign(t, u, k, digest)
			}
		}
		return signature, err
	}, nil)
}

// encodePSS is EMSA-PSS-ENCODE of RFC 8017 §9.1.1 with SHA-256, MGF1-SHA-256 and
// a salt of 32 bytes, for a digest that is there already. The block has as many
// bytes as the modulus, and emBits significant bits.
func encodePSS(digest []byte, emBits int) []byte {
	const size = sha256.Size
	em := make([]byte, (emBits+7)/8)
	salt := make([]byte, size)
	rand.Read(salt)
	h := sha256.New()
	h.Write(make([]byte, 8))
	h.Write(digest)
	h.Write(salt)
	db, hash := em[:len(em)-size-1], em[len(em)-size-1:len(em)-1]
	h.Sum(hash[:0])
	db[len(db)-size-1] = 0x01
	copy(db[len(db)-size:], salt)
	mask := make([]byte, 0, len(db)+size)
	for counter := uint32(0); len(mask) < len(db); counter++ {
		h.Reset()
		h.Write(hash)
		h.Write(binary.BigEndian.AppendUint32(nil, counter))
		mask = h.Sum(mask)
	}
	for i := range db {
		db[i] ^= mask[i]
	}
	em[0] &= 0xFF >> (8*len(em) - emBits)
	em[len(em)-1] = 0xBC
	return em
}

// signs tries to sign: with PSS in the token, or on the host.
func (p *prober) signs(u *use, m *mode, k *key) error {
	digest := make([]byte, sha256.Size)
	rand.Read(digest)
	for _, how := range []*signing{{pss: true}, {}} {
		err := p.session(func(u *use) error {
			_, err := how.sign(p.token, u, k, digest)
			return err
		})
		if err == nil {
			m.signing = how
			return nil
		}
		if err := p.lacks(u, map[bool]string{true: "PSS with SHA-256", false: "bare RSA signatures"}[how.pss], err); err != nil {
			return err
		}
	}
	return nil
}
