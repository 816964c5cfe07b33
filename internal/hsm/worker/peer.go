package worker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"keyd/internal/boundary"
)

// errLost: the worker ended before it answered. What it was asked may have
// happened or not.
var errLost = errors.New("the worker of the PKCS #11 module is gone")

// peer is the daemon's side of one pipe: calls that wait for their answers.
type peer struct {
	link  *link
	lines lines
	most  int // calls at a time

	pin     func() ([]byte, error)
	handing atomic.Bool // the PIN is being read
	observe func(observation)
	broken  func(error)

	mu    sync.Mutex
	calls map[uint64]*call
	last  uint64
	end   error // why there are no more

	done chan struct{} // closed when end is set
}

// call is one that waits.
type call struct {
	kind   kind
	since  time.Time
	answer chan answer // holds one
}

type answer struct {
	payload []byte
	err     error
}

func newPeer(conn net.Conn, lines []net.Conn, most int) *peer {
	return &peer{link: newLink(conn), lines: newLines(lines), most: most, calls: map[uint64]*call{}, done: make(chan struct{})}
}

// read takes in what the worker sends until the pipe ends.
func (p *peer) read(conn io.Reader) {
	in := newReader(conn)
	for {
		f, err := in.next()
		if err == nil {
			err = p.handle(f)
		}
		if err != nil {
			p.finish(err)
			return
		}
	}
}

// handle takes one frame. What the worker sends is not trusted: a vendor's code
// runs there.
func (p *peer) handle(f frame) error {
	d := decoder{b: f.payload}
	switch f.kind {
	case result, failed:
		a, err := p.answer(f)
		if err != nil {
			return err
		}
		if c := p.take(f.id); c != nil {
			c.answer <- a
		} else {
			clear(f.payload) // whoever asked has gone
		}
		return nil
	case askPIN:
		if p.handing.Swap(true) || d.done() != nil {
			return errMalformed
		}
		go p.handOver()
		return nil
	case broken:
		why := d.error()
		if d.done() != nil {
			return errMalformed
		}
		p.broken(why)
		return nil
	}
	return fmt.Errorf("%w: a frame of kind %d", errMalformed, f.kind)
}

// answer reads a frame that is one.
func (p *peer) answer(f frame) (a answer, err error) {
	d := decoder{b: f.payload}
	d.observations(p.observe)
	a.payload = d.rest()
	if f.kind == failed {
		e := decoder{b: a.payload}
		a.payload, a.err = nil, e.error()
		d.bad = d.bad || e.done() != nil
	}
	if d.bad || f.kind != result && f.kind != failed {
		clear(f.payload)
		return answer{}, errMalformed
	}
	return a, nil
}

// handOver reads the PIN and sends it at once.
func (p *peer) handOver() {
	secret, err := p.pin()
	f := newBuffer(pin, 0)
	if err != nil {
		f.b[lengthSize] = byte(noPIN)
		f.b = appendError(f.b, err)
	} else {
		f.reserve(len(secret))
		f.b = append(f.b, secret...)
		clear(secret)
	}
	p.handing.Store(false)
	_ = p.link.send(f) // if the pipe is gone, nobody asks any more
}

// take removes a call, so that it is answered once.
func (p *peer) take(id uint64) *call {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.calls[id]
	delete(p.calls, id)
	return c
}

// finish answers every call that is left.
func (p *peer) finish(err error) {
	p.link.close(err)
	p.lines.close(err)
	p.mu.Lock()
	if p.end != nil {
		p.mu.Unlock()
		return
	}
	p.end = fmt.Errorf("%w: %w: %w", errLost, boundary.ErrUnavailable, err)
	calls := p.calls
	p.calls = nil
	p.mu.Unlock()
	for _, c := range calls {
		c.answer <- answer{err: p.end}
	}
	close(p.done)
}

// call asks one thing. It waits no longer than ctx; the worker is told of that.
func (p *peer) call(ctx context.Context, k kind, write func(*buffer)) ([]byte, error) {
	if l := p.lines.take(k); l != nil {
		return p.callOn(ctx, l, k, write)
	}
	id, c, err := p.register(k)
	if err != nil {
		return nil, err
	}
	if err := p.send(ctx, p.link, k, id, write); err != nil {
		return nil, err
	}
	select {
	case a := <-c.answer:
		return a.payload, a.err
	case <-ctx.Done():
	}
	if p.take(id) == nil {
		a := <-c.answer // it came at the same moment
		clear(a.payload)
	} else {
		_ = p.link.send(newBuffer(cancel, id)) // or nobody is there to be told
	}
	return nil, fmt.Errorf("waiting for the worker: %w", ctx.Err())
}

// send puts a call on its way. If it cannot, the call is over.
func (p *peer) send(ctx context.Context, l *link, k kind, id uint64, write func(*buffer)) error {
	f := newBuffer(k, id)
	f.b = appendUint64(f.b, uint64(budget(ctx)))
	write(f)
	err := l.send(f)
	switch {
	case err == nil:
		return nil
	case p.take(id) != nil && errors.Is(err, errTooLarge):
		return fmt.Errorf("%w: %w", err, boundary.ErrUnsupported)
	}
	return fmt.Errorf("%w: %w: %w", errLost, boundary.ErrUnavailable, err)
}

func (p *peer) register(k kind) (uint64, *call, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.end != nil:
		return 0, nil, p.end
	case len(p.calls) >= p.most:
		return 0, nil, fmt.Errorf("%d operations wait for the worker already: %w", len(p.calls), boundary.ErrBusy)
	}
	p.last++
	c := &call{kind: k, since: time.Now(), answer: make(chan answer, 1)}
	p.calls[p.last] = c
	return p.last, c, nil
}

// budget is how long the worker may take: a little less than the caller waits,
// so that what it says of a call that takes too long still arrives. 0 is for
// ever.
func budget(ctx context.Context) time.Duration {
	deadline, ok := ctx.Deadline()
	if !ok {
		return 0
	}
	left := time.Until(deadline)
	return max(left-min(left/50, 10*time.Millisecond), 1)
}

// overdue reports a call that a worker which is alive would have answered.
func (p *peer) overdue(limit func(kind) time.Duration) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.calls {
		if in := time.Since(c.since); in > limit(c.kind) {
			return fmt.Errorf("the worker does not answer: %s for %s: %w", c.kind, in.Round(time.Millisecond), boundary.ErrUnavailable)
		}
	}
	return nil
}
