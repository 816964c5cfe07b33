package hsm

import (
	"errors"
	"fmt"
	"slices"

	"github.com/miekg/pkcs11"

	"keyd/internal/boundary"
)

var (
	// ErrPINRefused: the PIN was refused by the token, now or at an earlier
	// start, or is not tried because it is empty, malformed or the last try.
	// Nothing but a person can help.
	ErrPINRefused = errors.New("the token refused the PIN")
	// ErrPINLocked: the user PIN is locked, or one more wrong PIN would lock it.
	// Every such error is an ErrPINRefused too.
	ErrPINLocked = errors.New("the user PIN is locked or about to be")
)

// meanings says what a return code means to keyd. A code that is not here is a
// device that does not work: ErrUnavailable.
var meanings = map[pkcs11.Error]error{
	pkcs11.CKR_OBJECT_HANDLE_INVALID: boundary.ErrNoKey,
	pkcs11.CKR_KEY_HANDLE_INVALID:    boundary.ErrNoKey,

	pkcs11.CKR_SESSION_COUNT: boundary.ErrBusy,

	pkcs11.CKR_FUNCTION_NOT_SUPPORTED:     boundary.ErrUnsupported,
	pkcs11.CKR_MECHANISM_INVALID:          boundary.ErrUnsupported,
	pkcs11.CKR_MECHANISM_PARAM_INVALID:    boundary.ErrUnsupported,
	pkcs11.CKR_ARGUMENTS_BAD:              boundary.ErrUnsupported,
	pkcs11.CKR_ATTRIBUTE_TYPE_INVALID:     boundary.ErrUnsupported,
	pkcs11.CKR_ATTRIBUTE_VALUE_INVALID:    boundary.ErrUnsupported,
	pkcs11.CKR_TEMPLATE_INCOMPLETE:        boundary.ErrUnsupported,
	pkcs11.CKR_TEMPLATE_INCONSISTENT:      boundary.ErrUnsupported,
	pkcs11.CKR_KEY_SIZE_RANGE:             boundary.ErrUnsupported,
	pkcs11.CKR_KEY_FUNCTION_NOT_PERMITTED: boundary.ErrUnsupported,
	pkcs11.CKR_KEY_TYPE_INCONSISTENT:      boundary.ErrUnsupported,
	pkcs11.CKR_ACTION_PROHIBITED:          boundary.ErrUnsupported,

	pkcs11.CKR_PIN_INCORRECT: ErrPINRefused,
	pkcs11.CKR_PIN_INVALID:   ErrPINRefused,
	pkcs11.CKR_PIN_LEN_RANGE: ErrPINRefused,
	pkcs11.CKR_PIN_EXPIRED:   ErrPINRefused,
	pkcs11.CKR_PIN_LOCKED:    ErrPINLocked,
}

// meaning turns a module's answer into an error that names the call, the code
// and what it means. What is not a PKCS #11 code is wrapped as it is.
func meaning(call string, err error) error {
	code, ok := errors.AsType[pkcs11.Error](err)
	if !ok {
		return fmt.Errorf("%s: %w", call, err)
	}
	is, known := meanings[code]
	if !known {
		is = boundary.ErrUnavailable
	}
	return &deviceError{call: call, code: code, is: is}
}

// deviceError is a return code with its meaning.
type deviceError struct {
	call string
	code pkcs11.Error
	is   error
}

func (e *deviceError) Error() string {
	return fmt.Sprintf("%s: %s (%s)", e.is, e.call, codeOf(e.code))
}

func (e *deviceError) Unwrap() []error { return []error{e.is, e.code} }

// codeOf names a return code: "CKR_DEVICE_ERROR 0x30".
func codeOf(err error) string {
	code, ok := errors.AsType[pkcs11.Error](err)
	if !ok {
		return err.Error()
	}
	// The binding knows the names and prints "pkcs11: 0x30: CKR_DEVICE_ERROR".
	var number uint
	var name string
	if n, _ := fmt.Sscanf(code.Error(), "pkcs11: 0x%X: %s", &number, &name); n == 2 {
		return fmt.Sprintf("%s 0x%X", name, uint(code))
	}
	if code >= pkcs11.CKR_VENDOR_DEFINED {
		return fmt.Sprintf("the vendor's own code 0x%X", uint(code))
	}
	return fmt.Sprintf("code 0x%X", uint(code))
}

// is reports whether err is one of the return codes.
func is(err error, codes ...pkcs11.Error) bool {
	code, ok := errors.AsType[pkcs11.Error](err)
	return ok && slices.Contains(codes, code)
}
