package hsm

import (
	"crypto/rand"
	"errors"

	"keyd/internal/boundary"
)

// aes makes what every way that seals needs, and tries whether the token keeps
// content keys from here.
func (p *prober) aes(u *use, m *mode) error {
	c, err := p.token.newContent()
	if err != nil {
		return err
	}
	p.content = c
	w := &way{opener: &heldContent{tag: newRefusals()}, level: boundary.Sealed, gcm: true}
	for _, enc := range []string{boundary.A128GCM, boundary.A192GCM, boundary.A256GCM} {
		if err := p.holds(w, enc); err != nil {
			return p.lacks(u, "keeping content keys for "+enc, err)
		}
	}
	m.held = w
	return nil
}

func (p *prober) holds(w *way, enc string) error {
	size, _ := boundary.CEKLen(enc)
	cek := make([]byte, size)
	defer clear(cek)
	rand.Read(cek)
	full, empty := &boundary.Envelope{Alg: boundary.Direct, Enc: enc, AAD: []byte("header")}, &boundary.Envelope{Alg: boundary.Direct, Enc: enc}
	if err := errors.Join(full.SealContent(cek, trialPlaintext), empty.SealContent(cek, trialPlaintext)); err != nil {
		return err
	}
	return p.session(func(u *use) error {
		object, err := p.token.module.calls.create(u.session, contentKey(), cek)
		if err != nil {
			return err
		}
		u.leave(object)
		if err := p.unreadable(u, object); err != nil {
			return err
		}
		return p.try(w, &key{object: object}, trial{good: map[string]*boundary.Envelope{enc: full, "no header": empty}, bad: tampered(full)})
	})
}
