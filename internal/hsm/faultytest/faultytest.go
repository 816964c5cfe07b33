// Package faultytest gives a test a PKCS #11 module with another one behind it
// that fails on demand: the real path through the binding, and answers that no
// software token gives.
package faultytest

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// Module is a faulty module. internal/hsm/testdata/faulty.c has the faults.
type Module struct {
	Path string
	Env  []string // what it reads in the environment
	t    testing.TB
	// control is the file that it reads at every call.
	control string
}

// New compiles one for the module behind. It does not set the environment of this
// process.
func New(t testing.TB, behind string) *Module {
	t.Helper()
	headers, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "github.com/miekg/pkcs11").Output()
	if err != nil {
		t.Fatalf("looking for the PKCS #11 headers: %v", err)
	}
	_, here, _, _ := runtime.Caller(0)
	source := filepath.Join(filepath.Dir(here), "..", "testdata", "faulty.c")
	dir := t.TempDir()
	m := &Module{t: t, Path: filepath.Join(dir, "faulty.so"), control: filepath.Join(dir, "control")}
	if out, err := exec.CommandContext(t.Context(), "cc", "-shared", "-fPIC", "-I", strings.TrimSpace(string(headers)),
		"-o", m.Path, source, "-ldl").CombinedOutput(); err != nil {
		t.Fatalf("compiling the faulty module (it needs the C compiler that cgo needs): %v\n%s", err, out)
	}
	m.Env = []string{"KEYD_FAULTY_MODULE=" + behind, "KEYD_FAULTY_CONTROL=" + m.control}
	m.Fail()
	return m
}

// Fail sets the faults, in the words of faulty.c, in the place of all before.
func (m *Module) Fail(lines ...string) {
	m.t.Helper()
	// By rename: the module may be reading it.
	err := os.WriteFile(m.control+".new", []byte(strings.Join(lines, "\n")+"\n"), 0o600)
	if err := errors.Join(err, os.Rename(m.control+".new", m.control)); err != nil {
		m.t.Fatal(err)
	}
}

// Made are the functions that were called since the last Forget, in their order.
func (m *Module) Made() []string {
	raw, err := os.ReadFile(m.control + ".log")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		m.t.Fatal(err)
	}
	return strings.Fields(string(raw))
}

// Calls counts the calls of a function since the last Forget.
func (m *Module) Calls(name string) int {
	n := 0
	for _, made := range m.Made() {
		if made == name {
			n++
		}
	}
	return n
}

// Forget begins to count anew.
func (m *Module) Forget() {
	if err := os.Remove(m.control + ".log"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		m.t.Fatal(err)
	}
}
