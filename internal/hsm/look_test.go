package hsm_test

import (
	"context"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/miekg/pkcs11"

	"keyd/internal/boundary"
	"keyd/internal/hsm"
)

// TestALookSeesWhatAskingForEachPartSees, and is enough for the keys that keyd
// makes. What is longer than the room for it is asked for by itself.
func TestALookSeesWhatAskingForEachPartSees(t *testing.T) {
	for name, make := range map[string]func(*testing.T) hsm.Config{
		"SoftHSM": func(t *testing.T) hsm.Config { return softHSM(t) },
		"NSS":     func(t *testing.T) hsm.Config { return nss(t) },
		"p11-kit": func(t *testing.T) hsm.Config { cfg, _ := p11kit(t); return cfg },
	} {
		t.Run(name, func(t *testing.T) {
			cfg := make(t)
			token := open(t, cfg)
			made := 0
			for _, m := range []boundary.Material{
				{Algorithm: boundary.RSAOAEP256, Bits: 2048}, {Algorithm: boundary.ECDHES, Curve: "P-256"}, {Algorithm: boundary.ECDHES, Curve: "P-521"},
				{Algorithm: boundary.PS256, Bits: 2048},
			} {
				if m.Algorithm == boundary.ECDHES && name == "p11-kit" { // which does not pass the agreement on
					continue
				}
				makeOf(t, token, m)
				made++
			}
			outside(t, cfg, func(ctx *pkcs11.Ctx, s pkcs11.SessionHandle) {
				plant(t, ctx, s, "\x01\x02", "somebody else's", true)
				plant(t, ctx, s, "\x03", strings.Repeat("long", 200), true)
			})
			looked, differences := hsm.LookAtAll(token)
			for _, d := range differences {
				t.Error(d)
			}
			if looked != made+1 {
				t.Errorf("a look was enough for %d private keys, want the %d that keyd made and the one with a short name", looked, made)
			}
		})
	}
}

func makeOf(t *testing.T, token *hsm.Token, m boundary.Material) boundary.Generated {
	t.Helper()
	g, err := token.Generate(t.Context(), boundary.Spec{Key: "look", KID: uuid.NewString(), Material: m})
	if err != nil {
		t.Fatalf("%+v: %v", m, err)
	}
	return g
}

// TestALookThatIsToldLessIsNotBelieved: then each part is asked for, and the keys
// go on opening.
func TestALookThatIsToldLessIsNotBelieved(t *testing.T) {
	cfg := softHSM(t)
	f := withFaults(t, &cfg)
	token := open(t, cfg)
	g := makeOf(t, token, boundary.Material{Algorithm: boundary.RSAOAEP256, Bits: 2048})
	makeOf(t, token, boundary.Material{Algorithm: boundary.ECDHES, Curve: "P-256"})
	for fault, enough := range map[string]int{
		"":             2,
		"many 0x150":   0, // CKR_BUFFER_TOO_SMALL
		"many 0x11":    0, // CKR_ATTRIBUTE_SENSITIVE
		"many 0x12":    0, // CKR_ATTRIBUTE_TYPE_INVALID, and the rest left alone
		"many 0x0":     0, // CKR_OK, and all left alone
		"untold 0x0":   0, // CKA_CLASS
		"untold 0x100": 0, // CKA_KEY_TYPE
		"untold 0x3":   0, // CKA_LABEL
		"untold 0x102": 0, // CKA_ID
		"untold 0x105": 0, // CKA_DECRYPT
		"untold 0x107": 0, // CKA_UNWRAP
		"untold 0x108": 0, // CKA_SIGN
		"untold 0x10c": 0, // CKA_DERIVE
		"untold 0x120": 1, // CKA_MODULUS, which the key on a curve has not anyway
		"untold 0x122": 1, // CKA_PUBLIC_EXPONENT
		"untold 0x180": 1, // CKA_EC_PARAMS
		"silent 0x0":   0,
		"silent 0x100": 0,
		"silent 0x102": 0,
		"silent 0x105": 0,
		"silent 0x10c": 0,
		"silent 0x120": 1,
		"empty 0x120":  1,
		"empty 0x105":  0,
		"empty 0x100":  0,
		"untold 0x181": 2, // CKA_EC_POINT, which is not asked of private keys
	} {
		f.fail(fault)
		looked, differences := hsm.LookAtAll(token)
		for _, d := range differences {
			t.Errorf("%s: %s", fault, d)
		}
		if looked != enough {
			t.Errorf("%s: a look was enough for %d private keys, want %d", fault, looked, enough)
		}
	}
	f.fail("many 0x150")
	again := open(t, cfg)
	if _, err := again.Open(context.Background(), g.Handle, seal(t, g)); err != nil {
		t.Errorf("a token that tells little at a time: %v", err)
	}
}
