package worker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"
)

// maxLines is how many lines a pipe has at most. Where more is going on, the
// pipe carries several frames at a time, and a line would save little.
const maxLines = 16

// linesFor is one for each session up to that.
func linesFor(sessions int) int { return min(sessions, maxLines) }

// line is a connection beside the pipe that carries one call at a time. Who has
// it writes the call and reads the answer, and at the other end the goroutine
// that reads the call does it and answers: nobody is woken on the way but these
// two. It is for opening envelopes; everything else goes over the pipe, and so
// does what finds no line free.
type line struct {
	link *link
	in   *reader
}

// lines are those of one pipe.
type lines struct {
	all  []*line
	free chan *line // has room for all
}

func newLines(conns []net.Conn) lines {
	l := lines{free: make(chan *line, len(conns))}
	for _, conn := range conns {
		one := &line{link: newLink(conn), in: newReader(conn)}
		l.all = append(l.all, one)
		l.free <- one
	}
	return l
}

// take returns a line for a call, or nil.
func (l lines) take(k kind) *line {
	if !k.onLine() {
		return nil
	}
	select {
	case one := <-l.free:
		return one
	default:
		return nil
	}
}

// onLine reports whether lines carry a kind of call.
func (k kind) onLine() bool { return k == opOpen || k == opOpenHeld }

func (l lines) close(why error) {
	for _, one := range l.all {
		one.link.close(why)
	}
}

// callOn is call over a line.
func (p *peer) callOn(ctx context.Context, l *line, k kind, write func(*buffer)) ([]byte, error) {
	id, _, err := p.register(k)
	if err == nil {
		if err = p.send(ctx, l.link, k, id, write); err == nil {
			return p.readOn(ctx, l, id)
		}
	}
	p.lines.free <- l // nothing was sent
	return nil, err
}

// readOn waits for the answer no longer than ctx. Afterwards the line is free
// again, once the answer has come.
func (p *peer) readOn(ctx context.Context, l *line, id uint64) ([]byte, error) {
	interrupted := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		_ = l.link.conn.SetReadDeadline(time.Unix(1, 0))
		close(interrupted)
	})
	f, err := l.in.next()
	if !stop() {
		<-interrupted
		_ = l.link.conn.SetReadDeadline(time.Time{})
	}
	if errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() != nil {
		_ = p.link.send(newBuffer(cancel, id)) // or nobody is there to be told
		go func() {
			if a, err := p.receive(l, id); err == nil {
				clear(a.payload)
			}
		}()
		return nil, fmt.Errorf("waiting for the worker: %w", ctx.Err())
	}
	a, err := p.received(l, id, f, err)
	if err != nil {
		return nil, err
	}
	return a.payload, a.err
}

// receive waits for the answer to a call whose caller has gone.
func (p *peer) receive(l *line, id uint64) (answer, error) {
	f, err := l.in.next()
	return p.received(l, id, f, err)
}

// received takes in what was read, and frees the line. If that cannot be the
// answer, the worker is of no more use.
func (p *peer) received(l *line, id uint64, f frame, err error) (a answer, _ error) {
	if err == nil {
		a, err = p.answer(f)
	}
	if err == nil && f.id != id {
		err = errMalformed
	}
	if err != nil {
		clear(f.payload)
		p.finish(err)
		return answer{}, p.ended()
	}
	p.take(id)
	p.lines.free <- l
	return a, nil
}

// ended is why there are no more calls.
func (p *peer) ended() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.end
}
