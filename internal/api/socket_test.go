package api_test

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"keyd/internal/api"
)

// bare makes a server that nobody has started.
func bare(t *testing.T, change func(*setup)) (*api.Server, *setup) {
	r := newRig(t)
	s := &setup{}
	s.cfg = api.Config{Instance: "test", Client: api.Socket{Path: r.path("2.sock"), Mode: 0o660}, Admin: api.Socket{Path: r.path("2-admin.sock"), Mode: 0o600},
		Registry: r.reg, Engine: r.engine, Opener: r.opener, Audit: r.log, AuditPath: r.path("audit.jsonl"), MaxPlaintext: 1, Calls: 1,
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
