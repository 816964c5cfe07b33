package hsm

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1" // #nosec G505 -- an OAEP padding that must not open
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"math/big"

	"github.com/miekg/pkcs11"

	"keyd/internal/boundary"
)

// mode is how a token opens envelopes, learned by opening some.
type mode struct {
	level     boundary.Level
	mechanism *pkcs11.Mechanism
	// badPadding are the codes with which the token says that a padding is
	// wrong. Every other one is a fault of the device.
	badPadding map[pkcs11.Error]bool
	// vague: one of these codes also stands for faults of the device, so after
	// every envelope that did not open the token is asked whether it is well.
	vague bool
	// sturdy: a session goes on after a bad padding.
	sturdy bool
}

// bad reports whether an error of the token is about the padding.
func (m *mode) bad(err error) bool {
	code, ok := errors.AsType[pkcs11.Error](err)
	return ok && m.badPadding[code]
}

// newMode knows the codes that say nothing but that the input is wrong
// (PKCS #11 v2.40 §5.1.6).
func newMode(level boundary.Level, mechanism *pkcs11.Mechanism) mode {
	return mode{level: level, mechanism: mechanism, badPadding: map[pkcs11.Error]bool{
		pkcs11.CKR_ENCRYPTED_DATA_INVALID: true, pkcs11.CKR_ENCRYPTED_DATA_LEN_RANGE: true,
	}}
}

func oaep256() *pkcs11.Mechanism {
	return pkcs11.NewMechanism(pkcs11.CKM_RSA_PKCS_OAEP,
		pkcs11.NewOAEPParams(pkcs11.CKM_SHA256, pkcs11.CKG_MGF1_SHA256, pkcs11.CKZ_DATA_SPECIFIED, nil))
}

func rawRSA() *pkcs11.Mechanism { return pkcs11.NewMechanism(pkcs11.CKM_RSA_X_509, nil) }

// learn finds the best level at which the token opens envelopes, with a key
// pair that lives no longer than its session.
func (t *Token) learn(ctx context.Context) error {
	found, err := run(ctx, t, t.manage, "probe", func(u *use) (mode, error) { return t.probe(u.session) }, nil)
	if err != nil {
		return fmt.Errorf("finding out what token %s can do: %w", t.slot, err)
	}
	if !found.level.AtLeast(t.cfg.MinBoundary) {
		return fmt.Errorf("token %s opens envelopes at the level %s, and the config wants %s or better: %w",
			t.slot, found.level, t.cfg.MinBoundary, boundary.ErrUnsupported)
	}
	t.mode = found
	return nil
}

func (t *Token) probe(s pkcs11.SessionHandle) (_ mode, err error) {
	public, private, err := t.generatePair(s, template{bits: 2048, name: name{label: t.prefix() + "probe"}})
	if err != nil {
		return mode{}, fmt.Errorf("making a throw-away key: %w", err)
	}
	defer func() {
		for _, o := range []pkcs11.ObjectHandle{private, public} {
			if e := t.module.ctx.DestroyObject(s, o); e != nil {
				err = errors.Join(err, fmt.Errorf("removing the throw-away key: %w", meaning("C_DestroyObject", e)))
			}
		}
	}()
	o, err := t.read(s, private)
	if err != nil {
		return mode{}, err
	}
	if o.public == nil {
		return mode{}, fmt.Errorf("the throw-away key has no public half: %w", boundary.ErrUnsupported)
	}
	p := prober{token: t, key: o}
	unwrap, unwrapErr := p.unwrap()
	if unwrapErr == nil {
		return unwrap, nil
	}
	raw, rawErr := p.raw()
	if rawErr == nil {
		t.log.Info("the token does not remove OAEP padding with SHA-256; keyd does", "err", unwrapErr)
		return raw, nil
	}
	return mode{}, fmt.Errorf("it opens envelopes at no level: unwrap: %w; raw: %w", unwrapErr, rawErr)
}

// prober tries mechanisms with a throw-away key.
type prober struct {
	token *Token
	key   object
}

// decrypt is one operation in a session of its own: what an earlier one left
// behind must not matter.
func (p prober) decrypt(m *pkcs11.Mechanism, block []byte) ([]byte, error) {
	s, err := p.token.openSession(p.token.pool)
	if err != nil {
		return nil, err
	}
	defer p.token.closeSession(s)
	return p.token.decrypt(s, m, p.key.handle, block)
}

// unwrap tries C_Decrypt with OAEP, SHA-256 and MGF1-SHA-256.
func (p prober) unwrap() (mode, error) {
	m := newMode(boundary.Unwrap, oaep256())
	cek, wrapped, err := p.wrapped()
	if err != nil {
		return mode{}, err
	}
	got, err := p.decrypt(m.mechanism, wrapped)
	if err != nil {
		return mode{}, err
	}
	defer clear(got)
	if subtle.ConstantTimeCompare(got, cek) != 1 {
		return mode{}, fmt.Errorf("the token opened its throw-away key's envelope to something else: %w", boundary.ErrUnsupported)
	}
	return p.refusals(m, wrapped)
}

// refusals learns how the token says that a padding is wrong.
func (p prober) refusals(m mode, good []byte) (mode, error) {
	s, err := p.token.openSession(p.token.pool)
	if err != nil {
		return mode{}, err
	}
	defer func() { p.token.closeSession(s) }()
	bad, err := p.badlyWrapped()
	if err != nil {
		return mode{}, err
	}
	m.sturdy = true
	for _, block := range bad {
		got, err := p.token.decrypt(s, m.mechanism, p.key.handle, block)
		code, isCode := errors.AsType[pkcs11.Error](err)
		switch {
		case err == nil:
			clear(got)
			return mode{}, fmt.Errorf("the token took a wrong padding for a right one: %w", boundary.ErrUnsupported)
		case !isCode:
			return mode{}, err
		}
		m.badPadding[code] = true
		m.vague = m.vague || !is(code, pkcs11.CKR_ENCRYPTED_DATA_INVALID, pkcs11.CKR_ENCRYPTED_DATA_LEN_RANGE)
		if got, err = p.token.decrypt(s, m.mechanism, p.key.handle, good); err == nil {
			clear(got)
			continue
		}
		m.sturdy = false
		p.token.closeSession(s)
		if s, err = p.token.openSession(p.token.pool); err != nil {
			return mode{}, err
		}
	}
	return m, nil
}

// raw tries C_Decrypt without a padding.
func (p prober) raw() (mode, error) {
	m := newMode(boundary.Raw, rawRSA())
	m.badPadding = nil // the token sees none
	cek, wrapped, err := p.wrapped()
	if err != nil {
		return mode{}, err
	}
	em, err := p.decrypt(m.mechanism, wrapped)
	if err != nil {
		return mode{}, err
	}
	defer clear(em)
	got := make([]byte, len(cek))
	defer clear(got)
	if boundary.RemoveOAEP256(em, got)&subtle.ConstantTimeCompare(got, cek) != 1 {
		return mode{}, fmt.Errorf("the token's bare RSA operation gives something else: %w", boundary.ErrUnsupported)
	}
	return m, nil
}

// wrapped makes a content key and encrypts it as a partner would.
func (p prober) wrapped() (cek, wrapped []byte, err error) {
	cek = make([]byte, 32)
	rand.Read(cek)
	wrapped, err = rsa.EncryptOAEP(sha256.New(), rand.Reader, p.key.public, cek, nil)
	return cek, wrapped, err
}

// badlyWrapped makes what a token must refuse: a block that decrypts to noise,
// OAEP with another hash and with another label.
func (p prober) badlyWrapped() ([][]byte, error) {
	cek := make([]byte, 32)
	noise, err := rand.Int(rand.Reader, new(big.Int).Rsh(p.key.public.N, 1))
	if err != nil {
		return nil, err
	}
	otherHash, err1 := rsa.EncryptOAEP(sha1.New(), rand.Reader, p.key.public, cek, nil) // #nosec G401 -- see above
	otherLabel, err2 := rsa.EncryptOAEP(sha256.New(), rand.Reader, p.key.public, cek, []byte("x"))
	return [][]byte{noise.FillBytes(make([]byte, p.key.public.Size())), otherHash, otherLabel}, errors.Join(err1, err2)
}
