package conformance

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"unicode"
	"unsafe"

	"github.com/miekg/pkcs11"

	"keyd/internal/hsm"
)

// lab is a token, logged in, and throw-away keys in it.
type lab struct {
	ctx     context.Context // is never done
	stop    <-chan struct{} // closed when it is to end
	order   order
	pkcs11  *pkcs11.Ctx
	pinned  runtime.Pinner
	slot    uint
	session pkcs11.SessionHandle // may write
	device  map[string]string
	listed  map[uint]bool // mechanisms that the token says it has
	label   string        // of everything that is made here

	lasting bool              // key pairs are token objects, where the token has no others
	rsa     map[uses]*rsaPair // throw-away keys
	curves  map[string]*ecPair
	made    []pkcs11.ObjectHandle
	check   string            // that is under way
	codes   []Code            // of that
	levels  map[string]string // that keyd works at
}

// fatalError ends everything.
type fatalError struct {
	kind string
	err  error
}

func (e *fatalError) Error() string { return e.err.Error() }
func (e *fatalError) Unwrap() error { return e.err }

// labelPrefix begins the labels of everything that is made here.
const labelPrefix = "keyd-conformance/"

func newLab(ctx context.Context, o order) (*lab, error) {
	l := &lab{ctx: context.WithoutCancel(ctx), stop: ctx.Done(), order: o, rsa: map[uses]*rsaPair{}, curves: map[string]*ecPair{}, listed: map[uint]bool{}}
	random := make([]byte, 4)
	rand.Read(random)
	l.label = labelPrefix + hex.EncodeToString(random)
	token := func(err error, format string, args ...any) error {
		return &fatalError{"token", fmt.Errorf(format+": %w", append(args, err)...)}
	}
	if l.pkcs11 = pkcs11.New(o.Module); l.pkcs11 == nil {
		return nil, token(hsm.Unloadable(o.Module), "%s", o.Module)
	}
	if err := l.initialize(); err != nil {
		return nil, token(err, "%s: C_Initialize", o.Module)
	}
	if err := l.find(); err != nil {
		return nil, token(err, "%s", o.Module)
	}
	return l, l.login()
}

func (l *lab) stopped() bool {
	select {
	case <-l.stop:
		return true
	default:
		return false
	}
}

func (l *lab) initialize() error {
	var opts []pkcs11.InitializeOption
	if l.order.Reserved != "" {
		text := append([]byte(l.order.Reserved), 0)
		l.pinned.Pin(&text[0])                                                       // the module may keep it
		opts = append(opts, pkcs11.InitializeWithReserved(unsafe.Pointer(&text[0]))) // #nosec G103 -- pReserved is a pointer by specification
	}
	return l.pkcs11.Initialize(opts...)
}

func (l *lab) find() error {
	slots, err := l.pkcs11.GetSlotList(true)
	if err != nil {
		return err
	}
	var seen []string
	found := 0
	for _, slot := range slots {
		info, err := l.pkcs11.GetTokenInfo(slot)
		if err != nil || info.Flags&pkcs11.CKF_TOKEN_INITIALIZED == 0 {
			continue
		}
		seen = append(seen, fmt.Sprintf("%q (serial %s)", info.Label, info.SerialNumber))
		if info.Label == l.order.Token && (l.order.Serial == "" || l.order.Serial == info.SerialNumber) {
			found++
			l.slot = slot
			l.describe(info)
		}
	}
	serial := ""
	if l.order.Serial != "" {
		serial = " with serial " + l.order.Serial
	}
	switch found {
	case 0:
		if len(seen) == 0 {
			seen = []string{"none"}
		}
		return fmt.Errorf("no token %q%s; there are: %s", l.order.Token, serial, strings.Join(seen, ", "))
	case 1:
	default:
		return fmt.Errorf("%d tokens %q: tell them apart by serial; there are: %s", found, l.order.Token, strings.Join(seen, ", "))
	}
	mechanisms, err := l.pkcs11.GetMechanismList(l.slot)
	for _, m := range mechanisms {
		l.listed[m.Mechanism] = true
	}
	return err
}

func (l *lab) describe(info pkcs11.TokenInfo) {
	// Some end their names with a zero, and not with blanks (PKCS #11 v2.40 §3).
	tidy := func(s string) string {
		return strings.Join(strings.FieldsFunc(s, func(r rune) bool { return unicode.IsSpace(r) || !unicode.IsPrint(r) }), " ")
	}
	version := func(v pkcs11.Version) string { return fmt.Sprintf("%d.%d", v.Major, v.Minor) }
	l.device = map[string]string{"label": tidy(info.Label), "serial": tidy(info.SerialNumber), "model": tidy(info.Model), "manufacturer": tidy(info.ManufacturerID),
		"hardware": version(info.HardwareVersion), "firmware": version(info.FirmwareVersion)}
	if lib, err := l.pkcs11.GetInfo(); err == nil {
		l.device["library"] = tidy(fmt.Sprintf("%s %s %s", lib.ManufacturerID, lib.LibraryDescription, version(lib.LibraryVersion)))
		l.device["cryptoki"] = version(lib.CryptokiVersion)
	}
}

// login opens a session and shows the PIN, unless it could be the last try.
func (l *lab) login() (err error) {
	if l.session, err = l.pkcs11.OpenSession(l.slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION); err != nil {
		return &fatalError{"token", fmt.Errorf("C_OpenSession: %s", name(err))}
	}
	info, err := l.pkcs11.GetTokenInfo(l.slot)
	if err != nil {
		return &fatalError{"token", fmt.Errorf("C_GetTokenInfo: %s", name(err))}
	}
	switch {
	case info.Flags&pkcs11.CKF_USER_PIN_INITIALIZED == 0:
		return &fatalError{"pin", errors.New("it has none yet; the security officer must set one (C_InitPIN)")}
	case info.Flags&pkcs11.CKF_USER_PIN_LOCKED != 0:
		return &fatalError{"pin", errors.New("it is locked")}
	case info.Flags&pkcs11.CKF_USER_PIN_FINAL_TRY != 0:
		return &fatalError{"pin", errors.New("one more wrong one would lock it; log in once with another tool")}
	}
	pin := l.order.PIN
	if len(pin) == 0 {
		return &fatalError{"pin", errors.New("it is empty")}
	}
	if err := l.pkcs11.Login(l.session, pkcs11.CKU_USER, string(pin)); err != nil && !is(err, pkcs11.CKR_USER_ALREADY_LOGGED_IN) {
		return &fatalError{"pin", fmt.Errorf("C_Login: %s", name(err))}
	}
	return nil
}

// destroy destroys what was made and forgets it.
func (l *lab) destroy() {
	for _, o := range l.made {
		_ = l.pkcs11.DestroyObject(l.session, o) // the last group looks
	}
	l.made, l.rsa, l.curves = nil, map[uses]*rsaPair{}, map[string]*ecPair{}
}

// close lets go of the module.
func (l *lab) close() {
	_ = l.pkcs11.Finalize() // the process ends with it
	l.pinned.Unpin()
}

// within gives f a session of its own.
func (l *lab) within(f func(s pkcs11.SessionHandle) error) error {
	s, err := l.pkcs11.OpenSession(l.slot, pkcs11.CKF_SERIAL_SESSION)
	if err != nil {
		return err
	}
	defer func() { _ = l.pkcs11.CloseSession(s) }()
	return f(s)
}
