// Package softhsmtest gives a test a token of its own: SoftHSM's, or another's.
package softhsmtest

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// Token is a fresh, empty token that lives as long as the test.
type Token struct {
	Dir      string   // holds everything below
	Conf     string   // the file that SOFTHSM2_CONF must name
	Module   string   // the PKCS #11 library
	Label    string   // the token's label
	PIN      string   // its user PIN; also in Dir/pin
	InitArgs string   // for C_Initialize; NSS wants some
	Env      []string // what the module reads in the environment, for exec.Cmd
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

// Other makes a token of another kind with the script of that name beside
// token.sh: nss, opencryptoki, tpm2 or p11kit. It sets what the module reads in
// the environment, and ends what it started after the test.
func Other(t testing.TB, kind string) Token {
	t.Helper()
	_, here, _, _ := runtime.Caller(0)
	script := filepath.Join(filepath.Dir(here), "..", kind+".sh")
	dir, err := os.MkdirTemp("", kind)
	if err != nil {
		t.Fatalf("making a directory for a token: %v", err)
	}
	t.Cleanup(func() {
		if stop := filepath.Join(dir, "stop"); exists(stop) {
			if out, err := exec.Command(stop).CombinedOutput(); err != nil {
				t.Errorf("%s: %v\n%s", stop, err, out)
			}
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("removing a token: %v", err)
		}
	})
	// What the script prints is for a shell to read.
	out, err := exec.CommandContext(t.Context(), "bash", "-c",
		`said=$("$0" "$1") && eval "$said" && printf '%s\0' "$module" "$token" "$(cat "$pin_file")" "$init_args" && env -0`, script, dir).Output()
	if err != nil {
		t.Fatalf("%s (make tokens-install installs what it needs): %v\n%s", script, err, stderr(err))
	}
	parts := strings.Split(string(out), "\x00")
	token := Token{Dir: dir, Module: parts[0], Label: parts[1], PIN: parts[2], InitArgs: parts[3]}
	for _, variable := range parts[4:] {
		name, value, _ := strings.Cut(variable, "=")
		if name != "" && name != "_" && os.Getenv(name) != value {
			t.Setenv(name, value)
			token.Env = append(token.Env, variable)
		}
	}
	return token
}

func exists(path string) bool { _, err := os.Stat(path); return err == nil }

func stderr(err error) []byte {
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return exit.Stderr
	}
	return nil
}
