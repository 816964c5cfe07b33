package hsm_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"keyd/internal/boundary"
	"keyd/internal/hsm"
)

// refused opens a token that must not open, and returns why.
func refused(t *testing.T, cfg hsm.Config, want error, words ...string) {
	t.Helper()
	token, err := hsm.Open(t.Context(), cfg)
	if err == nil {
		must(t, token.Close())
		t.Error("Open succeeded")
		return
	}
	if want != nil && !errors.Is(err, want) {
		t.Errorf("Open: %v, want %v", err, want)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("Open: %v, want the word %q in it", err, w)
		}
	}
}

func TestTokenBelowTheFloorIsRefused(t *testing.T) {
	cfg := softHSM(t)
	cfg.MinBoundary = boundary.Sealed
	refused(t, cfg, boundary.ErrUnsupported, "RSA-OAEP-256 at raw", "ECDH-ES at unwrap", "PS256 at sealed", "wants sealed or better")
	cfg.MinBoundary = boundary.Unwrap
	open(t, cfg)
}

func TestThrowAwayKeyLeavesNothing(t *testing.T) {
	for name, make := range map[string]func(testing.TB) hsm.Config{"SoftHSM": softHSM, "NSS": nss} {
		t.Run(name, func(t *testing.T) {
			token := open(t, make(t))
			if all, err := token.List(t.Context()); err != nil || len(all) != 0 {
				t.Errorf("List of a fresh token = %+v, %v, want nothing", all, err)
			}
		})
	}
}

func TestTokenThatOpensAtNoLevelIsRefused(t *testing.T) {
	cfg := softHSM(t)
	f := withFaults(t, &cfg)
	for fault, code := range map[string]string{
		"C_GenerateKeyPair 0x54": "CKR_FUNCTION_NOT_SUPPORTED",
		"C_GenerateKeyPair 0x30": "CKR_DEVICE_ERROR",
		"C_DecryptInit 0x30":     "CKR_DEVICE_ERROR",
		"C_DeriveKey 0x101":      "CKR_USER_NOT_LOGGED_IN",
		"C_SignInit 0xb1":        "CKR_SESSION_COUNT",
		"C_DestroyObject 0x5":    "CKR_GENERAL_ERROR",
		"C_GetSlotList 0x5":      "CKR_GENERAL_ERROR",
		"C_GetTokenInfo 0x5":     "does not answer",
		"C_OpenSession 0xb1":     "CKR_SESSION_COUNT",
		"C_FindObjects 0x5":      "CKR_GENERAL_ERROR",
		"C_FindObjectsInit 0x5":  "CKR_GENERAL_ERROR",
		"C_FindObjectsFinal 0x5": "CKR_GENERAL_ERROR",
		"C_Initialize 0x5":       "CKR_GENERAL_ERROR",
		"noflags 0x400":          "not initialised",
	} {
		f.fail(fault)
		refused(t, cfg, nil, code)
	}
	f.heal()
	open(t, cfg)
}

func TestTokenWithFewerSessionsThanConfiguredIsRefused(t *testing.T) {
	cfg := softHSM(t)
	f := withFaults(t, &cfg)
	f.fail("sessions 3") // one of them holds the login
	refused(t, cfg, boundary.ErrBusy, "session 3 of 4", "configure fewer")
}

func TestOpenGivesUpWithItsContext(t *testing.T) {
	cfg := softHSM(t)
	f := withFaults(t, &cfg)
	f.fail("C_Login hang")
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		eventually(t, "the login to be in the module", func() bool { return f.calls("C_Login") == 1 })
		cancel()
	}()
	if _, err := hsm.Open(ctx, cfg); !errors.Is(err, context.Canceled) {
		t.Errorf("Open: %v, want context.Canceled", err)
	}
	f.heal()
	eventually(t, "the token that nobody waits for to be closed", func() bool { return f.calls("C_Finalize") == 1 })
}

func TestWrongTokenNamesListWhatIsThere(t *testing.T) {
	cfg := softHSM(t)
	other := cfg
	other.TokenLabel = "no-such-token"
	refused(t, other, boundary.ErrUnavailable, `"no-such-token"`, `"keyd-test"`, "not initialised")
	other = cfg
	other.TokenSerial = "0123"
	refused(t, other, boundary.ErrUnavailable, `"0123"`, `"keyd-test"`)
}

func TestTokensOfOneLabelAreToldApartBySerial(t *testing.T) {
	cfg := softHSM(t)
	// A second token needs its PINs in argv; it lives as long as this test.
	out, err := exec.CommandContext(t.Context(), "softhsm2-util", "--init-token", "--free", "--label", cfg.TokenLabel,
		"--so-pin", "87654321", "--pin", "12345678").CombinedOutput()
	if err != nil {
		t.Fatalf("making a second token: %v\n%s", err, out)
	}
	refused(t, cfg, boundary.ErrAmbiguous, "2 tokens", "serial")
	ctx, _, _ := initialised(t, cfg)
	slots, err := ctx.GetSlotList(true)
	must(t, err)
	var serials []string
	for _, slot := range slots {
		if info, err := ctx.GetTokenInfo(slot); err == nil && info.Label == cfg.TokenLabel {
			serials = append(serials, info.SerialNumber)
		}
	}
	must(t, ctx.Finalize())
	opened := 0
	for _, serial := range serials {
		one := cfg
		one.TokenLabel, one.TokenSerial = "", serial
		token, err := hsm.Open(t.Context(), one)
		if errors.Is(err, hsm.ErrPINRefused) {
			continue // the other one
		}
		must(t, err)
		if got := token.Health(t.Context()).Device["serial"]; got != serial {
			t.Errorf("opened the token %s, want %s", got, serial)
		}
		must(t, token.Close())
		opened++
	}
	if opened != 1 {
		t.Errorf("%d tokens opened by serial, want the 1 whose PIN it is", opened)
	}
}

func TestModuleThatIsNoneSaysWhy(t *testing.T) {
	cfg := softHSM(t)
	dir := t.TempDir()
	text := filepath.Join(dir, "text.so")
	must(t, os.WriteFile(text, []byte("not a library"), 0o600))
	object, err := filepath.Abs(os.Args[0])
	must(t, err)
	libc, err := filepath.Glob("/usr/lib/*/libm.so.6")
	if err != nil || len(libc) == 0 {
		t.Fatalf("no libm to try: %v", err)
	}
	for path, words := range map[string]string{
		filepath.Join(dir, "missing.so"): "no such file",
		dir:                              "not a shared library",
		text:                             "not a shared library",
		libc[0]:                          "no C_GetFunctionList",
		object:                           "no C_GetFunctionList",
	} {
		bad := cfg
		bad.Module = path
		refused(t, bad, nil, words)
	}
	broken := filepath.Join(dir, "broken.so")
	source := filepath.Join(dir, "broken.c")
	must(t, os.WriteFile(source, []byte("extern int nowhere; int *p = &nowhere; int C_GetFunctionList(void) { return *p; }\n"), 0o600))
	if out, err := exec.CommandContext(t.Context(), "cc", "-shared", "-fPIC", "-o", broken, source).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	bad := cfg
	bad.Module = broken
	refused(t, bad, nil, "does not load it", "ldd")
}

func TestConfigIsCheckedWhole(t *testing.T) {
	_, err := hsm.Open(t.Context(), hsm.Config{Instance: "a/b", Module: "lib.so", Sessions: 0, MinBoundary: "deep"})
	if err == nil {
		t.Fatal("Open succeeded")
	}
	for _, field := range []string{"Name", "Instance", "Module", "TokenLabel", "PIN is", "PINGuardPath", "Sessions", "SessionWait", "Logger", "MinBoundary"} {
		if !strings.Contains(err.Error(), field) {
			t.Errorf("the error says nothing of %s: %v", field, err)
		}
	}
}

func TestTwoTokensShareAModule(t *testing.T) {
	cfg := softHSM(t)
	one, err := hsm.Open(t.Context(), cfg)
	must(t, err)
	two := open(t, cfg)
	g := generate(t, one)
	if _, err := two.Find(t.Context(), g.Handle); err != nil {
		t.Errorf("the other one does not see the key: %v", err)
	}
	must(t, one.Close())
	opens(t, two, g)
	other := cfg
	other.Reserved = "something else"
	refused(t, other, nil, "initialisation arguments")
}

func TestModuleThatSomebodyElseInitialisedIsNotFinalized(t *testing.T) {
	cfg := softHSM(t)
	ctx, slot, _ := initialised(t, cfg)
	token, err := hsm.Open(t.Context(), cfg)
	must(t, err)
	must(t, token.Close())
	if _, err := ctx.GetTokenInfo(slot); err != nil {
		t.Errorf("after Close the module answers: %v", err)
	}
	must(t, ctx.Finalize())
}

func TestKeysAreKnownAfterARestart(t *testing.T) {
	for name, make := range map[string]func(testing.TB) hsm.Config{"SoftHSM": softHSM, "NSS": nss} {
		t.Run(name, func(t *testing.T) {
			cfg := make(t)
			token, err := hsm.Open(t.Context(), cfg)
			must(t, err)
			g := generate(t, token)
			must(t, token.Close())
			opens(t, open(t, cfg), g)
		})
	}
}

func TestEncryptedKeysThatNoPartnerMakesNeverReachTheToken(t *testing.T) {
	cfg := softHSM(t)
	f := withFaults(t, &cfg)
	token := open(t, cfg)
	g := generate(t, token)
	for name, key := range unsound(t, g) {
		env := seal(t, g)
		env.EncryptedKey = key
		f.forget()
		_, err := token.Open(t.Context(), g.Handle, env)
		if err != boundary.ErrOpen { //nolint:errorlint // the bare error: a wrapped one could be told apart
			t.Errorf("%s: Open: %v, want the bare boundary.ErrOpen", name, err)
		}
		if f.calls("C_DecryptInit") != 0 {
			t.Errorf("%s: the token was asked", name)
		}
	}
}
