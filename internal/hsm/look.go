package hsm

/*
#include "cryptoki.h"
*/
import "C"

import (
	"unsafe"

	"github.com/miekg/pkcs11"
)

// look reads a key object with one call into the module instead of half a dozen:
// a token with ten thousand of them is read when keyd starts. It asks for what
// RSA keys have and for what keys on curves have, and so is always refused a
// part of it; the rest is told all the same (PKCS #11 v2.40 §5.7,
// C_GetAttributeValue). It is only believed where everything that the object must
// have was told; in every other case look says no, and each part is asked for by
// itself.
func (c calls) look(s pkcs11.SessionHandle, h pkcs11.ObjectHandle) (o object, ok bool) {
	const untold = 0xAA // neither true nor false, for a module that leaves the rest alone after a refusal
	l := C.struct_look{class: ^C.ulong(0), key_type: ^C.ulong(0), decrypt: untold, unwrap: untold, sign: untold, derive: untold}
	code := C.keyd_look(c.functions, C.ulong(s), C.ulong(h), &l)
	if code != pkcs11.CKR_OK && code != pkcs11.CKR_ATTRIBUTE_TYPE_INVALID {
		return object{}, false
	}
	ok = l.len[C.ITS_CLASS] == C.sizeof_ulong && l.len[C.ITS_KEY_TYPE] == C.sizeof_ulong
	part := func(p C.enum_part, room []C.octet) []byte {
		n := uint64(l.len[p])
		if n >= uint64(len(room)) { // CK_UNAVAILABLE_INFORMATION is more too
			ok = false
			return nil
		}
		return C.GoBytes(unsafe.Pointer(unsafe.SliceData(room)), C.int(n))
	}
	flag := func(p C.enum_part, is C.octet) bool {
		ok = ok && l.len[p] == 1 && is != untold
		return is != 0
	}
	o = object{handle: h, class: uint(l.class), keyType: uint(l.key_type)}
	o.name = name{id: string(part(C.ITS_ID, l.id[:])), label: string(part(C.ITS_LABEL, l.label[:]))}
	switch o.keyType {
	case pkcs11.CKK_RSA:
		o.rsa = rsaKey(part(C.ITS_MODULUS, l.modulus[:]), part(C.ITS_EXPONENT, l.exponent[:]))
	case pkcs11.CKK_EC:
		o.curve = curveOf(part(C.ITS_PARAMS, l.params[:]))
	}
	switch {
	case o.class == pkcs11.CKO_PRIVATE_KEY:
		o.uses = purpose{decrypt: flag(C.MAY_DECRYPT, l.decrypt), unwrap: flag(C.MAY_UNWRAP, l.unwrap),
			sign: flag(C.MAY_SIGN, l.sign), derive: flag(C.MAY_DERIVE, l.derive)}
	case o.class == pkcs11.CKO_PUBLIC_KEY && o.curve != nil:
		o.point = pointOn(o.curve, part(C.ITS_POINT, l.point[:]))
	case o.class != pkcs11.CKO_PUBLIC_KEY:
		ok = false
	}
	return o, ok && o.whole()
}
