package hsm

/*
typedef unsigned long rv, ulong;

// The function list as far as C_Decrypt: version, then the functions in the
// order of PKCS #11 v2.40 §5.1 (pkcs11f.h), which no later version changes.
struct functions {
	struct { unsigned char major, minor; } version;
	void *initialize, *finalize, *get_info, *get_function_list;
	void *get_slot_list, *get_slot_info, *get_token_info, *get_mechanism_list, *get_mechanism_info;
	void *init_token, *init_pin, *set_pin;
	void *open_session, *close_session, *close_all_sessions, *get_session_info;
	void *get_operation_state, *set_operation_state, *login, *logout;
	void *create_object, *copy_object, *destroy_object, *get_object_size;
	void *get_attribute_value, *set_attribute_value;
	void *find_objects_init, *find_objects, *find_objects_final;
	void *encrypt_init, *encrypt, *encrypt_update, *encrypt_final;
	void *decrypt_init;
	rv (*decrypt)(ulong session, unsigned char *in, ulong in_len, unsigned char *out, ulong *out_len);
};

static rv decrypt(struct functions *f, ulong session, unsigned char *in, ulong in_len, unsigned char *out, ulong *out_len)
{
	return f->decrypt(session, in, in_len, out, out_len);
}
*/
import "C"

import (
	"errors"
	"fmt"
	"unsafe"

	"github.com/miekg/pkcs11"

	"keyd/internal/boundary"
)

// decrypter calls C_Decrypt.
//
// The binding does too, but asks for the length first, which is one call too
// many; copies the answer out of a C buffer that it frees unwiped; and leaks
// that buffer when the token refuses a padding, so that whoever sends bad
// envelopes makes the process grow. Here the buffer is the caller's.
type decrypter struct{ functions *C.struct_functions }

// newDecrypter is for a library that the binding has loaded.
func newDecrypter(ctx *pkcs11.Ctx) (decrypter, error) {
	f := (*C.struct_functions)(functionList(ctx))
	if f == nil || f.decrypt == nil {
		return decrypter{}, errors.New("it has no function list with a C_Decrypt")
	}
	return decrypter{functions: f}, nil
}

// functionList is the one that the binding uses. The library must not be asked
// for it again: p11-kit-client.so makes another one for each C_GetFunctionList,
// and each is initialised by itself.
func functionList(ctx *pkcs11.Ctx) unsafe.Pointer {
	// pkcs11.Ctx is a pointer to struct { void *handle; CK_FUNCTION_LIST_PTR sym; }.
	c := *(*unsafe.Pointer)(unsafe.Pointer(ctx))                        // #nosec G103 -- the binding does not export it
	return *(*unsafe.Pointer)(unsafe.Add(c, unsafe.Sizeof(uintptr(0)))) // #nosec G103 -- as above
}

// decrypt ends the operation that C_DecryptInit began. RSA gives no more octets
// than the modulus has, which is as many as go in (PKCS #11 mechanisms v2.40
// §2.1.6, §2.1.8). What the token writes beside its answer is wiped.
func (d decrypter) decrypt(s pkcs11.SessionHandle, block []byte) ([]byte, error) {
	out := make([]byte, len(block))
	n := C.ulong(len(out))
	// #nosec G103 -- both are read or written for the length of the call only
	code := C.decrypt(d.functions, C.ulong(s), (*C.uchar)(unsafe.SliceData(block)), C.ulong(len(block)), (*C.uchar)(unsafe.SliceData(out)), &n)
	switch {
	case code != pkcs11.CKR_OK:
		clear(out)
		return nil, meaning("C_Decrypt", pkcs11.Error(code))
	case uint64(n) > uint64(len(out)):
		clear(out)
		return nil, fmt.Errorf("C_Decrypt: %d octets from a modulus of %d: %w", uint64(n), len(out), boundary.ErrUnavailable)
	}
	clear(out[n:])
	return out[:n], nil
}
