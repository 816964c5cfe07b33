package hsm

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/uuid"
	"github.com/miekg/pkcs11"

	"keyd/internal/boundary"
)

// one returns the private key under a name, and remembers it. That it is not
// there is only believed of a token that is ready.
func (t *Token) one(u *use, n name) (object, error) {
	found, err := t.findNamed(u.session, pkcs11.CKO_PRIVATE_KEY, n)
	if err := errors.Join(err, t.ready(u.session)); err != nil {
		return object{}, err
	}
	if err := t.learned(u, n, found); err != nil {
		return object{}, err
	}
	whole := slices.DeleteFunc(found, func(o object) bool { return !o.whole() })
	switch len(whole) {
	case 0:
		return object{}, boundary.ErrNoKey
	case 1:
		return whole[0], nil
	}
	return object{}, fmt.Errorf("%d private keys have this name: %w", len(whole), boundary.ErrAmbiguous)
}

// Find looks for one whole private key by kid, CKA_ID (hex), label or handle.
func (t *Token) Find(ctx context.Context, query string) (boundary.Found, error) {
	f, err := managed(ctx, t, "find", func(_ context.Context, u *use) (boundary.Found, error) { return t.findQuery(u, query) })
	if err != nil {
		return boundary.Found{}, fmt.Errorf("finding %+.120q: %w", query, err)
	}
	return f, nil
}

func (t *Token) findQuery(u *use, query string) (boundary.Found, error) {
	s := u.session
	if query == "" {
		return boundary.Found{}, boundary.ErrNoKey
	}
	names := map[name]bool{}
	note := func(objects []object, err error) error {
		for _, o := range objects {
			if o.whole() {
				names[o.name] = true
			}
		}
		return err
	}
	err := note(t.readAll(s, ofClass(pkcs11.CKO_PRIVATE_KEY), pkcs11.NewAttribute(pkcs11.CKA_LABEL, query)))
	if id := idOf(query); len(id) != 0 && err == nil {
		err = note(t.readAll(s, ofClass(pkcs11.CKO_PRIVATE_KEY), pkcs11.NewAttribute(pkcs11.CKA_ID, id)))
	}
	if n, notHandle := parseHandle(query); notHandle == nil {
		names[n] = true
	}
	if err := errors.Join(err, t.ready(s)); err != nil {
		return boundary.Found{}, err
	}
	switch len(names) {
	case 0:
		return boundary.Found{}, boundary.ErrNoKey
	case 1:
		for n := range names {
			o, err := t.one(u, n)
			if err != nil {
				return boundary.Found{}, err
			}
			publics, err := t.findNamed(s, pkcs11.CKO_PUBLIC_KEY, n)
			if err != nil {
				return boundary.Found{}, err
			}
			return t.found(u, o, publics)
		}
	}
	handles := []string{}
	for n := range names {
		handles = append(handles, n.handle())
	}
	slices.Sort(handles)
	return boundary.Found{}, fmt.Errorf("%w: %s", boundary.ErrAmbiguous, strings.Join(handles, ", "))
}

// idOf reads a CKA_ID as hex or as a UUID.
func idOf(query string) []byte {
	if id, err := uuid.Parse(query); err == nil && len(query) == 36 {
		return id[:]
	}
	id, err := hex.DecodeString(query)
	if err != nil {
		return nil
	}
	return id
}

// found describes a private key, and holds the public key objects of the same
// name against it.
func (t *Token) found(u *use, o object, publics []object) (boundary.Found, error) {
	e, err := t.evidence(u.session, o)
	if err != nil {
		return boundary.Found{}, err
	}
	f := boundary.Found{Handle: o.name.handle(), KID: o.name.kid(), Label: o.name.label,
		Managed: strings.HasPrefix(o.name.label, t.prefix()), Evidence: e}
	if !o.whole() {
		return f, nil
	}
	f.Public, err = t.publicOf(u, o, publics)
	switch {
	case errors.Is(err, errOther):
		f.Evidence.Problems = append(f.Evidence.Problems, errOther.Error())
	case errors.Is(err, boundary.ErrUnsupported):
		f.Evidence.Problems = append(f.Evidence.Problems, err.Error())
	case err != nil:
		return boundary.Found{}, err
	case f.Public == nil:
		f.Evidence.Problems = append(f.Evidence.Problems, "it has no public key object of its name, which a key on a curve needs to be known by")
	}
	return f, nil
}

// List returns every private key in the token. Keys that share a name are
// returned once, with that as a problem.
func (t *Token) List(ctx context.Context) ([]boundary.Found, error) {
	all, err := managed(ctx, t, "list", func(_ context.Context, u *use) ([]boundary.Found, error) { return t.list(u) })
	if err != nil {
		return nil, fmt.Errorf("listing the private keys in the token: %w", err)
	}
	return all, nil
}

func (t *Token) list(u *use) ([]boundary.Found, error) {
	s := u.session
	privates, err := t.byName(s, pkcs11.CKO_PRIVATE_KEY)
	if err != nil {
		return nil, err
	}
	publics, err := t.byName(s, pkcs11.CKO_PUBLIC_KEY)
	if err := errors.Join(err, t.ready(s)); err != nil {
		return nil, err
	}
	t.points.fill(publics)
	var all []boundary.Found
	delete(privates, t.probeName()) // not a key of anybody's
	for n, same := range privates {
		f, err := t.found(u, same[0], publics[n])
		if err != nil {
			return nil, err
		}
		if len(same) > 1 {
			f.Public = nil
			f.Evidence.Problems = append(f.Evidence.Problems, fmt.Sprintf("%d private keys have this name: none of them is used", len(same)))
		}
		if err := t.learned(u, n, same); err != nil {
			return nil, err
		}
		all = append(all, f)
	}
	slices.SortFunc(all, func(a, b boundary.Found) int { return strings.Compare(a.Handle, b.Handle) })
	return all, nil
}

// byName reads every object of a class.
func (t *Token) byName(s pkcs11.SessionHandle, class uint) (map[name][]object, error) {
	objects, err := t.readAll(s, ofClass(class))
	if err != nil {
		return nil, err
	}
	names := map[name][]object{}
	for _, o := range objects {
		names[o.name] = append(names[o.name], o)
	}
	return names, nil
}
