package hsm_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/miekg/pkcs11"

	"keyd/internal/boundary"
	"keyd/internal/hsm"
)

func TestGarbageInTheTokenIsIgnored(t *testing.T) {
	cfg := softHSM(t)
	half, whole := newSpec(), newSpec()
	outside(t, cfg, func(ctx *pkcs11.Ctx, s pkcs11.SessionHandle) {
		// A public key alone, as kill -9 leaves it in SoftHSM, under a name of ours.
		id := uuid.MustParse(half.KID)
		_, private := plant(t, ctx, s, string(id[:]), "keyd/test/wise-response/"+half.KID, true)
		must(t, ctx.DestroyObject(s, private))
		// A nameless pair, and somebody else's under the id that keyd will use.
		plant(t, ctx, s, "", "", true)
		id = uuid.MustParse(whole.KID)
		plant(t, ctx, s, string(id[:]), "somebody else's", true)
	})
	token := open(t, cfg)
	if _, err := token.Find(t.Context(), half.KID); !errors.Is(err, boundary.ErrNoKey) {
		t.Errorf("a public key without its private half: Find: %v, want boundary.ErrNoKey", err)
	}
	g, err := token.Generate(t.Context(), half)
	must(t, err)
	opens(t, token, g)
	if g, err = token.Generate(t.Context(), whole); err != nil {
		t.Fatalf("Generate beside somebody else's key: %v", err)
	}
	opens(t, token, g)
	must(t, token.Discard(t.Context(), whole))
	if _, err := token.Find(t.Context(), "somebody else's"); err != nil {
		t.Errorf("Discard took somebody else's key: %v", err)
	}
	all, err := token.List(t.Context())
	must(t, err)
	if len(all) != 3 {
		t.Errorf("List names %d private keys, want 3: %+v", len(all), all)
	}
}

func TestPrivateKeyWithoutAModulusIsNeverUsed(t *testing.T) {
	cfg := softHSM(t)
	f := withFaults(t, &cfg)
	token := open(t, cfg)
	g := generate(t, token)
	must(t, token.Close())
	again := open(t, cfg)
	f.fail("empty 0x120")
	all, err := again.List(t.Context())
	must(t, err)
	if len(all) != 1 || all[0].Public != nil || !strings.Contains(strings.Join(all[0].Evidence.Problems, ";"), "half made") {
		t.Errorf("List = %+v, want one key, half made and without a public half", all)
	}
	f.forget()
	if _, err := again.Open(t.Context(), g.Handle, seal(t, g)); !errors.Is(err, boundary.ErrNoKey) {
		t.Errorf("Open: %v, want boundary.ErrNoKey", err)
	}
	if f.calls("C_DecryptInit") != 0 {
		t.Error("the half-made key was used")
	}
	if _, err := again.Public(t.Context(), g.Handle); !errors.Is(err, boundary.ErrNoKey) {
		t.Errorf("Public: %v, want boundary.ErrNoKey", err)
	}
	if gone, err := again.Destroy(t.Context(), g.Handle); !gone || err != nil {
		t.Errorf("Destroy = %v, %v: it can still be cleared away", gone, err)
	}
}

func TestKeysThatShareANameAreNotUsed(t *testing.T) {
	cfg := softHSM(t)
	outside(t, cfg, func(ctx *pkcs11.Ctx, s pkcs11.SessionHandle) {
		plant(t, ctx, s, "same", "same", true)
		plant(t, ctx, s, "same", "same", true)
	})
	token := open(t, cfg)
	all, err := token.List(t.Context())
	must(t, err)
	if len(all) != 1 || all[0].Public != nil || len(all[0].Evidence.Problems) == 0 {
		t.Fatalf("List = %+v, want one entry with the problem", all)
	}
	env := &boundary.Envelope{Alg: boundary.RSAOAEP256, Enc: boundary.A256GCM, EncryptedKey: make([]byte, 256)}
	_, openErr := token.Open(t.Context(), all[0].Handle, env)
	_, publicErr := token.Public(t.Context(), all[0].Handle)
	_, findErr := token.Find(t.Context(), "same")
	gone, destroyErr := token.Destroy(t.Context(), all[0].Handle)
	for op, err := range map[string]error{"Open": openErr, "Public": publicErr, "Find": findErr, "Destroy": destroyErr} {
		if !errors.Is(err, boundary.ErrAmbiguous) {
			t.Errorf("%s: %v, want boundary.ErrAmbiguous", op, err)
		}
	}
	if gone || len(objects(t, cfg)) != 4 {
		t.Error("Destroy destroyed one of two keys that it cannot tell apart")
	}
}

func TestAdoptedKeyThatCanBeTakenOutIsAProblem(t *testing.T) {
	for name, make := range map[string]func(testing.TB) hsm.Config{"SoftHSM": softHSM, "NSS": nss} {
		t.Run(name, func(t *testing.T) {
			cfg := make(t)
			token := open(t, cfg)
			outside(t, cfg, func(ctx *pkcs11.Ctx, s pkcs11.SessionHandle) { plant(t, ctx, s, "\x01\x02", "old key", false) })
			found, err := token.Find(t.Context(), "0102")
			must(t, err)
			if found.Handle != "pkcs11:id=%01%02;object=old%20key" || found.KID != "" || found.Managed {
				t.Errorf("Find = %+v", found)
			}
			problems := strings.Join(found.Evidence.Problems, "\n")
			wanted := []string{"CKA_EXTRACTABLE is true", "CKA_NEVER_EXTRACTABLE is false"}
			if name != "NSS" { // which makes every key sensitive
				wanted = append(wanted, "CKA_SENSITIVE is false", "CKA_ALWAYS_SENSITIVE is false", "CKA_UNWRAP is true")
			}
			for _, want := range wanted {
				if !strings.Contains(problems, want) {
					t.Errorf("the problems say nothing of %q:\n%s", want, problems)
				}
			}
			opens(t, token, boundary.Generated{Handle: found.Handle, Public: found.Public})
			if gone, err := token.Destroy(t.Context(), found.Handle); !gone || err != nil {
				t.Errorf("Destroy = %v, %v, want gone", gone, err)
			}
		})
	}
}

func TestPublicKeyObjectOfAnotherKeyIsAProblem(t *testing.T) {
	cfg := softHSM(t)
	token := open(t, cfg)
	outside(t, cfg, func(ctx *pkcs11.Ctx, s pkcs11.SessionHandle) {
		_, wrong := plant(t, ctx, s, "x", "x", true)
		right, _ := plant(t, ctx, s, "x", "x", true)
		must(t, errors.Join(ctx.DestroyObject(s, wrong), ctx.DestroyObject(s, right)))
	})
	found, err := token.Find(t.Context(), "x")
	must(t, err)
	if !strings.Contains(strings.Join(found.Evidence.Problems, "\n"), "does not belong") {
		t.Errorf("problems: %q", found.Evidence.Problems)
	}
	opens(t, token, boundary.Generated{Handle: found.Handle, Public: found.Public})
}

// SoftHSM writes object files without a rename, so a crash leaves short ones.
func TestObjectsCutShortByACrashDoNotKeepTheTokenFromOpening(t *testing.T) {
	for _, keep := range []int64{0, 100} {
		cfg := softHSM(t)
		token, err := hsm.Open(t.Context(), cfg)
		must(t, err)
		generate(t, token)
		must(t, token.Close())
		files, err := filepath.Glob(filepath.Join(filepath.Dir(os.Getenv("SOFTHSM2_CONF")), "tokens", "*", "*.object"))
		must(t, err)
		for _, f := range files {
			if filepath.Base(f) != "token.object" {
				must(t, os.Truncate(f, keep))
			}
		}
		token, err = hsm.Open(t.Context(), cfg)
		if err != nil {
			t.Fatalf("objects of %d bytes: Open: %v", keep, err)
		}
		if all, err := token.List(t.Context()); err != nil || slices.ContainsFunc(all, func(f boundary.Found) bool { return f.Public != nil }) {
			t.Errorf("objects of %d bytes: List = %+v, %v, want no whole key", keep, all, err)
		}
		opens(t, token, generate(t, token))
		must(t, token.Close())
	}
}
