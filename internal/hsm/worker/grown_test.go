package worker_test

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"keyd/internal/boundary"
	"keyd/internal/hsm"
	"keyd/internal/hsm/worker"
)

// itsEnd is how long a worker that is to be replaced may take for what it is doing,
// as docs/operations.md says.
const itsEnd = 2 * time.Second

// grown is a token whose worker is to be replaced because of its size, while an
// opening and a generation are with it that take so long.
type grown struct {
	token       *worker.Token
	first, next *echo
	opened      chan error // that was with it
	made        chan error
	came        chan error // another opening, afterwards
	took        time.Duration
}

// retired is what becomes of them, in the time of the test's bubble.
func retired(t *testing.T, takes time.Duration) *grown {
	g := &grown{first: &echo{takes: takes}, next: &echo{}, opened: make(chan error, 1), made: make(chan error, 1), came: make(chan error, 1)}
	g.token = worker.NewToken(worker.Config{Config: hsm.Config{Name: "echo", Sessions: 4, SessionWait: time.Minute, CallTimeout: time.Minute, Logger: slog.New(slog.DiscardHandler)}})
	_, ended := g.serve(t, g.first)
	open := func(handle, content string, done chan<- error) {
		got, err := g.token.Open(t.Context(), handle, envelope(content))
		if err == nil && string(got.Plaintext) != content {
			err = fmt.Errorf("it opened to %q", got.Plaintext)
		}
		done <- err
	}
	go open("slow", "was there", g.opened)
	go func() {
		_, err := g.token.Generate(t.Context(), boundary.Spec{})
		g.made <- err
	}()
	synctest.Wait()
	began := time.Now()
	g.first.cfg.Broken(fmt.Errorf("%w: %w", worker.ErrGrown, boundary.ErrUnavailable))
	synctest.Wait()
	go open("k", "came afterwards", g.came)
	if why := <-ended; !errors.Is(why, worker.ErrGrown) {
		t.Errorf("it was replaced because of %v", why)
	}
	g.took = time.Since(began)
	p, ended := g.serve(t, g.next)
	t.Cleanup(func() { p.Finish(net.ErrClosed); <-ended })
	return g
}

func (g *grown) serve(t *testing.T, e *echo) (*worker.Peer, <-chan error) {
	ours, theirs := net.Pipe() // the kernel's have a time of their own
	p := connected(t, e, []net.Conn{ours}, []worker.Conn{theirs})
	ended := make(chan error, 1)
	go func() { ended <- g.token.ServedBy(p) }()
	synctest.Wait()
	return p, ended
}

// gave is how many openings of so many bytes a worker did.
func (e *echo) gave(size int) (n int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, plaintext := range e.given { // wiped by now
		if len(plaintext) == size {
			n++
		}
	}
	return n
}

func TestWhatAWorkerThatHasGrownIsDoingComesToItsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := retired(t, itsEnd-100*time.Millisecond)
		if err := <-g.opened; err != nil || g.first.gave(len("was there")) != 1 {
			t.Errorf("Open, in the worker that was replaced: %v", err)
		}
		if err := <-g.made; err != nil {
			t.Errorf("Generate: %v", err)
		}
		if err := <-g.came; err != nil || g.next.gave(len("came afterwards")) != 1 {
			t.Errorf("Open, that came when it was to be replaced: %v, and not in the next one", err)
		}
		if g.took >= itsEnd {
			t.Errorf("it was kept for %s after all was done", g.took)
		}
	})
}

func TestAWorkerThatHasGrownIsNotWaitedForLongerThanItsLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := retired(t, itsEnd+100*time.Millisecond)
		if g.took != itsEnd {
			t.Errorf("it was waited for for %s, want %s", g.took, itsEnd)
		}
		if err := <-g.opened; err != nil || g.next.gave(len("was there")) != 1 {
			t.Errorf("Open, again in the next one: %v", err)
		}
		if err := <-g.made; !errors.Is(err, boundary.ErrUnavailable) {
			t.Errorf("Generate: %v, want boundary.ErrUnavailable", err)
		}
		if err := <-g.came; err != nil {
			t.Errorf("Open, that came when it was to be replaced: %v", err)
		}
	})
}
