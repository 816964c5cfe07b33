package softhsmtest_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"keyd/softhsm/softhsmtest"
)

func TestTokenIsReadyAndPrivate(t *testing.T) {
	token := softhsmtest.New(t)
	info, err := os.Stat(filepath.Join(token.Dir, "pin"))
	if err != nil {
		t.Fatal(err)
	}
	if got := info.Mode().Perm(); got != 0o600 {
		t.Errorf("the PIN file has mode %o, want 600", got)
	}
	cmd := exec.CommandContext(t.Context(), "pkcs11-tool", "--module", token.Module, "--token-label", token.Label,
		"--login", "--pin", "env:KEYD_PIN", "-O")
	cmd.Env = append(os.Environ(), append(token.Env, "KEYD_PIN="+token.PIN)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("logging in with the PIN: %v\n%s", err, out)
	}
}

func TestEachTestHasAnotherToken(t *testing.T) {
	one, two := softhsmtest.New(t), softhsmtest.New(t)
	if one.Dir == two.Dir || one.PIN == two.PIN {
		t.Errorf("two tokens share a directory or a PIN: %s, %s", one.Dir, two.Dir)
	}
}

func TestScriptIsIdempotentAndRefusesWhatIsNotItsOwn(t *testing.T) {
	token := softhsmtest.New(t)
	run := func(args ...string) (string, error) {
		out, err := exec.CommandContext(t.Context(), "../token.sh", args...).CombinedOutput()
		return string(out), err
	}
	if out, err := run(token.Dir, token.Label); err != nil || !strings.Contains(out, "SOFTHSM2_CONF="+token.Conf) {
		t.Errorf("a second run: %v\n%s", err, out)
	}
	if pin, err := os.ReadFile(filepath.Join(token.Dir, "pin")); err != nil || strings.TrimSpace(string(pin)) != token.PIN {
		t.Errorf("a second run changed the PIN: %q, %v", pin, err)
	}
	full := t.TempDir()
	if err := os.WriteFile(filepath.Join(full, "somebody's"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, args := range map[string][]string{
		"another label":            {token.Dir, "other"},
		"a directory of others":    {full},
		"no directory":             {},
		"an empty directory name":  {""},
		"a blank in the path":      {filepath.Join(t.TempDir(), "a b")},
		"an = in the path":         {filepath.Join(t.TempDir(), "a=b")},
		"a label that is too long": {filepath.Join(t.TempDir(), "x"), strings.Repeat("x", 33)},
		"a label with a blank":     {filepath.Join(t.TempDir(), "x"), "a b"},
	} {
		if out, err := run(args...); err == nil {
			t.Errorf("%s: token.sh succeeded:\n%s", name, out)
		}
	}
}
