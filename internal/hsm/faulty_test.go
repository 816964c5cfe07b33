package hsm_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"keyd/internal/hsm"
)

// faulty is a PKCS #11 module with another one behind it that fails on demand
// (testdata/faulty.c): the real path through the binding, and answers that no
// software token gives.
type faulty struct {
	t       testing.TB
	control string
}

// withFaults puts a faulty module before the one that cfg names.
func withFaults(t testing.TB, cfg *hsm.Config) *faulty {
	t.Helper()
	headers, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "github.com/miekg/pkcs11").Output()
	if err != nil {
		t.Fatalf("looking for the PKCS #11 headers: %v", err)
	}
	dir := t.TempDir()
	module := filepath.Join(dir, "faulty.so")
	if out, err := exec.CommandContext(t.Context(), "cc", "-shared", "-fPIC", "-I", strings.TrimSpace(string(headers)),
		"-o", module, "testdata/faulty.c", "-ldl").CombinedOutput(); err != nil {
		t.Fatalf("compiling the faulty module (it needs the C compiler that cgo needs): %v\n%s", err, out)
	}
	f := &faulty{t: t, control: filepath.Join(dir, "control")}
	f.heal()
	t.Setenv("KEYD_FAULTY_MODULE", cfg.Module)
	t.Setenv("KEYD_FAULTY_CONTROL", f.control)
	cfg.Module = module
	return f
}

// fail sets the faults, in the words of testdata/faulty.c.
func (f *faulty) fail(lines ...string) {
	f.t.Helper()
	// By rename: the module may be reading it.
	must(f.t, os.WriteFile(f.control+".new", []byte(strings.Join(lines, "\n")+"\n"), 0o600))
	must(f.t, os.Rename(f.control+".new", f.control))
}

func (f *faulty) heal() { f.t.Helper(); f.fail() }

// calls counts the calls of a function since the last forget.
func (f *faulty) calls(name string) int {
	raw, err := os.ReadFile(f.control + ".log")
	if err != nil && !os.IsNotExist(err) {
		f.t.Fatal(err)
	}
	return strings.Count("\n"+string(raw), "\n"+name+"\n")
}

func (f *faulty) forget() {
	if err := os.Remove(f.control + ".log"); err != nil && !os.IsNotExist(err) {
		f.t.Fatal(err)
	}
}

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
