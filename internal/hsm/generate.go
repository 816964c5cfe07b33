package hsm

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"strings"

	"github.com/miekg/pkcs11"

	"keyd/internal/boundary"
)

// Generate makes a key pair that cannot be taken out. What stands under the same
// name is destroyed first: it was never announced, and may be half made. A pair
// that is not as asked is destroyed again.
func (t *Token) Generate(ctx context.Context, spec boundary.Spec) (boundary.Generated, error) {
	if err := spec.Check(); err != nil {
		return boundary.Generated{}, fmt.Errorf("generating %w", err)
	}
	m := t.mode.Load()
	level, can := m.levels()[spec.Algorithm]
	switch {
	case !can:
		return boundary.Generated{}, fmt.Errorf("generating a key for %s, which the token cannot use%s: %w", spec.Algorithm, m.narrowed[spec.Algorithm], boundary.ErrUnsupported)
	case !level.AtLeast(t.cfg.MinBoundary):
		return boundary.Generated{}, fmt.Errorf("generating a key for %s: %w: the token works at %q with it, and the backend's min_boundary is %s",
			spec.Algorithm, boundary.ErrBelowFloor, level, t.cfg.MinBoundary)
	}
	n, err := t.named(spec)
	if err != nil {
		return boundary.Generated{}, fmt.Errorf("generating a key: %w", err)
	}
	k := template{material: spec.Material, uses: m.wants(spec.Algorithm, t.cfg.MinBoundary), token: true, name: n}
	g, err := managed(ctx, t, "generate", func(ctx context.Context, u *use) (boundary.Generated, error) {
		return t.generate(ctx, u, k)
	})
	if err != nil {
		return boundary.Generated{}, fmt.Errorf("generating key %s: %w", n.label, err)
	}
	return g, nil
}

func (t *Token) generate(ctx context.Context, u *use, k template) (_ boundary.Generated, err error) {
	s := u.session
	if err := t.destroyNamed(s, k.name); err != nil {
		return boundary.Generated{}, fmt.Errorf("clearing the way: %w", err)
	}
	defer func() {
		if err == nil {
			// Whoever asked is gone: nobody would know of the key.
			err = ctx.Err()
		}
		if err != nil {
			err = errors.Join(err, t.destroyNamed(s, k.name))
		}
	}()
	_, private, err := t.generatePair(s, k)
	if err != nil {
		return boundary.Generated{}, err
	}
	o, err := t.read(s, private)
	if err != nil {
		return boundary.Generated{}, err
	}
	e, err := t.evidence(s, o)
	if err != nil {
		return boundary.Generated{}, err
	}
	public, err := t.asAsked(u, o, e, k)
	if err != nil {
		return boundary.Generated{}, fmt.Errorf("the token made something else than it was asked for: %w", err)
	}
	if err := t.learned(u, k.name, []object{o}); err != nil {
		return boundary.Generated{}, err
	}
	return boundary.Generated{Handle: k.name.handle(), Public: public, Evidence: e}, nil
}

// asAsked holds a new key pair against what was asked for, and returns its
// public half.
func (t *Token) asAsked(u *use, o object, e boundary.Evidence, k template) (crypto.PublicKey, error) {
	var errs []error
	if o.name != k.name {
		errs = append(errs, fmt.Errorf("it is named %q, not %q", o.name.handle(), k.name.handle()))
	}
	for attribute, want := range map[string]string{"CKA_SENSITIVE": "true", "CKA_EXTRACTABLE": "false", "CKA_TOKEN": "true"} {
		if got := e.Attributes[attribute]; got != want {
			errs = append(errs, fmt.Errorf("%s is %q, not %s", attribute, got, want))
		}
	}
	if !o.uses.allows(k.uses) {
		errs = append(errs, fmt.Errorf("it is not for what it was asked for: %s", strings.Join(e.Problems, "; ")))
	}
	publics, err := t.findNamed(u.session, pkcs11.CKO_PUBLIC_KEY, k.name)
	if err != nil {
		return nil, errors.Join(append(errs, err)...)
	}
	public, err := t.publicOf(u, o, publics)
	errs = append(errs, err)
	switch {
	case public == nil:
		errs = append(errs, errors.New("the private key has no whole public half"))
	case boundary.MaterialOf(k.material.Algorithm, public) != k.material || o.rsa != nil && o.rsa.E != 65537:
		errs = append(errs, fmt.Errorf("it is a key of %s", boundary.MaterialOf(k.material.Algorithm, public).Size()))
	}
	return public, errors.Join(errs...)
}

// publicOf returns a private key's public half, and holds the public key objects
// of its name against it. A private key on a curve does not carry its own (PKCS
// #11 mechanisms v2.40 §2.3.4): a public one that an envelope is sealed to must
// belong to the private one that opens it.
func (t *Token) publicOf(u *use, private object, publics []object) (crypto.PublicKey, error) {
	own := private.public()
	var others error
	for _, p := range publics {
		err := t.belongs(u, private, p)
		switch {
		case err == nil && p.point != nil:
			own = p.point
			t.points.add(p)
		case errors.Is(err, errOther):
			others = err
		case err != nil:
			return nil, err
		}
	}
	return own, others
}

var errOther = errors.New("the public key object of the same name does not belong to the private key")

// belongs reports, with errOther, that a public key object is another key's.
func (t *Token) belongs(u *use, private, public object) error {
	switch {
	case private.rsa != nil && public.rsa != nil && private.rsa.Equal(public.rsa):
		return nil
	case private.curve == nil || public.point == nil || public.curve != private.curve:
		return errOther
	}
	want := make([]byte, 16)
	rand.Read(want)
	env, err := boundary.Seal(public.point, boundary.ECDHES, boundary.A256GCM, want, nil)
	if err != nil {
		return err
	}
	k := keyOf(private)
	w, err := t.mode.Load().pick(env, k)
	if err != nil {
		return fmt.Errorf("showing that the public key belongs to the private key: %w", err)
	}
	a, err := w.ask(t, u, k, env)
	if err != nil {
		return fmt.Errorf("showing that the public key belongs to the private key: %w", err)
	}
	got, err := w.finish(env, a)
	if err != nil || subtle.ConstantTimeCompare(got, want) != 1 {
		return errors.Join(errOther, t.ready(u.session))
	}
	return nil
}

// Public reads a private key's public half from the private key in the token.
func (t *Token) Public(ctx context.Context, handle string) (crypto.PublicKey, error) {
	n, err := parseHandle(handle)
	if err != nil {
		return nil, err
	}
	pub, err := managed(ctx, t, "public", func(_ context.Context, u *use) (crypto.PublicKey, error) {
		return t.public(u, n)
	})
	if err != nil {
		return nil, fmt.Errorf("reading the public key of %s: %w", handle, err)
	}
	return pub, nil
}

func (t *Token) public(u *use, n name) (crypto.PublicKey, error) {
	// The object handles, if they are known, save searches.
	k, err := t.keys.get(n.handle())
	if err == nil {
		o, err := t.read(u.session, k.object)
		if err == nil && o.name == n && k.rsa != nil && k.rsa.Equal(o.rsa) {
			return o.rsa, nil
		}
		if err == nil && o.name == n && k.curve != nil && k.curve == o.curve {
			return t.pointOf(u, o)
		}
	}
	o, err := t.one(u, n)
	if err != nil {
		return nil, err
	}
	if o.rsa != nil {
		return o.rsa, nil
	}
	return t.pointOf(u, o)
}

// pointOf returns the public half of a private key on a curve.
func (t *Token) pointOf(u *use, private object) (crypto.PublicKey, error) {
	if !t.points.filled() {
		publics, err := t.byName(u.session, pkcs11.CKO_PUBLIC_KEY)
		if err != nil {
			return nil, err
		}
		t.points.fill(publics)
	}
	if h := t.points.get(private.name); h != 0 {
		if p, err := t.read(u.session, h); err == nil && p.name == private.name && t.belongs(u, private, p) == nil {
			return p.point, nil
		}
	}
	publics, err := t.findNamed(u.session, pkcs11.CKO_PUBLIC_KEY, private.name)
	if err != nil {
		return nil, err
	}
	public, err := t.publicOf(u, private, publics)
	if public == nil && err == nil {
		err = fmt.Errorf("the private key is there, and its public half is not: %w", boundary.ErrNoKey)
	}
	return public, err
}
