// Package baretoken drives a PKCS#11 token with nothing in between: the
// yardstick that benchmarks hold keyd's whole path against, and the hand that
// makes a token where no tool does.
package baretoken

import (
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"runtime"
	"sync"
	"time"
	"unsafe"

	"github.com/miekg/pkcs11"
)

// Token is a logged-in token with one session per caller and one RSA key.
type Token struct {
	ctx      *pkcs11.Ctx
	sessions []pkcs11.SessionHandle
	key      pkcs11.ObjectHandle
}

// Open finds the token by its label and in it the RSA private key whose public
// half is spki (DER).
func Open(module, label, pin string, spki []byte, callers int) (*Token, error) {
	public, err := x509.ParsePKIXPublicKey(spki)
	if err != nil {
		return nil, fmt.Errorf("reading the public key: %w", err)
	}
	rsaKey, ok := public.(*rsa.PublicKey)
	if !ok {
		return nil, fmt.Errorf("want an RSA key, got %T", public)
	}
	t := &Token{ctx: pkcs11.New(module)}
	if t.ctx == nil {
		return nil, fmt.Errorf("loading %s", module)
	}
	if err := t.ctx.Initialize(); err != nil && !errors.Is(err, pkcs11.Error(pkcs11.CKR_CRYPTOKI_ALREADY_INITIALIZED)) {
		return nil, fmt.Errorf("initialising %s: %w", module, err)
	}
	slot, err := t.slot(label)
	if err != nil {
		return nil, err
	}
	for range callers {
		s, err := t.ctx.OpenSession(slot, pkcs11.CKF_SERIAL_SESSION)
		if err != nil {
			return nil, fmt.Errorf("opening a session: %w", err)
		}
		t.sessions = append(t.sessions, s)
	}
	if err := t.ctx.Login(t.sessions[0], pkcs11.CKU_USER, pin); err != nil && !errors.Is(err, pkcs11.Error(pkcs11.CKR_USER_ALREADY_LOGGED_IN)) {
		return nil, fmt.Errorf("logging in: %w", err)
	}
	return t, t.find(rsaKey.N)
}

func (t *Token) slot(label string) (uint, error) {
	slots, err := t.ctx.GetSlotList(true)
	if err != nil {
		return 0, fmt.Errorf("listing slots: %w", err)
	}
	for _, slot := range slots {
		if info, err := t.ctx.GetTokenInfo(slot); err == nil && info.Label == label {
			return slot, nil
		}
	}
	return 0, fmt.Errorf("no token with label %q", label)
}

func (t *Token) find(modulus *big.Int) error {
	s := t.sessions[0]
	if err := t.ctx.FindObjectsInit(s, []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PRIVATE_KEY),
		pkcs11.NewAttribute(pkcs11.CKA_MODULUS, modulus.Bytes()),
	}); err != nil {
		return fmt.Errorf("looking for the key: %w", err)
	}
	found, _, err := t.ctx.FindObjects(s, 2)
	if err := errors.Join(err, t.ctx.FindObjectsFinal(s)); err != nil {
		return fmt.Errorf("looking for the key: %w", err)
	}
	if len(found) != 1 {
		return fmt.Errorf("found %d private keys with that modulus, want 1", len(found))
	}
	t.key = found[0]
	return nil
}

// Run does bare RSA operations (CKM_RSA_X_509) on block from every session at
// once for the time given, and returns how long each took.
func (t *Token) Run(block []byte, d time.Duration) ([]time.Duration, error) {
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		all  []time.Duration
		errs []error
	)
	mechanism := []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_RSA_X_509, nil)}
	end := time.Now().Add(d)
	for _, s := range t.sessions {
		wg.Go(func() {
			var mine []time.Duration
			var err error
			for start := time.Now(); start.Before(end) && err == nil; start = time.Now() {
				if err = t.ctx.DecryptInit(s, mechanism, t.key); err == nil {
					_, err = t.ctx.Decrypt(s, block)
				}
				mine = append(mine, time.Since(start))
			}
			mu.Lock()
			defer mu.Unlock()
			all, errs = append(all, mine...), append(errs, err)
		})
	}
	wg.Wait()
	return all, errors.Join(errs...)
}

// Close closes the sessions and finalizes the module.
func (t *Token) Close() error {
	var errs []error
	for _, s := range t.sessions {
		errs = append(errs, t.ctx.CloseSession(s))
	}
	errs = append(errs, t.ctx.Finalize())
	t.ctx.Destroy()
	return errors.Join(errs...)
}

// InitNSS makes a database for NSS softoken in a directory, which no tool of its
// own does, and returns what C_Initialize must be given to use it.
func InitNSS(module, dir, label, pin string) (initArgs string, err error) {
	initArgs = "configdir='sql:" + dir + "' certPrefix='' keyPrefix='' secmod='secmod.db' dbTokenDescription='" + label + "'"
	t := &Token{ctx: pkcs11.New(module)}
	if t.ctx == nil {
		return "", fmt.Errorf("loading %s", module)
	}
	text := append([]byte(initArgs), 0)
	var pinned runtime.Pinner
	pinned.Pin(&text[0])
	defer pinned.Unpin()
	if err := t.ctx.Initialize(pkcs11.InitializeWithReserved(unsafe.Pointer(&text[0]))); err != nil {
		return "", fmt.Errorf("initialising %s: %w", module, err)
	}
	slot, err := t.slot(label)
	if err != nil {
		return "", errors.Join(err, t.ctx.Finalize())
	}
	s, err := t.ctx.OpenSession(slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
	if err == nil {
		err = errors.Join(t.ctx.Login(s, pkcs11.CKU_SO, ""), t.ctx.InitPIN(s, pin))
	}
	if err := errors.Join(err, t.ctx.Finalize()); err != nil {
		return "", fmt.Errorf("making an NSS database in %s: %w", dir, err)
	}
	return initArgs, nil
}
