package hsm

/*
#include "cryptoki.h"
*/
import "C"

import (
	"errors"
	"fmt"
	"unsafe"

	"github.com/miekg/pkcs11"

	"keyd/internal/boundary"
)

// calls are the module's functions that are given secrets or answer with them.
//
// The binding has them too, but copies what goes in and out through C buffers
// that it frees unwiped; leaks them when the token refuses, so that whoever
// sends bad envelopes makes the process grow; and asks for lengths that are
// known. Here every buffer is the caller's, and templates and parameters live on
// the C stack for the length of the call (cryptoki.c).
type calls struct{ functions *C.struct_functions }

// newCalls is for a library that the binding has loaded.
func newCalls(ctx *pkcs11.Ctx) (calls, error) {
	f := (*C.struct_functions)(functionList(ctx))
	if f == nil || f.decrypt == nil || f.derive_key == nil {
		return calls{}, errors.New("it has no whole function list")
	}
	return calls{functions: f}, nil
}

// functionList is the one that the binding uses. The library must not be asked
// for it again: p11-kit-client.so makes another one for each C_GetFunctionList,
// and each is initialised by itself.
func functionList(ctx *pkcs11.Ctx) unsafe.Pointer {
	// pkcs11.Ctx is a pointer to struct { void *handle; CK_FUNCTION_LIST_PTR sym; }.
	c := *(*unsafe.Pointer)(unsafe.Pointer(ctx))                        // #nosec G103 -- the binding does not export it
	return *(*unsafe.Pointer)(unsafe.Add(c, unsafe.Sizeof(uintptr(0)))) // #nosec G103 -- as above
}

// secret describes a secret key to be made in the token, of its session. It
// cannot be read out unless it is open.
type secret struct {
	keyType                 uint
	length                  int // in bytes; 0 leaves it to the token
	open                    bool
	decrypt, unwrap, derive bool // what it may be used for
}

func (k secret) c() C.struct_secret {
	flag := func(is bool) C.octet {
		if is {
			return 1
		}
		return 0
	}
	return C.struct_secret{_type: C.ulong(k.keyType), length: C.ulong(k.length), open: flag(k.open),
		decrypt: flag(k.decrypt), unwrap: flag(k.unwrap), derive: flag(k.derive)}
}

// octets is how a buffer goes to C, which reads or writes it for the length of
// the call only.
func octets(b []byte) (*C.octet, C.ulong) {
	return (*C.octet)(unsafe.SliceData(b)), C.ulong(len(b))
}

// names of the calls that several functions make in a row.
var callNames = map[C.enum_call]string{
	C.DECRYPT_INIT: "C_DecryptInit", C.DECRYPT: "C_Decrypt",
	C.DIGEST_INIT: "C_DigestInit", C.DIGEST_UPDATE: "C_DigestUpdate", C.DIGEST_KEY: "C_DigestKey", C.DIGEST_FINAL: "C_DigestFinal",
	C.SIGN_INIT: "C_SignInit", C.SIGN: "C_Sign",
}

func failure(call string, code C.rv) error {
	if code == pkcs11.CKR_OK {
		return nil
	}
	return meaning(call, pkcs11.Error(code))
}

// written returns what a call has written into a buffer of the caller's, and
// wipes what it has written beside it.
func written(call string, code C.rv, out []byte, n C.ulong) ([]byte, error) {
	switch {
	case code != pkcs11.CKR_OK:
		clear(out)
		return nil, failure(call, code)
	case uint64(n) > uint64(len(out)):
		clear(out)
		return nil, fmt.Errorf("%s: %d octets in room for %d: %w", call, uint64(n), len(out), boundary.ErrUnavailable)
	}
	clear(out[n:])
	return out[:n], nil
}

// login is C_Login as the user.
func (c calls) login(s pkcs11.SessionHandle, pin []byte) error {
	p, n := octets(pin)
	if code := C.keyd_login(c.functions, C.ulong(s), p, n); code != pkcs11.CKR_OK {
		return pkcs11.Error(code)
	}
	return nil
}

// create is C_CreateObject: a secret key with a value from here.
func (c calls) create(s pkcs11.SessionHandle, k secret, value []byte) (pkcs11.ObjectHandle, error) {
	described, object := k.c(), C.ulong(0)
	p, n := octets(value)
	code := C.keyd_create(c.functions, C.ulong(s), &described, p, n, &object)
	return pkcs11.ObjectHandle(object), failure("C_CreateObject", code)
}

// value is C_GetAttributeValue of CKA_VALUE: a secret of at most size bytes.
func (c calls) value(s pkcs11.SessionHandle, object pkcs11.ObjectHandle, size int) ([]byte, error) {
	out := make([]byte, size)
	p, n := octets(out)
	code := C.keyd_read(c.functions, C.ulong(s), C.ulong(object), pkcs11.CKA_VALUE, p, &n)
	return written("C_GetAttributeValue", code, out, n)
}

// facts is what a token says of a secret key it has made.
type facts struct {
	sensitive, extractable bool
	length                 int
}

func (c calls) facts(s pkcs11.SessionHandle, object pkcs11.ObjectHandle) (facts, error) {
	sensitive, extractable, length := C.octet(0), C.octet(1), C.ulong(0)
	code := C.keyd_facts(c.functions, C.ulong(s), C.ulong(object), &sensitive, &extractable, &length)
	if code != pkcs11.CKR_OK {
		return facts{}, failure("C_GetAttributeValue", code)
	}
	return facts{sensitive: sensitive != 0, extractable: extractable != 0, length: int(length)}, nil
}

// decryptRSA is C_Decrypt with OAEP and SHA-256, or without a padding. RSA gives
// no more octets than the modulus has, which is as many as go in (PKCS #11
// mechanisms v2.40 §2.1.6, §2.1.8).
func (c calls) decryptRSA(s pkcs11.SessionHandle, oaep bool, key pkcs11.ObjectHandle, block []byte) ([]byte, error) {
	out := make([]byte, len(block))
	in, inLen := octets(block)
	p, n := octets(out)
	var at C.enum_call
	code := C.keyd_rsa_decrypt(c.functions, C.ulong(s), cBool(oaep), C.ulong(key), in, inLen, p, &n, &at)
	return written(callNames[at], code, out, n)
}

// decryptGCM is C_Decrypt with AES-GCM and a tag of 128 bits.
func (c calls) decryptGCM(s pkcs11.SessionHandle, key pkcs11.ObjectHandle, env *boundary.Envelope) ([]byte, error) {
	sealed := make([]byte, 0, len(env.Ciphertext)+len(env.Tag))
	sealed = append(append(sealed, env.Ciphertext...), env.Tag...)
	out := make([]byte, len(sealed)) // some want room for the tag too
	iv, ivLen := octets(env.IV)
	aad, aadLen := octets(env.AAD)
	in, inLen := octets(sealed)
	p, n := octets(out)
	var at C.enum_call
	code := C.keyd_gcm_decrypt(c.functions, C.ulong(s), C.ulong(key), iv, ivLen, aad, aadLen, in, inLen, p, &n, &at)
	return written(callNames[at], code, out, n)
}

// unwrap is C_UnwrapKey: with OAEP and SHA-256, or with the AES key wrap of RFC
// 3394.
func (c calls) unwrap(s pkcs11.SessionHandle, oaep bool, key pkcs11.ObjectHandle, wrapped []byte, k secret) (pkcs11.ObjectHandle, error) {
	described, object := k.c(), C.ulong(0)
	in, inLen := octets(wrapped)
	code := C.keyd_unwrap(c.functions, C.ulong(s), cBool(oaep), C.ulong(key), in, inLen, &described, &object)
	return pkcs11.ObjectHandle(object), failure("C_UnwrapKey", code)
}

// agree is C_DeriveKey with ECDH1 (cofactor 1) and a point.
func (c calls) agree(s pkcs11.SessionHandle, key pkcs11.ObjectHandle, kdf uint, shared, point []byte, k secret) (pkcs11.ObjectHandle, error) {
	described, object := k.c(), C.ulong(0)
	data, dataLen := octets(shared)
	p, n := octets(point)
	code := C.keyd_agree(c.functions, C.ulong(s), C.ulong(key), C.ulong(kdf), data, dataLen, p, n, &described, &object)
	return pkcs11.ObjectHandle(object), failure("C_DeriveKey", code)
}

// derive is C_DeriveKey from another secret key, with data where the mechanism
// takes some.
func (c calls) derive(s pkcs11.SessionHandle, mechanism uint, base pkcs11.ObjectHandle, data []byte, k secret) (pkcs11.ObjectHandle, error) {
	described, object := k.c(), C.ulong(0)
	p, n := octets(data)
	code := C.keyd_derive(c.functions, C.ulong(s), C.ulong(mechanism), C.ulong(base), p, n, &described, &object)
	return pkcs11.ObjectHandle(object), failure("C_DeriveKey", code)
}

// digest is SHA-256 over bytes, a secret key's value and bytes again, into out.
func (c calls) digest(s pkcs11.SessionHandle, before []byte, key pkcs11.ObjectHandle, after, out []byte) error {
	b, bLen := octets(before)
	a, aLen := octets(after)
	p, n := octets(out)
	var at C.enum_call
	code := C.keyd_digest(c.functions, C.ulong(s), b, bLen, C.ulong(key), a, aLen, p, &n, &at)
	got, err := written(callNames[at], code, out, n)
	if err == nil && len(got) != len(out) {
		return fmt.Errorf("C_DigestFinal: a digest of %d bytes: %w", len(got), boundary.ErrUnavailable)
	}
	return err
}

// sign is C_Sign: PSS with SHA-256 over a digest, or without a padding over a
// whole block.
func (c calls) sign(s pkcs11.SessionHandle, pss bool, key pkcs11.ObjectHandle, in []byte, size int) ([]byte, error) {
	out := make([]byte, size)
	i, iLen := octets(in)
	p, n := octets(out)
	var at C.enum_call
	code := C.keyd_sign(c.functions, C.ulong(s), cBool(pss), C.ulong(key), i, iLen, p, &n, &at)
	return written(callNames[at], code, out, n)
}

func cBool(is bool) C.int {
	if is {
		return 1
	}
	return 0
}
