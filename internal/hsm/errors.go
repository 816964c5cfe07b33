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

// remedy is what makes it worth to try again after a return code.
type remedy int

const (
	// none: what was asked for cannot be done, or was wrong.
	none remedy = iota
	// anotherSession: this one is of no more use.
	anotherSession
	// logIn: the token has logged this process out.
	logIn
	// findAgain: the object is not where it was. Whoever knows its name looks.
	findAgain
	// look: the device has a fault of its own, or says so. Whether it is well is
	// asked, and how often it may say so is counted.
	look
	// reinitialise: the module has lost the token, or itself.
	reinitialise
)

// verdict is what a return code means to keyd.
type verdict struct {
	is     error
	remedy remedy
}

// Return codes that PKCS #11 v3.0 §5.1 has added, and the binding does not know.
const (
	ckrAEADDecryptFailed     = 0x42
	ckrTokenResourceExceeded = 0x201
	ckrOperationCancelFailed = 0x202
	ckrKeyExhausted          = 0x203
)

// codes is every return code of PKCS #11 v2.40 §5.1, and of v3.0. One that is not
// here is a vendor's own, and like a fault of the device.
//
// What the data of an envelope can bring about has no remedy: nobody outside may
// have sessions opened, tokens asked and modules restarted.
var codes = func() map[pkcs11.Error]verdict {
	all := map[pkcs11.Error]verdict{}
	for _, row := range []struct {
		is     error
		remedy remedy
		codes  []pkcs11.Error
	}{
		{boundary.ErrUnsupported, none, []pkcs11.Error{
			pkcs11.CKR_ARGUMENTS_BAD, pkcs11.CKR_NEED_TO_CREATE_THREADS, pkcs11.CKR_CANT_LOCK,
			pkcs11.CKR_ATTRIBUTE_READ_ONLY, pkcs11.CKR_ATTRIBUTE_SENSITIVE, pkcs11.CKR_ATTRIBUTE_TYPE_INVALID, pkcs11.CKR_ATTRIBUTE_VALUE_INVALID,
			pkcs11.CKR_ACTION_PROHIBITED, pkcs11.CKR_FUNCTION_NOT_PARALLEL, pkcs11.CKR_FUNCTION_NOT_SUPPORTED,
			pkcs11.CKR_KEY_SIZE_RANGE, pkcs11.CKR_KEY_TYPE_INCONSISTENT, pkcs11.CKR_KEY_NOT_NEEDED, pkcs11.CKR_KEY_CHANGED, pkcs11.CKR_KEY_NEEDED,
			pkcs11.CKR_KEY_INDIGESTIBLE, pkcs11.CKR_KEY_FUNCTION_NOT_PERMITTED, pkcs11.CKR_KEY_NOT_WRAPPABLE, pkcs11.CKR_KEY_UNEXTRACTABLE,
			pkcs11.CKR_MECHANISM_INVALID, pkcs11.CKR_MECHANISM_PARAM_INVALID, pkcs11.CKR_DOMAIN_PARAMS_INVALID, pkcs11.CKR_CURVE_NOT_SUPPORTED,
			pkcs11.CKR_SESSION_PARALLEL_NOT_SUPPORTED, pkcs11.CKR_SESSION_READ_ONLY, pkcs11.CKR_SESSION_READ_ONLY_EXISTS,
			pkcs11.CKR_TEMPLATE_INCOMPLETE, pkcs11.CKR_TEMPLATE_INCONSISTENT, pkcs11.CKR_TOKEN_WRITE_PROTECTED,
			pkcs11.CKR_UNWRAPPING_KEY_SIZE_RANGE, pkcs11.CKR_UNWRAPPING_KEY_TYPE_INCONSISTENT,
			pkcs11.CKR_WRAPPING_KEY_SIZE_RANGE, pkcs11.CKR_WRAPPING_KEY_TYPE_INCONSISTENT,
			pkcs11.CKR_RANDOM_SEED_NOT_SUPPORTED, pkcs11.CKR_RANDOM_NO_RNG, pkcs11.CKR_USER_TYPE_INVALID, pkcs11.CKR_USER_TOO_MANY_TYPES,
			pkcs11.CKR_SAVED_STATE_INVALID, pkcs11.CKR_INFORMATION_SENSITIVE, pkcs11.CKR_STATE_UNSAVEABLE, ckrKeyExhausted,
		}},
		// Of the data: where a probe has learned that a token says it of a wrong
		// padding or tag, it does not come here.
		{boundary.ErrUnavailable, none, []pkcs11.Error{
			pkcs11.CKR_DATA_INVALID, pkcs11.CKR_DATA_LEN_RANGE, pkcs11.CKR_ENCRYPTED_DATA_INVALID, pkcs11.CKR_ENCRYPTED_DATA_LEN_RANGE,
			pkcs11.CKR_WRAPPED_KEY_INVALID, pkcs11.CKR_WRAPPED_KEY_LEN_RANGE, pkcs11.CKR_SIGNATURE_INVALID, pkcs11.CKR_SIGNATURE_LEN_RANGE,
			pkcs11.CKR_PUBLIC_KEY_INVALID, pkcs11.CKR_BUFFER_TOO_SMALL, ckrAEADDecryptFailed,
		}},
		// Of other users of the token.
		{boundary.ErrUnavailable, none, []pkcs11.Error{
			pkcs11.CKR_NO_EVENT, pkcs11.CKR_CANCEL, pkcs11.CKR_FUNCTION_CANCELED, pkcs11.CKR_FUNCTION_REJECTED,
			pkcs11.CKR_SESSION_EXISTS, pkcs11.CKR_SESSION_READ_WRITE_SO_EXISTS,
			pkcs11.CKR_USER_ALREADY_LOGGED_IN, pkcs11.CKR_USER_ANOTHER_ALREADY_LOGGED_IN, pkcs11.CKR_CRYPTOKI_ALREADY_INITIALIZED,
			pkcs11.CKR_NEW_PIN_MODE, pkcs11.CKR_NEXT_OTP,
		}},
		{boundary.ErrBusy, none, []pkcs11.Error{pkcs11.CKR_SESSION_COUNT, ckrTokenResourceExceeded}},
		// A PIN is shown once: trying again is what locks tokens.
		{ErrPINRefused, none, []pkcs11.Error{
			pkcs11.CKR_PIN_INCORRECT, pkcs11.CKR_PIN_INVALID, pkcs11.CKR_PIN_LEN_RANGE, pkcs11.CKR_PIN_EXPIRED, pkcs11.CKR_PIN_TOO_WEAK,
			pkcs11.CKR_USER_PIN_NOT_INITIALIZED,
		}},
		{ErrPINLocked, none, []pkcs11.Error{pkcs11.CKR_PIN_LOCKED}},
		{boundary.ErrUnavailable, anotherSession, []pkcs11.Error{
			pkcs11.CKR_OPERATION_ACTIVE, pkcs11.CKR_OPERATION_NOT_INITIALIZED, pkcs11.CKR_SESSION_CLOSED, pkcs11.CKR_SESSION_HANDLE_INVALID,
			ckrOperationCancelFailed,
		}},
		{boundary.ErrUnavailable, logIn, []pkcs11.Error{pkcs11.CKR_USER_NOT_LOGGED_IN}},
		{boundary.ErrNoKey, findAgain, []pkcs11.Error{
			pkcs11.CKR_OBJECT_HANDLE_INVALID, pkcs11.CKR_KEY_HANDLE_INVALID,
			pkcs11.CKR_UNWRAPPING_KEY_HANDLE_INVALID, pkcs11.CKR_WRAPPING_KEY_HANDLE_INVALID,
		}},
		{boundary.ErrUnavailable, look, []pkcs11.Error{
			pkcs11.CKR_GENERAL_ERROR, pkcs11.CKR_FUNCTION_FAILED, pkcs11.CKR_DEVICE_ERROR, pkcs11.CKR_DEVICE_MEMORY, pkcs11.CKR_EXCEEDED_MAX_ITERATIONS,
		}},
		{boundary.ErrUnavailable, reinitialise, []pkcs11.Error{
			pkcs11.CKR_HOST_MEMORY, pkcs11.CKR_SLOT_ID_INVALID, pkcs11.CKR_DEVICE_REMOVED,
			pkcs11.CKR_TOKEN_NOT_PRESENT, pkcs11.CKR_TOKEN_NOT_RECOGNIZED, pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED,
			pkcs11.CKR_MUTEX_BAD, pkcs11.CKR_MUTEX_NOT_LOCKED, pkcs11.CKR_FIPS_SELF_TEST_FAILED, pkcs11.CKR_LIBRARY_LOAD_FAILED,
		}},
	} {
		for _, c := range row.codes {
			all[c] = verdict{row.is, row.remedy}
		}
	}
	return all
}()

// verdictOn looks a return code up.
func verdictOn(c pkcs11.Error) verdict {
	if known, ok := codes[c]; ok {
		return known
	}
	return verdict{boundary.ErrUnavailable, look}
}

// Answer says in a few words what keyd does when a module gives a return code.
// That one stands for a bad envelope is learned for each token beforehand.
func Answer(code uint) string {
	v := verdictOn(pkcs11.Error(code))
	if v.remedy != none {
		return map[remedy]string{
			anotherSession: "takes another session", logIn: "logs in again, once", findAgain: "looks for the key again",
			look: "asks whether the token is well", reinitialise: "starts the module anew",
		}[v.remedy]
	}
	return map[error]string{
		boundary.ErrUnsupported: "does without", boundary.ErrBusy: "has callers wait", boundary.ErrUnavailable: "repairs nothing: it is of the data",
		ErrPINRefused: "does not show the PIN again", ErrPINLocked: "does not show the PIN again",
	}[v.is]
}

// remedyFor is what may help against an error; none if it is not the module's.
func remedyFor(err error) remedy {
	if c, ok := errors.AsType[pkcs11.Error](err); ok {
		return verdictOn(c).remedy
	}
	return none
}

// meaning turns a module's answer into an error that names the call, the code
// and what it means. What is not a PKCS #11 code is wrapped as it is.
func meaning(call string, err error) error {
	code, ok := errors.AsType[pkcs11.Error](err)
	if !ok {
		return fmt.Errorf("%s: %w", call, err)
	}
	return &deviceError{call: call, code: code, is: verdictOn(code).is}
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

// codeIn finds the return code that an error came from.
func codeIn(err error) (pkcs11.Error, bool) { return errors.AsType[pkcs11.Error](err) }

// is reports whether err is one of the return codes.
func is(err error, codes ...pkcs11.Error) bool {
	code, ok := codeIn(err)
	return ok && slices.Contains(codes, code)
}
