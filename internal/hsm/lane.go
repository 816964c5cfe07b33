package hsm

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/miekg/pkcs11"

	"keyd/internal/boundary"
)

// lane is a fixed number of sessions. A session belongs to one goroutine at a
// time: two on one without a lock crash SoftHSM.
type lane struct {
	name  string
	keep  bool // sessions stay open between uses
	write bool // sessions may change token objects
	wait  time.Duration
	slots chan pkcs11.SessionHandle // 0: to be opened by whoever takes it

	// occupant is who has the session, where there is only one.
	occupant atomic.Pointer[occupant]
	// After slow, a call that others wait for is said to hang; after limit it is
	// not waited for any more, and no other one waits for it.
	slow, limit time.Duration
}

// occupant is a call into the module.
type occupant struct {
	op    string
	since time.Time
}

func (o *occupant) inside() time.Duration {
	if o == nil {
		return 0
	}
	return time.Since(o.since)
}

func (l *lane) occupy(op string) {
	if cap(l.slots) == 1 {
		l.occupant.Store(&occupant{op: op, since: time.Now()})
	}
}

func newLane(name string, size int, keep, write bool, wait time.Duration) *lane {
	l := &lane{name: name, keep: keep, write: write, wait: wait, slots: make(chan pkcs11.SessionHandle, size)}
	for range size {
		l.slots <- 0
	}
	return l
}

func (l *lane) inUse() int { return cap(l.slots) - len(l.slots) }

// take waits for a session until ctx or the lane's own patience ends.
func (l *lane) take(ctx context.Context) (pkcs11.SessionHandle, error) {
	if err := ctx.Err(); err != nil {
		return 0, fmt.Errorf("waiting for a session: %w", err)
	}
	select {
	case s := <-l.slots:
		return s, nil
	default:
	}
	patience := time.NewTimer(l.wait)
	defer patience.Stop()
	select {
	case s := <-l.slots:
		return s, nil
	case <-ctx.Done():
		return 0, fmt.Errorf("waiting for a session, all %d in use: %w: %w", cap(l.slots), boundary.ErrBusy, ctx.Err())
	case <-patience.C:
		return 0, fmt.Errorf("waited %s for a session, all %d in use: %w", l.wait, cap(l.slots), boundary.ErrBusy)
	}
}

// managed runs f in the management lane, which has one session, so that a call
// that does not come back from the module stops every later one. Nobody waits
// for it for ever, and whoever gives up is told what they waited for.
func managed[T any](ctx context.Context, t *Token, op string, f func(ctx context.Context, u *use) (T, error)) (T, error) {
	var none T
	if o := t.manage.occupant.Load(); o.inside() >= t.manage.limit {
		return none, t.hangs(ctx, op, o)
	}
	// f has the same limit as its caller: a result that nobody waits for any
	// more, such as a key, must not stay.
	limited, cancel := context.WithTimeout(ctx, t.manage.limit)
	defer cancel()
	value, err := run(limited, t, t.manage, op, func(u *use) (T, error) { return f(limited, u) }, nil)
	if err == nil || errors.Is(ctx.Err(), context.Canceled) {
		return value, err
	}
	// The call itself, or the one that it waited behind.
	o := t.manage.occupant.Load()
	if errors.Is(err, errNoAnswer) && o != nil || errors.Is(err, boundary.ErrBusy) && o.inside() >= t.manage.slow {
		return none, t.hangs(ctx, op, o)
	}
	return none, err
}

// hangs says that a call into the module does not come back.
func (t *Token) hangs(ctx context.Context, op string, o *occupant) error {
	err := fmt.Errorf("%w: a call into the module (%s) has not come back for %s", boundary.ErrUnavailable, o.op, o.inside().Round(time.Millisecond))
	if ctx.Err() != nil {
		err = fmt.Errorf("%w: %w", err, ctx.Err())
	}
	t.log.Error("a call into the module has not come back", "call", o.op, "for", o.inside(), "given up", op)
	t.remember(op, err)
	return err
}
