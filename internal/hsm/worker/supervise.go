package worker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"keyd/internal/boundary"
	"keyd/internal/hsm"
)

// worker is one process that serves the token.
type worker struct {
	*process
	peer   *peer
	login  atomic.Bool // it was handed the PIN
	slow   bool        // another one like it is not to be tried soon
	broken chan error  // why it wants to be replaced
	since  time.Time   // when it came to serve
}

// Patience with a worker.
const (
	// startLimit is until the token is open: a module may have to read tens of
	// thousands of objects.
	startLimit = 2 * time.Minute
	closeLimit = 5 * time.Second
	// stable: one that served for so long did not fail at once.
	stable = 10 * time.Second
)

// How long to wait for the next try after several that failed, at most: what is
// gone should be noticed soon after it is back. Where it is not the device that is
// gone, a person has to do something, and a PIN is not to be shown often.
const (
	firstPause = 50 * time.Millisecond
	mostPause  = 2 * time.Second
	slowPause  = 30 * time.Second
)

// isSlow reports whether to wait longer after a failure to open the token: the
// PIN was refused, or shown and nobody knows the answer, or the token is well and
// cannot do what it is to do.
func (w *worker) isSlow(err error) bool {
	if !w.login.Load() {
		return false
	}
	_, answered := errors.AsType[*remote](err)
	down := errors.Is(err, boundary.ErrUnavailable) || errors.Is(err, boundary.ErrBusy)
	return !answered || !down || errors.Is(err, hsm.ErrPINRefused)
}

// pause is how long to wait after n failures in a row.
func pause(n int, slow bool) time.Duration {
	most := mostPause
	if slow {
		most = slowPause
	}
	if n <= 0 {
		return 0
	}
	return min(firstPause<<min(n-1, 20), most)
}

// mostWaiting is how many operations are with the worker at a time: in the
// token, or waiting for a session. Whoever comes then is better told so than
// left to wait.
func mostWaiting(sessions int) int { return 64 + 32*sessions }

// launch starts a worker that is to serve.
func (t *Token) launch(ctx context.Context) (*worker, error) {
	w, health, err := t.begin(ctx, t.cfg.Config)
	if err == nil {
		t.told(health)
	}
	w.since = time.Now()
	return w, err
}

// begin starts a worker and has it open the token.
func (t *Token) begin(ctx context.Context, cfg hsm.Config) (_ *worker, health boundary.Health, err error) {
	w := &worker{broken: make(chan error, 1)}
	if w.process, err = spawn(t.cfg.Command, Environment(os.Environ(), t.cfg.Env), linesFor(cfg.Sessions), t.log); err != nil {
		return w, health, fmt.Errorf("%w: %w", boundary.ErrUnavailable, err)
	}
	w.peer = newPeer(w.conn, w.lines, mostWaiting(cfg.Sessions))
	w.peer.observe = t.tell
	w.peer.pin = func() ([]byte, error) { w.login.Store(true); return t.cfg.PIN() }
	w.peer.broken = func(why error) {
		select {
		case w.broken <- why:
		default: // it has said so before
		}
	}
	go w.peer.read(w.conn)
	defer func() {
		if err != nil {
			w.slow = w.isSlow(err)
			w.kill()
		}
	}()
	told := settings{Config: cfg, LogLevel: int(t.cfg.LogLevel)}
	told.Proven = t.served() > 0
	raw, err := encodeJSON(told)
	if err != nil {
		return w, health, err
	}
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	raw, err = w.peer.call(ctx, start, document(raw))
	if errors.Is(err, errLost) {
		w.kill()
		err = fmt.Errorf("the worker ended (%s) while it opened the token: %w", w.how(), err)
	}
	health, err = read(decodeJSON[boundary.Health])(raw, err)
	return w, health, err
}

// supervise replaces workers until Close.
func (t *Token) supervise(w *worker) {
	defer close(t.ended)
	quick := 0 // workers in a row that did not last
	for {
		why := t.watch(w)
		t.lost(w, why)
		t.because(why)
		w.kill()
		w.peer.finish(why)
		if t.closing.Err() != nil {
			return
		}
		served := time.Since(w.since)
		if quick++; served > stable {
			quick = 0
		}
		t.log.Error("the worker of the PKCS #11 module is gone", "worker", w.pid, "why", why, "ended", w.how(), "served", served.Round(time.Millisecond))
		if w = t.replace(w, quick); w == nil {
			return
		}
	}
}

// watch waits for a reason to replace a worker.
func (t *Token) watch(w *worker) error {
	tick := time.NewTicker(min(max(t.cfg.CallTimeout/10, 10*time.Millisecond), time.Second))
	defer tick.Stop()
	for {
		select {
		case <-t.closing.Done():
			t.closeErr = w.farewell()
			return errClosed
		case why := <-w.broken:
			if errors.Is(why, errGrown) {
				t.lost(w, why)
				w.peer.retire()
			}
			return why
		case <-w.peer.done:
			return w.last()
		case <-tick.C:
			if err := w.peer.overdue(t.limit); err != nil {
				return err
			}
		}
	}
}

// last says how a worker ended whose pipe has ended.
func (w *worker) last() error {
	select {
	case <-w.ended:
		return fmt.Errorf("its process ended (%s): %w", w.how(), w.peer.end)
	case <-time.After(time.Second):
		return w.peer.end
	}
}

// replace tries to start a worker until one serves, or the token is closed.
func (t *Token) replace(last *worker, failures int) *worker {
	for {
		wait := pause(failures, last.slow)
		t.pausing(wait)
		select {
		case <-time.After(wait):
		case <-t.closing.Done():
			return nil
		}
		t.trying()
		w, err := t.launch(t.closing)
		if err == nil {
			t.serving(w)
			return w
		}
		if t.closing.Err() != nil {
			return nil
		}
		last = w
		failures++
		t.failed(err)
		// The same again and again is not worth a line each time.
		if failures&(failures-1) == 0 {
			t.log.Error("a new worker could not open the token", "tries", failures, "err", err)
		}
	}
}

// farewell lets a worker log out and end by itself.
func (w *worker) farewell() error {
	ctx, cancel := context.WithTimeout(context.Background(), closeLimit)
	defer cancel()
	_, err := w.peer.call(ctx, opClose, nothing)
	w.peer.finish(errClosed)
	select {
	case <-w.ended:
	case <-ctx.Done():
	}
	if err != nil {
		return fmt.Errorf("closing the token: %w", err)
	}
	return nil
}

// Close lets operations in the token finish for a moment, logs out and ends the
// worker.
func (t *Token) Close() error {
	t.stop()
	<-t.ended
	t.making <- struct{}{} // who makes a key in another process has been told to stop
	<-t.making
	return t.closeErr
}

// limit is the longest that an answer can take from a worker that is alive: the
// worker watches its calls into the module itself, and this is for one that does
// not any more.
func (t *Token) limit(k kind) time.Duration {
	switch k {
	case opOpen, opOpenHeld, opHold, opRelease, opSign, opHealth:
		return t.cfg.SessionWait + 3*t.cfg.CallTimeout
	case start, opClose:
		return startLimit
	}
	return hsm.ManageLimit + t.cfg.CallTimeout
}
