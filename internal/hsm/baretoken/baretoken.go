// Package baretoken makes a token where no tool does. It is for tests.
package baretoken

import (
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"github.com/miekg/pkcs11"
)

// InitNSS makes a database for NSS softoken in a directory, which no tool of its
// own does, and returns what C_Initialize must be given to use it.
func InitNSS(module, dir, label, pin string) (initArgs string, err error) {
	initArgs = "configdir='sql:" + dir + "' certPrefix='' keyPrefix='' secmod='secmod.db' dbTokenDescription='" + label + "'"
	ctx := pkcs11.New(module)
	if ctx == nil {
		return "", fmt.Errorf("loading %s", module)
	}
	text := append([]byte(initArgs), 0)
	var pinned runtime.Pinner
	pinned.Pin(&text[0])
	defer pinned.Unpin()
	if err := ctx.Initialize(pkcs11.InitializeWithReserved(unsafe.Pointer(&text[0]))); err != nil {
		return "", fmt.Errorf("initialising %s: %w", module, err)
	}
	slot, err := slotOf(ctx, label)
	if err != nil {
		return "", errors.Join(err, ctx.Finalize())
	}
	s, err := ctx.OpenSession(slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
	if err == nil {
		err = errors.Join(ctx.Login(s, pkcs11.CKU_SO, ""), ctx.InitPIN(s, pin))
	}
	if err := errors.Join(err, ctx.Finalize()); err != nil {
		return "", fmt.Errorf("making an NSS database in %s: %w", dir, err)
	}
	return initArgs, nil
}

func slotOf(ctx *pkcs11.Ctx, label string) (uint, error) {
	slots, err := ctx.GetSlotList(true)
	if err != nil {
		return 0, fmt.Errorf("listing slots: %w", err)
	}
	for _, slot := range slots {
		if info, err := ctx.GetTokenInfo(slot); err == nil && info.Label == label {
			return slot, nil
		}
	}
	return 0, fmt.Errorf("no token with label %q", label)
}
