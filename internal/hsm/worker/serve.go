package worker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"syscall"
	"time"

	"keyd/internal/boundary"
	"keyd/internal/hsm"
)

// OpenFunc opens a token, as [hsm.Open] does.
type OpenFunc func(context.Context, hsm.Config) (Backend, error)

// server is the worker's side of the pipe.
type server struct {
	link   *link
	open   OpenFunc
	out    io.Writer // for the log, one JSON object a line
	in     *reader
	ended  chan error // why nobody listens any more
	life   context.Context
	asking sync.Mutex // one question for the PIN at a time

	mu      sync.Mutex
	backend Backend // once it is open
	started bool
	calls   map[uint64]context.CancelFunc
	seen    []observation // since the last answer
	pins    chan pinAnswer
}

type pinAnswer struct {
	pin []byte
	err error
}

// Serve is the worker's side. It opens a token as the process at the other end
// of the connections says, and does what is asked of it, many things at once,
// until the other end closes them. The first of them is the pipe, the others are
// its lines. The log goes to out.
func Serve(ctx context.Context, conns []Conn, open OpenFunc, out io.Writer) error {
	s := &server{link: newLink(conns[0]), open: open, out: out, calls: map[uint64]context.CancelFunc{}, pins: make(chan pinAnswer, 1)}
	defer s.link.close(errClosed)
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	s.in, s.ended, s.life = newReader(conns[0]), make(chan error, 1), ctx
	go s.listen(ctx)
	for _, conn := range conns[1:] {
		line := newLink(conn)
		defer line.close(errClosed)
		go s.listenOn(ctx, line)
	}
	// A reset is an end before the other side had read every answer.
	if err := <-s.ended; !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) {
		return fmt.Errorf("serving the daemon: %w", err)
	}
	return nil
}

// end has Serve return, the first time.
func (s *server) end(why error) {
	select {
	case s.ended <- why:
	default:
	}
}

// listenOn takes in calls on a line and does them, one after the other.
func (s *server) listenOn(ctx context.Context, line *link) {
	in := newReader(line.conn)
	ctx = hsm.Unhurried(ctx)
	for {
		f, err := in.next()
		if err == nil && !f.kind.onLine() {
			err = fmt.Errorf("%w: a frame of kind %d on a line", errMalformed, f.kind)
		}
		var do func()
		if err == nil {
			do, err = s.begin(ctx, line, f)
		}
		if err != nil {
			s.end(err)
			return
		}
		do()
	}
}

// listen takes in one frame and does what it asks for, while another goroutine
// listens for the next: a call begins on the thread that has read it.
func (s *server) listen(ctx context.Context) {
	for {
		f, err := s.in.next()
		var do func()
		if err == nil {
			do, err = s.handle(ctx, f)
		}
		if err != nil {
			s.end(err)
			return
		}
		if do != nil {
			go s.listen(ctx)
			do()
			return
		}
	}
}

// handle takes one frame. What takes time is left to do.
func (s *server) handle(ctx context.Context, f frame) (do func(), err error) {
	switch {
	case f.kind == cancel:
		s.mu.Lock()
		if stop := s.calls[f.id]; stop != nil {
			stop()
		}
		s.mu.Unlock()
		return nil, nil
	case f.kind == pin:
		return nil, s.told(pinAnswer{pin: f.payload})
	case f.kind == noPIN:
		d := decoder{b: f.payload}
		err := d.error()
		return nil, errors.Join(d.done(), s.told(pinAnswer{err: err}))
	case f.kind != start && (f.kind < opOpen || f.kind >= endOfKinds):
		return nil, fmt.Errorf("%w: a frame of kind %d", errMalformed, f.kind)
	}
	return s.begin(ctx, s.link, f)
}

// begin notes a call, so that it can be cancelled. The answer goes to back.
func (s *server) begin(ctx context.Context, back *link, f frame) (do func(), err error) {
	d := decoder{b: f.payload}
	budget := d.duration()
	if d.bad {
		return nil, errMalformed
	}
	var stop context.CancelFunc
	if budget > 0 {
		ctx, stop = context.WithTimeout(ctx, budget)
	} else {
		ctx, stop = context.WithCancel(ctx)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.calls[f.id] != nil || (f.kind == start) == s.started {
		stop()
		return nil, fmt.Errorf("%w: a call out of its turn", errMalformed)
	}
	s.started = true
	s.calls[f.id] = stop
	return func() { s.serve(ctx, stop, back, f.kind, f.id, d) }, nil
}

// serve does one call and answers it.
func (s *server) serve(ctx context.Context, stop context.CancelFunc, back *link, k kind, id uint64, d decoder) {
	defer boundary.SweepStack() // of what an opening left there; the answer is out by then
	defer stop()
	write, err := s.do(ctx, k, &d)
	s.mu.Lock()
	delete(s.calls, id)
	seen := s.seen
	s.seen = nil
	s.mu.Unlock()
	f := newBuffer(result, id)
	f.b = appendObservations(f.b, seen)
	if err == nil {
		write(f)
	} else {
		f.b[lengthSize] = byte(failed)
		f.b = appendError(f.b, err)
	}
	if err := back.send(f); errors.Is(err, errTooLarge) {
		f := newBuffer(failed, id)
		f.b = appendError(appendObservations(f.b, nil), fmt.Errorf("the answer: %w: %w", err, boundary.ErrUnsupported))
		_ = back.send(f) // it fits; and if the pipe is gone nobody waits
	}
}

// start opens the token, and answers with what it is.
func (s *server) start(ctx context.Context, d *decoder) ([]byte, error) {
	told, err := decodeJSON[settings](d.rest())
	if err != nil {
		return nil, err
	}
	cfg := told.Config
	cfg.Logger = s.logger(slog.Level(told.LogLevel), cfg.Name)
	cfg.PIN, cfg.Observe, cfg.Broken = s.pin, s.observe, s.broken
	backend, err := s.open(ctx, cfg)
	if err != nil {
		return nil, err
	}
	go s.watchGrowth(s.life)
	s.mu.Lock()
	s.backend = backend
	s.mu.Unlock()
	return encodeJSON(backend.Health(ctx))
}

func (s *server) logger(level slog.Level, _ string) *slog.Logger {
	return slog.New(slog.NewJSONHandler(s.out, &slog.HandlerOptions{Level: level}))
}

// pinWait is how long the daemon may take to read the PIN.
const pinWait = 10 * time.Second

// pin asks the daemon for the PIN. Whoever asked wipes it.
func (s *server) pin() ([]byte, error) {
	s.asking.Lock()
	defer s.asking.Unlock()
	if err := s.link.send(newBuffer(askPIN, 0)); err != nil {
		return nil, err
	}
	select {
	case a := <-s.pins:
		return a.pin, a.err
	case <-time.After(pinWait):
		return nil, fmt.Errorf("the daemon did not hand over the PIN: %w", boundary.ErrUnavailable)
	}
}

// told takes the PIN in.
func (s *server) told(a pinAnswer) error {
	select {
	case s.pins <- a:
		return nil
	default:
		clear(a.pin)
		return fmt.Errorf("%w: a PIN that nobody asked for", errMalformed)
	}
}

// observe keeps what the token tells for the next answer.
func (s *server) observe(op string, wait, inToken time.Duration, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.seen) < maxSeen {
		s.seen = append(s.seen, observation{op, wait, inToken, err})
	}
}

// maxSeen: what is told while nothing is answered does not pile up.
const maxSeen = 255

// broken tells the daemon to begin anew.
func (s *server) broken(why error) {
	f := newBuffer(broken, 0)
	f.b = appendError(f.b, why)
	_ = s.link.send(f) // if the pipe is gone, so is this process
}
