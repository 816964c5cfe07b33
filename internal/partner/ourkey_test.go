package partner_test

import (
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"testing"

	"github.com/go-jose/go-jose/v4"

	"keyd/internal/partner"
)

func TestOurKeyInEachForm(t *testing.T) {
	for _, curve := range []elliptic.Curve{elliptic.P256(), elliptic.P384(), elliptic.P521()} {
		key := must(ecdsa.GenerateKey(curve, rand.Reader))
		for _, form := range []string{partner.KeySPKI, partner.KeyPoint, partner.KeyBase64PEM, partner.KeyJWK, partner.KeyBase64JWK} {
			j := jackHenry(t, &wire{}, &ps256{}, func(c *partner.JackHenryConfig) { c.KeyForm = form })
			for _, public := range []crypto.PublicKey{&key.PublicKey, must(key.PublicKey.ECDH())} {
				raw := []byte(must(j.PublicKey(public, "k")))
				if form != partner.KeyJWK {
					var text string
					if err := json.Unmarshal(raw, &text); err != nil {
						t.Fatal(err)
					}
					raw = must(base64.StdEncoding.DecodeString(text))
				}
				var back any
				switch form {
				case partner.KeyPoint:
					back = must(ecdsa.ParseUncompressedPublicKey(curve, raw))
				case partner.KeyJWK, partner.KeyBase64JWK:
					var jwk jose.JSONWebKey
					if err := jwk.UnmarshalJSON(raw); err != nil || jwk.KeyID != "k" || jwk.Use != "enc" || jwk.Algorithm != "ECDH-ES" {
						t.Errorf("%s: %s, %v", form, raw, err)
					}
					back = jwk.Key
				case partner.KeyBase64PEM:
					block, _ := pem.Decode(raw)
					raw = block.Bytes
					fallthrough
				default:
					back = must(x509.ParsePKIXPublicKey(raw))
				}
				if !key.PublicKey.Equal(back) {
					t.Errorf("%s on %s: another key", form, curve.Params().Name)
				}
			}
		}
	}
	j := jackHenry(t, &wire{}, &ps256{})
	x25519 := must(ecdh.X25519().GenerateKey(rand.Reader))
	for _, public := range []crypto.PublicKey{&rsaKey().PublicKey, x25519.PublicKey(), nil} {
		if raw, err := j.PublicKey(public, ""); err == nil {
			t.Errorf("%T: %s", public, raw)
		}
	}
}
