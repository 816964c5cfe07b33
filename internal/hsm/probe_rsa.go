package hsm

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1" // #nosec G505 -- an OAEP padding that must not open
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"maps"
	"math/big"

	"keyd/internal/boundary"
)

// rsa tries everything that is done with an RSA key, with one key for all of it,
// or where the token has none that may do everything, one after the other.
func (p *prober) rsa(u *use, m *mode) error {
	all := purpose{decrypt: true, unwrap: true, sign: true}
	err := p.rsaKey(u, m, all)
	if err == nil {
		return p.onlySigns(u, m)
	}
	if !inTemplate(err) {
		return err
	}
	for _, uses := range []purpose{{unwrap: true}, {decrypt: true}, {sign: true}} {
		if err := p.rsaKey(u, m, uses); err != nil && !inTemplate(err) {
			return err
		}
	}
	if len(m.ways[boundary.RSAOAEP256]) == 0 && m.signing == nil {
		return err
	}
	return nil
}

// onlySigns looks whether a token that does not take every template makes keys
// that sign and do nothing else (NIST SP 800-57 part 1 rev. 5 §5.2). tpm2-pkcs11
// does not.
func (p *prober) onlySigns(u *use, m *mode) error {
	if m.signing == nil || !p.picky && p.token.taken[0].Load() == 0 {
		return nil
	}
	k := template{material: boundary.Material{Algorithm: boundary.PS256, Bits: boundary.RSABits[0]}, uses: purpose{sign: true}}
	return p.throwAway(u, k, func(private, _ object) error {
		if private.algorithm() != boundary.PS256 {
			m.signing = nil
			p.missing = append(p.missing, fmt.Errorf("keys that only sign: %w", boundary.ErrUnsupported))
		}
		return nil
	})
}

func (p *prober) rsaKey(u *use, m *mode, uses purpose) error {
	k := template{material: boundary.Material{Algorithm: boundary.RSAOAEP256, Bits: boundary.RSABits[0]}, uses: uses}
	return p.throwAway(u, k, func(private, _ object) error {
		private.uses = uses // what the token says of it, it shows
		if uses.unwrap && p.content != nil {
			if err := p.rsaSealed(u, m, keyOf(private)); err != nil {
				return err
			}
		}
		if uses.decrypt {
			if err := p.rsaBare(u, m, keyOf(private)); err != nil {
				return err
			}
		}
		if uses.sign {
			return p.signs(u, m, keyOf(private))
		}
		return nil
	})
}

func (p *prober) rsaSealed(u *use, m *mode, k *key) error {
	opener := &sealedRSA{padding: newRefusals(), content: p.content}
	w := &way{opener: opener, level: boundary.Sealed, needs: purpose{unwrap: true}, gcm: true}
	tr, err := rsaTrial(k.rsa)
	if err != nil {
		return err
	}
	maps.Copy(tr.bad, tampered(tr.good[boundary.A256GCM]))
	err = p.session(func(u *use) error {
		cek, err := p.token.module.calls.unwrap(u.session, true, k.object, tr.good[boundary.A256GCM].EncryptedKey, contentKey())
		if err != nil {
			return err
		}
		u.leave(cek)
		return p.unreadable(u, cek)
	})
	if err == nil {
		err = p.try(w, k, tr)
	}
	if err != nil {
		return p.lacks(u, "unwrapping a content key into the token", err)
	}
	m.ways[boundary.RSAOAEP256] = append(m.ways[boundary.RSAOAEP256], w)
	return nil
}

// rsaBare finds how the token gives out a content key: without its padding, or
// else (or too) with it.
func (p *prober) rsaBare(u *use, m *mode, k *key) error {
	tr, err := rsaTrial(k.rsa)
	if err != nil {
		return err
	}
	for _, w := range []*way{
		{opener: &bareRSA{oaep: true, padding: newRefusals()}, level: boundary.Unwrap, needs: purpose{decrypt: true}},
		{opener: &bareRSA{}, level: boundary.Raw, needs: purpose{decrypt: true}},
	} {
		err := p.try(w, k, tr)
		if err == nil {
			m.ways[boundary.RSAOAEP256] = append(m.ways[boundary.RSAOAEP256], w)
			if p.every {
				continue
			}
			return nil
		}
		if err := p.lacks(u, map[boundary.Level]string{boundary.Unwrap: "removing OAEP with SHA-256", boundary.Raw: "bare RSA"}[w.level], err); err != nil {
			return err
		}
	}
	return nil
}

// rsaTrial makes what opens, and what a token must refuse: a block that decrypts
// to noise, OAEP with another hash and with another label, and content keys that
// would be right if the token cut them or filled them up.
func rsaTrial(pub *rsa.PublicKey) (trial, error) {
	tr := trial{good: map[string]*boundary.Envelope{}, bad: map[string]*boundary.Envelope{}}
	for _, enc := range []string{boundary.A128GCM, boundary.A192GCM, boundary.A256GCM} {
		env, err := boundary.Seal(pub, boundary.RSAOAEP256, enc, trialPlaintext, []byte("header"))
		if err != nil {
			return tr, err
		}
		tr.good[enc] = env
	}
	cek := make([]byte, 32)
	rand.Read(cek)
	noise, err := rand.Int(rand.Reader, new(big.Int).Rsh(pub.N, 1))
	if err != nil {
		return tr, err
	}
	err = errors.Join(
		tr.wrong("noise", cek, func() ([]byte, error) { return noise.FillBytes(make([]byte, pub.Size())), nil }),
		tr.wrong("OAEP with SHA-1", cek, oaepOf(sha1.New(), pub, cek, nil)), // #nosec G401 -- see above
		tr.wrong("OAEP with a label", cek, oaepOf(sha256.New(), pub, cek, []byte("x"))),
	)
	for _, length := range []int{0, 1, 16, 24, 31, 33, 64} {
		longer := make([]byte, max(length, 32))
		rand.Read(longer[:length]) // a shorter one is filled up with zeros
		err = errors.Join(err, tr.wrong(fmt.Sprintf("a content key of %d bytes", length), longer[:32], oaepOf(sha256.New(), pub, longer[:length], nil)))
	}
	return tr, err
}

// wrong adds an envelope whose content is under cek, and whose encrypted key is
// something else.
func (tr trial) wrong(what string, cek []byte, encrypted func() ([]byte, error)) error {
	key, err := encrypted()
	env := &boundary.Envelope{Alg: boundary.RSAOAEP256, Enc: boundary.A256GCM, EncryptedKey: key, AAD: []byte("header")}
	tr.bad[what] = env
	return errors.Join(err, env.SealContent(cek, trialPlaintext))
}

func oaepOf(h hash.Hash, pub *rsa.PublicKey, cek, label []byte) func() ([]byte, error) {
	return func() ([]byte, error) { return rsa.EncryptOAEP(h, rand.Reader, pub, cek, label) }
}
