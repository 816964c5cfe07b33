package hsm_test

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/miekg/pkcs11"

	"keyd/internal/boundary"
	"keyd/internal/hsm"
	"keyd/internal/hsm/worker"
	"keyd/internal/rotation"
	"keyd/internal/rotation/backendtest"
)

var _ rotation.Backend = (*worker.Token)(nil)

// serveWorker is this binary as a worker of itself.
func serveWorker() int {
	conns, err := worker.Inherited()
	if err == nil {
		err = worker.Serve(context.Background(), conns, func(ctx context.Context, cfg hsm.Config) (worker.Backend, error) {
			token, err := hsm.Open(ctx, cfg)
			if err == nil && os.Args[1] == "hsm-worker-blind" {
				return blind{token}, nil
			}
			return token, err
		}, os.Stderr)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// inWorker is a token's config with the module in a process of its own.
func inWorker(cfg hsm.Config) worker.Config {
	c := worker.Config{Config: cfg, Command: []string{"/proc/self/exe", os.Args[0], "hsm-worker", cfg.Name}}
	for _, name := range []string{"KEYD_FAULTY_MODULE", "KEYD_FAULTY_CONTROL"} {
		if value := os.Getenv(name); value != "" {
			c.Env = append(c.Env, name+"="+value)
		}
	}
	return c
}

// openInWorker opens a token and closes it after the test.
func openInWorker(t testing.TB, cfg hsm.Config) *worker.Token {
	t.Helper()
	return openWorker(t, inWorker(cfg))
}

func openWorker(t testing.TB, cfg worker.Config) *worker.Token {
	t.Helper()
	token, err := worker.Open(t.Context(), cfg)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	t.Cleanup(func() {
		if err := token.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return token
}

func TestSoftHSMInAWorkerFulfilsTheContract(t *testing.T) {
	cfg := softHSM(t)
	workerContract(t, cfg, openInWorker(t, cfg))
}

func TestNSSInAWorkerFulfilsTheContract(t *testing.T) {
	cfg := nss(t)
	workerContract(t, cfg, openInWorker(t, cfg))
}

func workerContract(t *testing.T, cfg hsm.Config, token *worker.Token) {
	backendtest.Run(t, func(*testing.T) rotation.Backend { return token }, backendtest.Options{
		Plant: func(t *testing.T, _ rotation.Backend, label, id string) {
			raw, err := hex.DecodeString(id)
			must(t, err)
			outside(t, cfg, func(ctx *pkcs11.Ctx, s pkcs11.SessionHandle) { plant(t, ctx, s, string(raw), label, true) })
		},
	})
}

func TestClosedTokenSaysSo(t *testing.T) {
	cfg := softHSM(t)
	token, err := worker.Open(t.Context(), inWorker(cfg))
	must(t, err)
	g := generated(t, token)
	must(t, token.Close())
	if _, err := token.Open(t.Context(), g.Handle, seal(t, g)); !errors.Is(err, boundary.ErrUnavailable) {
		t.Errorf("Open: %v, want boundary.ErrUnavailable", err)
	}
	if h := token.Health(t.Context()); h.Err == "" {
		t.Error("Health finds nothing wrong")
	}
	if pids := workerPIDs(t); len(pids) != 0 {
		t.Errorf("workers are left: %v", pids)
	}
	must(t, token.Close())
}

// What the daemon's start says must be what hsm.Open says: an exit code and a
// hint hang on it.
func TestErrorsAtTheStartAreTheTokens(t *testing.T) {
	cfg := softHSM(t)
	for name, c := range map[string]struct {
		change func(*hsm.Config)
		want   error
		word   string
	}{
		"a wrong PIN":          {func(c *hsm.Config) { *c = withPIN(*c, "wrong") }, hsm.ErrPINRefused, "does not accept the PIN"},
		"no PIN":               {func(c *hsm.Config) { c.PIN = func() ([]byte, error) { return nil, fmt.Errorf("no such credential") } }, nil, "no such credential"},
		"no such token":        {func(c *hsm.Config) { c.TokenLabel = "nobody" }, boundary.ErrUnavailable, `labelled "nobody"`},
		"no such module":       {func(c *hsm.Config) { c.Module = "/nowhere.so" }, nil, "/nowhere.so"},
		"a floor that is none": {func(c *hsm.Config) { c.MinBoundary = boundary.Sealed }, boundary.ErrUnsupported, "wants sealed"},
	} {
		cfg := cfg
		cfg.PINGuardPath = filepath.Join(t.TempDir(), "guard")
		c.change(&cfg)
		token, err := worker.Open(t.Context(), inWorker(cfg))
		if err == nil {
			must(t, token.Close())
		}
		if err == nil || c.want != nil && !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.word) {
			t.Errorf("%s: %v, want %v with %q", name, err, c.want, c.word)
		}
	}
	none := inWorker(cfg)
	none.Command = []string{"/nowhere", "keyd"}
	if _, err := worker.Open(t.Context(), none); !errors.Is(err, boundary.ErrUnavailable) {
		t.Errorf("no program: %v, want boundary.ErrUnavailable", err)
	}
	none.Command = []string{"/bin/true", "true"}
	if _, err := worker.Open(t.Context(), none); !errors.Is(err, boundary.ErrUnavailable) || !strings.Contains(err.Error(), "ended") {
		t.Errorf("a program that is no worker: %v, want how it ended", err)
	}
	if pids := workerPIDs(t); len(pids) != 0 {
		t.Errorf("workers are left: %v", pids)
	}
}

func TestCloseEndsAWorkerWhoseModuleHangs(t *testing.T) {
	cfg := softHSM(t)
	f := withFaults(t, &cfg)
	token, err := worker.Open(t.Context(), inWorker(cfg))
	must(t, err)
	g := generated(t, token)
	f.forget()
	f.fail("C_Decrypt hang")
	opened := make(chan error, 1)
	env := seal(t, g)
	go func() {
		_, err := token.Open(t.Context(), g.Handle, env)
		opened <- err
	}()
	eventually(t, "the call to be in the module", func() bool { return f.calls("C_Decrypt") == 1 })
	if err := token.Close(); !errors.Is(err, boundary.ErrUnavailable) {
		t.Errorf("Close: %v, want boundary.ErrUnavailable", err)
	}
	if err := <-opened; !errors.Is(err, boundary.ErrUnavailable) {
		t.Errorf("the call that hung: %v, want boundary.ErrUnavailable", err)
	}
	if pids := workerPIDs(t); len(pids) != 0 {
		t.Errorf("workers are left: %v", pids)
	}
}
