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
func (t *Token) one(s pkcs11.SessionHandle, n name) (object, error) {
	found, err := t.findNamed(s, pkcs11.CKO_PRIVATE_KEY, n)
	if err := errors.Join(err, t.ready(s)); err != nil {
		return object{}, err
	}
	t.keys.put(n.handle(), found)
	whole := slices.DeleteFunc(found, func(o object) bool { return o.public == nil })
	switch len(whole) {
	case 0:
		return object{}, boundary.ErrNoKey
	case 1:
		return whole[0], nil
	}
	return object{}, fmt.Errorf("%d private keys have this name: %w", len(whole), boundary.ErrAmbiguous)
}

// Discard destroys whatever stands under a spec's name, whole or not.
func (t *Token) Discard(ctx context.Context, spec boundary.Spec) error {
	n, err := t.named(spec)
	if err != nil {
		return fmt.Errorf("discarding a key: %w", err)
	}
	_, err = run(ctx, t, t.manage, "discard", func(u *use) (struct{}, error) {
		return struct{}{}, t.destroyNamed(u.session, n)
	}, nil)
	if err != nil {
		return fmt.Errorf("discarding key %s: %w", n.label, err)
	}
	return nil
}

// Destroy destroys a key pair and reports that it is gone. A key that is not
// there is gone - if the token is.
func (t *Token) Destroy(ctx context.Context, handle string) (gone bool, err error) {
	n, err := parseHandle(handle)
	if err != nil {
		return false, err
	}
	_, err = run(ctx, t, t.manage, "destroy", func(u *use) (struct{}, error) {
		if !strings.HasPrefix(n.label, t.prefix()) {
			// An adopted key: its name is not keyd's, so another may share it.
			if _, err := t.one(u.session, n); errors.Is(err, boundary.ErrAmbiguous) {
				return struct{}{}, err
			}
		}
		return struct{}{}, t.destroyNamed(u.session, n)
	}, nil)
	if err != nil {
		return false, fmt.Errorf("destroying key %s: %w", handle, err)
	}
	return true, nil
}

// destroyNamed destroys every key object under a name, the private ones first,
// and looks that none is left.
func (t *Token) destroyNamed(s pkcs11.SessionHandle, n name) error {
	t.keys.put(n.handle(), nil)
	objects, err := t.remains(s, n)
	if err != nil {
		return err
	}
	for _, h := range objects {
		if err := t.module.ctx.DestroyObject(s, h); err != nil && !is(err, pkcs11.CKR_OBJECT_HANDLE_INVALID) {
			return meaning("C_DestroyObject", err)
		}
	}
	if len(objects) != 0 {
		if objects, err = t.remains(s, n); err != nil {
			return err
		}
	}
	if len(objects) != 0 {
		return fmt.Errorf("%d objects still stand after the token destroyed them: %w", len(objects), boundary.ErrUnavailable)
	}
	return t.ready(s)
}

// remains returns the key objects under a name, private ones first. One that
// was being made when the process died may have lost its label or its CKA_ID,
// but not gained another; an object that shares only one of the two is somebody
// else's.
func (t *Token) remains(s pkcs11.SessionHandle, n name) ([]pkcs11.ObjectHandle, error) {
	var all []pkcs11.ObjectHandle
	for _, class := range []uint{pkcs11.CKO_PRIVATE_KEY, pkcs11.CKO_PUBLIC_KEY} {
		for _, attribute := range []*pkcs11.Attribute{
			pkcs11.NewAttribute(pkcs11.CKA_ID, n.id), pkcs11.NewAttribute(pkcs11.CKA_LABEL, n.label),
		} {
			if len(attribute.Value) == 0 {
				continue // it would match every nameless object
			}
			found, err := t.find(s, ofClass(class), attribute)
			if err != nil {
				return nil, err
			}
			for _, h := range found {
				has, err := t.nameOf(s, h)
				if is(err, pkcs11.CKR_OBJECT_HANDLE_INVALID) {
					continue // destroyed since
				}
				if err != nil {
					return nil, err
				}
				ours := (has.id == n.id || has.id == "") && (has.label == n.label || has.label == "")
				if ours && !slices.Contains(all, h) {
					all = append(all, h)
				}
			}
		}
	}
	return all, nil
}

// Find looks for one whole private key by kid, CKA_ID (hex), label or handle.
func (t *Token) Find(ctx context.Context, query string) (boundary.Found, error) {
	f, err := run(ctx, t, t.manage, "find", func(u *use) (boundary.Found, error) { return t.findQuery(u.session, query) }, nil)
	if err != nil {
		return boundary.Found{}, fmt.Errorf("finding %+.120q: %w", query, err)
	}
	return f, nil
}

func (t *Token) findQuery(s pkcs11.SessionHandle, query string) (boundary.Found, error) {
	if query == "" {
		return boundary.Found{}, boundary.ErrNoKey
	}
	names := map[name]bool{}
	note := func(objects []object, err error) error {
		for _, o := range objects {
			if o.public != nil {
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
			o, err := t.one(s, n)
			if err != nil {
				return boundary.Found{}, err
			}
			publics, err := t.findNamed(s, pkcs11.CKO_PUBLIC_KEY, n)
			if err != nil {
				return boundary.Found{}, err
			}
			return t.found(s, o, publics)
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
func (t *Token) found(s pkcs11.SessionHandle, o object, publics []object) (boundary.Found, error) {
	e, err := t.evidence(s, o)
	if err != nil {
		return boundary.Found{}, err
	}
	f := boundary.Found{Handle: o.name.handle(), KID: o.name.kid(), Label: o.name.label,
		Managed: strings.HasPrefix(o.name.label, t.prefix()), Evidence: e}
	if o.public != nil {
		f.Public = o.public
		if err := halvesMatch(o, publics); err != nil {
			f.Evidence.Problems = append(f.Evidence.Problems, err.Error())
		}
	}
	return f, nil
}

// List returns every private key in the token. Keys that share a name are
// returned once, with that as a problem.
func (t *Token) List(ctx context.Context) ([]boundary.Found, error) {
	all, err := run(ctx, t, t.manage, "list", func(u *use) ([]boundary.Found, error) { return t.list(u.session) }, nil)
	if err != nil {
		return nil, fmt.Errorf("listing the private keys in the token: %w", err)
	}
	return all, nil
}

func (t *Token) list(s pkcs11.SessionHandle) ([]boundary.Found, error) {
	privates, err := t.byName(s, pkcs11.CKO_PRIVATE_KEY)
	if err != nil {
		return nil, err
	}
	publics, err := t.byName(s, pkcs11.CKO_PUBLIC_KEY)
	if err := errors.Join(err, t.ready(s)); err != nil {
		return nil, err
	}
	var all []boundary.Found
	for n, same := range privates {
		f, err := t.found(s, same[0], publics[n])
		if err != nil {
			return nil, err
		}
		if len(same) > 1 {
			f.Public = nil
			f.Evidence.Problems = append(f.Evidence.Problems, fmt.Sprintf("%d private keys have this name: none of them is used", len(same)))
		}
		t.keys.put(n.handle(), same)
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
