package hsm_test

import (
	"encoding/hex"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/pkcs11"

	"keyd/internal/boundary"
	"keyd/internal/hsm"
	"keyd/internal/hsm/worker"
	"keyd/internal/rotation"
	"keyd/internal/rotation/backendtest"
)

// backWithin waits for an envelope to open, and says how long that took.
func backWithin(t *testing.T, token *worker.Token, g boundary.Generated) time.Duration {
	t.Helper()
	return whenBack(t, token, g, func(error) {})
}

// nextTry is the most that a caller is to be told to wait where it is the device
// that is gone: the 2 s between tries, and a second for the try.
const nextTry = 3 * time.Second

// backSoon is backWithin where nobody but keyd has to do anything. How long a try
// takes is the machine's; when it is made is keyd's, and no more than 2 s off
// whenever somebody asks. That it is made then is a test of package worker.
func backSoon(t *testing.T, token *worker.Token, g boundary.Generated) time.Duration {
	t.Helper()
	return whenBack(t, token, g, func(err error) {
		if after, told := retryAfter(err); told && (after <= 0 || after > nextTry) {
			t.Fatalf("Open: %v: the next try is told to be %s off, want up to %s", err, after, nextTry)
		}
	})
}

// whenBack is backWithin with a look at whatever refuses meanwhile.
func whenBack(t *testing.T, token *worker.Token, g boundary.Generated, refused func(error)) time.Duration {
	t.Helper()
	began := time.Now()
	env := seal(t, g)
	var err error
	for time.Since(began) < time.Minute {
		var got *boundary.Opened
		if got, err = token.Open(t.Context(), g.Handle, env); err == nil && string(got.Plaintext) == "plaintext" {
			return time.Since(began)
		}
		if errors.Is(err, boundary.ErrNoKey) || errors.Is(err, boundary.ErrOpen) {
			t.Fatalf("Open: %v: a wrong answer", err)
		}
		refused(err)
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatalf("not back within a minute: %v", err)
	return 0
}

// retryAfter is when an error says to ask again, if it does.
func retryAfter(err error) (after time.Duration, told bool) {
	says, told := errors.AsType[interface {
		error
		RetryAfter() time.Duration
	}](err)
	if told {
		after = says.RetryAfter()
	}
	return after, told
}

// overSocket is SoftHSM behind `p11-kit server`: a token in another process, as a
// network HSM is.
type overSocket struct {
	t      *testing.T
	socket string
	label  string
	server *exec.Cmd
}

func p11kit(t *testing.T) (hsm.Config, *overSocket) {
	t.Helper()
	found, err := filepath.Glob("/usr/lib/*/pkcs11/p11-kit-client.so")
	if err != nil || len(found) == 0 {
		t.Fatalf("no p11-kit-client.so (make softhsm installs it): %v", err)
	}
	cfg := softHSM(t)
	dir, err := os.MkdirTemp("", "p11kit") // sun_path holds 108 bytes
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	s := &overSocket{t: t, socket: filepath.Join(dir, "s"), label: cfg.TokenLabel}
	t.Setenv("P11_KIT_SERVER_ADDRESS", "unix:path="+s.socket)
	s.start(cfg.Module)
	cfg.Module = found[0]
	return cfg, s
}

func (s *overSocket) start(module string) {
	s.t.Helper()
	_ = os.Remove(s.socket)
	s.server = exec.Command("p11-kit", "server", "-f", "-n", s.socket, "--provider", module, "pkcs11:token="+s.label)
	s.server.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	must(s.t, s.server.Start())
	// proc(5), /proc/net/unix: whoever connects to one that is there and not listened
	// to yet is told by p11-kit that there are no tokens.
	eventually(s.t, "p11-kit to listen", func() bool {
		sockets, err := os.ReadFile("/proc/net/unix")
		must(s.t, err)
		return regexp.MustCompile(`(?m) 00010000 .* ` + regexp.QuoteMeta(s.socket) + `$`).Match(sockets)
	})
	s.t.Cleanup(s.kill)
}

// kill ends the server and the process that it has for each connection.
func (s *overSocket) kill() {
	_ = syscall.Kill(-s.server.Process.Pid, syscall.SIGKILL)
	_ = s.server.Wait()
}

func TestTokenInAnotherProcessThatDiesUnderLoadAndReturns(t *testing.T) {
	cfg, server := p11kit(t)
	module := "/usr/lib/softhsm/libsofthsm2.so"
	token := openInWorker(t, cfg)
	g := generated(t, token)
	stop := load(t, opener(t, token, g), 4, boundary.ErrUnavailable, boundary.ErrBusy)
	for range 2 {
		time.Sleep(50 * time.Millisecond)
		server.kill()
		eventually(t, "health to notice", func() bool { return token.Health(t.Context()).Err != "" })
		time.Sleep(500 * time.Millisecond)
		server.start(module)
		t.Logf("serving again %s after the server's return", backSoon(t, token, g))
	}
	if stop() == 0 {
		t.Error("nothing was opened")
	}
}

func TestSoftHSMBehindP11KitFulfilsTheContract(t *testing.T) {
	cfg, _ := p11kit(t)
	direct := cfg
	direct.Module = "/usr/lib/softhsm/libsofthsm2.so"
	token := openInWorker(t, cfg)
	backendtest.Run(t, func(*testing.T) rotation.Backend { return token }, backendtest.Options{
		Bits: []int{2048}, Without: []string{boundary.ECDHES}, // p11-kit does not pass the agreement on
		Plant: func(t *testing.T, _ rotation.Backend, label, id string) {
			raw, err := hex.DecodeString(id)
			must(t, err)
			outside(t, direct, func(ctx *pkcs11.Ctx, s pkcs11.SessionHandle) { plant(t, ctx, s, string(raw), label, true) })
		},
	})
}
