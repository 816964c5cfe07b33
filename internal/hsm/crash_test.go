package hsm_test

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"

	"keyd/internal/hsm"
)

// dieInLogin shows a PIN to a module that kills the process for it, in a
// process of its own.
func dieInLogin(t *testing.T, f *faulty, cfg hsm.Config, pin string) {
	t.Helper()
	f.fail("C_Login crash")
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestDiesInLogin$")
	cmd.Env = append(os.Environ(), "TMPDIR="+t.TempDir(),
		"KEYD_DIE_MODULE="+cfg.Module, "KEYD_DIE_LABEL="+cfg.TokenLabel, "KEYD_DIE_PIN="+pin, "KEYD_DIE_GUARD="+cfg.PINGuardPath)
	out, err := cmd.CombinedOutput()
	f.heal()
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.Exited() {
		t.Fatalf("the process did not die in C_Login: %v\n%s", err, out)
	}
}

func TestDiesInLogin(t *testing.T) {
	module := os.Getenv("KEYD_DIE_MODULE")
	if module == "" {
		t.Skip("for dieInLogin")
	}
	cfg := config(t, module, os.Getenv("KEYD_DIE_LABEL"), os.Getenv("KEYD_DIE_PIN"))
	cfg.PINGuardPath = os.Getenv("KEYD_DIE_GUARD")
	_, err := hsm.Open(t.Context(), cfg)
	t.Fatalf("C_Login came back: %v", err)
}

func TestPINThatKilledTheProcessIsNotShownAgain(t *testing.T) {
	cfg := softHSM(t)
	f := withFaults(t, &cfg)
	const wrong = "a wrong PIN"
	dieInLogin(t, f, cfg, wrong)
	pending := cfg.PINGuardPath + ".new"
	for range 3 {
		err := refusedPIN(t, withPIN(cfg, wrong))
		for _, word := range []string{pending, "another PIN is tried"} {
			if !strings.Contains(err.Error(), word) {
				t.Errorf("Open: %v, want the words %q in it", err, word)
			}
		}
		if strings.Contains(err.Error(), wrong) {
			t.Errorf("the PIN is in the error: %v", err)
		}
	}
	if got := tries(f); got != 1 {
		t.Errorf("the token was shown the PIN %d times, want 1", got)
	}
	open(t, cfg) // with another PIN, which is the right one
	if got := tries(f); got != 2 {
		t.Errorf("after the PIN was changed the token was shown %d PINs, want 2", got)
	}
	if _, err := os.Stat(pending); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after a good login the PIN that killed the process is still remembered: %v", err)
	}
}

// A right PIN without an answer counts as refused as well, until somebody says
// that it is right. Neither a crash nor a second one forgets what was refused.
func TestGoodPINThatKilledTheProcessIsShownAgainWhenSomebodySaysSo(t *testing.T) {
	cfg := softHSM(t)
	f := withFaults(t, &cfg)
	_ = refusedPIN(t, withPIN(cfg, "wrong"))
	pin, err := cfg.PIN()
	must(t, err)
	dieInLogin(t, f, cfg, string(pin))
	f.forget()
	_ = refusedPIN(t, cfg)
	_ = refusedPIN(t, withPIN(cfg, "wrong"))
	if got := tries(f); got != 0 {
		t.Errorf("the token was shown %d PINs, want none", got)
	}
	pending := cfg.PINGuardPath + ".new"
	raw, err := os.ReadFile(pending)
	must(t, err)
	if bytes.Contains(raw, pin) {
		t.Errorf("the PIN is in the guard: %s", raw)
	}
	// A damaged one may say yes.
	must(t, os.WriteFile(pending, []byte("{"), 0o600))
	if err := refusedPIN(t, cfg); !strings.Contains(err.Error(), pending) {
		t.Errorf("a damaged file: %v, want its name", err)
	}
	must(t, os.Remove(pending))
	open(t, cfg)
	for _, path := range []string{cfg.PINGuardPath, pending} {
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("after a good login %s is still there: %v", path, err)
		}
	}
}
