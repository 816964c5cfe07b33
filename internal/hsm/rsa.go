package hsm

import (
	"math/big"
	"time"

	"keyd/internal/boundary"
)

// sound reports whether an encrypted key is one that a partner can have made:
// as long as the modulus, and a number strictly between 1 and n-1 (NIST SP
// 800-56B rev. 2 §7.1.2.1). The three others are their own inverse, so none has
// a right padding, and tokens answer them in different ways. Encrypted key and
// modulus are both public, so nothing secret shows in the time this takes.
func sound(encrypted []byte, k *key) bool {
	if len(encrypted) != k.rsa.Size() {
		return false
	}
	one := big.NewInt(1)
	c := new(big.Int).SetBytes(encrypted)
	return c.Cmp(one) > 0 && c.Cmp(new(big.Int).Sub(k.rsa.N, one)) < 0
}

// sealedRSA: C_UnwrapKey with OAEP into a key of the session, and the content
// under it, all in the token.
type sealedRSA struct {
	padding *refusals
	content *content
}

func (w *sealedRSA) ask(t *Token, u *use, k *key, env *boundary.Envelope) (a answer, err error) {
	start := time.Now()
	cek, err := t.module.calls.unwrap(u.session, true, k.object, env.EncryptedKey, contentKey())
	switch {
	case err == nil:
		u.leave(cek)
	case w.padding.mean(err):
		cek = 0
	default:
		return answer{}, err
	}
	a.block, a.ok, err = w.content.open(t, u, cek, env)
	a.inToken = time.Since(start)
	return a, err
}

func (w *sealedRSA) finish(_ *boundary.Envelope, a answer) ([]byte, error) { return opened(a) }
func (w *sealedRSA) refusals() []*refusals                                 { return []*refusals{w.padding, w.content.tag} }

// opened is what is left to do where the token has opened the envelope.
func opened(a answer) ([]byte, error) {
	if !a.ok {
		return nil, boundary.ErrOpen
	}
	return a.block, nil
}

// bareRSA: C_Decrypt gives out the content key (unwrap) or, without a padding,
// what is still encoded (raw).
type bareRSA struct {
	oaep    bool
	padding *refusals
}

func (w *bareRSA) ask(t *Token, u *use, k *key, env *boundary.Envelope) (answer, error) {
	start := time.Now()
	block, err := t.module.calls.decryptRSA(u.session, w.oaep, k.object, env.EncryptedKey)
	a := answer{block: block, ok: err == nil, inToken: time.Since(start)}
	if w.oaep && w.padding.mean(err) {
		err = nil
	}
	return a, err
}

func (w *bareRSA) finish(env *boundary.Envelope, a answer) ([]byte, error) {
	defer clear(a.block)
	switch {
	case !a.ok:
		return boundary.OpenWithCEK(env, nil, 0)
	case w.oaep:
		return boundary.OpenWithCEK(env, a.block, 1)
	}
	return boundary.OpenRaw(env, a.block)
}

func (w *bareRSA) refusals() []*refusals {
	if !w.oaep {
		return nil // the token sees no padding
	}
	return []*refusals{w.padding}
}
