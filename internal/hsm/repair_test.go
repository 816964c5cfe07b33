package hsm_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/pkcs11"

	"keyd/internal/boundary"
	"keyd/internal/hsm"
)

func TestEveryReturnCodeHasAVerdict(t *testing.T) {
	dir, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "github.com/miekg/pkcs11").Output()
	must(t, err)
	raw, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(dir)), "pkcs11t.h"))
	must(t, err)
	found := regexp.MustCompile(`(?m)^#define (CKR_\w+)\s+(0x[0-9A-Fa-f]+)UL`).FindAllStringSubmatch(string(raw), -1)
	if len(found) < 80 {
		t.Fatalf("only %d return codes in the header", len(found))
	}
	for _, f := range found {
		code, err := strconv.ParseUint(f[2], 0, 64)
		must(t, err)
		if f[1] != "CKR_OK" && f[1] != "CKR_VENDOR_DEFINED" && !hsm.HasVerdict(uint(code)) {
			t.Errorf("%s (%s) is not in the table", f[1], f[2])
		}
	}
}

// brokenTo makes a token's config tell why the module is to be initialised anew.
func brokenTo(cfg *hsm.Config) chan error {
	why := make(chan error, 10)
	cfg.Broken = func(err error) { why <- err }
	return why
}

func isWell(t *testing.T, why chan error) {
	t.Helper()
	select {
	case err := <-why:
		t.Errorf("the module was given up: %v", err)
	default:
	}
}

func isBroken(t *testing.T, why chan error, want error) {
	t.Helper()
	select {
	case err := <-why:
		if !errors.Is(err, want) {
			t.Errorf("the module was given up for %v, want %v", err, want)
		}
	case <-time.After(time.Minute):
		t.Error("the module was not given up")
	}
}

func TestTokenThatLogsUsOutIsLoggedInToOnce(t *testing.T) {
	for name, lose := range map[string]func(*pkcs11.Ctx, uint, pkcs11.SessionHandle) error{
		"logged out":           func(ctx *pkcs11.Ctx, _ uint, s pkcs11.SessionHandle) error { return ctx.Logout(s) },
		"every session closed": func(ctx *pkcs11.Ctx, slot uint, _ pkcs11.SessionHandle) error { return ctx.CloseAllSessions(slot) },
	} {
		t.Run(name, func(t *testing.T) {
			cfg := softHSM(t)
			f := withFaults(t, &cfg)
			broken := brokenTo(&cfg)
			token := open(t, cfg)
			g := generate(t, token)
			env := seal(t, g)
			ctx, slot, _ := initialised(t, cfg)
			s, err := ctx.OpenSession(slot, pkcs11.CKF_SERIAL_SESSION)
			must(t, err)
			f.forget()
			// All at once notice it, and not while SoftHSM works: it crashes over that.
			f.fail("C_DecryptInit hang")
			stop := load(t, func(ctx context.Context) (*boundary.Opened, error) { return token.Open(ctx, g.Handle, env) }, 8)
			eventually(t, "every session to be in use", func() bool { return f.calls("C_DecryptInit") == cfg.Sessions })
			must(t, lose(ctx, slot, s))
			f.heal()
			eventually(t, "the login", func() bool { return f.calls("C_Login") > 0 })
			time.Sleep(100 * time.Millisecond)
			if n := stop(); n == 0 {
				t.Error("nothing was opened")
			}
			if n := f.calls("C_Login"); n != 1 {
				t.Errorf("%d logins, want 1", n)
			}
			if all, err := token.List(t.Context()); err != nil || len(all) != 1 {
				t.Errorf("List = %v, %v, want the one key", all, err)
			}
			foundWell(t, token)
			// An answer comes before its session is given back.
			eventually(t, "the sessions to be given back", func() bool { return token.Health(t.Context()).InUse == 0 })
			opens(t, token, generate(t, token))
			isWell(t, broken)
		})
	}
}

// A token that logs keyd out again and again is logged in to five times in a span
// of time and then given up: each login shows it the PIN and has every key looked
// for, and no envelope opens meanwhile.
func TestTokenThatLogsUsOutAgainAndAgainIsGivenUp(t *testing.T) {
	for name, c := range map[string]struct {
		span       time.Duration
		most, outs int
	}{
		"in an hour":   {time.Hour, 5, 8},
		"now and then": {time.Nanosecond, 8, 8},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := softHSM(t)
			f := withFaults(t, &cfg)
			broken := brokenTo(&cfg)
			token := open(t, cfg)
			hsm.LimitLogins(token, c.span)
			g := generate(t, token)
			ctx, slot, _ := initialised(t, cfg)
			s, err := ctx.OpenSession(slot, pkcs11.CKF_SERIAL_SESSION)
			must(t, err)
			f.forget()
			for range c.most {
				must(t, ctx.Logout(s))
				opens(t, token, g)
			}
			isWell(t, broken)
			for n := c.most; n < c.outs; n++ {
				if n == c.most {
					must(t, ctx.Logout(s))
				}
				if _, err := token.Open(t.Context(), g.Handle, seal(t, g)); !errors.Is(err, boundary.ErrUnavailable) {
					t.Errorf("Open, logged out once more: %v, want boundary.ErrUnavailable", err)
				}
			}
			if n := f.calls("C_Login"); n != c.most {
				t.Errorf("%d logins, want %d", n, c.most)
			}
			if c.most < c.outs {
				isBroken(t, broken, boundary.ErrUnavailable)
			}
		})
	}
}

// Without any envelope on its way it is noticed too: by the probe that asks how
// things are.
func TestHealthLogsInAgain(t *testing.T) {
	cfg := softHSM(t)
	token := open(t, cfg)
	g := generate(t, token)
	outside(t, cfg, func(ctx *pkcs11.Ctx, s pkcs11.SessionHandle) { must(t, ctx.Logout(s)) })
	foundWell(t, token)
	opens(t, token, g)
	outside(t, cfg, func(ctx *pkcs11.Ctx, s pkcs11.SessionHandle) { must(t, ctx.Logout(s)) })
	if gone, err := token.Destroy(t.Context(), g.Handle); !gone || err != nil {
		t.Errorf("Destroy = %v, %v", gone, err)
	}
}

// The token has another PIN by now, and it is not ours to find out which.
func TestChangedPINIsShownOnceMoreAndNeverAgain(t *testing.T) {
	cfg := softHSM(t)
	f := withFaults(t, &cfg)
	broken := brokenTo(&cfg)
	token := open(t, cfg)
	g := generate(t, token)
	old, err := cfg.PIN()
	must(t, err)
	outside(t, cfg, func(ctx *pkcs11.Ctx, s pkcs11.SessionHandle) {
		must(t, ctx.SetPIN(s, string(old), "another PIN"))
		must(t, ctx.Logout(s))
	})
	f.forget()
	for range 20 {
		if _, err := token.Open(t.Context(), g.Handle, seal(t, g)); !errors.Is(err, boundary.ErrUnavailable) {
			t.Errorf("Open: %v, want boundary.ErrUnavailable", err)
		}
		if h := token.Health(t.Context()); h.Err == "" {
			t.Error("Health finds nothing wrong")
		}
	}
	isBroken(t, broken, hsm.ErrPINRefused)
	if n := f.calls("C_Login"); n != 1 {
		t.Errorf("the token was shown the old PIN %d times, want once", n)
	}
}

func TestLostSessionIsReplacedWithoutALogin(t *testing.T) {
	cfg := softHSM(t)
	f := withFaults(t, &cfg)
	cfg.Sessions = 1
	broken := brokenTo(&cfg)
	token := open(t, cfg)
	g := generate(t, token)
	for _, fault := range []string{
		"C_DecryptInit first 1 0x90", // CKR_OPERATION_ACTIVE
		"C_DecryptInit first 1 0xb3", // CKR_SESSION_HANDLE_INVALID
		"C_Decrypt first 1 0xb0",     // CKR_SESSION_CLOSED
		"C_Decrypt first 1 0x91",     // CKR_OPERATION_NOT_INITIALIZED
	} {
		f.forget()
		f.fail(fault)
		opens(t, token, g)
		if f.calls("C_OpenSession") != 1 || f.calls("C_Login") != 0 {
			t.Errorf("%s: %d sessions and %d logins, want one session", fault, f.calls("C_OpenSession"), f.calls("C_Login"))
		}
	}
	isWell(t, broken)
}

// tpm2-pkcs11 gives one number to two sessions that are opened at once.
func TestSessionsAreOpenedOneAtATime(t *testing.T) {
	cfg := softHSM(t)
	f := withFaults(t, &cfg)
	cfg.Sessions = 8
	broken := brokenTo(&cfg)
	token := open(t, cfg)
	g := generate(t, token)
	env := seal(t, g)
	f.fail("C_DecryptInit 0x20") // CKR_DATA_INVALID: the session is closed
	for range cfg.Sessions {
		if got, err := token.Open(t.Context(), g.Handle, env); !errors.Is(err, boundary.ErrUnavailable) {
			t.Fatalf("Open = %v, %v, want boundary.ErrUnavailable", got, err)
		}
	}
	eventually(t, "every session to be closed", func() bool { return token.Health(t.Context()).InUse == 0 })
	f.forget()
	f.fail("twins")
	var wg sync.WaitGroup
	for range cfg.Sessions {
		wg.Go(func() {
			got, err := token.Open(t.Context(), g.Handle, env)
			if err != nil || string(got.Plaintext) != "plaintext" {
				t.Errorf("Open = %v, %v, want the plaintext", got, err)
			}
		})
	}
	wg.Wait()
	if n := f.calls("C_OpenSession"); n != cfg.Sessions {
		t.Errorf("%d sessions were opened, want %d", n, cfg.Sessions)
	}
	isWell(t, broken)
}

func TestKeyWithAnotherObjectHandleIsFoundAgain(t *testing.T) {
	cfg := softHSM(t)
	f := withFaults(t, &cfg)
	token := open(t, cfg)
	g := generate(t, token)
	for _, code := range []string{"0x60", "0x82"} { // CKR_KEY_HANDLE_INVALID, CKR_OBJECT_HANDLE_INVALID
		f.fail("C_DecryptInit first 1 " + code)
		opens(t, token, g)
	}
	// One that is gone is looked for once.
	f.heal()
	outside(t, cfg, func(ctx *pkcs11.Ctx, s pkcs11.SessionHandle) { destroyAll(t, ctx, s) })
	f.forget()
	var wg sync.WaitGroup
	env := seal(t, g)
	for range 20 {
		wg.Go(func() {
			if _, err := token.Open(t.Context(), g.Handle, env); !errors.Is(err, boundary.ErrNoKey) {
				t.Errorf("Open: %v, want boundary.ErrNoKey", err)
			}
		})
	}
	wg.Wait()
	if n := f.calls("C_FindObjectsInit"); n != 1 {
		t.Errorf("%d searches for a key that is gone, want 1", n)
	}
}

// destroyAll destroys every private key.
func destroyAll(t testing.TB, ctx *pkcs11.Ctx, s pkcs11.SessionHandle) {
	must(t, ctx.FindObjectsInit(s, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PRIVATE_KEY)}))
	found, _, err := ctx.FindObjects(s, 100)
	must(t, errors.Join(err, ctx.FindObjectsFinal(s)))
	for _, o := range found {
		must(t, ctx.DestroyObject(s, o))
	}
}

func TestFaultsOfTheDeviceAreCounted(t *testing.T) {
	cfg := softHSM(t)
	f := withFaults(t, &cfg)
	broken := brokenTo(&cfg)
	token := open(t, cfg)
	g := generate(t, token)
	fails := func(times int) {
		t.Helper()
		f.fail("C_Decrypt first " + strconv.Itoa(times) + " 0x5") // CKR_GENERAL_ERROR
		for range times {
			if _, err := token.Open(t.Context(), g.Handle, seal(t, g)); !errors.Is(err, boundary.ErrUnavailable) {
				t.Errorf("Open: %v, want boundary.ErrUnavailable", err)
			}
		}
	}
	for range 4 { // a few now and then are not a dead module
		fails(7)
		opens(t, token, g)
	}
	isWell(t, broken)
	fails(8)
	isBroken(t, broken, pkcs11.Error(pkcs11.CKR_GENERAL_ERROR))
}

func TestModuleThatHasLostItsTokenIsGivenUpAtOnce(t *testing.T) {
	for name, faults := range map[string][]string{
		"the token is gone":         {"C_DecryptInit 0xe0"},                      // CKR_TOKEN_NOT_PRESENT
		"the library was finalized": {"C_DecryptInit 0x190"},                     // CKR_CRYPTOKI_NOT_INITIALIZED
		"neither works":             {"C_Decrypt 0x30", "C_GetTokenInfo 0x30"},   // CKR_DEVICE_ERROR
		"another token":             {"C_Decrypt 0x30", "serial ffffffffffffff"}, // in the same slot
	} {
		t.Run(name, func(t *testing.T) {
			cfg := softHSM(t)
			f := withFaults(t, &cfg)
			broken := brokenTo(&cfg)
			token := open(t, cfg)
			g := generate(t, token)
			f.fail(faults...)
			if _, err := token.Open(t.Context(), g.Handle, seal(t, g)); !errors.Is(err, boundary.ErrUnavailable) {
				t.Errorf("Open: %v, want boundary.ErrUnavailable", err)
			}
			isBroken(t, broken, boundary.ErrUnavailable)
			f.heal()
		})
	}
}

// Whoever sends envelopes can have them refused for as long as they like.
func TestBadEnvelopesNeverLookLikeABrokenModule(t *testing.T) {
	for name, make := range map[string]func(testing.TB) hsm.Config{"SoftHSM": softHSM, "NSS": nss} {
		t.Run(name, func(t *testing.T) {
			cfg := make(t)
			f := withFaults(t, &cfg)
			broken := brokenTo(&cfg)
			token := open(t, cfg)
			g := generate(t, token)
			f.forget()
			for i := range 40 {
				env := seal(t, g)
				env.EncryptedKey[i] ^= 1
				if _, err := token.Open(t.Context(), g.Handle, env); !errors.Is(err, boundary.ErrOpen) {
					t.Errorf("Open: %v, want boundary.ErrOpen", err)
				}
			}
			isWell(t, broken)
			if f.calls("C_Login")+f.calls("C_OpenSession")+f.calls("C_GetTokenInfo") != 0 {
				t.Error("bad envelopes had the token asked about")
			}
		})
	}
}
