package hsm

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/miekg/pkcs11"

	"keyd/internal/boundary"
)

// errNoAnswer: the call is in the module still, and nobody waits for it.
var errNoAnswer = errors.New("waiting for the token to answer")

// await runs f in a goroutine of its own and waits for what it sends, until ctx
// ends. A call that hangs in C cannot be interrupted, only left behind: what it
// sends in the end goes to drop.
func await[T any](ctx context.Context, f func(send func(T, error)), drop func(T)) (T, error) {
	type result struct {
		value T
		err   error
	}
	sent := make(chan result, 1)
	go f(func(value T, err error) { sent <- result{value, err} })
	select {
	case r := <-sent:
		return r.value, r.err
	case <-ctx.Done():
	}
	go func() { drop((<-sent).value) }()
	var none T
	return none, fmt.Errorf("%w: %w", errNoAnswer, ctx.Err())
}

type unhurried struct{}

// Unhurried marks a context under which the caller waits for an operation in the
// token to its end, however long ctx lasts, because whoever asked has ways of
// their own to stop waiting. Opening an envelope then takes place in the
// caller's goroutine and wakes no other.
func Unhurried(ctx context.Context) context.Context {
	return context.WithValue(ctx, unhurried{}, true)
}

func isUnhurried(ctx context.Context) bool {
	is, _ := ctx.Value(unhurried{}).(bool)
	return is
}

// here runs f in the caller's goroutine.
func here[T any](f func(send func(T, error))) (value T, err error) {
	f(func(v T, e error) { value, err = v, e })
	return value, err
}

// use is one turn with a session.
type use struct {
	session pkcs11.SessionHandle
	age     uint64
	logins  uint64                // Token.logins when the turn began
	spoiled bool                  // the session must not be used again
	left    []pkcs11.ObjectHandle // keys of the session that nobody needs any more
}

// leave has a key of the session destroyed when the turn has been answered.
func (u *use) leave(object pkcs11.ObjectHandle) { u.left = append(u.left, object) }

// tidy destroys what is left in a session that is as it was: after a login, or
// in another session, the handles could stand for something else. A session that
// keeps something is not used again, and takes its objects with it.
func (t *Token) tidy(u *use) {
	if len(u.left) == 0 {
		return
	}
	t.handles.RLock()
	defer t.handles.RUnlock()
	if u.age == t.age.Load() && u.logins == t.logins.Load() {
		t.destroyLeft(u)
	}
	u.left = nil
}

// destroyLeft is tidy for whoever has t.handles, or the session to itself.
func (t *Token) destroyLeft(u *use) {
	for _, object := range u.left {
		if err := t.module.ctx.DestroyObject(u.session, object); err != nil {
			t.log.Debug("destroying a key of a session", "err", meaning("C_DestroyObject", err))
			u.spoiled = true
		}
	}
	u.left = nil
}

// run gives f a session of the lane. The caller waits no longer than ctx; f
// runs to its end and holds the session until then, so the lane bounds how
// many calls can hang. f runs once more where what it failed with could be
// repaired, so it must be safe to repeat. The result of an f that nobody waits
// for any more goes to drop, which may be nil.
func run[T any](ctx context.Context, t *Token, l *lane, op string, f func(u *use) (T, error), drop func(T)) (T, error) {
	if drop == nil {
		drop = func(T) {}
	}
	var none T
	if t.closed.Load() {
		return none, fmt.Errorf("the token is closed: %w", boundary.ErrUnavailable)
	}
	start := time.Now()
	p, err := l.take(ctx)
	wait := time.Since(start)
	if err != nil {
		t.observe(op, wait, 0, err)
		return none, err
	}
	l.occupants[p.number].Store(&occupant{op: op, since: time.Now()})
	turn := func(send func(T, error)) {
		u := &use{session: p.session, age: p.age}
		began := time.Now()
		value, err := enter(t, l, u, f)
		t.observe(op, wait, time.Since(began), err)
		// The answer first: whether a session is closed after it must not show
		// in the time it takes.
		send(value, err)
		t.giveBack(l, p.number, u, err)
	}
	if l == t.pool && isUnhurried(ctx) {
		return here(turn)
	}
	return await(ctx, turn, drop)
}

// enter calls f with a session, and once more after a repair.
func enter[T any](t *Token, l *lane, u *use, f func(u *use) (T, error)) (T, error) {
	value, err := once(t, l, u, f)
	if err != nil && t.repair(l, u, err) {
		value, err = once(t, l, u, f)
	}
	if err == nil {
		t.strikes.Store(0)
	}
	return value, err
}

// once opens the session if need be and calls f.
func once[T any](t *Token, l *lane, u *use, f func(u *use) (T, error)) (T, error) {
	u.logins = t.logins.Load()
	if u.session != 0 && u.age != t.age.Load() {
		u.session = 0 // it went with all the others, and its number may be somebody else's
	}
	if u.session == 0 {
		if err := t.openFor(l, u); err != nil {
			var none T
			return none, err
		}
	}
	if l == t.pool || l == t.hold {
		t.handles.RLock()
		defer t.handles.RUnlock()
		u.logins = t.logins.Load() // no more of them until f is done
	}
	value, err := f(u)
	if err == nil && u.logins != t.logins.Load() {
		err = errRenumbered
	}
	if l == t.manage && errors.Is(err, boundary.ErrNoKey) {
		err = t.missing(u, err)
	}
	if err != nil {
		t.destroyLeft(u) // before anything is repaired, and the session another one
	}
	return value, err
}

// errRenumbered: somebody logged in again during the turn, so that object handles
// which were found before may have stood for something else afterwards. Where
// handles is held, which is for as long as an opening takes, that cannot be.
var errRenumbered = fmt.Errorf("the token logged this process out meanwhile: %w", boundary.ErrUnavailable)

// missing tells a key that is not there from one whose object handle went with a
// logout in the middle of the turn.
func (t *Token) missing(u *use, why error) error {
	t.handles.RLock() // nobody is about to log in
	defer t.handles.RUnlock()
	if u.logins != t.logins.Load() {
		return errRenumbered
	}
	if err := t.ready(u.session); err != nil {
		return err
	}
	return why
}

// openFor opens a session for one turn.
func (t *Token) openFor(l *lane, u *use) (err error) {
	u.age = t.age.Load()
	u.session, err = t.openSession(l)
	return err
}

// openSession opens a session. A module that gives out a number that is in use
// has forgotten what it gave out before.
func (t *Token) openSession(l *lane) (pkcs11.SessionHandle, error) {
	flags := uint(pkcs11.CKF_SERIAL_SESSION)
	if l.write {
		flags |= pkcs11.CKF_RW_SESSION
	}
	s, err := t.module.openSession(t.slot.id, flags)
	if err != nil {
		return 0, meaning("C_OpenSession", err)
	}
	if _, used := t.sessions.LoadOrStore(s, true); used {
		return 0, t.breaks(fmt.Errorf("C_OpenSession: a session with the number of another one: %w", boundary.ErrUnavailable))
	}
	return s, nil
}

// giveBack returns a session to its lane. After an error it is closed: some
// tokens leave the failed operation active and refuse the next one.
func (t *Token) giveBack(l *lane, number int, u *use, err error) {
	t.tidy(u)
	if (err != nil || u.spoiled || !l.keep) && !l.lasting {
		if u.age == t.age.Load() {
			t.closeSession(u.session)
		}
		u.session = 0
	}
	l.occupants[number].Store(nil)
	l.slots <- place{number: number, session: u.session, age: u.age}
}

// openPool opens every session of the pool, so that a token that allows fewer
// is noticed at the start and not under load.
func (t *Token) openPool() error {
	for n := range cap(t.pool.slots) {
		p := <-t.pool.slots
		s, err := t.openSession(t.pool)
		t.pool.slots <- place{number: p.number, session: s, age: t.age.Load()}
		if errors.Is(err, boundary.ErrBusy) {
			return fmt.Errorf("opening session %d of %d: the token allows no more; configure fewer: %w", n+1, cap(t.pool.slots), err)
		}
		if err != nil {
			return fmt.Errorf("opening session %d of %d: %w", n+1, cap(t.pool.slots), err)
		}
	}
	return nil
}

func (t *Token) observe(op string, wait, inToken time.Duration, err error) {
	t.remember(op, err)
	if t.cfg.Observe != nil {
		t.cfg.Observe(op, wait, inToken, err)
	}
}

// remember keeps the device's last fault for Health.
func (t *Token) remember(op string, err error) {
	if errors.Is(err, boundary.ErrUnavailable) {
		text := time.Now().UTC().Format(time.RFC3339) + " " + op + ": " + err.Error()
		t.lastError.Store(&text)
	}
}
