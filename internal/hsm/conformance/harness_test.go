package conformance_test

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"testing"
	"time"

	"keyd/internal/hsm/conformance"
	"keyd/internal/hsm/faultytest"
	"keyd/softhsm/softhsmtest"
)

const processName = "conformance-process"

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == processName {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		defer stop()
		if err := conformance.Serve(ctx, os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// config tries a token in processes of this binary.
func config(token softhsmtest.Token) conformance.Config {
	return conformance.Config{
		Module: token.Module, Token: token.Label, Reserved: token.InitArgs, PIN: []byte(token.PIN), Envelopes: 400, Limit: 2 * time.Minute,
		Command: []string{"/proc/self/exe", os.Args[0], processName}, Env: append(os.Environ(), token.Env...),
	}
}

// faulty puts a module that fails on demand before a token's.
func faulty(t *testing.T, token softhsmtest.Token, lines ...string) (conformance.Config, *faultytest.Module) {
	t.Helper()
	cfg := config(token)
	f := faultytest.New(t, cfg.Module)
	cfg.Module, cfg.Env = f.Path, append(cfg.Env, f.Env...)
	f.Fail(lines...)
	return cfg, f
}

func run(t *testing.T, cfg conformance.Config) *conformance.Report {
	t.Helper()
	report, err := conformance.Run(t.Context(), cfg)
	if err != nil {
		t.Fatalf("Run: %v", err)
	}
	return report
}

// find returns a check; none has no verdict.
func find(r *conformance.Report, name string) conformance.Check {
	i := slices.IndexFunc(r.Checks, func(c conformance.Check) bool { return c.Name == name })
	if i < 0 {
		return conformance.Check{Name: name}
	}
	return r.Checks[i]
}
