package hsm

import (
	"fmt"
	"time"

	"github.com/miekg/pkcs11"

	"keyd/internal/boundary"
)

// CKD_SHA256_KDF_SP800 (PKCS #11 v3.0 §2.3.17) is the Concat KDF of RFC 7518
// §4.6.2; CKD_SHA256_KDF, that of X9.63, is not. The binding does not know it.
const ckdSHA256SP800 = 0x10

// agreement is C_DeriveKey with an envelope's ephemeral key, and how the token
// wants to be asked.
type agreement struct {
	der   bool // the point in a DER OCTET STRING, as CKA_EC_POINT has it
	sized bool // CKA_VALUE_LEN in the template of the shared secret
}

// agree makes the shared secret as a key of the session.
func (g agreement) agree(t *Token, u *use, k *key, env *boundary.Envelope, wanted secret) (pkcs11.ObjectHandle, error) {
	wanted.keyType = pkcs11.CKK_GENERIC_SECRET
	if g.sized {
		wanted.length = fieldBytes[k.curve]
	}
	z, err := t.module.calls.agree(u.session, k.object, pkcs11.CKD_NULL, nil, g.point(env), wanted)
	if err == nil {
		u.leave(z)
	}
	return z, err
}

func (g agreement) point(env *boundary.Envelope) []byte {
	if g.der {
		return octetString(env.EPK.Bytes())
	}
	return env.EPK.Bytes()
}

// sealedECDH: agreement, key derivation, key unwrap where there is one, and the
// content, all in the token.
type sealedECDH struct {
	agreement
	sp800   bool      // the token has the KDF; else it is put together from parts
	wrap    *refusals // of the AES key unwrap
	content *content
}

func (w *sealedECDH) ask(t *Token, u *use, k *key, env *boundary.Envelope) (a answer, err error) {
	start := time.Now()
	cek, err := w.derived(t, u, k, env)
	if err != nil {
		return answer{}, err
	}
	if env.Alg != boundary.ECDHES {
		kek := cek
		cek, err = t.module.calls.unwrap(u.session, false, kek, env.EncryptedKey, contentKey())
		switch {
		case err == nil:
			u.leave(cek)
		case w.wrap.mean(err):
			cek = 0
		default:
			return answer{}, inner(err)
		}
	}
	a.block, a.ok, err = w.content.open(t, u, cek, env)
	a.inToken = time.Since(start)
	return a, err
}

// derived makes what the key derivation yields: the content key, or the key that
// unwraps it.
func (w *sealedECDH) derived(t *Token, u *use, k *key, env *boundary.Envelope) (pkcs11.ObjectHandle, error) {
	d, err := boundary.DerivationOf(env)
	if err != nil {
		return 0, err
	}
	if d.Rounds() != 1 {
		return 0, fmt.Errorf("a derived key of %d bytes in the token: %w", d.Bytes, boundary.ErrUnsupported)
	}
	wanted := secret{keyType: pkcs11.CKK_AES, length: d.Bytes, decrypt: env.Alg == boundary.ECDHES, unwrap: env.Alg != boundary.ECDHES}
	if w.sp800 {
		key, err := t.module.calls.agree(u.session, k.object, ckdSHA256SP800, d.OtherInfo, w.point(env), wanted)
		if err == nil {
			u.leave(key)
		}
		return key, err
	}
	z, err := w.agree(t, u, k, env, secret{derive: true})
	if err != nil {
		return 0, err
	}
	return w.concat(t, u, z, d, wanted)
}

// concat is the one round of the Concat KDF from the parts that PKCS #11
// mechanisms v2.40 §2.42 and §2.43 have: number || Z || OtherInfo, then SHA-256 of
// it, of which the key takes the first bytes.
func (w *sealedECDH) concat(t *Token, u *use, z pkcs11.ObjectHandle, d boundary.Derivation, wanted secret) (pkcs11.ObjectHandle, error) {
	between := secret{keyType: pkcs11.CKK_GENERIC_SECRET, derive: true}
	key := z
	for _, step := range []struct {
		mechanism uint
		data      []byte
		wanted    secret
	}{
		{pkcs11.CKM_CONCATENATE_DATA_AND_BASE, d.Prefix(1), between},
		{pkcs11.CKM_CONCATENATE_BASE_AND_DATA, d.OtherInfo, between},
		{pkcs11.CKM_SHA256_KEY_DERIVATION, nil, wanted},
	} {
		var err error
		if key, err = t.module.calls.derive(u.session, step.mechanism, key, step.data, step.wanted); err != nil {
			return 0, inner(err)
		}
		u.leave(key)
	}
	return key, nil
}

func (w *sealedECDH) finish(_ *boundary.Envelope, a answer) ([]byte, error) { return opened(a) }
func (w *sealedECDH) refusals() []*refusals                                 { return []*refusals{w.wrap, w.content.tag} }

// digestECDH (unwrap): the shared secret stays in the token, and the rounds of
// the KDF come out.
type digestECDH struct{ agreement }

func (w *digestECDH) ask(t *Token, u *use, k *key, env *boundary.Envelope) (answer, error) {
	start := time.Now()
	d, err := boundary.DerivationOf(env)
	if err != nil {
		return answer{}, err
	}
	z, err := w.agree(t, u, k, env, secret{derive: true})
	if err != nil {
		return answer{}, err
	}
	block := make([]byte, d.Rounds()*32)
	for round := range d.Rounds() {
		if err := t.module.calls.digest(u.session, d.Prefix(round+1), z, d.OtherInfo, block[round*32:(round+1)*32]); err != nil {
			clear(block)
			return answer{}, inner(err)
		}
	}
	clear(block[d.Bytes:])
	return answer{block: block[:d.Bytes], ok: true, inToken: time.Since(start)}, nil
}

func (w *digestECDH) finish(env *boundary.Envelope, a answer) ([]byte, error) {
	defer clear(a.block)
	return boundary.OpenDerived(env, a.block)
}

func (w *digestECDH) refusals() []*refusals { return nil }

// rawECDH: the shared secret is read out.
type rawECDH struct{ agreement }

func (w *rawECDH) ask(t *Token, u *use, k *key, env *boundary.Envelope) (answer, error) {
	start := time.Now()
	z, err := w.agree(t, u, k, env, secret{open: true, derive: true})
	if err != nil {
		return answer{}, err
	}
	size := fieldBytes[k.curve]
	block, err := t.module.calls.value(u.session, z, size)
	if err != nil {
		return answer{}, inner(err)
	}
	if short := size - len(block); short > 0 {
		// SEC 1 §2.3.5: a coordinate has the field's length. Some tokens drop zeros
		// in front.
		whole := make([]byte, size)
		copy(whole[short:], block)
		clear(block)
		block = whole
	}
	return answer{block: block, ok: true, inToken: time.Since(start)}, nil
}

func (w *rawECDH) finish(env *boundary.Envelope, a answer) ([]byte, error) {
	defer clear(a.block)
	return boundary.OpenAgreed(env, a.block)
}

func (w *rawECDH) refusals() []*refusals { return nil }
