package hsm

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/miekg/pkcs11"

	"keyd/internal/boundary"
)

// learn finds out what the token can do and how, with keys that live no longer
// than their session. It takes the place of what was known before. Some of the
// keys stay in the session that holds the login (see content), so it is done anew
// after every login.
func (t *Token) learn(ctx context.Context) error {
	_, err := run(ctx, t, t.manage, "probe", func(u *use) (struct{}, error) { return struct{}{}, t.learnIn(u) }, nil)
	if err != nil {
		return fmt.Errorf("finding out what token %s can do: %w", t.slot, err)
	}
	return nil
}

// learnIn is learn for whoever has a session.
func (t *Token) learnIn(u *use) error {
	found, err := t.probe(u)
	if err != nil {
		return err
	}
	if said, reached := found.reaches(t.cfg.MinBoundary); !reached {
		return fmt.Errorf("it does %s, and the config wants %s or better: %w", said, t.cfg.MinBoundary, boundary.ErrUnsupported)
	}
	if t.cfg.OnlyLevel != "" {
		found.narrow(t.cfg.OnlyLevel)
	}
	t.mode.Store(found)
	return nil
}

// prober tries what a token can do.
type prober struct {
	token   *Token
	content *content // nil where the token has no AES-GCM
	missing []error  // why not
	picky   bool     // the token has no keys of a session
	every   bool     // what the token does at less than its best is tried too
}

// probe tries everything. What a token cannot do is no error, unless that is
// all of it; that it is not well is.
func (t *Token) probe(u *use) (*mode, error) {
	p := &prober{token: t, every: t.cfg.OnlyLevel != ""}
	m := &mode{ways: map[string][]*way{}}
	for _, part := range []struct {
		what string
		try  func(*use, *mode) error
	}{
		{"AES keys of a session", p.aes}, {boundary.RSAOAEP256 + " and " + boundary.PS256, p.rsa}, {boundary.ECDHES, p.ecdh},
	} {
		if err := part.try(u, m); err != nil {
			err = fmt.Errorf("%s: %w", part.what, err)
			if down := p.down(u, err); down != nil {
				return nil, down
			}
			p.missing = append(p.missing, err)
		}
	}
	if len(m.ways) == 0 && m.signing == nil {
		return nil, fmt.Errorf("it can do nothing that keyd needs: %w", errors.Join(p.missing...))
	}
	if len(p.missing) > 0 {
		t.log.Info("keyd does without what the token cannot do", "missing", strings.ReplaceAll(errors.Join(p.missing...).Error(), "\n", "; "))
	}
	return m, nil
}

// down tells a token that is not well from one that cannot do something: what a
// fault of the moment has kept from working must not be taken for missing.
func (p *prober) down(u *use, err error) error {
	if is(err, ofDevice...) || errors.Is(err, errThrowAway) {
		return err
	}
	return p.token.ready(u.session)
}

// lacks notes that one way is not there, unless it is because the token is not
// well.
func (p *prober) lacks(u *use, what string, err error) error {
	if down := p.down(u, err); down != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	p.missing = append(p.missing, fmt.Errorf("%s: %w", what, err))
	return nil
}

// errThrowAway: a key that was to be thrown away is still there.
var errThrowAway = errors.New("removing a throw-away key")

// throwAway makes a key pair that lives no longer than its session, and gives it
// to f. A token that has no such keys (tpm2-pkcs11) makes one that lasts, and
// keyd destroys it.
func (p *prober) throwAway(u *use, k template, f func(private, public object) error) (err error) {
	t := p.token
	k.name = t.probeName()
	public, private, err := t.generatePair(u.session, k)
	if inTemplate(err) {
		if err := p.clearAway(u); err != nil {
			return err
		}
		k.token, p.picky = true, true
		if pub, priv, lasts := t.generatePair(u.session, k); lasts == nil {
			public, private, err = pub, priv, nil
		}
	}
	if err != nil {
		return fmt.Errorf("making a throw-away key: %w", err)
	}
	defer func() {
		for _, o := range []pkcs11.ObjectHandle{private, public} {
			e := t.module.ctx.DestroyObject(u.session, o)
			switch {
			case e == nil:
			case k.token && remedyFor(e) == look:
				// tpm2-pkcs11 takes a key that has refused something to be in use for as
				// long as the process lives. The next one clears it away.
				t.log.Warn("a throw-away key stays in the token until the module is loaded anew", "label", k.name.label, "err", meaning("C_DestroyObject", e))
			default:
				err = errors.Join(err, fmt.Errorf("%w: %w", errThrowAway, meaning("C_DestroyObject", e)))
			}
		}
	}()
	half, err1 := t.read(u.session, private)
	other, err2 := t.read(u.session, public)
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	// tpm2-pkcs11 gives out object handles twice.
	if !half.whole() || other.public() == nil || half.algorithm() == boundary.ECDHES && other.curve != half.curve {
		return fmt.Errorf("the throw-away key has no public half: %w", boundary.ErrUnsupported)
	}
	return f(half, other)
}

// clearAway destroys throw-away keys that a crash has left. Their label is no
// key's: it has no kid.
func (p *prober) clearAway(u *use) error {
	label := p.token.probeName().label
	for _, class := range []uint{pkcs11.CKO_PRIVATE_KEY, pkcs11.CKO_PUBLIC_KEY} {
		left, err := p.token.find(u.session, ofClass(class), pkcs11.NewAttribute(pkcs11.CKA_LABEL, label))
		if err != nil {
			return err
		}
		for _, o := range left {
			if n, err := p.token.nameOf(u.session, o); err != nil || n.label != label {
				continue // some modules match loosely
			}
			if err := p.token.module.ctx.DestroyObject(u.session, o); err != nil && remedyFor(err) != look { // as below
				return fmt.Errorf("%w: %w", errThrowAway, meaning("C_DestroyObject", err))
			}
		}
	}
	return nil
}

// session gives f a session of its own: what an earlier one left behind must not
// matter.
func (p *prober) session(f func(u *use) error) error {
	s, err := p.token.openSession(p.token.pool)
	if err != nil {
		return err
	}
	u := &use{session: s}
	err = f(u)
	p.token.destroyLeft(u)
	p.token.closeSession(u.session)
	return err
}

// trial is what a way must do to be used: good envelopes open, bad ones do not,
// all in one session.
type trial struct {
	good, bad map[string]*boundary.Envelope
}

// trialPlaintext is in every envelope of a trial.
var trialPlaintext = []byte("keyd tries the token")

// try finds out whether a way works, how the token refuses, and whether a session
// outlives that.
func (p *prober) try(w *way, k *key, tr trial) error {
	w.sturdy = true
	if err := p.session(func(u *use) error { return p.opens(w, k, u, tr.good) }); err != nil {
		return err
	}
	if p.picky && w.level != boundary.Sealed {
		w.assume()
		return nil
	}
	for _, r := range w.refusals() {
		r.learning = true
		defer func() { r.learning = false }()
	}
	left := slices.Sorted(maps.Keys(tr.bad))
	for len(left) > 0 {
		err := p.session(func(u *use) error {
			for first := true; len(left) > 0; first = false {
				err := p.refuses(w, k, u, tr.bad[left[0]])
				if is(err, pkcs11.CKR_OPERATION_ACTIVE) && !first {
					w.sturdy = false // another session goes on with this one
					return nil
				}
				if err != nil {
					return fmt.Errorf("%s: %w", left[0], err)
				}
				left = left[1:]
			}
			err := p.opens(w, k, u, tr.good)
			if is(err, pkcs11.CKR_OPERATION_ACTIVE) {
				w.sturdy = false
				return nil
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	for _, r := range w.refusals() {
		w.vague = w.vague || r.vague()
	}
	return nil
}

func (p *prober) opens(w *way, k *key, u *use, good map[string]*boundary.Envelope) error {
	for _, what := range slices.Sorted(maps.Keys(good)) {
		got, err := p.open(w, k, u, good[what])
		if err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		if string(got) != string(trialPlaintext) {
			return fmt.Errorf("%s opened to something else: %w", what, boundary.ErrUnsupported)
		}
	}
	return nil
}

func (p *prober) refuses(w *way, k *key, u *use, bad *boundary.Envelope) error {
	got, err := p.open(w, k, u, bad)
	switch {
	case errors.Is(err, boundary.ErrOpen):
		return nil
	case err == nil:
		clear(got)
		return fmt.Errorf("it opened: %w", boundary.ErrUnsupported)
	}
	return err
}

func (p *prober) open(w *way, k *key, u *use, env *boundary.Envelope) ([]byte, error) {
	a, err := w.ask(p.token, u, k, env)
	if err != nil {
		return nil, err
	}
	return w.finish(env, a)
}

// tampered makes envelopes of a good one that differ in what is under the tag.
func tampered(good *boundary.Envelope) map[string]*boundary.Envelope {
	bad := map[string]*boundary.Envelope{}
	for what, part := range map[string]func(*boundary.Envelope) *[]byte{
		"another tag":        func(e *boundary.Envelope) *[]byte { return &e.Tag },
		"another iv":         func(e *boundary.Envelope) *[]byte { return &e.IV },
		"another ciphertext": func(e *boundary.Envelope) *[]byte { return &e.Ciphertext },
		"another header":     func(e *boundary.Envelope) *[]byte { return &e.AAD },
	} {
		env := *good
		field := part(&env)
		*field = slices.Clone(*field)
		(*field)[len(*field)-1] ^= 1
		bad[what] = &env
	}
	return bad
}

// unreadable holds a key that is to be sealed against what the token says of it,
// and tries to read it.
func (p *prober) unreadable(u *use, object pkcs11.ObjectHandle) error {
	c := p.token.module.calls
	f, err := c.facts(u.session, object)
	if err != nil {
		return err
	}
	value, err := c.value(u.session, object, 64)
	clear(value)
	if err == nil || !f.sensitive || f.extractable {
		return fmt.Errorf("a key that was to be kept in can be taken out (CKA_SENSITIVE %t, CKA_EXTRACTABLE %t, CKA_VALUE read %t): %w",
			f.sensitive, f.extractable, err == nil, boundary.ErrUnsupported)
	}
	return nil
}
