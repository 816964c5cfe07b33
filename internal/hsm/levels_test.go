package hsm_test

import (
	"crypto/ecdh"
	"errors"
	"strings"
	"testing"

	"github.com/google/uuid"

	"keyd/internal/boundary"
	"keyd/internal/hsm"
	"keyd/internal/rotation/backendtest"
)

// onCurve makes a key for ECDH-ES.
func onCurve(t testing.TB, token *hsm.Token, curve string) (boundary.Generated, *ecdh.PublicKey) {
	t.Helper()
	spec := boundary.Spec{Key: "wise-response", KID: uuid.NewString(), Material: boundary.Material{Algorithm: boundary.ECDHES, Curve: curve}}
	g, err := token.Generate(t.Context(), spec)
	if err != nil {
		t.Fatalf("Generate: %v", err)
	}
	pub, ok := g.Public.(*ecdh.PublicKey)
	if !ok {
		t.Fatalf("the public key is %T", g.Public)
	}
	return g, pub
}

// opensAt opens an envelope of each alg and returns at which level.
func opensAt(t *testing.T, token *hsm.Token, enc string) map[string]boundary.Level {
	t.Helper()
	levels := map[string]boundary.Level{}
	at := func(alg, handle string, env *boundary.Envelope) {
		got, err := token.Open(t.Context(), handle, env)
		if err != nil || string(got.Plaintext) != "plaintext" || got.InToken <= 0 {
			t.Fatalf("%s, %s: Open = %+v, %v", alg, enc, got, err)
		}
		levels[alg] = got.Level
	}
	known := token.Health(t.Context()).Levels
	if known[boundary.RSAOAEP256] != "" {
		g := generate(t, token)
		at(boundary.RSAOAEP256, g.Handle, backendtest.Seal(t, rsaOf(t, g), enc, []byte("plaintext"), []byte("header")))
	}
	if known[boundary.ECDHES] != "" {
		g, pub := onCurve(t, token, "P-256")
		for _, alg := range []string{boundary.ECDHES, boundary.ECDHESA128KW, boundary.ECDHESA256KW} {
			at(alg, g.Handle, backendtest.Agree(t, pub, alg, enc, []byte("plaintext"), []byte("header")))
		}
	}
	return levels
}

// levels are what a token is to reach, for RSA-OAEP-256, ECDH-ES, its key wraps
// and PS256.
func levels(rsa, agreed, wrapped, signs boundary.Level) [4]boundary.Level {
	return [4]boundary.Level{rsa, agreed, wrapped, signs}
}

func TestLevelIsFoundByDoing(t *testing.T) {
	const sealed, unwrap, raw = boundary.Sealed, boundary.Unwrap, boundary.Raw
	for name, c := range map[string]struct {
		make     func(testing.TB) hsm.Config
		faults   []string
		gcm, cbc [4]boundary.Level
	}{
		"SoftHSM": {softHSM, nil, levels(raw, unwrap, unwrap, sealed), levels(raw, unwrap, unwrap, sealed)},
		"NSS":     {nss, nil, levels(sealed, sealed, sealed, sealed), levels(unwrap, unwrap, unwrap, sealed)},
		// openCryptoki makes keys that can be taken out, whatever it is told.
		"a token whose secrets are extractable": {nss, []string{"secret 0x162 1"}, levels(unwrap, raw, raw, sealed), levels(unwrap, raw, raw, sealed)},
		"one whose secrets are not sensitive":   {nss, []string{"secret 0x103 0"}, levels(unwrap, raw, raw, sealed), levels(unwrap, raw, raw, sealed)},
		"one without AES-GCM":                   {nss, []string{"mechanism 0x1087"}, levels(unwrap, unwrap, unwrap, sealed), levels(unwrap, unwrap, unwrap, sealed)},
		"one without AES key wrap":              {nss, []string{"mechanism 0x2109"}, levels(sealed, sealed, unwrap, sealed), levels(unwrap, unwrap, unwrap, sealed)},
		"one without the parts of the KDF":      {nss, []string{"mechanism 0x363"}, levels(sealed, unwrap, unwrap, sealed), levels(unwrap, unwrap, unwrap, sealed)},
		"one with the KDF in one":               {nss, []string{"mechanism 0x363", "sp800"}, levels(sealed, sealed, sealed, sealed), levels(unwrap, unwrap, unwrap, sealed)},
		"one that digests no keys":              {softHSM, []string{"C_DigestKey 0x54"}, levels(raw, raw, raw, sealed), levels(raw, raw, raw, sealed)},
		"one without PSS":                       {softHSM, []string{"mechanism 0xd"}, levels(raw, unwrap, unwrap, raw), levels(raw, unwrap, unwrap, raw)},
		"one without OAEP":                      {nss, []string{"mechanism 0x9"}, levels(raw, sealed, sealed, sealed), levels(raw, unwrap, unwrap, sealed)},
		"one that does not agree":               {nss, []string{"mechanism 0x1050"}, levels(sealed, "", "", sealed), levels(unwrap, "", "", sealed)},
		"one that signs nothing":                {softHSM, []string{"C_SignInit 0x70"}, levels(raw, unwrap, unwrap, ""), levels(raw, unwrap, unwrap, "")},
		"one that only agrees":                  {softHSM, []string{"empty 0x120"}, levels("", unwrap, unwrap, ""), levels("", unwrap, unwrap, "")},
		"one that wants points in DER":          {nss, []string{"der"}, levels(sealed, sealed, sealed, sealed), levels(unwrap, unwrap, unwrap, sealed)},
		"one that wants to be told lengths":     {softHSM, []string{"sized"}, levels(raw, unwrap, unwrap, sealed), levels(raw, unwrap, unwrap, sealed)},
		"one that drops zeros":                  {softHSM, []string{"short", "C_DigestKey 0x54"}, levels(raw, raw, raw, sealed), levels(raw, raw, raw, sealed)},
		"one with a key for each use":           {nss, []string{"exclusive"}, levels(sealed, sealed, sealed, sealed), levels("", "", "", "")},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := c.make(t)
			if c.faults != nil {
				withFaults(t, &cfg).fail(c.faults...)
			}
			if name == "one with a key for each use" {
				cfg.MinBoundary = sealed // else the token is asked for keys with two uses
			}
			token := open(t, cfg)
			h := token.Health(t.Context())
			got := levels(h.Levels[boundary.RSAOAEP256], h.Levels[boundary.ECDHES], c.gcm[2], h.Levels[boundary.PS256])
			if got != c.gcm || h.Err != "" || h.Kind != "pkcs11" || h.Device["label"] != cfg.TokenLabel {
				t.Errorf("Health = %+v, want the levels %s", h, c.gcm)
			}
			for enc, want := range map[string][4]boundary.Level{boundary.A256GCM: c.gcm, boundary.A256CBCHS512: c.cbc} {
				if want == levels("", "", "", "") {
					continue
				}
				did := opensAt(t, token, enc)
				got := levels(did[boundary.RSAOAEP256], did[boundary.ECDHES], did[boundary.ECDHESA256KW], want[3])
				if got != want || did[boundary.ECDHESA128KW] != want[2] {
					t.Errorf("%s: opened at %v, want %s", enc, did, want)
				}
			}
		})
	}
}

// A token at a floor makes nothing, opens nothing and signs nothing below it.
func TestNothingHappensBelowTheBackendsFloor(t *testing.T) {
	cfg := nss(t)
	cfg.MinBoundary = boundary.Sealed
	f := withFaults(t, &cfg)
	token := open(t, cfg)
	g := generate(t, token)
	if g.Evidence.Attributes["CKA_DECRYPT"] != "false" || g.Evidence.Attributes["CKA_UNWRAP"] != "true" || len(g.Evidence.Problems) != 1 || g.Evidence.Level != boundary.Sealed {
		t.Errorf("the evidence of a key that nobody is to take content keys out with: %+v", g.Evidence)
	}
	onP, pub := onCurve(t, token, "P-256")
	opens(t, token, g)
	f.forget()
	for name, c := range map[string]struct {
		handle string
		env    *boundary.Envelope
	}{
		"RSA":  {g.Handle, backendtest.Seal(t, rsaOf(t, g), boundary.A128CBCHS256, []byte("x"), nil)},
		"ECDH": {onP.Handle, backendtest.Agree(t, pub, boundary.ECDHES, boundary.A128CBCHS256, []byte("x"), nil)},
	} {
		if got, err := token.Open(t.Context(), c.handle, c.env); err == nil || errors.Is(err, boundary.ErrOpen) {
			t.Errorf("%s, CBC: Open = %v, %v, want a refusal", name, got, err)
		}
	}
	if ref, err := token.Hold(t.Context(), boundary.A128CBCHS256, make([]byte, 32)); !errors.Is(err, boundary.ErrBelowFloor) {
		t.Errorf("Hold = %q, %v, want boundary.ErrBelowFloor", ref, err)
	}
	for _, call := range []string{"C_DecryptInit", "C_UnwrapKey", "C_DeriveKey"} {
		if f.calls(call) != 0 {
			t.Errorf("the token was asked (%s)", call)
		}
	}
	must(t, token.Close())

	// It comes back as one that keeps nothing in that it has agreed on.
	f.fail("mechanism 0x363")
	token = open(t, cfg)
	if _, err := token.Open(t.Context(), onP.Handle, backendtest.Agree(t, pub, boundary.ECDHES, boundary.A256GCM, []byte("x"), nil)); !errors.Is(err, boundary.ErrBelowFloor) {
		t.Errorf("Open below the floor: %v, want boundary.ErrBelowFloor", err)
	}
	spec := newSpec()
	spec.Material = boundary.Material{Algorithm: boundary.ECDHES, Curve: "P-256"}
	if g, err := token.Generate(t.Context(), spec); !errors.Is(err, boundary.ErrBelowFloor) || !strings.Contains(err.Error(), "unwrap") {
		t.Errorf("Generate below the floor = %+v, %v, want boundary.ErrBelowFloor", g, err)
	}
	opens(t, token, g)
}

// A key that was made when the token, or keyd, did less.
func TestKeyThatMayNotUnwrapOpensAtUnwrap(t *testing.T) {
	cfg := nss(t)
	f := withFaults(t, &cfg)
	f.fail("mechanism 0x1087") // no GCM in the token
	token, err := hsm.Open(t.Context(), cfg)
	must(t, err)
	old := generate(t, token)
	must(t, token.Close())
	f.heal()
	token = open(t, cfg)
	if got, err := token.Open(t.Context(), old.Handle, seal(t, old)); err != nil || got.Level != boundary.Unwrap {
		t.Errorf("Open = %+v, %v, want level unwrap", got, err)
	}
	found, err := token.Find(t.Context(), old.Handle)
	must(t, err)
	if found.Evidence.Level != boundary.Unwrap || !strings.Contains(strings.Join(found.Evidence.Problems, "\n"), "CKA_UNWRAP is false") {
		t.Errorf("its evidence: %+v", found.Evidence)
	}
}

// What it is told by the key itself counts, not what it was told by another one
// when it started.
func TestContentKeyThatCanBeTakenOutIsNotUsed(t *testing.T) {
	cfg := nss(t)
	f := withFaults(t, &cfg)
	token := open(t, cfg)
	g := generate(t, token)
	onP, pub := onCurve(t, token, "P-256")
	for _, fault := range []string{"secret 0x162 1", "secret 0x103 0"} {
		f.forget()
		f.fail(fault)
		_, err1 := token.Open(t.Context(), g.Handle, seal(t, g))
		_, err2 := token.Open(t.Context(), onP.Handle, backendtest.Agree(t, pub, boundary.ECDHESA128KW, boundary.A256GCM, []byte("x"), nil))
		_, err3 := token.Hold(t.Context(), boundary.A256GCM, make([]byte, 32))
		for _, err := range []error{err1, err2, err3} {
			if !errors.Is(err, boundary.ErrUnavailable) || !strings.Contains(err.Error(), "taken out") {
				t.Errorf("%s: %v, want boundary.ErrUnavailable", fault, err)
			}
		}
		if f.calls("C_Decrypt") != 0 {
			t.Errorf("%s: it was used", fault)
		}
		f.heal()
		opens(t, token, g)
	}
}

// A key of a session that is gone is not the private key.
func TestLostContentKeyIsNotALostPrivateKey(t *testing.T) {
	cfg := nss(t)
	f := withFaults(t, &cfg)
	token := open(t, cfg)
	g := generate(t, token)
	onP, pub := onCurve(t, token, "P-256")
	for _, fault := range []string{"C_DecryptInit 0x60", "C_GetAttributeValue 0x82"} {
		f.fail(fault)
		_, err1 := token.Open(t.Context(), g.Handle, seal(t, g))
		_, err2 := token.Open(t.Context(), onP.Handle, backendtest.Agree(t, pub, boundary.ECDHES, boundary.A256GCM, []byte("x"), nil))
		for _, err := range []error{err1, err2} {
			if !errors.Is(err, boundary.ErrUnavailable) || errors.Is(err, boundary.ErrNoKey) {
				t.Errorf("%s: %v, want boundary.ErrUnavailable", fault, err)
			}
		}
		f.heal()
		opens(t, token, g)
	}
	f.fail("C_UnwrapKey 0xf0") // CKR_UNWRAPPING_KEY_HANDLE_INVALID
	if _, err := token.Open(t.Context(), g.Handle, seal(t, g)); !errors.Is(err, boundary.ErrNoKey) {
		t.Errorf("a private key that is gone: %v, want boundary.ErrNoKey", err)
	}
}
