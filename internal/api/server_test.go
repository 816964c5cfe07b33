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
	"os/exec"
	"os/user"
	"strconv"
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
		check(t, conn.SetReadDeadline(time.Now().Add(10*time.Second)))
		if _, err := io.ReadAll(conn); err != nil {
			t.Errorf("the connection is still open: %v", err)
		}
	})
	for name, length := range map[string]string{"in the body": "Content-Length: 100\r\n\r\nabc", "in a chunk": "Transfer-Encoding: chunked\r\n\r\n64\r\nabc"} {
		t.Run(name, func(t *testing.T) {
			conn := r.dial("keyd.sock")
			_, err := io.WriteString(conn, "POST /v1/partners/wise/decrypt HTTP/1.1\r\nHost: keyd\r\n"+length)
			check(t, err)
			check(t, conn.SetReadDeadline(time.Now().Add(10*time.Second)))
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
		check(t, conn.SetReadDeadline(time.Now().Add(10*time.Second)))
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
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
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

// bare makes a server that nobody has started.
func bare(t *testing.T, change func(*setup)) (*api.Server, *setup) {
	r := newRig(t)
	s := &setup{}
	s.cfg = api.Config{Instance: "test", Client: api.Socket{Path: r.path("2.sock"), Mode: 0o660}, Admin: api.Socket{Path: r.path("2-admin.sock"), Mode: 0o600},
		Registry: r.reg, Engine: r.engine, Opener: r.opener, Audit: r.log, AuditPath: r.path("audit.jsonl"), MaxPlaintext: 1,
		Meters: api.NewMetrics(), Logger: discard()}
	if change != nil {
		change(s)
	}
	server, err := api.New(s.cfg)
	check(t, err)
	t.Cleanup(func() { _ = server.Shutdown(context.Background()) })
	return server, s
}

func TestSocketsHaveTheirModeWhateverTheUmask(t *testing.T) {
	gid := os.Getgid()
	if os.Getuid() == 0 {
		gid = 1
	}
	server, s := bare(t, func(s *setup) { s.cfg.Client.GID = gid })
	old := syscall.Umask(0)
	defer syscall.Umask(old)
	check(t, server.Listen())
	for path, mode := range map[string]fs.FileMode{s.cfg.Client.Path: 0o660, s.cfg.Admin.Path: 0o600} {
		info, err := os.Lstat(path)
		check(t, err)
		if info.Mode() != fs.ModeSocket|mode {
			t.Errorf("%s is %v, want %v", path, info.Mode(), mode)
		}
	}
	info, err := os.Lstat(s.cfg.Client.Path)
	check(t, err)
	if got := int(info.Sys().(*syscall.Stat_t).Gid); got != gid {
		t.Errorf("its group is %d, want %d", got, gid)
	}
}

func TestASocketThatNobodyListensOnIsReplaced(t *testing.T) {
	server, s := bare(t, nil)
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: s.cfg.Client.Path})
	check(t, err)
	stale.SetUnlinkOnClose(false)
	check(t, stale.Close())
	check(t, server.Listen())
	conn, err := net.Dial("unix", s.cfg.Client.Path)
	check(t, err)
	check(t, conn.Close())
}

func TestALiveSocketIsLeftAlone(t *testing.T) {
	server, s := bare(t, nil)
	live, err := net.Listen("unix", s.cfg.Admin.Path)
	check(t, err)
	defer live.Close()
	if err := server.Listen(); !errors.Is(err, api.ErrSocketInUse) || !strings.Contains(err.Error(), "another daemon") {
		t.Fatalf("got %v", err)
	}
	if _, err := os.Lstat(s.cfg.Client.Path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the other socket was left open: %v", err)
	}
	conn, err := net.Dial("unix", s.cfg.Admin.Path)
	check(t, err)
	check(t, conn.Close())
}

func TestWhatIsNoSocketIsLeftAlone(t *testing.T) {
	server, s := bare(t, nil)
	check(t, os.WriteFile(s.cfg.Client.Path, []byte("precious"), 0o600))
	if err := server.Listen(); !errors.Is(err, api.ErrSocketInUse) {
		t.Fatalf("got %v", err)
	}
	if b, err := os.ReadFile(s.cfg.Client.Path); err != nil || string(b) != "precious" {
		t.Errorf("got %q, %v", b, err)
	}
}

func TestListenersThatCannotBeOpenedSayWhich(t *testing.T) {
	for what, change := range map[string]func(*setup){
		"client":     func(s *setup) { s.cfg.Client.Path = "/nonexistent/keyd.sock" },
		"admin":      func(s *setup) { s.cfg.Admin.Path += strings.Repeat("x", 200) },
		"monitoring": func(s *setup) { s.cfg.Metrics = "0.0.0.0:0" },
	} {
		server, _ := bare(t, change)
		if err := server.Listen(); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: got %v", what, err)
		}
	}
	for _, address := range []string{"9464", "keyd.example:9464", "192.0.2.1:9464"} {
		server, _ := bare(t, func(s *setup) { s.cfg.Metrics = address })
		if err := server.Listen(); err == nil {
			t.Errorf("it listens on %s", address)
		}
	}
	server, _ := bare(t, nil)
	if err := server.Serve(); err == nil {
		t.Error("it serves without listening")
	}
	if server.Addr() != nil {
		t.Error("it has an address for monitoring")
	}
}

// Who is at the other end is the kernel's word: its own group counts, and the
// groups of its user.
func TestGroupsAreThePeersOwnAndItsUsers(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can become somebody else")
	}
	const gid = 4242 // of no group
	other, err := user.LookupId("1")
	check(t, err)
	primary, err := strconv.Atoi(other.Gid)
	check(t, err)
	for name, c := range map[string]struct {
		rule   api.Rule
		status string
	}{
		"its own group":       {api.Rule{Role: api.RoleClient, Partner: "wise", GIDs: []int{gid}}, "200"},
		"its user's group":    {api.Rule{Role: api.RoleClient, Partner: "wise", GIDs: []int{primary}}, "200"},
		"its user":            {api.Rule{Role: api.RoleClient, Partner: "wise", UIDs: []int{1}}, "200"},
		"another's":           {api.Rule{Role: api.RoleClient, Partner: "wise", UIDs: []int{0}, GIDs: []int{0}}, "403"},
		"a uid taken for gid": {api.Rule{Role: api.RoleClient, Partner: "wise", UIDs: []int{gid}}, "403"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, func(s *setup) { s.cfg.Rules, s.cfg.Client.Mode = []api.Rule{c.rule}, 0o666 })
			check(t, os.Chmod(r.dir, 0o755))
			cmd := exec.CommandContext(t.Context(), "curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "--unix-socket", r.path("keyd.sock"), "http://keyd/v1/partners/wise")
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 1, Gid: gid}}
			if out, err := cmd.CombinedOutput(); err != nil || string(out) != c.status {
				t.Errorf("got %s %v, want %s", out, err, c.status)
			}
		})
	}
}

func TestASocketOfAnotherKindIsLeftAlone(t *testing.T) {
	server, s := bare(t, nil)
	other, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: s.cfg.Client.Path, Net: "unixgram"})
	check(t, err)
	defer other.Close()
	if err := server.Listen(); !errors.Is(err, api.ErrSocketInUse) {
		t.Fatalf("got %v", err)
	}
	if _, err := os.Lstat(s.cfg.Client.Path); err != nil {
		t.Error(err)
	}
}
