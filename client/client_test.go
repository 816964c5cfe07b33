package client_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"keyd/client"
)

// folder is one short enough for the path of a socket (sun_path takes 108 bytes).
func folder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "keyd")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// serve answers on a unix socket at path until the test ends or stop is called.
func serve(t *testing.T, path string, h http.Handler) (stop func()) {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: h}
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	}
	t.Cleanup(stop)
	return stop
}

// daemon is a client of a handler behind a real socket.
func daemon(t *testing.T, h http.HandlerFunc) *client.Client {
	t.Helper()
	path := filepath.Join(folder(t), "s")
	serve(t, path, h)
	c := client.New(path)
	t.Cleanup(c.Close)
	return c
}

func answer(w http.ResponseWriter, kind, body string) {
	w.Header().Set("Content-Type", kind)
	_, _ = io.WriteString(w, body)
}

func TestProblemIsTheError(t *testing.T) {
	c := daemon(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/problem+json; charset=utf-8")
		w.WriteHeader(http.StatusConflict)
		_, _ = io.WriteString(w, `{"type":"urn:keyd:problem:in_flight","title":"a rotation is under way","status":409,"detail":"wise-response","code":"in_flight","hint":"wait","request_id":"r1"}`)
	})
	_, err := c.Rotate(t.Context(), "wise-response", false)
	p, ok := errors.AsType[*client.Problem](err)
	if !ok {
		t.Fatalf("got %T: %v", err, err)
	}
	want := client.Problem{Type: "urn:keyd:problem:in_flight", Title: "a rotation is under way", Status: 409, Detail: "wise-response", Code: "in_flight", Hint: "wait", RequestID: "r1"}
	if *p != want {
		t.Errorf("got %+v, want %+v", *p, want)
	}
	if got := p.Error(); got != "a rotation is under way: wise-response (wait)" {
		t.Errorf("Error is %q", got)
	}
}

func TestErrorsThatAreNotKeydsOwnAreProblemsToo(t *testing.T) {
	for _, c := range []struct {
		name, kind, body string
		status           int
	}{
		{"text", "text/plain", "404 page not found\n", 404},
		{"nothing", "", "", 502},
		{"a problem that is no JSON", "application/problem+json", "{", 500},
		{"a problem without a code", "application/problem+json", `{"title":"x","request_id":"no"}`, 500},
		{"an endless problem", "application/problem+json", `{"code":"x","title":"` + strings.Repeat("x", 1<<20), 500},
		{"a redirect", "text/html", "", 302},
		{"not modified", "", "", 304},
	} {
		t.Run(c.name, func(t *testing.T) {
			k := daemon(t, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", c.kind)
				w.Header().Set("Location", "/v1/version")
				w.Header().Set("Keyd-Request-Id", "r2")
				w.WriteHeader(c.status)
				_, _ = io.WriteString(w, c.body)
			})
			_, err := k.Status(t.Context())
			p, ok := errors.AsType[*client.Problem](err)
			if !ok || p.Status != c.status || p.Code != "unexpected" || p.Hint == "" || p.RequestID != "r2" {
				t.Errorf("got %+v %v", p, err)
			}
			if len(err.Error()) > 300 {
				t.Errorf("the error has %d bytes", len(err.Error()))
			}
		})
	}
}

func TestMissingSocketIsExplained(t *testing.T) {
	path := filepath.Join(folder(t), "none.sock")
	_, err := client.New(path).Status(t.Context())
	if !errors.Is(err, client.ErrUnreachable) || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	for _, want := range []string{path, "systemctl status keyd", "no such socket"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is missing in: %v", want, err)
		}
	}
	if strings.Contains(err.Error(), "http://") {
		t.Errorf("a URL that exists nowhere: %v", err)
	}
}

func TestSocketThatNobodyListensOnIsExplained(t *testing.T) {
	path := filepath.Join(folder(t), "stale.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	_, err = client.New(path).Decrypt(t.Context(), "wise", nil)
	if !errors.Is(err, client.ErrUnreachable) || !errors.Is(err, syscall.ECONNREFUSED) || !strings.Contains(err.Error(), "systemctl start keyd") {
		t.Errorf("got %v", err)
	}
}

func TestPathThatIsNoSocketIsExplained(t *testing.T) {
	_, err := client.New(filepath.Join(folder(t), strings.Repeat("x", 200))).Keys(t.Context())
	if !errors.Is(err, client.ErrUnreachable) {
		t.Errorf("a path that is too long: %v", err)
	}
}

// Root may open everything, so the test runs itself again as somebody else.
func TestForbiddenSocketIsExplained(t *testing.T) {
	const variable = "KEYD_TEST_FORBIDDEN"
	if path := os.Getenv(variable); path != "" {
		_, err := client.New(path).Status(t.Context())
		fmt.Println(err, errors.Is(err, client.ErrUnreachable), errors.Is(err, os.ErrPermission))
		return
	}
	dir := folder(t)
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	path, closed := filepath.Join(dir, "s"), filepath.Join(dir, "closed")
	serve(t, path, http.NotFoundHandler())
	if err := errors.Join(os.Chmod(path, 0o600), os.Mkdir(closed, 0)); err != nil {
		t.Fatal(err)
	}
	binary, err := os.ReadFile(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	again := filepath.Join(dir, "again")
	if err := os.WriteFile(again, binary, 0o755); err != nil {
		t.Fatal(err)
	}
	ask := func(socket string) string {
		cmd := exec.CommandContext(t.Context(), again, "-test.run=^TestForbiddenSocketIsExplained$")
		cmd.Dir, cmd.Env = dir, []string{variable + "=" + socket, "GOCOVERDIR=" + os.DevNull}
		if os.Getuid() == 0 {
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		} else if err := os.Chmod(path, 0); err != nil {
			t.Fatal(err)
		}
		out, err := cmd.CombinedOutput()
		if err != nil && !strings.Contains(string(out), "coverage") {
			t.Fatalf("%v: %s", err, out)
		}
		return string(out)
	}
	if got := ask(path); !strings.Contains(got, "its group") || !strings.Contains(got, "true true") || !strings.Contains(got, path) {
		t.Errorf("a closed socket: %s", got)
	}
	if got := ask(filepath.Join(closed, "s")); !strings.Contains(got, "its folder is closed to you") || !strings.Contains(got, "true true") {
		t.Errorf("a closed folder: %s", got)
	}
}

func TestDeadlineOfTheContextHolds(t *testing.T) {
	c := daemon(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err := c.Status(ctx)
	if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, client.ErrUnreachable) {
		t.Errorf("got %v", err)
	}
}

func TestAnswerLargerThanTheLimitIsRefused(t *testing.T) {
	const limit = 64 << 20
	for name, write := range map[string]func(http.ResponseWriter){
		"announced": func(w http.ResponseWriter) { w.Header().Set("Content-Length", fmt.Sprint(limit+1)) },
		"streamed": func(w http.ResponseWriter) {
			block := make([]byte, 1<<20)
			for range limit>>20 + 1 {
				if _, err := w.Write(block); err != nil {
					return
				}
			}
		},
	} {
		c := daemon(t, func(w http.ResponseWriter, _ *http.Request) { write(w) })
		if _, err := c.Decrypt(t.Context(), "wise", nil); !errors.Is(err, client.ErrTooLarge) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAnswerThatBreaksOffIsAnError(t *testing.T) {
	for name, announced := range map[string]bool{"announced": true, "streamed": false} {
		c := daemon(t, func(w http.ResponseWriter, _ *http.Request) {
			if announced {
				w.Header().Set("Content-Length", "100")
			}
			_, _ = io.WriteString(w, "{}")
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		})
		opened, err := c.Decrypt(t.Context(), "wise", []byte("e"))
		if err == nil {
			t.Errorf("%s: got %q", name, opened.Plaintext)
		}
		if _, err := c.Status(t.Context()); err == nil {
			t.Errorf("%s: half a status", name)
		}
	}
}

func TestAnswerThatIsNoJSONIsAnError(t *testing.T) {
	c := daemon(t, func(w http.ResponseWriter, _ *http.Request) { answer(w, "application/json", `{"keys":`) })
	_, err := c.Key(t.Context(), "k")
	if _, ok := errors.AsType[*json.SyntaxError](err); !ok || !strings.Contains(err.Error(), "/v1/keys/k") {
		t.Errorf("got %v", err)
	}
}

// A pool of open connections outlives the daemon; the first decrypt after its
// restart must not fail for it.
func TestDecryptSurvivesARestartOfTheDaemon(t *testing.T) {
	path := filepath.Join(folder(t), "s")
	h := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { answer(w, "application/octet-stream", "plain") })
	c := client.New(path)
	defer c.Close()
	for range 20 {
		stop := serve(t, path, h)
		for range 3 {
			if got, err := c.Decrypt(t.Context(), "wise", []byte("envelope")); err != nil || string(got.Plaintext) != "plain" {
				t.Fatalf("got %v %v", got, err)
			}
		}
		stop()
	}
}

// The daemon may die with a request read and not answered. What changes nothing
// is asked again; an operation is not, since it may have happened.
func TestOnlyWhatChangesNothingIsSentTwice(t *testing.T) {
	for _, c := range []struct {
		name string
		call func(context.Context, *client.Client) error
		sent int32
	}{
		{"decrypt", func(ctx context.Context, c *client.Client) error {
			_, err := c.Decrypt(ctx, "wise", []byte("envelope"))
			return err
		}, 2},
		{"encrypt", func(ctx context.Context, c *client.Client) error {
			_, err := c.Encrypt(ctx, "wise", []byte("plain"), client.EncryptOptions{})
			return err
		}, 2},
		{"rotate", func(ctx context.Context, c *client.Client) error { _, err := c.Rotate(ctx, "k", false); return err }, 1},
		{"compromise", func(ctx context.Context, c *client.Client) error {
			_, err := c.Compromise(ctx, kid, "leak", false)
			return err
		}, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			var sent atomic.Int32
			k := daemon(t, func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				if r.Method == http.MethodPost && sent.Add(1) == 1 {
					panic(http.ErrAbortHandler)
				}
				answer(w, "application/json", "{}")
			})
			if _, err := k.Status(t.Context()); err != nil { // so that there is an idle connection
				t.Fatal(err)
			}
			err := c.call(t.Context(), k)
			if (err == nil) != (c.sent == 2) || sent.Load() != c.sent {
				t.Errorf("sent %d times: %v", sent.Load(), err)
			}
			if errors.Is(err, client.ErrUnreachable) {
				t.Errorf("it did reach the daemon: %v", err)
			}
		})
	}
}

func TestConnectionsAreKept(t *testing.T) {
	path := filepath.Join(folder(t), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	opened := make(chan struct{}, 100)
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			http.Error(w, strings.Repeat("x", 5000), http.StatusTeapot)
			return
		}
		_, _ = io.Copy(w, r.Body)
	}), ConnState: func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			opened <- struct{}{}
		}
	}}
	go func() { _ = s.Serve(l) }() // ends with Close
	t.Cleanup(func() { _ = s.Close() })
	c := client.New(path)
	for range 20 {
		if _, err := c.Decrypt(t.Context(), "wise", []byte("x")); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Status(t.Context()); err == nil {
			t.Fatal("no error")
		}
	}
	if n := len(opened); n != 1 {
		t.Errorf("%d connections for 40 requests in a row", n)
	}
}

func TestRequestIDTravels(t *testing.T) {
	c := daemon(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Keyd-Request-Id", r.Header.Get("Keyd-Request-Id"))
		if len(r.Header.Values("Idempotency-Key")) > 0 {
			t.Error("a header for net/http alone was sent")
		}
	})
	opened, err := c.Decrypt(client.WithRequestID(t.Context(), "pay-17"), "wise", nil)
	if err != nil || opened.RequestID != "pay-17" {
		t.Errorf("got %+v %v", opened, err)
	}
	if opened, err = c.Decrypt(t.Context(), "wise", nil); err != nil || opened.RequestID != "" {
		t.Errorf("got %+v %v", opened, err)
	}
}
