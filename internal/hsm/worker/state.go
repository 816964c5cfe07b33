package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"keyd/internal/boundary"
)

// Token is a token whose module runs in another process. Its methods may be
// called from many goroutines at once. While there is no such process, or it
// has gone in the middle of an operation, that is [boundary.ErrUnavailable].
type Token struct {
	cfg Config
	log *slog.Logger

	current atomic.Pointer[worker] // nil while there is none that serves

	mu         sync.Mutex
	state      state
	changed    chan struct{} // closed at the next change of state
	waiting    int           // callers that wait for it
	why        error         // of the last failure
	next       time.Time     // when another worker is tried
	since      time.Time     // when the state began
	generation uint64        // workers that came to serve
	lastEnd    string        // why the last one is gone
	health     boundary.Health

	making chan struct{} // holds one while another process makes a key

	ops     sync.Map // names of operations that were observed
	opsSeen atomic.Int32

	closing  context.Context
	stop     context.CancelFunc
	ended    chan struct{} // closed when supervise returns
	closeErr error         // set before that
}

// state is what a circuit breaker is called closed, half open and open for.
type state string

const (
	// stateReady: a worker has opened the token.
	stateReady state = "ready"
	// stateStarting: the last worker has gone and the next one is opening the
	// token. Callers wait for it.
	stateStarting state = "starting"
	// stateDown: a worker could not open the token. Until the next try callers
	// are refused at once.
	stateDown state = "down"
	// stateProbing: it is tried again. Callers are refused still.
	stateProbing state = "probing"
)

var errClosed = errors.New("the token is closed")

func newToken(cfg Config) *Token {
	t := &Token{cfg: cfg, log: cfg.Logger.With("backend", cfg.Name), state: stateStarting, since: time.Now(), changed: make(chan struct{}),
		ended: make(chan struct{}), making: make(chan struct{}, 1), health: boundary.Health{Backend: cfg.Name, Kind: "pkcs11", Sessions: cfg.Sessions}}
	t.closing, t.stop = context.WithCancel(context.Background())
	return t
}

// become changes the state and wakes who waits for that. t.mu is held.
func (t *Token) become(s state) {
	if t.state != s {
		t.state, t.since = s, time.Now()
	}
	close(t.changed)
	t.changed = make(chan struct{})
}

// serving: w has opened the token.
func (t *Token) serving(w *worker) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.generation++
	t.current.Store(w)
	t.become(stateReady)
	if t.generation > 1 {
		t.log.Info("another worker serves", "worker", w.pid, "generation", t.generation)
	}
}

// served is how many workers have opened the token.
func (t *Token) served() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.generation
}

// lost: w does not serve any more. Whoever notices first says so.
func (t *Token) lost(w *worker, why error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.current.CompareAndSwap(w, nil) {
		t.why, t.lastEnd = why, why.Error()
		t.become(stateStarting)
	}
}

// because: the worker that went did so for this reason, which nobody knew better.
func (t *Token) because(why error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.why, t.lastEnd = why, why.Error()
}

// pausing: the next worker is not tried before a while. Nobody is kept waiting
// for that.
func (t *Token) pausing(wait time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.next = time.Now().Add(wait)
	if wait > t.cfg.SessionWait {
		t.become(stateDown)
	}
}

// trying: the next worker is tried.
func (t *Token) trying() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.state == stateDown {
		t.become(stateProbing)
	}
}

// failed: a worker could not open the token.
func (t *Token) failed(why error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.why = why
	t.become(stateDown)
}

// unavailable is why there is no worker, and when to ask again.
type unavailable struct {
	why   error
	after time.Duration
}

func (e *unavailable) Error() string {
	return fmt.Sprintf("no worker serves the token, and the next one is tried in %s: %v", e.after.Round(time.Millisecond), e.why)
}

func (e *unavailable) Unwrap() []error { return []error{boundary.ErrUnavailable, e.why} }

// RetryAfter is when it may be worth to ask again.
func (e *unavailable) RetryAfter() time.Duration { return e.after }

// ready returns a worker that serves. One that is being started is waited for
// as long as for a session.
func (t *Token) ready(ctx context.Context) (*worker, error) {
	if w := t.current.Load(); w != nil {
		return w, nil
	}
	patience := time.NewTimer(t.cfg.SessionWait)
	defer patience.Stop()
	for {
		changed, w, err := t.join()
		if err != nil || w != nil {
			return w, err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			err = fmt.Errorf("waiting for another worker: %w: %w", boundary.ErrUnavailable, ctx.Err())
		case <-patience.C:
			err = fmt.Errorf("waited %s for another worker: %w", t.cfg.SessionWait, boundary.ErrUnavailable)
		}
		t.mu.Lock()
		t.waiting--
		t.mu.Unlock()
		if err != nil {
			return nil, err
		}
	}
}

// serves returns the worker that serves now, or why there is none.
func (t *Token) serves() (*worker, error) {
	if w := t.current.Load(); w != nil {
		return w, nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.refusal(); err != nil {
		return nil, err
	}
	return nil, fmt.Errorf("another worker is opening the token: %w", boundary.ErrUnavailable)
}

// refusal is why nobody waits for a worker; nil if it is worth to. t.mu is held.
func (t *Token) refusal() error {
	switch {
	case t.closing.Err() != nil:
		return fmt.Errorf("%w: %w", errClosed, boundary.ErrUnavailable)
	case t.state != stateStarting:
		return &unavailable{why: t.why, after: max(time.Until(t.next), 0) + time.Second}
	}
	return nil
}

// join is a look at the state, and a place among those who wait for the next.
func (t *Token) join() (changed <-chan struct{}, w *worker, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if w := t.current.Load(); w != nil {
		return nil, w, nil
	}
	if err := t.refusal(); err != nil {
		return nil, nil, err
	}
	if t.waiting >= mostWaiting(t.cfg.Sessions) {
		return nil, nil, fmt.Errorf("%d operations wait for another worker already: %w", t.waiting, boundary.ErrBusy)
	}
	t.waiting++
	return t.changed, nil, nil
}

// told completes what a token says of itself, and keeps it for the time when it
// says nothing.
func (t *Token) told(h boundary.Health) boundary.Health {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.health = h
	h.Process = t.process()
	return h
}

// silent is what the token said of itself last, and why it says nothing now.
func (t *Token) silent(why error) boundary.Health {
	t.mu.Lock()
	defer t.mu.Unlock()
	h := t.health
	h.InUse, h.Err, h.Process = 0, why.Error(), t.process()
	return h
}

// process describes the worker. t.mu is held.
func (t *Token) process() *boundary.Process {
	p := &boundary.Process{State: string(t.state), Since: t.since, Generation: t.generation, LastEnd: t.lastEnd}
	if w := t.current.Load(); w != nil {
		p.PID = w.pid
	}
	if t.state == stateDown {
		p.Next = t.next
	}
	return p
}

// mostOps is how many kinds of operation a worker can make the metrics of.
const mostOps = 32

// tell hands on what a worker observed.
func (t *Token) tell(o observation) {
	if t.cfg.Observe == nil {
		return
	}
	if _, known := t.ops.Load(o.op); !known {
		if t.opsSeen.Add(1) > mostOps {
			o.op = "other"
		} else {
			t.ops.Store(o.op, true)
		}
	}
	t.cfg.Observe(o.op, o.wait, o.inToken, o.err)
}
