package hsm

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/miekg/pkcs11"

	"keyd/internal/boundary"
)

// Discard destroys whatever stands under a spec's name, whole or not.
func (t *Token) Discard(ctx context.Context, spec boundary.Spec) error {
	n, err := t.named(spec)
	if err != nil {
		return fmt.Errorf("discarding a key: %w", err)
	}
	_, err = managed(ctx, t, "discard", func(_ context.Context, u *use) (struct{}, error) {
		return struct{}{}, t.destroyNamed(u.session, n)
	})
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
	_, err = managed(ctx, t, "destroy", func(_ context.Context, u *use) (struct{}, error) {
		if t.made(n) {
			return struct{}{}, t.destroyNamed(u.session, n)
		}
		return struct{}{}, t.destroyAdopted(u, n)
	})
	if err != nil {
		return false, fmt.Errorf("destroying key %s: %w", handle, err)
	}
	return true, nil
}

// destroyNamed destroys every key object under a name that keyd made, the
// private ones first, and looks that none is left.
func (t *Token) destroyNamed(s pkcs11.SessionHandle, n name) error {
	return t.destroyAll(s, n, func() ([]pkcs11.ObjectHandle, error) { return t.remains(s, n) })
}

// destroyAdopted destroys a pair that somebody else made and named, and nothing
// that only resembles it.
func (t *Token) destroyAdopted(u *use, n name) error {
	return t.destroyAll(u.session, n, func() ([]pkcs11.ObjectHandle, error) { return t.pair(u, n) })
}

// destroyAll destroys what list returns. No login may come in between: the handles
// could stand for other objects then.
func (t *Token) destroyAll(s pkcs11.SessionHandle, n name, list func() ([]pkcs11.ObjectHandle, error)) error {
	t.handles.RLock()
	defer t.handles.RUnlock()
	t.keys.put(n.handle(), nil)
	objects, err := list()
	if err != nil {
		return err
	}
	for _, h := range objects {
		if err := t.module.ctx.DestroyObject(s, h); err != nil && !is(err, pkcs11.CKR_OBJECT_HANDLE_INVALID) {
			return t.inUse(meaning("C_DestroyObject", err))
		}
	}
	if len(objects) != 0 {
		if objects, err = list(); err != nil {
			return err
		}
	}
	if len(objects) != 0 {
		return fmt.Errorf("%d objects still stand after the token destroyed them: %w", len(objects), boundary.ErrUnavailable)
	}
	return t.ready(s)
}

// inUse is for tpm2-pkcs11, which takes a key that has refused an envelope to be
// in use until the module is initialised anew. Whoever destroys it tries again.
func (t *Token) inUse(err error) error {
	if remedyFor(err) == look && t.mode.Load().fragile() {
		return t.breaks(fmt.Errorf("a key that was used cannot be destroyed: %w", err))
	}
	return err
}

// remains returns the key objects under a name that keyd made, private ones
// first. One that was being made when the process died may have lost its label
// or its CKA_ID, but not gained another; an object that shares only one of the
// two is somebody else's. Nobody else's object has half of such a name: either
// half says the kid, which is drawn for one pair.
func (t *Token) remains(s pkcs11.SessionHandle, n name) ([]pkcs11.ObjectHandle, error) {
	var all []pkcs11.ObjectHandle
	for _, class := range []uint{pkcs11.CKO_PRIVATE_KEY, pkcs11.CKO_PUBLIC_KEY} {
		for _, attribute := range []*pkcs11.Attribute{
			pkcs11.NewAttribute(pkcs11.CKA_ID, n.id), pkcs11.NewAttribute(pkcs11.CKA_LABEL, n.label),
		} {
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

// pair returns the one private key of exactly this name and the public key
// objects that are shown to belong to it. The public ones come first: without
// the private key nothing would show whose they are, and a destruction that was
// interrupted could not be finished. What is left when the private key is not
// there, the name of which is anybody's, is not touched.
func (t *Token) pair(u *use, n name) ([]pkcs11.ObjectHandle, error) {
	s := u.session
	privates, err := t.findNamed(s, pkcs11.CKO_PRIVATE_KEY, n)
	switch {
	case err != nil || len(privates) == 0:
		return nil, err
	case len(privates) > 1:
		return nil, fmt.Errorf("%d private keys have this name: %w", len(privates), boundary.ErrAmbiguous)
	}
	publics, err := t.findNamed(s, pkcs11.CKO_PUBLIC_KEY, n)
	if err != nil {
		return nil, err
	}
	var all []pkcs11.ObjectHandle
	for _, p := range publics {
		err := t.belongs(u, privates[0], p)
		if err == nil {
			all = append(all, p.handle)
		} else if !errors.Is(err, errOther) {
			return nil, err
		}
	}
	return append(all, privates[0].handle), nil
}
