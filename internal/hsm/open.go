package hsm

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"time"

	"github.com/miekg/pkcs11"

	"keyd/internal/boundary"
)

// Open opens an envelope with the private key under a handle. Whatever is wrong
// with the envelope is [boundary.ErrOpen].
func (t *Token) Open(ctx context.Context, handle string, env *boundary.Envelope) (*boundary.Opened, error) {
	if env.Alg != boundary.RSAOAEP256 {
		return nil, fmt.Errorf("opening an envelope with the algorithm %+.32q: %w", env.Alg, boundary.ErrUnsupported)
	}
	if _, known := boundary.CEKLen(env.Enc); !known {
		return nil, fmt.Errorf("opening an envelope with the content encryption %+.32q: %w", env.Enc, boundary.ErrUnsupported)
	}
	if err := env.CheckFloor(t.mode.level); err != nil {
		return nil, fmt.Errorf("opening an envelope: %w", err)
	}
	k, err := t.keys.get(handle)
	if err != nil {
		return nil, fmt.Errorf("opening an envelope: %w", err)
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("opening an envelope: %w", err)
	}
	a := answer{}
	if sound(env.EncryptedKey, k) {
		if a, err = t.ask(ctx, handle, env.EncryptedKey); err != nil {
			return nil, fmt.Errorf("opening an envelope: %w", err)
		}
	}
	defer clear(a.block)
	plaintext, err := t.finish(env, a)
	if err != nil {
		return nil, t.doubt(ctx, err)
	}
	return &boundary.Opened{Plaintext: plaintext, Level: t.mode.level, InToken: a.inToken}, nil
}

// sound reports whether an encrypted key is one that a partner can have made:
// as long as the modulus, and a number strictly between 1 and n-1 (NIST SP
// 800-56B rev. 2 §7.1.2.1). The three others are their own inverse, so none has
// a right padding, and tokens answer them in different ways. Encrypted key and
// modulus are both public, so nothing secret shows in the time this takes.
func sound(encrypted []byte, k *key) bool {
	if len(encrypted) != k.public.Size() {
		return false
	}
	one := big.NewInt(1)
	c := new(big.Int).SetBytes(encrypted)
	return c.Cmp(one) > 0 && c.Cmp(new(big.Int).Sub(k.public.N, one)) < 0
}

// answer is what came out of the token: a content key, or at level raw what
// still has its padding.
type answer struct {
	block   []byte
	ok      bool // false: there is nothing, and nobody outside may notice
	inToken time.Duration
}

// ask lets the token decrypt. A bad padding is not an error.
func (t *Token) ask(ctx context.Context, handle string, encrypted []byte) (answer, error) {
	return run(ctx, t, t.pool, "decrypt", func(u *use) (answer, error) {
		// What k was before the turn came may be another object now.
		k, err := t.keys.get(handle)
		if err != nil {
			return answer{}, err
		}
		start := time.Now()
		block, err := t.decrypt(u.session, t.mode.mechanism, k.object, encrypted)
		if errors.Is(err, boundary.ErrNoKey) {
			if k, err = t.again(u.session, handle, k, err); err == nil {
				block, err = t.decrypt(u.session, t.mode.mechanism, k.object, encrypted)
			}
		}
		a := answer{block: block, ok: true, inToken: time.Since(start)}
		switch {
		case err == nil:
			return a, nil
		case t.mode.bad(err):
			u.spoiled = !t.mode.sturdy
			return answer{inToken: a.inToken}, nil
		}
		return answer{}, err
	}, func(a answer) { clear(a.block) })
}

// decrypt is C_DecryptInit and C_Decrypt.
func (t *Token) decrypt(s pkcs11.SessionHandle, m *pkcs11.Mechanism, object pkcs11.ObjectHandle, block []byte) ([]byte, error) {
	if err := t.module.ctx.DecryptInit(s, []*pkcs11.Mechanism{m}, object); err != nil {
		return nil, meaning("C_DecryptInit", err)
	}
	return t.module.decrypter.decrypt(s, block)
}

// finish decrypts the content. RFC 7516 §11.5: without a content key it goes on
// with a random one.
func (t *Token) finish(env *boundary.Envelope, a answer) ([]byte, error) {
	switch {
	case !a.ok:
		return boundary.OpenWithCEK(env, nil, 0)
	case t.mode.level == boundary.Raw:
		return boundary.OpenRaw(env, a.block)
	}
	return boundary.OpenWithCEK(env, a.block, 1)
}

// doubt asks a token that has one code for a bad padding and for its own faults
// whether it is well - for every envelope that did not open, since to do it
// after bad paddings only would tell them from bad tags.
func (t *Token) doubt(ctx context.Context, err error) error {
	if !t.mode.vague || !errors.Is(err, boundary.ErrOpen) {
		return err
	}
	_, down := run(ctx, t, t.pool, "doubt", func(u *use) (struct{}, error) { return struct{}{}, t.ready(u.session) }, nil)
	if down != nil {
		return fmt.Errorf("opening an envelope: %w", down)
	}
	return err
}
