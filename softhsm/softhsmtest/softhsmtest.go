// Package softhsmtest gives a test a SoftHSM token of its own.
package softhsmtest

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// Token is a fresh, empty token that lives as long as the test.
type Token struct {
	Dir    string   // holds everything below
	Conf   string   // the file that SOFTHSM2_CONF must name
	Module string   // the PKCS #11 library
	Label  string   // the token's label
	PIN    string   // its user PIN; also in Dir/pin
	Env    []string // SOFTHSM2_CONF=..., for exec.Cmd
}

// New makes a token with softhsm/token.sh. Where SoftHSM is missing the test
// fails: one that skips proves nothing.
//
// New does not set SOFTHSM2_CONF in this process. A test that loads the module
// itself does so with t.Setenv, before the module is initialised.
func New(t testing.TB) Token {
	t.Helper()
	_, here, _, ok := runtime.Caller(0)
	if !ok {
		t.Fatal("softhsmtest: no path to softhsm/token.sh")
	}
	script := filepath.Join(filepath.Dir(here), "..", "token.sh")
	// Not t.TempDir: it has the test's name in it, and SoftHSM does not read
	// every character that may be there.
	temp, err := os.MkdirTemp("", "softhsm")
	if err != nil {
		t.Fatalf("making a directory for a token: %v", err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(temp); err != nil {
			t.Errorf("removing a token: %v", err)
		}
	})
	dir, label := filepath.Join(temp, "token"), "keyd-test"
	if out, err := exec.CommandContext(t.Context(), script, dir, label).CombinedOutput(); err != nil {
		t.Fatalf("making a SoftHSM token (make softhsm installs it): %v\n%s", err, out)
	}
	pin, err := os.ReadFile(filepath.Join(dir, "pin"))
	if err != nil {
		t.Fatalf("reading the token's PIN: %v", err)
	}
	conf := filepath.Join(dir, "softhsm2.conf")
	return Token{
		Dir: dir, Conf: conf, Module: "/usr/lib/softhsm/libsofthsm2.so", Label: label,
		PIN: strings.TrimSpace(string(pin)), Env: []string{"SOFTHSM2_CONF=" + conf},
	}
}
