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
		"CKA_SIGN": "false", "CKA_SIGN_RECOVER": "false", "CKA_UNWRAP": "false", "CKA_DERIVE": "false", "CKA_ALWAYS_AUTHENTICATE": "false",
	}
	for name, c := range map[string]struct {
		make      func(testing.TB) hsm.Config
		change    map[string]string // "": not told
		mechanism string
		problems  int
	}{
		"SoftHSM": {softHSM, nil, "CKM_RSA_PKCS_KEY_PAIR_GEN", 0},
		"NSS":     {nss, map[string]string{"CKA_LOCAL": "false", "CKA_ALWAYS_AUTHENTICATE": "", "CKA_UNWRAP": "true"}, "", 1},
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
		// Keys of sessions, such as the decoys, are not in the token.
		must(t, ctx.FindObjectsInit(s, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true)}))
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
