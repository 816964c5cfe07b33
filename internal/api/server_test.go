package api_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"keyd/internal/api"
	"keyd/internal/boundary"
)

// panicky is a backend with a bug.
type panicky struct{ api.Backend }

func (panicky) Open(context.Context, string, *boundary.Envelope) (*boundary.Opened, error) {
	panic("a bug with a secret in it")
}

func TestAPanicIsAnAnswerAndTheDaemonGoesOn(t *testing.T) {
	r := newRig(t, func(s *setup) { s.backend = panicky{s.backend} })
	a := r.decrypt(r.seal(r.active, []byte("x"), nil)).wants(t, 500, "internal")
	if strings.Contains(string(a.body), "bug") {
		t.Errorf("the answer tells what happened: %s", a.body)
	}
	logged := r.logged.String()
	if id := a.header.Get("Keyd-Request-Id"); !strings.Contains(logged, id) || !strings.Contains(logged, "panicky") || !strings.Contains(logged, "a bug") {
		t.Errorf("the log has no trace of it:\n%s", logged)
	}
	r.send(r.client, "GET", "/v1/partners/wise", "").wants(t, 200, "")
}

// dial opens a bare connection to a socket.
func (r *rig) dial(name string) net.Conn {
	r.t.Helper()
	conn, err := net.Dial("unix", r.path(name))
	check(r.t, err)
	r.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func TestASlowPeerIsLetGo(t *testing.T) {
	r := newRig(t, func(s *setup) { s.cfg.HeaderTimeout, s.cfg.BodyTimeout = 200*time.Millisecond, 200*time.Millisecond })
	t.Run("in the head", func(t *testing.T) {
		conn := r.dial("keyd.sock")
		_, err := io.WriteString(conn, "POST /v1/partners/wise/decrypt HTTP/1.1\r\nHost: ke")
		check(t, err)
		check(t, conn.SetReadDeadline(time.Now().Add(time.Minute)))
		if _, err := io.ReadAll(conn); err != nil {
			t.Errorf("the connection is still open: %v", err)
		}
	})
	for name, length := range map[string]string{"in the body": "Content-Length: 100\r\n\r\nabc", "in a chunk": "Transfer-Encoding: chunked\r\n\r\n64\r\nabc"} {
		t.Run(name, func(t *testing.T) {
			conn := r.dial("keyd.sock")
			_, err := io.WriteString(conn, "POST /v1/partners/wise/decrypt HTTP/1.1\r\nHost: keyd\r\n"+length)
			check(t, err)
			check(t, conn.SetReadDeadline(time.Now().Add(time.Minute)))
			res, err := http.ReadResponse(bufio.NewReader(conn), nil)
			check(t, err)
			defer res.Body.Close()
			if body, err := io.ReadAll(res.Body); err != nil || res.StatusCode != 408 || !strings.Contains(string(body), `"slow_body"`) {
				t.Errorf("got %d %s %v", res.StatusCode, body, err)
			}
			if _, err := io.ReadAll(conn); err != nil {
				t.Errorf("the connection is still open: %v", err)
			}
		})
	}
	t.Run("in a body that nobody wants", func(t *testing.T) {
		conn := r.dial("admin.sock")
		_, err := io.WriteString(conn, "GET /nowhere HTTP/1.1\r\nHost: keyd\r\nContent-Length: 100\r\n\r\nabc")
		check(t, err)
		check(t, conn.SetReadDeadline(time.Now().Add(time.Minute)))
		if all, err := io.ReadAll(conn); err != nil || !strings.HasPrefix(string(all), "HTTP/1.1 404") {
			t.Errorf("got %q, %v", all, err)
		}
	})
}

// A handler may take longer than the body: the body's deadline must not end it.
func TestTheBodysDeadlineEndsWithTheBody(t *testing.T) {
	slow := &slow{wait: 600 * time.Millisecond}
	r := newRig(t, func(s *setup) {
		s.cfg.BodyTimeout = 200 * time.Millisecond
		slow.Backend, s.backend = s.backend, slow
	})
	r.decrypt(r.seal(r.active, []byte("x"), nil)).wants(t, 200, "")
}

// slow is a backend that takes its time, unless its caller has gone.
type slow struct {
	api.Backend
	wait    time.Duration
	entered chan struct{}
}

func (s *slow) Open(ctx context.Context, handle string, env *boundary.Envelope) (*boundary.Opened, error) {
	if s.entered != nil {
		close(s.entered)
	}
	select {
	case <-time.After(s.wait):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return s.Backend.Open(ctx, handle, env)
}

func TestHeadersThatAreTooLargeAreRefused(t *testing.T) {
	r := newRig(t)
	conn := r.dial("keyd.sock")
	_, err := fmt.Fprintf(conn, "GET /v1/partners/wise HTTP/1.1\r\nHost: keyd\r\nX-Long: %s\r\n\r\n", strings.Repeat("x", 64<<10))
	if err != nil && !errors.Is(err, syscall.EPIPE) && !errors.Is(err, syscall.ECONNRESET) {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	check(t, err)
	defer res.Body.Close()
	if res.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("got %d", res.StatusCode)
	}
}

func TestShutdownFinishesWhatIsInFlight(t *testing.T) {
	slow := &slow{wait: 500 * time.Millisecond, entered: make(chan struct{})}
	r := newRig(t, func(s *setup) { slow.Backend, s.backend = s.backend, slow })
	done := make(chan answer, 1)
	envelope := r.seal(r.active, []byte("x"), nil)
	go func() { done <- r.decrypt(envelope) }()
	<-slow.entered
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	check(t, r.server.Shutdown(ctx))
	a := <-done
	if a.status != 200 || string(a.body) != "x" {
		t.Errorf("the request in flight got %d %s", a.status, a.body)
	}
	for _, name := range []string{"keyd.sock", "admin.sock"} {
		if _, err := os.Lstat(r.path(name)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s still stands: %v", name, err)
		}
	}
}

func TestShutdownCutsOffWhatDoesNotEnd(t *testing.T) {
	slow := &slow{wait: time.Hour, entered: make(chan struct{})}
	r := newRig(t, func(s *setup) { slow.Backend, s.backend = s.backend, slow })
	envelope := r.seal(r.active, []byte("x"), nil)
	failed := make(chan error, 1)
	go func() {
		res, err := r.client.Post("http://keyd/v1/partners/wise/decrypt", "", strings.NewReader(envelope))
		if err == nil {
			err = res.Body.Close()
		}
		failed <- err
	}()
	<-slow.entered
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := r.server.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Shutdown: %v", err)
	}
	if err := <-failed; err == nil {
		t.Error("the request that was cut off got an answer")
	}
}
