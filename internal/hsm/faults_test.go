package hsm_test

import (
	"bytes"
	"context"
	"crypto/rsa"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"keyd/internal/boundary"
	"keyd/internal/hsm"
	"keyd/internal/rotation/backendtest"
)

func newSpec() boundary.Spec {
	return boundary.Spec{Key: "wise-response", KID: uuid.NewString(), Material: boundary.Material{Algorithm: boundary.RSAOAEP256, Bits: 2048}}
}

func generate(t testing.TB, token *hsm.Token) boundary.Generated {
	t.Helper()
	g, err := token.Generate(t.Context(), newSpec())
	if err != nil {
		t.Fatalf("Generate: %v", err)
	}
	return g
}

func seal(t testing.TB, g boundary.Generated) *boundary.Envelope {
	t.Helper()
	return backendtest.Seal(t, rsaOf(t, g), boundary.A256GCM, []byte("plaintext"), []byte("header"))
}

func rsaOf(t testing.TB, g boundary.Generated) *rsa.PublicKey {
	t.Helper()
	pub, ok := g.Public.(*rsa.PublicKey)
	if !ok {
		t.Fatalf("the public key is %T", g.Public)
	}
	return pub
}

func opens(t testing.TB, token *hsm.Token, g boundary.Generated) {
	t.Helper()
	got, err := token.Open(t.Context(), g.Handle, seal(t, g))
	if err != nil || string(got.Plaintext) != "plaintext" {
		t.Fatalf("Open = %v, %v, want the plaintext", got, err)
	}
}

func TestExhaustedPoolRefusesAtItsDeadline(t *testing.T) {
	cfg := softHSM(t)
	f := withFaults(t, &cfg)
	cfg.Sessions, cfg.SessionWait = 1, 2*time.Second
	token := open(t, cfg)
	g := generate(t, token)
	env := seal(t, g)

	f.forget()
	f.fail("C_Decrypt hang")
	ctx, cancel := context.WithCancel(t.Context())
	hung := make(chan error)
	go func() {
		_, err := token.Open(ctx, g.Handle, env)
		hung <- err
	}()
	eventually(t, "the call to be in the module", func() bool { return f.calls("C_Decrypt") == 1 })
	if h := token.Health(t.Context()); h.InUse != 1 || h.Sessions != 1 {
		t.Errorf("Health counts %d of %d sessions in use, want 1 of 1", h.InUse, h.Sessions)
	}
	if _, err := token.Open(t.Context(), g.Handle, env); !errors.Is(err, boundary.ErrBusy) {
		t.Errorf("Open while the only session is taken: %v, want boundary.ErrBusy", err)
	}
	short := newDeadline(t)
	go func() {
		eventually(t, "it to wait", func() bool { waiting, _ := hsm.Waiting(token); return waiting == 1 })
		short.pass()
	}()
	if _, err := token.Open(short, g.Handle, env); !errors.Is(err, boundary.ErrBusy) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Open with a deadline of its own: %v, want boundary.ErrBusy and the deadline", err)
	}
	// The module never comes back, the caller does.
	cancel()
	if err := <-hung; !errors.Is(err, context.Canceled) {
		t.Errorf("the caller of the call that hangs got %v, want context.Canceled", err)
	}
	f.heal()
	eventually(t, "the session to be given back", func() bool { return token.Health(t.Context()).InUse == 0 })
	opens(t, token, g)
}

func TestDecryptsDoNotWaitForKeyGeneration(t *testing.T) {
	cfg := softHSM(t)
	f := withFaults(t, &cfg)
	cfg.Sessions = 1
	token := open(t, cfg)
	g := generate(t, token)
	f.forget()
	f.fail("C_GenerateKeyPair hang")
	spec := newSpec()
	ctx, cancel := context.WithCancel(t.Context())
	made := make(chan error)
	go func() {
		_, err := token.Generate(ctx, spec)
		made <- err
	}()
	eventually(t, "the generation to be in the module", func() bool { return f.calls("C_GenerateKeyPair") == 1 })
	opens(t, token, g)
	foundWell(t, token)
	// Whoever asked goes; then the module finishes. Nobody knows of the key.
	cancel()
	if err := <-made; !errors.Is(err, context.Canceled) {
		t.Errorf("Generate: %v, want context.Canceled", err)
	}
	f.heal()
	if _, err := token.Find(t.Context(), spec.KID); !errors.Is(err, boundary.ErrNoKey) {
		t.Errorf("a key that nobody waited for: Find: %v, want boundary.ErrNoKey", err)
	}
}

func TestDeviceErrorsAreNotTheEnvelopesFault(t *testing.T) {
	cfg := softHSM(t)
	f := withFaults(t, &cfg)
	cfg.Sessions = 1
	var seen []error
	var mu sync.Mutex
	cfg.Observe = func(_ string, _, _ time.Duration, err error) {
		mu.Lock()
		defer mu.Unlock()
		seen = append(seen, err)
	}
	token := open(t, cfg)
	g := generate(t, token)
	for fault, want := range map[string]error{
		"C_Decrypt 0x30":         boundary.ErrUnavailable, // CKR_DEVICE_ERROR
		"C_Decrypt after 0x5":    boundary.ErrUnavailable, // CKR_GENERAL_ERROR
		"C_Decrypt 0x80000123":   boundary.ErrUnavailable, // a vendor's
		"C_DecryptInit 0x30":     boundary.ErrUnavailable,
		"C_DecryptInit 0x101":    boundary.ErrUnavailable, // CKR_USER_NOT_LOGGED_IN
		"C_DecryptInit 0x68":     boundary.ErrUnsupported, // CKR_KEY_FUNCTION_NOT_PERMITTED
		"C_DecryptInit 0x90":     boundary.ErrUnavailable, // CKR_OPERATION_ACTIVE
		"C_Decrypt 0x40":         boundary.ErrUnavailable, // bare RSA has no padding to be wrong
		"C_Decrypt map 0x0 0xb3": boundary.ErrUnavailable, // CKR_SESSION_HANDLE_INVALID
	} {
		f.forget()
		f.fail(fault)
		_, err := token.Open(t.Context(), g.Handle, seal(t, g))
		f.heal()
		if !errors.Is(err, want) || errors.Is(err, boundary.ErrOpen) {
			t.Errorf("%s: Open: %v, want %v", fault, err, want)
		}
		eventually(t, "the session to be given back", func() bool { return token.Health(t.Context()).InUse == 0 })
		opens(t, token, g)
		if f.calls("C_CloseSession") == 0 {
			t.Errorf("%s: the session was used again", fault)
		}
	}
	f.fail("C_Decrypt 0x30")
	_, err := token.Open(t.Context(), g.Handle, seal(t, g))
	if err == nil || !strings.Contains(err.Error(), "CKR_DEVICE_ERROR 0x30") || !strings.Contains(err.Error(), "C_Decrypt") {
		t.Errorf("the error does not name call and code: %v", err)
	}
	if last := token.Health(t.Context()).Device["last_error"]; !strings.Contains(last, "CKR_DEVICE_ERROR") {
		t.Errorf("Health's last error is %q", last)
	}
	mu.Lock()
	defer mu.Unlock()
	if !errors.Is(errors.Join(seen...), boundary.ErrUnavailable) {
		t.Error("Observe was not told")
	}
}

func TestClosedSessionIsReplacedAndAFailureToIsUnavailable(t *testing.T) {
	cfg := softHSM(t)
	f := withFaults(t, &cfg)
	cfg.Sessions = 1
	token := open(t, cfg)
	g := generate(t, token)
	f.fail("C_Decrypt 0x30", "C_OpenSession 0x30", "C_CloseSession 0x30")
	for range 3 {
		if _, err := token.Open(t.Context(), g.Handle, seal(t, g)); !errors.Is(err, boundary.ErrUnavailable) {
			t.Errorf("Open: %v, want boundary.ErrUnavailable", err)
		}
	}
	f.heal()
	opens(t, token, g)
}

func TestBadEnvelopesDoNotCostSessions(t *testing.T) {
	for name, make := range map[string]func(testing.TB) hsm.Config{"SoftHSM": softHSM, "NSS": nss} {
		t.Run(name, func(t *testing.T) {
			cfg := make(t)
			f := withFaults(t, &cfg)
			var mu sync.Mutex
			var seen []error
			cfg.Observe = func(_ string, _, _ time.Duration, err error) {
				mu.Lock()
				defer mu.Unlock()
				seen = append(seen, err)
			}
			token := open(t, cfg)
			g := generate(t, token)
			f.forget()
			for range 10 {
				env := seal(t, g)
				env.EncryptedKey[7] ^= 1
				if _, err := token.Open(t.Context(), g.Handle, env); !errors.Is(err, boundary.ErrOpen) {
					t.Fatalf("Open: %v, want boundary.ErrOpen", err)
				}
			}
			opens(t, token, g)
			if got := f.calls("C_OpenSession"); got != 0 {
				t.Errorf("%d sessions were opened", got)
			}
			mu.Lock()
			defer mu.Unlock()
			if err := errors.Join(seen...); err != nil {
				t.Errorf("Observe tells a bad padding from a bad tag: %v", err)
			}
		})
	}
}

// A token with one code for bad paddings and for its own faults, as
// opencryptoki has, made out of NSS.
func TestVagueTokenIsAskedWhetherItIsWell(t *testing.T) {
	cfg := nss(t)
	f := withFaults(t, &cfg)
	broken := brokenTo(&cfg)
	vague := "C_Decrypt map 0x40 0x6" // CKR_ENCRYPTED_DATA_INVALID, CKR_FUNCTION_FAILED
	f.fail(vague)
	token := open(t, cfg)
	g := generate(t, token)
	badKey, badTag := seal(t, g), seal(t, g)
	badKey.EncryptedKey[7] ^= 1
	badTag.Tag[0] ^= 1
	calls := map[string]int{}
	for name, env := range map[string]*boundary.Envelope{"padding": badKey, "tag": badTag} {
		f.forget()
		if _, err := token.Open(t.Context(), g.Handle, env); !errors.Is(err, boundary.ErrOpen) {
			t.Errorf("a bad %s: %v, want boundary.ErrOpen", name, err)
		}
		calls[name] = f.calls("C_GetTokenInfo")
	}
	if calls["padding"] != 1 || calls["tag"] != 1 {
		t.Errorf("the token was asked whether it is well %v times, want once for each", calls)
	}
	isWell(t, broken)
	f.fail("C_Decrypt 0x6") // it says that it is well, and opens nothing
	if _, err := token.Open(t.Context(), g.Handle, seal(t, g)); !errors.Is(err, boundary.ErrUnavailable) || errors.Is(err, boundary.ErrOpen) {
		t.Errorf("a token that opens nothing: %v, want boundary.ErrUnavailable", err)
	}
	isBroken(t, broken, boundary.ErrUnavailable)
	f.fail("C_Decrypt 0x6", "C_GetTokenInfo 0x30")
	if _, err := token.Open(t.Context(), g.Handle, seal(t, g)); !errors.Is(err, boundary.ErrUnavailable) || errors.Is(err, boundary.ErrOpen) {
		t.Errorf("a token that is down: %v, want boundary.ErrUnavailable", err)
	}
	f.fail(vague)
	opens(t, token, g)
}

// A token that leaves the failed operation active, as tpm2-pkcs11 does.
func TestFragileSessionIsClosedAfterABadPadding(t *testing.T) {
	cfg := nss(t)
	f := withFaults(t, &cfg)
	cfg.Sessions = 1
	f.fail("fragile")
	token := open(t, cfg)
	g := generate(t, token)
	f.forget()
	env := seal(t, g)
	env.EncryptedKey[7] ^= 1
	if _, err := token.Open(t.Context(), g.Handle, env); !errors.Is(err, boundary.ErrOpen) {
		t.Fatalf("Open: %v, want boundary.ErrOpen", err)
	}
	opens(t, token, g)
	if got := f.calls("C_OpenSession"); got != 1 {
		t.Errorf("%d sessions were opened, want 1 in the place of the broken one", got)
	}
}

func TestPlaintextOfAnAbandonedCallIsWiped(t *testing.T) {
	block := bytes.Repeat([]byte{7}, 32)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	wiped := make(chan struct{})
	hold := make(chan struct{})
	_, err := hsm.Await(ctx, func(send func([]byte, error)) { <-hold; send(block, nil) }, func(b []byte) { clear(b); close(wiped) })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context.Canceled", err)
	}
	close(hold)
	<-wiped
	if !bytes.Equal(block, make([]byte, 32)) {
		t.Error("the block was not dropped")
	}
}
