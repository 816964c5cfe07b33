package hsm_test

import (
	"context"
	"encoding/hex"
	"fmt"
	"os"
	"testing"

	"github.com/miekg/pkcs11"

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
			return hsm.Open(ctx, cfg)
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
	token, err := worker.Open(t.Context(), inWorker(cfg))
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

func TestSoftHSMInAWorkerFulfilsTheContract(t *testing.T) { workerContract(t, softHSM(t)) }

func TestNSSInAWorkerFulfilsTheContract(t *testing.T) { workerContract(t, nss(t)) }

func workerContract(t *testing.T, cfg hsm.Config) {
	token := openInWorker(t, cfg)
	backendtest.Run(t, func(*testing.T) rotation.Backend { return token }, backendtest.Options{
		Plant: func(t *testing.T, _ rotation.Backend, label, id string) {
			raw, err := hex.DecodeString(id)
			must(t, err)
			outside(t, cfg, func(ctx *pkcs11.Ctx, s pkcs11.SessionHandle) { plant(t, ctx, s, string(raw), label, true) })
		},
	})
}
