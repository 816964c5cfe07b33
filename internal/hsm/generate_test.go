package hsm_test

import (
	"bytes"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"maps"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/miekg/pkcs11"

	"keyd/internal/boundary"
	"keyd/internal/hsm"
)

func unsound(t *testing.T, g boundary.Generated) map[string][]byte {
	pub, ok := g.Public.(*rsa.PublicKey)
	if !ok {
		t.Fatalf("the public key is %T", g.Public)
	}
	fill := func(n *big.Int) []byte { return n.FillBytes(make([]byte, pub.Size())) }
	one := big.NewInt(1)
	return map[string][]byte{
		"nothing": nil, "a byte short": make([]byte, pub.Size()-1), "a byte long": make([]byte, pub.Size()+1),
		"0": fill(big.NewInt(0)), "1": fill(one), "n-1": fill(new(big.Int).Sub(pub.N, one)), "n": fill(pub.N),
		"n+1": fill(new(big.Int).Add(pub.N, one)), "all ones": bytes.Repeat([]byte{0xff}, pub.Size()),
	}
}

func TestEvidenceSaysWhatTheTokenSays(t *testing.T) {
	want := map[string]string{
		"CKA_KEY_TYPE": "CKK_RSA", "CKA_MODULUS": "2048 bits", "CKA_PUBLIC_EXPONENT": "65537",
		"CKA_TOKEN": "true", "CKA_PRIVATE": "true", "CKA_SENSITIVE": "true", "CKA_EXTRACTABLE": "false",
		"CKA_ALWAYS_SENSITIVE": "true", "CKA_NEVER_EXTRACTABLE": "true", "CKA_LOCAL": "true", "CKA_DECRYPT": "true",
		"CKA_SIGN": "false", "CKA_SIGN_RECOVER": "false", "CKA_UNWRAP": "false", "CKA_ALWAYS_AUTHENTICATE": "false",
	}
	for name, c := range map[string]struct {
		make      func(testing.TB) hsm.Config
		change    map[string]string // "": not told
		mechanism string
		problems  int
	}{
		"SoftHSM": {softHSM, nil, "CKM_RSA_PKCS_KEY_PAIR_GEN", 0},
		"NSS":     {nss, map[string]string{"CKA_LOCAL": "false", "CKA_ALWAYS_AUTHENTICATE": ""}, "", 1},
	} {
		t.Run(name, func(t *testing.T) {
			g := generate(t, open(t, c.make(t)))
			expect := maps.Clone(want)
			maps.Copy(expect, c.change)
			maps.DeleteFunc(expect, func(_, v string) bool { return v == "" })
			got := g.Evidence
			label := got.Attributes["CKA_LABEL"]
			if _, kid, ok := strings.Cut(label, "keyd/test/wise-response/"); !ok || strings.ReplaceAll(kid, "-", "") != got.Attributes["CKA_ID"] {
				t.Errorf("label %q and CKA_ID %s do not say the same", label, got.Attributes["CKA_ID"])
			}
			delete(got.Attributes, "CKA_LABEL")
			delete(got.Attributes, "CKA_ID")
			if diff := cmp.Diff(expect, got.Attributes); diff != "" {
				t.Errorf("attributes (-want +got):\n%s", diff)
			}
			if len(got.Problems) != c.problems {
				t.Errorf("problems: %q, want %d", got.Problems, c.problems)
			}
			if got.Backend != "pkcs11" || got.Mechanism != c.mechanism || got.Device["library"] == "" {
				t.Errorf("evidence: %+v", got)
			}
		})
	}
}

// pkcs11-tool shares no code with keyd.
func TestOutsideToolSaysTheKeyCannotBeTakenOut(t *testing.T) {
	cfg := softHSM(t)
	token := open(t, cfg)
	g := generate(t, token)
	pin, err := cfg.PIN()
	must(t, err)
	t.Setenv("KEYD_PIN", string(pin))
	out, err := exec.CommandContext(t.Context(), "pkcs11-tool", "--module", cfg.Module, "--token-label", cfg.TokenLabel,
		"--login", "--pin", "env:KEYD_PIN", "-O").CombinedOutput()
	must(t, err)
	_, rest, _ := strings.Cut(string(out), "Private Key Object")
	private, _, _ := strings.Cut(rest, "Public Key Object")
	_, rest, _ = strings.Cut(string(out), "Public Key Object")
	public, _, _ := strings.Cut(rest, "Private Key Object")
	for _, want := range []string{
		"; RSA", g.Evidence.Attributes["CKA_LABEL"], g.Evidence.Attributes["CKA_ID"],
		"Usage:      decrypt\n", "sensitive, always sensitive, never extract", "local",
	} {
		if !strings.Contains(private, want) {
			t.Errorf("pkcs11-tool does not say %q:\n%s", want, out)
		}
	}
	if !strings.Contains(public, "RSA 2048 bits") || !strings.Contains(public, "Usage:      encrypt\n") {
		t.Errorf("pkcs11-tool on the public key:\n%s", out)
	}
}

func TestWhatOpenSSLEncryptsOpens(t *testing.T) {
	for name, make := range map[string]func(testing.TB) hsm.Config{"SoftHSM": softHSM, "NSS": nss} {
		t.Run(name, func(t *testing.T) {
			token := open(t, make(t))
			g := generate(t, token)
			der, err := x509.MarshalPKIXPublicKey(g.Public)
			must(t, err)
			dir := t.TempDir()
			key, cek := filepath.Join(dir, "key.der"), filepath.Join(dir, "cek")
			must(t, os.WriteFile(key, der, 0o600))
			must(t, os.WriteFile(cek, bytes.Repeat([]byte{7}, 32), 0o600))
			wrapped, err := exec.CommandContext(t.Context(), "openssl", "pkeyutl", "-encrypt", "-pubin", "-keyform", "DER", "-inkey", key,
				"-in", cek, "-pkeyopt", "rsa_padding_mode:oaep", "-pkeyopt", "rsa_oaep_md:sha256", "-pkeyopt", "rsa_mgf1_md:sha256").Output()
			must(t, err)
			env := gcmEnvelope(t, bytes.Repeat([]byte{7}, 32), wrapped)
			got, err := token.Open(t.Context(), g.Handle, env)
			if err != nil || string(got.Plaintext) != "from outside" {
				t.Errorf("Open = %v, %v", got, err)
			}
		})
	}
}

func TestTokenThatMakesSomethingElseKeepsNothing(t *testing.T) {
	cfg := softHSM(t)
	f := withFaults(t, &cfg)
	token := open(t, cfg)
	for fault, word := range map[string]string{
		"attribute 0x162 1":             "CKA_EXTRACTABLE",
		"attribute 0x103 0":             "CKA_SENSITIVE",
		"attribute 0x1 0":               "CKA_TOKEN",
		"empty 0x120":                   "public half",
		"empty 0x102":                   "named",
		"C_GenerateKeyPair after 0x30":  "CKR_DEVICE_ERROR",
		"C_GenerateKeyPair 0x30":        "CKR_DEVICE_ERROR",
		"C_GenerateKeyPair 0xd1":        "CKR_TEMPLATE_INCONSISTENT",
		"C_GetAttributeValue map 0 0x5": "CKR_GENERAL_ERROR",
	} {
		spec := newSpec()
		f.fail(fault)
		if g, err := token.Generate(t.Context(), spec); err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("%s: Generate = %+v, %v, want an error with %q", fault, g, err, word)
		}
		f.heal()
		if strings.HasPrefix(fault, "C_GetAttr") {
			must(t, token.Discard(t.Context(), spec)) // the token did not say whose objects these are
		}
		if found, err := token.Find(t.Context(), spec.KID); !errors.Is(err, boundary.ErrNoKey) {
			t.Errorf("%s: Find = %+v, %v, want boundary.ErrNoKey", fault, found, err)
		}
	}
	if all := objects(t, cfg); len(all) != 0 {
		t.Errorf("left in the token: %q", all)
	}
}

// objects are the labels of everything in the token.
func objects(t *testing.T, cfg hsm.Config) []string {
	var labels []string
	outside(t, cfg, func(ctx *pkcs11.Ctx, s pkcs11.SessionHandle) {
		must(t, ctx.FindObjectsInit(s, nil))
		found, _, err := ctx.FindObjects(s, 100)
		must(t, errors.Join(err, ctx.FindObjectsFinal(s)))
		for _, o := range found {
			a, err := ctx.GetAttributeValue(s, o, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_LABEL, nil)})
			must(t, err)
			labels = append(labels, string(a[0].Value))
		}
	})
	return labels
}

func TestTokenThatRefusesNoSignIsAskedWithout(t *testing.T) {
	cfg := softHSM(t)
	f := withFaults(t, &cfg)
	f.fail("nosign")
	token := open(t, cfg)
	g := generate(t, token)
	opens(t, token, g)
	if !slices.ContainsFunc(g.Evidence.Problems, func(p string) bool { return strings.HasPrefix(p, "CKA_SIGN is true") }) {
		t.Errorf("problems: %q, want that the key can sign", g.Evidence.Problems)
	}
}

func TestKeyThatWillNotGoIsNotGone(t *testing.T) {
	cfg := softHSM(t)
	f := withFaults(t, &cfg)
	token := open(t, cfg)
	g := generate(t, token)
	for _, c := range [][2]string{
		{"C_FindObjectsInit 0x30", "CKR_DEVICE_ERROR"},
		{"C_FindObjectsFinal map 0x0 0x30", "CKR_DEVICE_ERROR"},
		{"C_GetAttributeValue 0x30", "CKR_DEVICE_ERROR"},
		{"C_DestroyObject 0x1b", "0x1B"},
		{"C_DestroyObject 0x82", "still stand"},              // it says that there is none
		{"C_DestroyObject map 0x0 0x30", "CKR_DEVICE_ERROR"}, // the private half is gone
		{"C_GetSessionInfo 0x30", "CKR_DEVICE_ERROR"},        // both are, and nobody can know
	} {
		fault, word := c[0], c[1]
		f.fail(fault)
		gone, err := token.Destroy(t.Context(), g.Handle)
		if gone || err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("%s: Destroy = %v, %v, want an error with %q", fault, gone, err, word)
		}
	}
	f.heal()
	if gone, err := token.Destroy(t.Context(), g.Handle); !gone || err != nil {
		t.Errorf("Destroy = %v, %v, want gone", gone, err)
	}
	if all := objects(t, cfg); len(all) != 0 {
		t.Errorf("left in the token: %q", all)
	}
}

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
			wanted := []string{"CKA_EXTRACTABLE is true", "CKA_NEVER_EXTRACTABLE is false", "CKA_UNWRAP is true"}
			if name != "NSS" { // which makes every key sensitive
				wanted = append(wanted, "CKA_SENSITIVE is false", "CKA_ALWAYS_SENSITIVE is false")
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
