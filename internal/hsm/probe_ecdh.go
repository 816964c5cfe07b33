package hsm

import (
	"crypto/ecdh"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"

	"keyd/internal/boundary"
)

// ecdh tries to agree and to open, with a key on P-256. Whether a token has the
// other curves is seen when a key is made.
func (p *prober) ecdh(u *use, m *mode) error {
	k := template{material: boundary.Material{Algorithm: boundary.ECDHES, Curve: boundary.Curves[0]}, uses: purpose{derive: true}}
	return p.throwAway(u, k, func(private, public object) error {
		private.uses = purpose{derive: true} // what the token says of it, it shows
		k := keyOf(private)
		g, err := p.agreement(k, public.point)
		if err != nil {
			return err
		}
		for _, alg := range []string{boundary.ECDHES, boundary.ECDHESA128KW, boundary.ECDHESA256KW} {
			if err := p.ecdhAlg(u, m, k, g, public.point, alg); err != nil {
				return err
			}
		}
		return nil
	})
}

// agreement finds how the token wants to be asked: some want the point in DER,
// some the length of what is to come out.
func (p *prober) agreement(k *key, point *ecdh.PublicKey) (agreement, error) {
	env, err := boundary.Seal(point, boundary.ECDHES, boundary.A256GCM, nil, nil)
	if err != nil {
		return agreement{}, err
	}
	var errs []error
	for _, wanted := range []secret{{derive: true}, {derive: true, open: true}} {
		for _, g := range []agreement{{}, {sized: true}, {der: true}, {der: true, sized: true}} {
			err := p.session(func(u *use) error {
				_, err := g.agree(p.token, u, k, env, wanted)
				return err
			})
			if err == nil {
				return g, nil
			}
			errs = append(errs, err)
		}
	}
	return agreement{}, errors.Join(errs[0], errs[len(errs)-1])
}

// ecdhAlg finds the ways to open envelopes of one alg. Unless every one is asked
// for, two of them at most: the deepest, and where that is for GCM only, the next.
func (p *prober) ecdhAlg(u *use, m *mode, k *key, g agreement, point *ecdh.PublicKey, alg string) error {
	tr, err := ecdhTrial(point, alg)
	if err != nil {
		return err
	}
	for _, w := range p.ecdhWays(g) {
		err := p.kept(w, k, tr.good[boundary.A256GCM])
		if err == nil {
			err = p.try(w, k, tr)
		}
		if err != nil {
			if err := p.lacks(u, fmt.Sprintf("%s at %s", alg, w.level), err); err != nil {
				return err
			}
			continue
		}
		if ways := m.ways[alg]; len(ways) == 0 || ways[len(ways)-1].level != w.level {
			m.ways[alg] = append(ways, w)
		}
		if !w.gcm && !p.every {
			return nil
		}
	}
	return nil
}

func (p *prober) ecdhWays(g agreement) []*way {
	var ways []*way
	needs := purpose{derive: true}
	if p.content != nil {
		for _, sp800 := range []bool{true, false} {
			ways = append(ways, &way{opener: &sealedECDH{agreement: g, sp800: sp800, wrap: newRefusals(), content: p.content},
				level: boundary.Sealed, needs: needs, gcm: true})
		}
	}
	return append(ways, &way{opener: &digestECDH{g}, level: boundary.Unwrap, needs: needs}, &way{opener: &rawECDH{g}, level: boundary.Raw, needs: needs})
}

// kept tries to read what a way is to keep in the token.
func (p *prober) kept(w *way, k *key, env *boundary.Envelope) error {
	if w.level == boundary.Raw {
		return nil
	}
	return p.session(func(u *use) error {
		if _, err := w.ask(p.token, u, k, env); err != nil {
			return err
		}
		for _, object := range u.left {
			if err := p.unreadable(u, object); err != nil {
				return err
			}
		}
		return nil
	})
}

// ecdhTrial makes what opens - one of them from a shared secret that begins with
// a zero, which some tokens drop - and what must not.
func ecdhTrial(point *ecdh.PublicKey, alg string) (trial, error) {
	tr := trial{good: map[string]*boundary.Envelope{}}
	for _, enc := range []string{boundary.A128GCM, boundary.A192GCM, boundary.A256GCM} {
		env, err := boundary.Seal(point, alg, enc, trialPlaintext, []byte("header"))
		if err != nil {
			return tr, err
		}
		tr.good[enc] = env
	}
	short, err := shortSecret(point)
	if err != nil {
		return tr, err
	}
	if tr.good["a secret that begins with a zero"], err = boundary.SealFrom(short, point, alg, boundary.A256GCM, trialPlaintext, []byte("header")); err != nil {
		return tr, err
	}
	good := tr.good[boundary.A256GCM]
	tr.bad = tampered(good)
	other := *good
	other.EPK = short.PublicKey()
	tr.bad["another ephemeral key"] = &other
	if alg != boundary.ECDHES {
		maps.Copy(tr.bad, wronglyWrapped(good))
	}
	return tr, nil
}

// wronglyWrapped changes the wrapped content key.
func wronglyWrapped(good *boundary.Envelope) map[string]*boundary.Envelope {
	first, noise := *good, *good
	first.EncryptedKey, noise.EncryptedKey = append([]byte(nil), good.EncryptedKey...), make([]byte, len(good.EncryptedKey))
	first.EncryptedKey[0] ^= 1
	rand.Read(noise.EncryptedKey)
	return map[string]*boundary.Envelope{"a wrapped key with a bit flipped": &first, "a wrapped key of noise": &noise}
}

// shortSecret finds an ephemeral key with which the shared secret begins with a
// zero: one in 256 does.
func shortSecret(point *ecdh.PublicKey) (*ecdh.PrivateKey, error) {
	for {
		ephemeral, err := point.Curve().GenerateKey(rand.Reader)
		if err != nil {
			return nil, err
		}
		z, err := ephemeral.ECDH(point)
		if err != nil {
			return nil, err
		}
		zero := z[0] == 0
		clear(z)
		if zero {
			return ephemeral, nil
		}
	}
}
