package hsm

import (
	"crypto/rsa"
	"encoding/binary"
	"fmt"
	"math/big"

	"github.com/miekg/pkcs11"

	"keyd/internal/boundary"
)

// object is a key object as the token describes it.
type object struct {
	handle  pkcs11.ObjectHandle
	name    name
	keyType uint
	public  *rsa.PublicKey // nil if it is not RSA or not whole
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
	return name{id: string(values[pkcs11.CKA_ID]), label: string(values[pkcs11.CKA_LABEL])}, err
}

// read reads what names a key and its public half, which RSA private keys carry
// too. A half-made object has neither.
func (t *Token) read(s pkcs11.SessionHandle, h pkcs11.ObjectHandle) (object, error) {
	n, err := t.nameOf(s, h)
	if err != nil {
		return object{}, err
	}
	values, err := t.attributes(s, h, pkcs11.CKA_KEY_TYPE)
	if err != nil {
		return object{}, err
	}
	o := object{handle: h, name: n, keyType: number(values[pkcs11.CKA_KEY_TYPE])}
	if o.keyType != pkcs11.CKK_RSA {
		return o, nil
	}
	values, err = t.attributes(s, h, pkcs11.CKA_MODULUS, pkcs11.CKA_PUBLIC_EXPONENT)
	if err != nil {
		return object{}, err
	}
	o.public = publicKey(values[pkcs11.CKA_MODULUS], values[pkcs11.CKA_PUBLIC_EXPONENT])
	return o, nil
}

// publicKey makes a public key of two big-endian numbers, or nil where they
// cannot be one.
func publicKey(modulus, exponent []byte) *rsa.PublicKey {
	n, e := new(big.Int).SetBytes(modulus), new(big.Int).SetBytes(exponent)
	if n.BitLen() < 1024 || n.Bit(0) == 0 || !e.IsInt64() || e.Int64() < 3 || e.Int64() > 1<<31-1 || e.Bit(0) == 0 {
		return nil
	}
	return &rsa.PublicKey{N: n, E: int(e.Int64())}
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
