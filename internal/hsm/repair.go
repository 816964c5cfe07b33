package hsm

import (
	"errors"
	"fmt"
	"time"

	"github.com/miekg/pkcs11"

	"keyd/internal/boundary"
)

// mostStrikes is how many faults of the device in a row are believed to be
// nothing more, while the token says that it is well.
const mostStrikes = 8

// repair does what may help against an error, and reports whether it is worth to
// try again.
func (t *Token) repair(l *lane, u *use, err error) (again bool) {
	if errors.Is(err, errRenumbered) {
		return true
	}
	switch remedyFor(err) {
	case anotherSession:
		return t.renew(l, u, err) == nil
	case logIn:
		return t.logInAgain(u) == nil
	case look:
		return t.look(u, err)
	case reinitialise:
		_ = t.breaks(err)
	}
	return false
}

// renew puts another session in the place of one that is of no more use. If the
// new one does not know the user, every other one has gone too.
func (t *Token) renew(l *lane, u *use, why error) error {
	gone := is(why, pkcs11.CKR_SESSION_HANDLE_INVALID, pkcs11.CKR_SESSION_CLOSED)
	if gone {
		t.sessions.Delete(u.session)
	} else {
		t.closeSession(u.session)
	}
	u.session = 0
	if l.lasting {
		t.loseHeld() // what was made in it went with it
	}
	if err := t.openFor(l, u); err != nil {
		return err
	}
	err := t.loggedIn(u.session)
	if remedyFor(err) != logIn {
		return err
	}
	return t.logInAgain(u) // once opens a session if this one has gone with the others
}

// A token that logs out again and again is not logged in to for ever.
const (
	mostLogins = 5
	loginSpan  = 10 * time.Second
)

// logInAgain is for a token that does not know this process as its user any
// more. Whoever notices first does it, and the others wait; if it does not work,
// it is not tried again.
func (t *Token) logInAgain(u *use) error {
	t.relogin.Lock()
	defer t.relogin.Unlock()
	if why := t.broken.Load(); why != nil {
		return *why
	}
	if t.logins.Load() != u.logins {
		return nil // somebody else has, since this turn began
	}
	t.log.Warn("the token has logged this process out; logging in again", "token", t.slot.String())
	if err := t.standing(); err != nil {
		return t.breaks(err)
	}
	at := &t.loggedInAt[t.logins.Load()%mostLogins]
	if time.Since(*at) < t.loginSpan.get() {
		return t.breaks(fmt.Errorf("it does so again and again: %w", boundary.ErrUnavailable))
	}
	*at = time.Now()
	// A login needs a session that stays. If the one that did is gone, so are all.
	if _, err := t.module.ctx.GetSessionInfo(t.loginSession()); err != nil {
		t.sessions.Clear()
		t.age.Add(1)
		t.login.Store(0)
		u.session = 0
	}
	// PKCS #11 v2.40 §5.6 (C_Logout): handles of private objects do not survive a
	// logout. They could stand for other objects afterwards.
	t.handles.Lock()
	defer t.handles.Unlock()
	if err := t.logIn(); err != nil {
		return t.breaks(fmt.Errorf("logging in again: %w", err))
	}
	if err := t.findAll(t.loginSession()); err != nil {
		return t.breaks(fmt.Errorf("finding the keys again: %w", err))
	}
	// Nor do keys of sessions, and what comes back may be another device.
	t.holding.loseToken()
	if err := t.learnIn(&use{session: t.loginSession()}); err != nil {
		return t.breaks(fmt.Errorf("finding out anew what the token can do: %w", err))
	}
	t.logins.Add(1)
	return nil
}

// loseHeld forgets the content keys that were in the token. Their handles may
// come to stand for something else.
func (t *Token) loseHeld() {
	t.handles.Lock()
	defer t.handles.Unlock()
	t.holding.loseToken()
}

// again finds a private key whose object handle the module does not know any
// more, though it was given out. If the token is well and the key is not there,
// it is gone, and no later request looks for it. Only one looks at a time.
func (t *Token) again(s pkcs11.SessionHandle, handle string, k *key, why error) (*key, error) {
	if err := t.ready(s); err != nil {
		return nil, err
	}
	t.searching.Lock()
	defer t.searching.Unlock()
	if now, err := t.keys.get(handle); err != nil || now != k {
		return now, err // somebody else has looked
	}
	n, err := parseHandle(handle)
	if err != nil {
		return nil, err
	}
	found, err := t.findNamed(s, pkcs11.CKO_PRIVATE_KEY, n)
	if err := errors.Join(err, t.ready(s)); err != nil {
		return nil, err
	}
	t.keys.put(handle, found)
	now, err := t.keys.get(handle)
	switch {
	case err != nil:
		t.log.Warn("a private key is no longer in the token", "handle", handle, "err", why)
		return nil, err
	case !now.same(k):
		t.keys.put(handle, nil)
		return nil, fmt.Errorf("another private key stands where %s was: %w", handle, boundary.ErrNoKey)
	}
	t.log.Warn("a private key has another object handle now", "handle", handle)
	return now, nil
}

// look asks a token that had a fault of its own whether it is well.
func (t *Token) look(u *use, why error) (again bool) {
	err := t.standing()
	if err == nil && u.session != 0 && u.age == t.age.Load() {
		err = t.loggedIn(u.session)
	}
	switch {
	case remedyFor(err) == logIn:
		return t.logInAgain(u) == nil
	case err != nil:
		_ = t.breaks(fmt.Errorf("%w, after %w", err, why))
	case t.strikes.Add(1) >= mostStrikes:
		_ = t.breaks(fmt.Errorf("%d faults in a row: %w", mostStrikes, why))
	}
	return false
}

// breaks notes that the module must be initialised anew, which takes another
// process. What is asked of this one goes on being tried.
func (t *Token) breaks(why error) error {
	if t.broken.CompareAndSwap(nil, &why) {
		t.log.Error("the module must be initialised anew", "token", t.slot.String(), "why", why)
		if t.cfg.Broken != nil {
			t.cfg.Broken(why)
		}
	}
	return why
}

// watch looks for calls that do not come back from the module. Nothing can
// interrupt one but the end of its process.
func (t *Token) watch() {
	tick := time.NewTicker(min(max(t.cfg.CallTimeout/10, 5*time.Millisecond), time.Second))
	defer tick.Stop()
	for {
		select {
		case <-t.watching:
			return
		case <-tick.C:
			for _, l := range []*lane{t.pool, t.hold, t.manage, t.check} {
				if o := l.hung(); o != nil {
					_ = t.breaks(fmt.Errorf("%w: a call into the module (%s) has not come back for %s", boundary.ErrUnavailable, o.op, o.inside().Round(time.Millisecond)))
				}
			}
		}
	}
}
