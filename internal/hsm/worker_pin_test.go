package hsm_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/miekg/pkcs11"

	"keyd/internal/boundary"
	"keyd/internal/hsm"
)

// pinInFile has the PIN read from a file, which is where another one is put.
func pinInFile(t *testing.T, cfg *hsm.Config) (path string, pin []byte) {
	t.Helper()
	pin, err := cfg.PIN()
	must(t, err)
	path = filepath.Join(t.TempDir(), "pin")
	must(t, os.WriteFile(path, pin, 0o600))
	cfg.PIN = func() ([]byte, error) { return os.ReadFile(path) }
	return path, pin
}

// Somebody gives the token another PIN while keyd is logged in. Nothing happens
// until a worker has to log in; then the old PIN costs one try, however long it
// goes on, and the new one is taken as soon as it is in place.
func TestPINChangedUnderTheDaemonDoesNotLockTheToken(t *testing.T) {
	cfg := softHSM(t)
	f := withFaults(t, &cfg)
	path, old := pinInFile(t, &cfg)
	token := openInWorker(t, cfg)
	g := generated(t, token)
	outside(t, cfg, func(ctx *pkcs11.Ctx, s pkcs11.SessionHandle) { must(t, ctx.SetPIN(s, string(old), "another PIN")) })
	backWithin(t, token, g)
	f.forget()
	for range 3 {
		killWorkers(t)
		eventually(t, "the PIN to be refused", func() bool {
			h := token.Health(t.Context())
			return strings.Contains(h.Err, "PIN")
		})
	}
	_, err := token.Open(t.Context(), g.Handle, seal(t, g))
	if !errors.Is(err, boundary.ErrUnavailable) || !errors.Is(err, hsm.ErrPINRefused) {
		t.Errorf("Open: %v, want boundary.ErrUnavailable because of the PIN", err)
	}
	time.Sleep(time.Second)
	if n := f.calls("C_Login"); n != 1 {
		t.Errorf("the token was shown the old PIN %d times, want once", n)
	}
	must(t, os.WriteFile(path, []byte("another PIN"), 0o600))
	t.Logf("serving again %s after the PIN was put right", backWithin(t, token, g))
	if n := f.calls("C_Login"); n != 2 {
		t.Errorf("the token was shown a PIN %d times in all, want twice", n)
	}
}

// A worker that dies while it logs in has shown the PIN without an answer. A PIN
// that the token had accepted is shown once more then, not for ever.
func TestWorkersThatDieInLoginDoNotUseUpTheTries(t *testing.T) {
	cfg := softHSM(t)
	f := withFaults(t, &cfg)
	token := openInWorker(t, cfg)
	g := generated(t, token)
	f.forget()
	f.fail("C_Login crash")
	killWorkers(t)
	eventually(t, "the PIN not to be shown any more", func() bool {
		return strings.Contains(token.Health(t.Context()).Err, "without an answer") ||
			strings.Contains(token.Health(t.Context()).Err, "died before the answer")
	})
	f.heal()
	time.Sleep(time.Second)
	if n := f.calls("C_Login"); n != 2 {
		t.Errorf("the token was shown the PIN %d times, want twice", n)
	}
	must(t, os.Remove(cfg.PINGuardPath+".new"))
	t.Logf("serving again %s after somebody said that the PIN is right", backWithin(t, token, g))

	// A single one has no consequence.
	f.forget()
	f.fail("C_Login hang")
	killWorkers(t)
	eventually(t, "the login", func() bool { return f.calls("C_Login") == 1 })
	killWorkers(t)
	f.heal()
	backWithin(t, token, g)
}
