package conformance

import (
	"fmt"

	"github.com/miekg/pkcs11"
)

// sessionChecks are how sessions, and what is made in them, come and go.
var sessionChecks = []check{
	{"a key of one session in another", func(l *lab) Check {
		return l.acrossSessions(func(s pkcs11.SessionHandle, o pkcs11.ObjectHandle) Check {
			if _, err := l.pkcs11.GetAttributeValue(l.session, o, attributes(uint(pkcs11.CKA_KEY_TYPE), nil)); err != nil {
				return quirk("not known there (%s); keyd seals nothing and keeps no content keys in such a token", l.said("it is used in another session", err))
			}
			return pass("known there")
		})
	}},
	{"a key of a session that is closed", func(l *lab) Check {
		var o pkcs11.ObjectHandle
		err := l.within(func(s pkcs11.SessionHandle) (err error) {
			o, err = l.create(s, random(32), decrypts())
			return err
		})
		if err != nil {
			return skip("it takes no key: %s", name(err))
		}
		if _, err := l.pkcs11.GetAttributeValue(l.session, o, attributes(uint(pkcs11.CKA_KEY_TYPE), nil)); err != nil {
			return pass("gone with it: %s", l.said("a key whose session is closed", err))
		}
		return quirk("still there; keyd destroys what it makes")
	}},
	{"a session that is closed", func(l *lab) Check {
		s, err := l.pkcs11.OpenSession(l.slot, pkcs11.CKF_SERIAL_SESSION)
		if err != nil {
			return fail("C_OpenSession: %s", name(err))
		}
		if err := l.pkcs11.CloseSession(s); err != nil {
			return fail("C_CloseSession: %s", name(err))
		}
		_, err = l.pkcs11.GetSessionInfo(s)
		return l.mustRefuse("a session that is closed", err)
	}},
	{"many sessions", func(l *lab) Check {
		const want = 128
		var open []pkcs11.SessionHandle
		defer func() {
			for _, s := range open {
				_ = l.pkcs11.CloseSession(s)
			}
		}()
		for len(open) < want {
			s, err := l.pkcs11.OpenSession(l.slot, pkcs11.CKF_SERIAL_SESSION)
			if err != nil {
				return quirk("%d and no more: %s; set sessions in the config below that", len(open), l.said("one more session", err))
			}
			open = append(open, s)
		}
		return pass("%d at once", want)
	}},
	{"a key that is destroyed in another session", func(l *lab) Check {
		_, priv, err := l.generate(pkcs11.CKM_RSA_PKCS_KEY_PAIR_GEN, rsaTemplate(2048), uses{decrypt: true})
		if err != nil {
			return cannot(err)
		}
		if err := l.pkcs11.DestroyObject(l.session, priv); err != nil {
			return fail("C_DestroyObject: %s", l.said("it is destroyed", err))
		}
		return l.mustRefuse("a key that is destroyed", l.within(func(s pkcs11.SessionHandle) error {
			return l.pkcs11.DecryptInit(s, mechanism1(pkcs11.CKM_RSA_X_509, nil), priv)
		}))
	}},
	// From here on it is no more the lab that it was.
	{"logged out", loggedOut},
	{"every session closed at once", allClosed},
	{"the module initialised anew", anew},
}

func (l *lab) acrossSessions(f func(s pkcs11.SessionHandle, o pkcs11.ObjectHandle) Check) Check {
	c := Check{}
	err := l.within(func(s pkcs11.SessionHandle) error {
		o, err := l.create(s, random(32), decrypts())
		if err == nil {
			c = f(s, o)
		}
		return err
	})
	if err != nil {
		return skip("it takes no key: %s", name(err))
	}
	return c
}

// loggedOut looks what becomes of keys when the token does not know its user any
// more, which happens to a daemon from outside.
func loggedOut(l *lab) Check {
	k, err := l.rsaKey(uses{decrypt: true})
	if err != nil {
		return cannot(err)
	}
	if err := l.pkcs11.Logout(l.session); err != nil {
		return fail("C_Logout: %s", l.said("logging out", err))
	}
	err = l.within(func(s pkcs11.SessionHandle) error {
		return l.pkcs11.DecryptInit(s, mechanism1(pkcs11.CKM_RSA_X_509, nil), k.private)
	})
	used := l.said("a private key, logged out", err)
	search := l.searchLoggedOut()
	if again := l.again(); again != nil {
		return fail("logging in again: %v", again)
	}
	if err == nil {
		return quirk("a private key is used all the same; a search says %s", search)
	}
	// "No keys" and "not logged in" look the same in most tokens: keyd asks whether
	// it is logged in before it believes that a key is gone.
	return pass("a private key: %s; a search: %s", used, search)
}

func (l *lab) searchLoggedOut() string {
	if err := l.pkcs11.FindObjectsInit(l.session, attributes(uint(pkcs11.CKA_CLASS), uint(pkcs11.CKO_PRIVATE_KEY))); err != nil {
		return l.said("a search, logged out", err)
	}
	found, _, err := l.pkcs11.FindObjects(l.session, 10)
	_ = l.pkcs11.FindObjectsFinal(l.session)
	if err != nil {
		return l.said("a search, logged out", err)
	}
	return fmt.Sprintf("CKR_OK, with %d private keys", len(found))
}

// again gives the lab another session. Its keys are gone or forgotten: the last
// group looks for them.
func (l *lab) again() error {
	_ = l.pkcs11.CloseSession(l.session) // it may be closed already
	l.made, l.rsa, l.curves = nil, map[uses]*rsaPair{}, map[string]*ecPair{}
	return l.login()
}

func allClosed(l *lab) Check {
	l.destroy()
	before := l.session
	if err := l.pkcs11.CloseAllSessions(l.slot); err != nil {
		return fail("C_CloseAllSessions: %s", l.said("closing every session", err))
	}
	_, old := l.pkcs11.GetSessionInfo(before)
	if old == nil {
		return fail("one of them goes on")
	}
	loggedIn := false
	if err := l.within(func(s pkcs11.SessionHandle) error {
		info, err := l.pkcs11.GetSessionInfo(s)
		loggedIn = info.State == pkcs11.CKS_RO_USER_FUNCTIONS || info.State == pkcs11.CKS_RW_USER_FUNCTIONS
		return err
	}); err != nil {
		return fail("another one: %s", l.said("a session after all were closed", err))
	}
	code := l.said("a session after all were closed", old)
	if err := l.again(); err != nil {
		return fail("%s, and after that: %v", code, err)
	}
	if loggedIn { // PKCS #11 v2.40 §5.6: the last session takes the login with it
		return quirk("%s; the next one is logged in still", code)
	}
	return pass("%s; the next one has to log in", code)
}

// anew is what keyd does not rely on: it starts another process.
func anew(l *lab) Check {
	l.destroy()
	if err := l.pkcs11.Finalize(); err != nil {
		return quirk("C_Finalize: %s; keyd starts another process", l.said("it is finalized", err))
	}
	l.pinned.Unpin()
	if err := l.initialize(); err != nil {
		return quirk("C_Initialize: %s; keyd starts another process", l.said("it is initialised again", err))
	}
	if err := l.find(); err != nil {
		return quirk("%v; keyd starts another process", err)
	}
	if err := l.login(); err != nil {
		return quirk("%v; keyd starts another process", err)
	}
	return pass("the token is there, and logs in")
}
