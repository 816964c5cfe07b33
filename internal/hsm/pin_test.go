package hsm_test

import (
	"bytes"
	"crypto/pbkdf2"
	"crypto/sha256"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"keyd/internal/hsm"
)

func withPIN(cfg hsm.Config, pin string) hsm.Config {
	cfg.PIN = func() ([]byte, error) { return []byte(pin), nil }
	return cfg
}

func refusedPIN(t *testing.T, cfg hsm.Config) error {
	t.Helper()
	token, err := hsm.Open(t.Context(), cfg)
	if err == nil {
		must(t, token.Close())
	}
	if !errors.Is(err, hsm.ErrPINRefused) {
		t.Fatalf("Open: %v, want hsm.ErrPINRefused", err)
	}
	return err
}

// tries counts the PINs that the token was shown.
func tries(f *faulty) int { return f.calls("C_Login") }

func TestWrongPINIsTriedOnceAcrossRestarts(t *testing.T) {
	cfg := softHSM(t)
	f := withFaults(t, &cfg)
	const wrong = "a wrong PIN"
	first := refusedPIN(t, withPIN(cfg, wrong))
	for range 3 {
		again := refusedPIN(t, withPIN(cfg, wrong))
		if !strings.Contains(again.Error(), cfg.PINGuardPath) {
			t.Errorf("the error does not say which file remembers it: %v", again)
		}
	}
	if got := tries(f); got != 1 {
		t.Errorf("the token was shown the wrong PIN %d times, want 1", got)
	}
	if strings.Contains(first.Error(), wrong) {
		t.Errorf("the PIN is in the error: %v", first)
	}
	_ = refusedPIN(t, withPIN(cfg, "another wrong PIN"))
	if got := tries(f); got != 2 {
		t.Errorf("after the PIN was changed the token was shown %d PINs, want 2", got)
	}
	open(t, cfg) // the right one
	if _, err := os.Stat(cfg.PINGuardPath); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after a good login the guard is still there: %v", err)
	}
}

func TestRefusedPINIsKeptAsASlowHashInAPrivateFile(t *testing.T) {
	cfg := softHSM(t)
	_ = refusedPIN(t, withPIN(cfg, "4711-wrong"))
	info, err := os.Stat(cfg.PINGuardPath)
	must(t, err)
	if got := info.Mode().Perm(); got != 0o600 {
		t.Errorf("the guard has mode %o, want 600", got)
	}
	raw, err := os.ReadFile(cfg.PINGuardPath)
	must(t, err)
	if bytes.Contains(raw, []byte("4711-wrong")) || !bytes.Contains(raw, []byte("600000")) {
		t.Errorf("the guard is %s, want a slow hash and not the PIN", raw)
	}
	if left, err := filepath.Glob(cfg.PINGuardPath + ".*"); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestSlowHashIsPBKDF2(t *testing.T) {
	for _, pin := range []string{"1", "4711", strings.Repeat("long ", 50)} {
		want, err := pbkdf2.Key(sha256.New, pin, []byte("0123456789abcdef"), 600_000, 32)
		must(t, err)
		if got := hsm.SlowHash([]byte(pin), []byte("0123456789abcdef")); !bytes.Equal(got, want) {
			t.Errorf("%q: %x, want %x", pin, got, want)
		}
	}
}

func TestAnotherTokenGetsItsOwnTry(t *testing.T) {
	cfg := softHSM(t)
	_ = refusedPIN(t, withPIN(cfg, "wrong"))
	other := softHSM(t)
	other.PINGuardPath = cfg.PINGuardPath
	f := withFaults(t, &other)
	_ = refusedPIN(t, withPIN(other, "wrong"))
	if got := tries(f); got != 1 {
		t.Errorf("the other token was shown %d PINs, want 1", got)
	}
}

func TestPINIsNotShownWhenARefusalCouldNotBeRemembered(t *testing.T) {
	cfg := softHSM(t)
	f := withFaults(t, &cfg)
	cfg.PINGuardPath = filepath.Join(t.TempDir(), "missing", "guard")
	if _, err := hsm.Open(t.Context(), cfg); err == nil {
		t.Error("Open succeeded with no place for the guard")
	}
	damaged := filepath.Join(t.TempDir(), "guard")
	for name, content := range map[string]string{"not JSON": "{", "no hash": `{"kdf":"PBKDF2-HMAC-SHA-256, 600000"}`, "empty": "", "other members": `{"x":1}`} {
		must(t, os.WriteFile(damaged, []byte(content), 0o600))
		cfg.PINGuardPath = damaged
		if err := refusedPIN(t, cfg); !strings.Contains(err.Error(), damaged) {
			t.Errorf("%s: the error does not name the file: %v", name, err)
		}
	}
	must(t, os.Remove(damaged))
	must(t, os.Mkdir(damaged, 0o700))
	if _, err := hsm.Open(t.Context(), cfg); err == nil {
		t.Error("Open succeeded with a guard that cannot be read")
	}
	if got := tries(f); got != 0 {
		t.Errorf("the token was shown %d PINs, want none", got)
	}
}

func TestWhatCannotBeAPINIsNotTried(t *testing.T) {
	cfg := softHSM(t)
	f := withFaults(t, &cfg)
	for name, pin := range map[string]string{"empty": "", "a line end": "xyzzy\n", "a NUL": "wx\x00zzy", "not UTF-8": "wx\xffzzy"} {
		if err := refusedPIN(t, withPIN(cfg, pin)); strings.Contains(err.Error(), "zzy") {
			t.Errorf("%s: the PIN is in the error: %v", name, err)
		}
	}
	broken := errors.New("no such credential")
	cfg.PIN = func() ([]byte, error) { return nil, broken }
	if _, err := hsm.Open(t.Context(), cfg); !errors.Is(err, broken) {
		t.Errorf("Open: %v, want the reason why there is no PIN", err)
	}
	if got := tries(f); got != 0 {
		t.Errorf("the token was shown %d PINs, want none", got)
	}
}

func TestPINIsWipedAfterUse(t *testing.T) {
	cfg := softHSM(t)
	pin, err := cfg.PIN()
	must(t, err)
	cfg.PIN = func() ([]byte, error) { return pin, nil }
	open(t, cfg)
	if !bytes.Equal(pin, make([]byte, len(pin))) {
		t.Error("the PIN is still in its buffer after Open")
	}
}

func TestLockedOrLastPINIsNotTried(t *testing.T) {
	cfg := softHSM(t)
	f := withFaults(t, &cfg)
	for name, flag := range map[string]string{"locked": "flags 0x40000", "last try": "flags 0x20000"} {
		f.fail(flag)
		if err := refusedPIN(t, cfg); !errors.Is(err, hsm.ErrPINLocked) {
			t.Errorf("%s: %v, want hsm.ErrPINLocked", name, err)
		}
	}
	f.fail("noflags 0x8") // CKF_USER_PIN_INITIALIZED
	_ = refusedPIN(t, cfg)
	if got := tries(f); got != 0 {
		t.Errorf("the token was shown %d PINs, want none", got)
	}
	f.fail("flags 0x10000") // CKF_USER_PIN_COUNT_LOW
	open(t, cfg)
}

func TestLoginErrorsAreToldApart(t *testing.T) {
	cfg := softHSM(t)
	f := withFaults(t, &cfg)
	f.fail("C_Login 0xa4")
	if err := refusedPIN(t, cfg); !errors.Is(err, hsm.ErrPINLocked) || !strings.Contains(err.Error(), "CKR_PIN_LOCKED") {
		t.Errorf("locked: %v, want hsm.ErrPINLocked with its code", err)
	}
	f.fail("C_Login 0x30")
	if _, err := hsm.Open(t.Context(), cfg); err == nil || errors.Is(err, hsm.ErrPINRefused) {
		t.Errorf("a device error at login: %v, want no word about the PIN", err)
	}
	f.fail("state 0")
	if _, err := hsm.Open(t.Context(), cfg); err == nil {
		t.Error("Open succeeded although the token did not log in")
	}
	// None of these said that the PIN is wrong.
	f.heal()
	open(t, cfg)
}
