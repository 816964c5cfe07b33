package hsm

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
	"unsafe"

	"github.com/miekg/pkcs11"
)

// logIn logs the process in to the token, with a session that stays open for
// as long as the Token does. A PIN is tried once: tokens lock after a few wrong
// ones, and whoever starts this process will start it again.
func (t *Token) logIn() error {
	info, err := t.module.ctx.GetTokenInfo(t.slot.id)
	if err != nil {
		return meaning("C_GetTokenInfo", err)
	}
	flags := info.Flags
	switch {
	case flags&pkcs11.CKF_USER_PIN_LOCKED != 0:
		return fmt.Errorf("the user PIN of token %s is locked: the security officer must set a new one (C_InitPIN): %w: %w", t.slot, ErrPINLocked, ErrPINRefused)
	case flags&pkcs11.CKF_USER_PIN_FINAL_TRY != 0:
		return fmt.Errorf("token %s has one try left before its user PIN locks, and keyd does not use it up: "+
			"log in once with another tool and the right PIN: %w: %w", t.slot, ErrPINLocked, ErrPINRefused)
	case flags&pkcs11.CKF_USER_PIN_INITIALIZED == 0:
		return fmt.Errorf("token %s has no user PIN yet: the security officer must set one (C_InitPIN): %w", t.slot, ErrPINRefused)
	case flags&pkcs11.CKF_USER_PIN_COUNT_LOW != 0:
		t.log.Warn("somebody gave this token a wrong PIN since the last good one", "token", t.slot.String())
	}
	pin, err := t.cfg.PIN()
	if err != nil {
		return fmt.Errorf("reading the PIN of token %s: %w", t.slot, err)
	}
	defer clear(pin)
	if err := plausible(pin); err != nil {
		return fmt.Errorf("the PIN for token %s was not tried: %w: %w", t.slot, err, ErrPINRefused)
	}
	if t.loginSession() == 0 {
		s, err := t.openSession(t.check)
		if err != nil {
			return err
		}
		t.login.Store(uint64(s)) // Close ends it, whatever comes now
	}
	t.module.logins.Lock()
	defer t.module.logins.Unlock()
	if err := t.present(pin); err != nil {
		return err
	}
	return t.loggedIn(t.loginSession())
}

// loginSession is the session that holds the login; 0 before there is one.
func (t *Token) loginSession() pkcs11.SessionHandle { return pkcs11.SessionHandle(t.login.Load()) }

// plausible refuses what cannot be a PIN before it costs a try. A line end is
// what an editor leaves in a PIN file.
func plausible(pin []byte) error {
	switch {
	case len(pin) == 0:
		return errors.New("it is empty")
	case !utf8.Valid(pin): // PKCS #11 v2.40 §2.6: PINs are UTF-8
		return errors.New("it is not UTF-8")
	case strings.IndexFunc(unsafe.String(&pin[0], len(pin)), unicode.IsControl) >= 0: // #nosec G103 -- a string(pin) could not be wiped
		return errors.New("it holds a control character (a line end?)")
	}
	return nil
}

// present shows the PIN to the token, unless the guard knows it as refused.
func (t *Token) present(pin []byte) error {
	guard := pinGuard{path: t.cfg.PINGuardPath}
	id := tokenIdentity{Module: t.cfg.Module, Label: t.slot.info.Label, Serial: t.slot.info.SerialNumber}
	tries, err := t.unspent(guard, id, pin)
	if err != nil {
		return err
	}
	// What would have to be written is on disk before the PIN is shown: neither a
	// full disk nor a crash in the module must turn one try into many.
	note, err := guard.prepare(id, pin, tries+1, tries > 0 || t.proven)
	if err != nil {
		return err
	}
	err = t.module.calls.login(t.loginSession(), pin)
	switch {
	case err == nil:
		t.proven = true
		if err := errors.Join(note.discard(), guard.clear()); err != nil {
			t.log.Warn("tidying up after a good PIN", "err", err)
		}
		return nil
	case is(err, pkcs11.CKR_USER_ALREADY_LOGGED_IN):
		// Another Token of this process showed its PIN already. The login is the
		// process's (PKCS #11 v2.40 §2.6.6), and this PIN stays unproven.
		return note.discard()
	case is(err, pkcs11.CKR_PIN_LOCKED):
		return errors.Join(fmt.Errorf("the user PIN of token %s is locked: the security officer must set a new one: %w: %w",
			t.slot, meaning("C_Login", err), ErrPINRefused), note.discard())
	case errors.Is(meaning("C_Login", err), ErrPINRefused):
		return errors.Join(fmt.Errorf("token %s does not accept the PIN; this was the only try until the PIN is changed: %w: %w",
			t.slot, meaning("C_Login", err), ErrPINRefused), note.keep())
	}
	return errors.Join(fmt.Errorf("logging in to token %s: %w", t.slot, meaning("C_Login", err)), note.discard())
}

// unspent looks whether the guard knows the PIN, and how often it was shown
// without an answer. Whoever puts another one in place has it tried.
func (t *Token) unspent(guard pinGuard, id tokenIdentity, pin []byte) (tries int, err error) {
	file, tries, err := guard.refused(id, pin)
	switch {
	case err != nil || file == "":
		return tries, err
	case file == guard.pending():
		return 0, fmt.Errorf("token %s was shown this PIN at an earlier start, and keyd or the module died before the answer: "+
			"that counts as refused, and it is not tried again, because tokens lock: if the PIN is right, remove %s and start keyd again; "+
			"another PIN is tried as soon as it is in place: %w", t.slot, file, ErrPINRefused)
	}
	return 0, fmt.Errorf("token %s refused this PIN at an earlier start, and it is not tried again, because tokens lock: "+
		"put the right PIN in place and start keyd again (if the PIN was right and the token has been repaired since, remove %s first): %w",
		t.slot, file, ErrPINRefused)
}

// loggedIn looks whether a session can see private keys. One that cannot is
// told, without an error, that there are none.
func (t *Token) loggedIn(s pkcs11.SessionHandle) error {
	info, err := t.module.ctx.GetSessionInfo(s)
	if err != nil {
		return meaning("C_GetSessionInfo", err)
	}
	if info.State != pkcs11.CKS_RO_USER_FUNCTIONS && info.State != pkcs11.CKS_RW_USER_FUNCTIONS {
		return fmt.Errorf("token %s has logged this process out: %w", t.slot, meaning("C_GetSessionInfo", pkcs11.Error(pkcs11.CKR_USER_NOT_LOGGED_IN)))
	}
	return nil
}
