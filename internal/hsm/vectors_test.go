package hsm_test

import (
	"crypto/ecdh"
	"encoding/base64"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/pkcs11"

	"keyd/internal/boundary"
	"keyd/internal/hsm"
	"keyd/internal/jwe"
)

// ckaNSSDB is where NSS wants the point in a private key (CKA_NSS_DB).
const ckaNSSDB = 0xD5A0DB00

// ecParams are the curves' CKA_EC_PARAMS.
var ecParams = map[string]string{
	"P-256": "\x06\x08\x2A\x86\x48\xCE\x3D\x03\x01\x07",
	"P-384": "\x06\x05\x2B\x81\x04\x00\x22",
	"P-521": "\x06\x05\x2B\x81\x04\x00\x23",
}

func b64(t testing.TB, s string) []byte {
	t.Helper()
	raw, err := base64.RawURLEncoding.DecodeString(s)
	must(t, err)
	return raw
}

// imported puts a published private key into a token and finds it there. A token
// for production takes none.
func imported(t *testing.T, cfg hsm.Config, token *hsm.Token, curve, d string) boundary.Found {
	t.Helper()
	private, err := boundary.CurveOf(curve).NewPrivateKey(b64(t, d))
	must(t, err)
	point := private.PublicKey().Bytes()
	der := append([]byte{0x04, byte(len(point))}, point...) // of P-256 and P-384
	outside(t, cfg, func(ctx *pkcs11.Ctx, s pkcs11.SessionHandle) {
		for class, more := range map[uint][]*pkcs11.Attribute{
			pkcs11.CKO_PUBLIC_KEY: {pkcs11.NewAttribute(pkcs11.CKA_EC_POINT, der)},
			pkcs11.CKO_PRIVATE_KEY: {
				pkcs11.NewAttribute(pkcs11.CKA_VALUE, private.Bytes()), pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, true),
				pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, true), pkcs11.NewAttribute(pkcs11.CKA_DERIVE, true),
				pkcs11.NewAttribute(ckaNSSDB, der),
			},
		} {
			template := append(more, pkcs11.NewAttribute(pkcs11.CKA_CLASS, class), pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_EC),
				pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true), pkcs11.NewAttribute(pkcs11.CKA_ID, d[:8]), pkcs11.NewAttribute(pkcs11.CKA_LABEL, d[:8]),
				pkcs11.NewAttribute(pkcs11.CKA_EC_PARAMS, ecParams[curve]))
			if cfg.Reserved == "" { // not NSS
				template = slices.DeleteFunc(template, func(a *pkcs11.Attribute) bool { return a.Type == ckaNSSDB })
			}
			_, err := ctx.CreateObject(s, template)
			must(t, err)
		}
	})
	found, err := token.Find(t.Context(), d[:8])
	must(t, err)
	if want := private.PublicKey(); !want.Equal(found.Public) {
		t.Fatalf("the token has the public key %v, want %x", found.Public, point)
	}
	return found
}

// The worked examples that the RFCs publish, opened by real tokens.
func TestExamplesOfTheRFCsOpenInTheToken(t *testing.T) {
	for name, make := range map[string]func(testing.TB) hsm.Config{"SoftHSM": softHSM, "NSS": nss} {
		t.Run(name, func(t *testing.T) {
			cfg := make(t)
			token := open(t, cfg)
			policy := jwe.Policy{Algs: []string{boundary.ECDHES, boundary.ECDHESA128KW}, Encs: []string{boundary.A128GCM, boundary.A128CBCHS256}, MaxSize: 1 << 20}
			for _, c := range []struct{ curve, d, compact string }{
				{"P-384", "iTx2pk7wW-GqJkHcEkFQb2EFyYcO7RugmaW3mRrQVAOUiPommT0IdnYK2xDlZh-j", rfc7520at54},
				{"P-256", "r_kHyZ-a06rmxM3yESK84r1otSg-aQcVStkRhA-iCM8", rfc7520at55},
			} {
				msg, err := jwe.Parse([]byte(c.compact), policy)
				must(t, err)
				opened, err := token.Open(t.Context(), imported(t, cfg, token, c.curve, c.d).Handle, &msg.Envelope)
				if err != nil || !strings.HasPrefix(string(opened.Plaintext), "You can trust us to stick with you") {
					t.Errorf("RFC 7520, %s: Open = %v, %v", msg.Envelope.Alg, opened, err)
				}
			}
			appendixC(t, cfg, token)
		})
	}
}

// appendixC is RFC 7518 appendix C, which publishes the derived key.
func appendixC(t *testing.T, cfg hsm.Config, token *hsm.Token) {
	bob := imported(t, cfg, token, "P-256", "VEmDZpDXXK8p8N0Cndsxs924q6nS1RXFASRl6BfUqdw")
	alice, err := ecdh.P256().NewPublicKey(append(append([]byte{4}, b64(t, "gI0GAILBdu7T53akrFmMyGcsF3n5dO7MmwNBHKW5SV0")...),
		b64(t, "SLW_xSffzlPWrHEVI30DHM_4egVwt3NQqeUD7nMFpps")...))
	must(t, err)
	env := &boundary.Envelope{Alg: boundary.ECDHES, Enc: boundary.A128GCM, EPK: alice, APU: []byte("Alice"), APV: []byte("Bob"), AAD: []byte("header")}
	must(t, env.SealContent(b64(t, "VqqN6vgjbSBcIijNcacQGg"), []byte("plaintext")))
	opened, err := token.Open(t.Context(), bob.Handle, env)
	if err != nil || string(opened.Plaintext) != "plaintext" {
		t.Errorf("RFC 7518 appendix C: Open = %v, %v", opened, err)
	}
	env.APU, env.APV = env.APV, env.APU
	if opened, err := token.Open(t.Context(), bob.Handle, env); !errors.Is(err, boundary.ErrOpen) {
		t.Errorf("with the parties in each other's place: Open = %v, %v, want boundary.ErrOpen", opened, err)
	}
}

// RFC 7520 §5.4 and §5.5.
const (
	rfc7520at54 = "eyJhbGciOiJFQ0RILUVTK0ExMjhLVyIsImtpZCI6InBlcmVncmluLnRvb2tAdHVja2Jvcm91Z2guZXhhbXBsZSIsImVwayI6eyJrdHkiOiJFQyIsImNydiI6IlAtMzg0IiwieCI6InVCbzRrSFB3Nmtiang1bDB4b3dyZF9vWXpCbWF6LUdLRlp1NHhBRkZrYllpV2d1dEVLNml1RURzUTZ3TmROZzMiLCJ5Ijoic3AzcDVTR2haVkMyZmFYdW1JLWU5SlUyTW84S3BvWXJGRHI1eVBOVnRXNFBnRXdaT3lRVEEtSmRhWTh0YjdFMCJ9LCJlbmMiOiJBMTI4R0NNIn0.0DJjBXri_kBcC46IkU5_Jk9BqaQeHdv2.mH-G2zVqgztUtnW_.tkZuOO9h95OgHJmkkrfLBisku8rGf6nzVxhRM3sVOhXgz5NJ76oID7lpnAi_cPWJRCjSpAaUZ5dOR3Spy7QuEkmKx8-3RCMhSYMzsXaEwDdXta9Mn5B7cCBoJKB0IgEnj_qfo1hIi-uEkUpOZ8aLTZGHfpl05jMwbKkTe2yK3mjF6SBAsgicQDVCkcY9BLluzx1RmC3ORXaM0JaHPB93YcdSDGgpgBWMVrNU1ErkjcMqMoT_wtCex3w03XdLkjXIuEr2hWgeP-nkUZTPU9EoGSPj6fAS-bSz87RCPrxZdj_iVyC6QWcqAu07WNhjzJEPc4jVntRJ6K53NgPQ5p99l3Z408OUqj4ioYezbS6vTPlQ.WuGzxmcreYjpHGJoa17EBg"
	rfc7520at55 = "eyJhbGciOiJFQ0RILUVTIiwia2lkIjoibWVyaWFkb2MuYnJhbmR5YnVja0BidWNrbGFuZC5leGFtcGxlIiwiZXBrIjp7Imt0eSI6IkVDIiwiY3J2IjoiUC0yNTYiLCJ4IjoibVBVS1RfYkFXR0hJaGcwVHBqanFWc1AxclhXUXVfdndWT0hIdE5rZFlvQSIsInkiOiI4QlFBc0ltR2VBUzQ2ZnlXdzVNaFlmR1RUMElqQnBGdzJTUzM0RHY0SXJzIn0sImVuYyI6IkExMjhDQkMtSFMyNTYifQ..yc9N8v5sYyv3iGQT926IUg.BoDlwPnTypYq-ivjmQvAYJLb5Q6l-F3LIgQomlz87yW4OPKbWE1zSTEFjDfhU9IPIOSA9Bml4m7iDFwA-1ZXvHteLDtw4R1XRGMEsDIqAYtskTTmzmzNa-_q4F_evAPUmwlO-ZG45Mnq4uhM1fm_D9rBtWolqZSF3xGNNkpOMQKF1Cl8i8wjzRli7-IXgyirlKQsbhhqRzkv8IcY6aHl24j03C-AR2le1r7URUhArM79BY8soZU0lzwI-sD5PZ3l4NDCCei9XkoIAfsXJWmySPoeRb2Ni5UZL4mYpvKDiwmyzGd65KqVw7MsFfI_K767G9C9Azp73gKZD0DyUn1mn0WW5LmyX_yJ-3AROq8p1WZBfG-ZyJ6195_JGG2m9Csg.WCCkNa-x4BeB9hIDIfFuhg"
)
