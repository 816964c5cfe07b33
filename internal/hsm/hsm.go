// Package hsm keeps private keys in a PKCS #11 token. It makes them there,
// non-extractable, opens envelopes with them without taking them out, and
// destroys them.
//
// What a token can do is found out by doing it, with a throw-away key, when the
// token is opened: mechanism lists are wrong in both directions.
//
// The module runs in the process that calls Open, which in production is one of
// its own (package worker): it is C, one that crashes takes its process with it,
// and nothing but another process can initialise it anew once it has lost its
// token. Config.Broken tells whoever can start one.
package hsm

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"regexp"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/pkcs11"

	"keyd/internal/boundary"
)

// Config says which token to use, and how.
type Config struct {
	// Name is the backend's name in keyd's config.
	Name string
	// Instance is part of every label, so that several daemons can share a
	// token: keyd/<instance>/<key>/<kid>.
	Instance string
	// Module is the absolute path of the vendor's PKCS #11 library.
	Module string
	// TokenLabel and TokenSerial choose the token: at least one, and where both
	// are given both must match. There is no slot number: slots are renumbered.
	TokenLabel, TokenSerial string
	// PIN returns the user PIN. It is called when the token is about to be shown
	// it, and the answer wiped afterwards.
	PIN func() ([]byte, error) `json:"-"`
	// PINGuardPath is a file in which a refused PIN is remembered (as a slow
	// hash), so that no restart tries it again. Beside it, with ".new" added,
	// stands a PIN while it is tried; one that is left there by a crash counts as
	// refused. The directory must exist.
	PINGuardPath string
	// Proven: the token has accepted the PIN since keyd was started. A try that
	// then has no answer, because the module hung or its process died, does not
	// yet count as refused; a second one does.
	Proven bool
	// Sessions is how many operations run in the token at once.
	Sessions int
	// SessionWait is how long an operation waits for a session before it is
	// refused with [boundary.ErrBusy].
	SessionWait time.Duration
	// CallTimeout is how long a private-key operation or a look at the token may
	// stay in the module before it is taken to hang.
	CallTimeout time.Duration
	// MinBoundary is the level below which nothing is done, and Open fails if the
	// token reaches it with nothing. Empty: any will do.
	MinBoundary boundary.Level
	// OnlyLevel is the one level at which private keys open envelopes, though the
	// token may do more: for measuring what a level costs. Empty: the deepest that
	// there is for an envelope.
	OnlyLevel boundary.Level
	// Reserved is handed to C_Initialize as pReserved. NSS needs it
	// ("configdir='sql:/dir' ..."); most modules want it empty.
	Reserved string
	// ForKeys opens the token to make keys: which ones it has is not looked for.
	ForKeys bool
	Logger  *slog.Logger `json:"-"`
	// Observe, if set, is told of every operation in the token: how long it
	// waited for a session, how long the token took, and the token's error. That
	// an envelope did not open is not the token's error.
	Observe func(op string, wait, inToken time.Duration, err error) `json:"-"`
	// Broken, if set, is told that the module is to be initialised anew, which
	// takes another process, and why.
	Broken func(why error) `json:"-"`
}

const maxSessions = 1024

// instanceName keeps labels readable and free of the separator.
var instanceName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

func (c *Config) validate() error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	check(c.Name != "", "Name is missing")
	check(instanceName.MatchString(c.Instance), "Instance %q: want letters, digits, dots and dashes", c.Instance)
	check(filepath.IsAbs(c.Module), "Module %q: want an absolute path", c.Module)
	check(c.TokenLabel != "" || c.TokenSerial != "", "TokenLabel or TokenSerial is missing")
	check(c.PIN != nil, "PIN is missing")
	check(c.PINGuardPath != "", "PINGuardPath is missing")
	check(c.Sessions >= 1 && c.Sessions <= maxSessions, "Sessions %d: want 1 to %d", c.Sessions, maxSessions)
	check(c.SessionWait > 0, "SessionWait %s: want more than 0", c.SessionWait)
	check(c.CallTimeout > 0, "CallTimeout %s: want more than 0", c.CallTimeout)
	check(c.Logger != nil, "Logger is missing")
	if c.MinBoundary != "" {
		if _, err := boundary.ParseLevel(string(c.MinBoundary)); err != nil {
			errs = append(errs, fmt.Errorf("MinBoundary: %w", err))
		}
	}
	check(c.OnlyLevel == "" || c.OnlyLevel.AtLeast(c.MinBoundary), "OnlyLevel %q: want a level that is not below MinBoundary %q", c.OnlyLevel, c.MinBoundary)
	return errors.Join(errs...)
}

// Token is a logged-in PKCS #11 token. Its methods may be called from many
// goroutines at once. A device that is gone, logged out or refusing to work is
// [boundary.ErrUnavailable].
type Token struct {
	cfg     Config
	log     *slog.Logger
	module  *module
	slot    slot
	login   atomic.Uint64 // the session that stays: PKCS #11 v2.40 §2.6.6, closing the last one logs out
	proven  bool          // the token has accepted the PIN before; guarded by module.logins
	mode    atomic.Pointer[mode]
	keys    cache
	points  points
	taken   [2]atomic.Int32 // how much of a template the token takes (leaveOut), for RSA and for curves
	holding holding
	pool    *lane // for opening envelopes
	manage  *lane // for everything that makes, destroys or looks for objects
	check   *lane // for Health
	hold    *lane // for the content keys of exchanges, which live in its session

	// age counts how often every session was lost at once. One that is older is
	// not used and not closed: its number may stand for another one by now.
	age        atomic.Uint64
	sessions   sync.Map      // the open ones, by their numbers
	logins     atomic.Uint64 // logins after the first
	relogin    sync.Mutex
	loggedInAt [mostLogins]time.Time // the last logins after the first; guarded by relogin
	loginSpan  span
	// handles is held while a key's object handle is used, and for writing while
	// every one of them may come to stand for something else.
	handles   sync.RWMutex
	searching sync.Mutex
	strikes   atomic.Int32          // faults of the device in a row
	broken    atomic.Pointer[error] // why the module is to be initialised anew

	closed    atomic.Bool
	watching  chan struct{} // closed by Close
	lastError atomic.Pointer[string]
}

// Open loads the module, finds the token, logs in and finds out what the token
// can do. A PIN that the token refused is [ErrPINRefused].
func Open(ctx context.Context, cfg Config) (*Token, error) {
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("the config of a PKCS #11 token: %w", err)
	}
	t, err := await(ctx, func(send func(*Token, error)) { send(open(ctx, cfg)) }, func(t *Token) {
		if t != nil {
			_ = t.Close() // nobody is left to be told
		}
	})
	if err != nil {
		return nil, fmt.Errorf("opening the token of backend %s: %w", cfg.Name, err)
	}
	return t, nil
}

func open(ctx context.Context, cfg Config) (_ *Token, err error) {
	t := &Token{cfg: cfg, log: cfg.Logger.With("backend", cfg.Name), watching: make(chan struct{}), proven: cfg.Proven}
	if t.module, err = load(cfg.Module, cfg.Reserved); err != nil {
		return nil, err
	}
	t.pool = newLane("decrypt", cfg.Sessions, true, false, cfg.SessionWait)
	t.manage = newLane("management", 1, false, true, manageWait)
	t.manage.slow.set(manageSlow)
	t.manage.limit.set(ManageLimit)
	t.check = newLane("health check", 1, false, false, healthWait)
	t.pool.limit.set(cfg.CallTimeout)
	t.check.limit.set(cfg.CallTimeout)
	t.hold = newLane("content key", 1, true, false, cfg.SessionWait)
	t.hold.limit.set(cfg.CallTimeout)
	t.hold.lasting = true
	t.loginSpan.set(loginSpan)
	defer func() {
		if err != nil {
			err = errors.Join(err, t.Close())
		}
	}()
	if t.slot, err = findSlot(t.module.ctx, cfg.TokenLabel, cfg.TokenSerial); err != nil {
		return nil, err
	}
	if err := t.logIn(); err != nil {
		return nil, err
	}
	if err := t.openPool(); err != nil {
		return nil, err
	}
	if err := t.takeIn(ctx); err != nil {
		return nil, err
	}
	go t.watch()
	t.log.Info("token opened", "token", t.slot.String(), "boundary", t.mode.Load().levels(), "keys", t.keys.size())
	return t, nil
}

// How long Close waits for operations that are still in the token, a management
// operation for another one, and Health for everything.
const (
	closeWait  = 2 * time.Second
	manageWait = 2 * time.Minute
	healthWait = 2 * time.Second
)

// How long a management operation takes before it is said to hang, and before it
// is given up. The slowest is a key generation: minutes on a smartcard.
const (
	manageSlow  = time.Minute
	ManageLimit = 10 * time.Minute
)

// Close waits for the operations in the token, closes every session, which logs
// out, and unloads the module if no other Token uses it. A module that does not
// come back from a call is left as it is and said so.
func (t *Token) Close() error {
	if t.closed.Swap(true) {
		return nil
	}
	close(t.watching)
	deadline := time.After(closeWait)
	var places []place // all, before one is closed: that would wait for a call that hangs
	for _, l := range []*lane{t.pool, t.hold, t.manage, t.check} {
		for range cap(l.slots) {
			select {
			case p := <-l.slots:
				places = append(places, p)
			case <-deadline:
				return fmt.Errorf("closing the token: a %s call has not come back from the module: %w", l.name, boundary.ErrUnavailable)
			}
		}
	}
	for _, p := range places {
		if p.age == t.age.Load() {
			t.closeSession(p.session)
		}
	}
	t.closeSession(t.loginSession())
	if err := errors.Join(t.holding.close(), t.module.release()); err != nil {
		return fmt.Errorf("closing the token: %w", err)
	}
	return nil
}

// closeSession ends a session if there is one. That a session cannot be closed
// has no consequence: it is gone, or the module is.
func (t *Token) closeSession(s pkcs11.SessionHandle) {
	if s == 0 {
		return
	}
	t.sessions.Delete(s) // before the module can give the number to somebody else
	if err := t.module.closeSession(s); err != nil {
		t.log.Debug("closing a session", "err", err)
	}
}
