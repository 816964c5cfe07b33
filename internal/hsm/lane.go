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
	// lasting: a session is not closed after an error, since what was made in it
	// would go with it.
	lasting bool
	wait    time.Duration
	slots   chan place

	waiting atomic.Int32 // callers that wait for a place
	most    int32        // of them

	// occupants are the calls into the module, by place.
	occupants []atomic.Pointer[occupant]
	// After slow, a call that others wait for is said to hang; after limit it is
	// not waited for any more, and the module is of no more use.
	slow, limit span
}

// span is a duration that tests change while it is looked at.
type span struct{ ns atomic.Int64 }

func (s *span) set(d time.Duration) { s.ns.Store(int64(d)) }
func (s *span) get() time.Duration  { return time.Duration(s.ns.Load()) }

// place is one of a lane's sessions.
type place struct {
	number  int
	session pkcs11.SessionHandle // 0: to be opened by whoever takes the place
	age     uint64               // of the session: Token.age when it was opened
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

func newLane(name string, size int, keep, write bool, wait time.Duration) *lane {
	l := &lane{name: name, keep: keep, write: write, wait: wait, slots: make(chan place, size),
		most: int32(64 + 32*size), occupants: make([]atomic.Pointer[occupant], size)}
	for n := range size {
		l.slots <- place{number: n}
	}
	return l
}

func (l *lane) inUse() int { return cap(l.slots) - len(l.slots) }

// only is who has the session of a lane that has one.
func (l *lane) only() *occupant { return l.occupants[0].Load() }

// hung is a call that has been in the module for longer than the limit, or nil.
func (l *lane) hung() *occupant {
	for i := range l.occupants {
		if o := l.occupants[i].Load(); o.inside() > l.limit.get() {
			return o
		}
	}
	return nil
}

// take waits for a place until ctx or the lane's own patience ends. Where too
// many wait already, whoever comes is told so at once.
func (l *lane) take(ctx context.Context) (place, error) {
	if err := ctx.Err(); err != nil {
		return place{}, fmt.Errorf("waiting for a session: %w", err)
	}
	select {
	case p := <-l.slots:
		return p, nil
	default:
	}
	defer l.waiting.Add(-1)
	if n := l.waiting.Add(1); n > l.most {
		return place{}, fmt.Errorf("%d operations wait for a session already, all %d in use: %w", n-1, cap(l.slots), boundary.ErrBusy)
	}
	patience := time.NewTimer(l.wait)
	defer patience.Stop()
	select {
	case p := <-l.slots:
		return p, nil
	case <-ctx.Done():
		return place{}, fmt.Errorf("waiting for a session, all %d in use: %w: %w", cap(l.slots), boundary.ErrBusy, ctx.Err())
	case <-patience.C:
		return place{}, fmt.Errorf("waited %s for a session, all %d in use: %w", l.wait, cap(l.slots), boundary.ErrBusy)
	}
}

// managed runs f in the management lane, which has one session, so that a call
// that does not come back from the module stops every later one. Nobody waits
// for it for ever, and whoever gives up is told what they waited for.
func managed[T any](ctx context.Context, t *Token, op string, f func(ctx context.Context, u *use) (T, error)) (T, error) {
	var none T
	if o := t.manage.only(); o.inside() >= t.manage.limit.get() {
		return none, t.hangs(ctx, op, o)
	}
	// f has the same limit as its caller: a result that nobody waits for any
	// more, such as a key, must not stay.
	limited, cancel := context.WithTimeout(ctx, t.manage.limit.get())
	defer cancel()
	value, err := run(limited, t, t.manage, op, func(u *use) (T, error) { return f(limited, u) }, nil)
	if err == nil || errors.Is(ctx.Err(), context.Canceled) {
		return value, err
	}
	// The call itself, or the one that it waited behind.
	o := t.manage.only()
	if errors.Is(err, errNoAnswer) && o != nil || errors.Is(err, boundary.ErrBusy) && o.inside() >= t.manage.slow.get() {
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
