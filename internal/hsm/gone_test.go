package hsm_test

import (
	"context"
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

func TestTokenThatVanishesIsUnavailableAndHasNotLostItsKeys(t *testing.T) {
	cfg := softHSM(t)
	token := open(t, cfg)
	g := generate(t, token)
	tokens := filepath.Join(filepath.Dir(os.Getenv("SOFTHSM2_CONF")), "tokens")
	must(t, os.Rename(tokens, tokens+".away"))
	check := func(name string, err error) {
		t.Helper()
		if !errors.Is(err, boundary.ErrUnavailable) || errors.Is(err, boundary.ErrNoKey) {
			t.Errorf("%s: %v, want boundary.ErrUnavailable", name, err)
		}
	}
	_, err := token.Open(t.Context(), g.Handle, seal(t, g))
	check("Open", err)
	_, err = token.Public(t.Context(), g.Handle)
	check("Public", err)
	_, err = token.List(t.Context())
	check("List", err)
	_, err = token.Find(t.Context(), g.Evidence.Attributes["CKA_LABEL"])
	check("Find", err)
	_, err = token.Generate(t.Context(), newSpec())
	check("Generate", err)
	check("Discard", token.Discard(t.Context(), newSpec()))
	gone, err := token.Destroy(t.Context(), g.Handle)
	check("Destroy", err)
	if gone {
		t.Error("Destroy says that a key is gone that went with its token")
	}
	if h := token.Health(t.Context()); h.Err == "" {
		t.Error("Health finds nothing wrong")
	}
}

func TestAnotherTokenInTheSlotIsUnavailable(t *testing.T) {
	cfg := softHSM(t)
	f := withFaults(t, &cfg)
	token := open(t, cfg)
	g := generate(t, token)
	f.fail("serial ffffffffffffffff", "C_DecryptInit 0x60") // CKR_KEY_HANDLE_INVALID
	if _, err := token.Open(t.Context(), g.Handle, seal(t, g)); !errors.Is(err, boundary.ErrUnavailable) || errors.Is(err, boundary.ErrNoKey) {
		t.Errorf("Open: %v, want boundary.ErrUnavailable", err)
	}
	f.heal()
	opens(t, token, g)
}

func TestKeyDestroyedBySomebodyElseIsNoKey(t *testing.T) {
	for name, make := range map[string]func(testing.TB) hsm.Config{"SoftHSM": softHSM, "NSS": nss} {
		t.Run(name, func(t *testing.T) {
			cfg := make(t)
			token := open(t, cfg)
			g, kept := generate(t, token), generate(t, token)
			outside(t, cfg, func(ctx *pkcs11.Ctx, s pkcs11.SessionHandle) {
				must(t, ctx.FindObjectsInit(s, []*pkcs11.Attribute{
					pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PRIVATE_KEY),
					pkcs11.NewAttribute(pkcs11.CKA_LABEL, g.Evidence.Attributes["CKA_LABEL"]),
				}))
				found, _, err := ctx.FindObjects(s, 2)
				must(t, errors.Join(err, ctx.FindObjectsFinal(s)))
				must(t, ctx.DestroyObject(s, found[0]))
			})
			for range 2 {
				if _, err := token.Open(t.Context(), g.Handle, seal(t, g)); !errors.Is(err, boundary.ErrNoKey) {
					t.Errorf("Open: %v, want boundary.ErrNoKey", err)
				}
			}
			if _, err := token.Public(t.Context(), g.Handle); !errors.Is(err, boundary.ErrNoKey) {
				t.Errorf("Public: %v, want boundary.ErrNoKey", err)
			}
			if gone, err := token.Destroy(t.Context(), g.Handle); !gone || err != nil {
				t.Errorf("Destroy = %v, %v, want gone", gone, err)
			}
			opens(t, token, kept)
			foundWell(t, token)
		})
	}
}

func TestHealthNoticesThatEveryKeyHasGone(t *testing.T) {
	cfg := softHSM(t)
	f := withFaults(t, &cfg)
	token := open(t, cfg)
	generate(t, token)
	f.fail("C_GetAttributeValue 0x82") // CKR_OBJECT_HANDLE_INVALID
	if h := token.Health(t.Context()); !strings.Contains(h.Err, "none of the keys") {
		t.Errorf("Health says %q", h.Err)
	}
	f.fail("C_GetTokenInfo hang")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if h := token.Health(ctx); h.Err == "" {
		t.Error("Health finds nothing wrong with a token that does not answer")
	}
	f.heal()
	eventually(t, "the token to be well", func() bool { return token.Health(t.Context()).Err == "" })
}
