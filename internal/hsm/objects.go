package hsm

import (
	"crypto"
	"crypto/ecdh"
	"crypto/rsa"
	"encoding/binary"
	"fmt"

	"github.com/miekg/pkcs11"

	"keyd/internal/boundary"
)

// object is a key object as the token describes it.
type object struct {
	handle  pkcs11.ObjectHandle
	name    name
	class   uint
	keyType uint
	uses    purpose // of a private key
	// rsa is the public half, which RSA private keys carry too; nil where it is
	// not whole.
	rsa *rsa.PublicKey
	// curve is that of a key on one that keyd knows, point the public half, which
	// only the public key object has.
	curve ecdh.Curve
	point *ecdh.PublicKey
}

// purpose is what a token lets a private key do.
type purpose struct{ decrypt, unwrap, sign, derive bool }

// allows reports whether all that is needed is let.
func (p purpose) allows(needed purpose) bool {
	return (p.decrypt || !needed.decrypt) && (p.unwrap || !needed.unwrap) && (p.sign || !needed.sign) && (p.derive || !needed.derive)
}

// whole reports whether an object is a key that keyd can use. One that a crash
// has left half made is not: SoftHSM dereferences the curve that it does not have.
func (o object) whole() bool {
	return o.rsa != nil || o.curve != nil && (o.class == pkcs11.CKO_PRIVATE_KEY || o.point != nil)
}

// public is the public half as far as this object has it.
func (o object) public() crypto.PublicKey {
	switch {
	case o.rsa != nil:
		return o.rsa
	case o.point != nil:
		return o.point
	}
	return nil
}

// algorithm is what a key of this kind is for; "" where it is not whole.
func (o object) algorithm() string {
	switch {
	case o.curve != nil:
		return boundary.ECDHES
	case o.rsa != nil && o.uses.sign && !o.uses.decrypt && !o.uses.unwrap:
		return boundary.PS256
	case o.rsa != nil:
		return boundary.RSAOAEP256
	}
	return ""
}

// find returns the objects that match a template. A session that is not logged
// in finds no private key and no error: see ready.
func (t *Token) find(s pkcs11.SessionHandle, template ...*pkcs11.Attribute) ([]pkcs11.ObjectHandle, error) {
	ctx := t.module.ctx
	if err := ctx.FindObjectsInit(s, template); err != nil {
		return nil, meaning("C_FindObjectsInit", err)
	}
	const batch = 512
	var all []pkcs11.ObjectHandle
	for {
		some, _, err := ctx.FindObjects(s, batch)
		if err != nil {
			_ = ctx.FindObjectsFinal(s) // the first error is the one to tell
			return nil, meaning("C_FindObjects", err)
		}
		if len(some) == 0 {
			break
		}
		all = append(all, some...)
	}
	if err := ctx.FindObjectsFinal(s); err != nil {
		return nil, meaning("C_FindObjectsFinal", err)
	}
	return all, nil
}

func ofClass(class uint) *pkcs11.Attribute { return pkcs11.NewAttribute(pkcs11.CKA_CLASS, class) }

// findNamed returns the objects of a class under exactly this name.
func (t *Token) findNamed(s pkcs11.SessionHandle, class uint, n name) ([]object, error) {
	template := []*pkcs11.Attribute{ofClass(class)}
	// Modules do not agree on whether an attribute that an object does not have
	// matches an empty one, so an empty half is compared below only.
	if n.id != "" {
		template = append(template, pkcs11.NewAttribute(pkcs11.CKA_ID, n.id))
	}
	if n.label != "" {
		template = append(template, pkcs11.NewAttribute(pkcs11.CKA_LABEL, n.label))
	}
	handles, err := t.find(s, template...)
	if err != nil {
		return nil, err
	}
	var all []object
	for _, h := range handles {
		o, err := t.read(s, h)
		if is(err, pkcs11.CKR_OBJECT_HANDLE_INVALID) {
			continue // destroyed since
		}
		if err != nil {
			return nil, err
		}
		if o.name == n { // some modules match loosely
			all = append(all, o)
		}
	}
	return all, nil
}

// readAll returns the objects that match a template. One that cannot be read is
// left out: what a crash has left in the token must not keep keyd from the rest.
func (t *Token) readAll(s pkcs11.SessionHandle, template ...*pkcs11.Attribute) ([]object, error) {
	handles, err := t.find(s, template...)
	if err != nil {
		return nil, err
	}
	var all []object
	for _, h := range handles {
		o, err := t.read(s, h)
		if is(err, pkcs11.CKR_OBJECT_HANDLE_INVALID) {
			t.log.Debug("an object has gone since it was found", "object", uint(h))
			continue
		}
		if err != nil {
			t.log.Warn("an object in the token cannot be read", "object", uint(h), "err", err)
			continue
		}
		all = append(all, o)
	}
	return all, nil
}

// nameOf reads what an object is called.
func (t *Token) nameOf(s pkcs11.SessionHandle, h pkcs11.ObjectHandle) (name, error) {
	values, err := t.attributes(s, h, pkcs11.CKA_ID, pkcs11.CKA_LABEL)
	return nameIn(values), err
}

func nameIn(values map[uint][]byte) name {
	return name{id: string(values[pkcs11.CKA_ID]), label: string(values[pkcs11.CKA_LABEL])}
}

// read reads what names a key, what it may be used for, and as much of its
// public half as it has. A half-made object has none.
func (t *Token) read(s pkcs11.SessionHandle, h pkcs11.ObjectHandle) (object, error) {
	if o, ok := t.module.calls.look(s, h); ok {
		return o, nil
	}
	return t.readSlowly(s, h)
}

// readSlowly asks for one thing after the other.
func (t *Token) readSlowly(s pkcs11.SessionHandle, h pkcs11.ObjectHandle) (object, error) {
	values, err := t.attributes(s, h, pkcs11.CKA_ID, pkcs11.CKA_LABEL, pkcs11.CKA_CLASS, pkcs11.CKA_KEY_TYPE)
	if err != nil {
		return object{}, err
	}
	o := object{handle: h, name: nameIn(values), class: number(values[pkcs11.CKA_CLASS]), keyType: number(values[pkcs11.CKA_KEY_TYPE])}
	switch o.keyType {
	case pkcs11.CKK_RSA:
		err = t.readRSA(s, &o)
	case pkcs11.CKK_EC:
		err = t.readCurve(s, &o)
	default:
		return o, nil
	}
	if err == nil && o.class == pkcs11.CKO_PRIVATE_KEY {
		o.uses, err = t.usesOf(s, h)
	}
	return o, err
}

func (t *Token) readRSA(s pkcs11.SessionHandle, o *object) error {
	values, err := t.attributes(s, o.handle, pkcs11.CKA_MODULUS, pkcs11.CKA_PUBLIC_EXPONENT)
	o.rsa = rsaKey(values[pkcs11.CKA_MODULUS], values[pkcs11.CKA_PUBLIC_EXPONENT])
	return err
}

func (t *Token) readCurve(s pkcs11.SessionHandle, o *object) error {
	types := []uint{pkcs11.CKA_EC_PARAMS}
	if o.class == pkcs11.CKO_PUBLIC_KEY {
		types = append(types, pkcs11.CKA_EC_POINT)
	}
	values, err := t.attributes(s, o.handle, types...)
	if o.curve = curveOf(values[pkcs11.CKA_EC_PARAMS]); o.curve != nil {
		o.point = pointOn(o.curve, values[pkcs11.CKA_EC_POINT])
	}
	return err
}

func (t *Token) usesOf(s pkcs11.SessionHandle, h pkcs11.ObjectHandle) (purpose, error) {
	v, err := t.attributes(s, h, pkcs11.CKA_DECRYPT, pkcs11.CKA_UNWRAP, pkcs11.CKA_SIGN, pkcs11.CKA_DERIVE)
	return purpose{decrypt: isTrue(v[pkcs11.CKA_DECRYPT]), unwrap: isTrue(v[pkcs11.CKA_UNWRAP]),
		sign: isTrue(v[pkcs11.CKA_SIGN]), derive: isTrue(v[pkcs11.CKA_DERIVE])}, err
}

// attributes reads attributes, all at once if the token knows them all, else
// one by one. What an object does not have, or does not tell, is absent.
func (t *Token) attributes(s pkcs11.SessionHandle, h pkcs11.ObjectHandle, types ...uint) (map[uint][]byte, error) {
	template := make([]*pkcs11.Attribute, len(types))
	for i, a := range types {
		template[i] = pkcs11.NewAttribute(a, nil)
	}
	read, err := t.module.ctx.GetAttributeValue(s, h, template)
	untold := is(err, pkcs11.CKR_ATTRIBUTE_TYPE_INVALID, pkcs11.CKR_ATTRIBUTE_SENSITIVE, pkcs11.CKR_ATTRIBUTE_VALUE_INVALID)
	values := map[uint][]byte{}
	switch {
	case err == nil:
		for _, a := range read {
			if a.Value != nil {
				values[a.Type] = a.Value
			}
		}
	case untold && len(types) > 1:
		for _, a := range types {
			one, err := t.attributes(s, h, a)
			if err != nil {
				return nil, err
			}
			if v, ok := one[a]; ok {
				values[a] = v
			}
		}
	case !untold:
		return nil, meaning("C_GetAttributeValue", err)
	}
	return values, nil
}

// number reads a CK_ULONG, which is in the machine's own order and width.
func number(v []byte) uint {
	switch len(v) {
	case 8:
		return uint(binary.NativeEndian.Uint64(v))
	case 4:
		return uint(binary.NativeEndian.Uint32(v))
	}
	return pkcs11.CK_UNAVAILABLE_INFORMATION
}

// isTrue reads a CK_BBOOL. Anything but 0 is true, as in C.
func isTrue(v []byte) bool { return len(v) == 1 && v[0] != 0 }

// ready looks whether the token is there, is still the same one, and knows this
// process as its user. Only then does "not found" mean that a key is not there:
// SoftHSM whose directory is gone, like any token that has logged the process
// out, finds nothing and says that all is well.
func (t *Token) ready(s pkcs11.SessionHandle) error {
	if err := t.standing(); err != nil {
		return err
	}
	return t.loggedIn(s)
}

// standing looks whether the slot still holds the token.
func (t *Token) standing() error {
	info, err := t.module.ctx.GetTokenInfo(t.slot.id)
	if err != nil {
		return meaning("C_GetTokenInfo", err)
	}
	if info.SerialNumber != t.slot.info.SerialNumber || info.Label != t.slot.info.Label {
		return fmt.Errorf("the slot of token %s now holds %s: %w", t.slot, describe(info), boundary.ErrUnavailable)
	}
	return nil
}
