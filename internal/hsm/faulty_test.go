package hsm_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"keyd/internal/boundary"
	"keyd/internal/hsm"
	"keyd/internal/hsm/faultytest"
)

type faulty struct{ *faultytest.Module }

// withFaults puts a faulty module before the one that cfg names.
func withFaults(t testing.TB, cfg *hsm.Config) *faulty {
	t.Helper()
	f := &faulty{faultytest.New(t, cfg.Module)}
	for _, variable := range f.Env {
		name, value, _ := strings.Cut(variable, "=")
		t.Setenv(name, value)
	}
	cfg.Module = f.Path
	return f
}

func (f *faulty) fail(lines ...string)  { f.Fail(lines...) }
func (f *faulty) heal()                 { f.Fail() }
func (f *faulty) calls(name string) int { return f.Calls(name) }
func (f *faulty) forget()               { f.Forget() }

// eventually waits for what another goroutine does.
func eventually(t testing.TB, what string, done func() bool) {
	t.Helper()
	for range 6000 {
		if done() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("waited a minute for: %s", what)
}

// foundWell has Health ask until all is well: what it has begun and not waited
// for, a login and what follows it, goes on.
func foundWell(t testing.TB, token interface {
	Health(context.Context) boundary.Health
}) {
	t.Helper()
	eventually(t, "Health to find nothing wrong", func() bool { return token.Health(t.Context()).Err == "" })
}
