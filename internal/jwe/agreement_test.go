package jwe_test

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"

	"keyd/internal/boundary"
	"keyd/internal/jwe"
)

func agreements() jwe.Policy {
	return jwe.Policy{Algs: []string{boundary.ECDHES, boundary.ECDHESA128KW, boundary.ECDHESA256KW}, Encs: encs(), MaxSize: 1 << 20}
}

// agree is what a token does that gives out the shared secret.
func agree(key *ecdh.PrivateKey, m *jwe.Message) ([]byte, error) {
	if m.Envelope.EPK.Curve() != key.Curve() {
		return nil, boundary.ErrOpen
	}
	z, err := key.ECDH(m.Envelope.EPK)
	if err != nil {
		return nil, err
	}
	return boundary.OpenAgreed(&m.Envelope, z)
}

const frodo = "You can trust us to stick with you through thick and thin\u2013to the bitter end. And you can trust us to keep any secret of yours\u2013closer than you keep it yourself. But you cannot trust us to let you face trouble alone, and go off without a word. We are your friends, Frodo."

const (
	rfc7520at54 = "eyJhbGciOiJFQ0RILUVTK0ExMjhLVyIsImtpZCI6InBlcmVncmluLnRvb2tAdHVja2Jvcm91Z2guZXhhbXBsZSIsImVwayI6eyJrdHkiOiJFQyIsImNydiI6IlAtMzg0IiwieCI6InVCbzRrSFB3Nmtiang1bDB4b3dyZF9vWXpCbWF6LUdLRlp1NHhBRkZrYllpV2d1dEVLNml1RURzUTZ3TmROZzMiLCJ5Ijoic3AzcDVTR2haVkMyZmFYdW1JLWU5SlUyTW84S3BvWXJGRHI1eVBOVnRXNFBnRXdaT3lRVEEtSmRhWTh0YjdFMCJ9LCJlbmMiOiJBMTI4R0NNIn0.0DJjBXri_kBcC46IkU5_Jk9BqaQeHdv2.mH-G2zVqgztUtnW_.tkZuOO9h95OgHJmkkrfLBisku8rGf6nzVxhRM3sVOhXgz5NJ76oID7lpnAi_cPWJRCjSpAaUZ5dOR3Spy7QuEkmKx8-3RCMhSYMzsXaEwDdXta9Mn5B7cCBoJKB0IgEnj_qfo1hIi-uEkUpOZ8aLTZGHfpl05jMwbKkTe2yK3mjF6SBAsgicQDVCkcY9BLluzx1RmC3ORXaM0JaHPB93YcdSDGgpgBWMVrNU1ErkjcMqMoT_wtCex3w03XdLkjXIuEr2hWgeP-nkUZTPU9EoGSPj6fAS-bSz87RCPrxZdj_iVyC6QWcqAu07WNhjzJEPc4jVntRJ6K53NgPQ5p99l3Z408OUqj4ioYezbS6vTPlQ.WuGzxmcreYjpHGJoa17EBg"
	rfc7520at55 = "eyJhbGciOiJFQ0RILUVTIiwia2lkIjoibWVyaWFkb2MuYnJhbmR5YnVja0BidWNrbGFuZC5leGFtcGxlIiwiZXBrIjp7Imt0eSI6IkVDIiwiY3J2IjoiUC0yNTYiLCJ4IjoibVBVS1RfYkFXR0hJaGcwVHBqanFWc1AxclhXUXVfdndWT0hIdE5rZFlvQSIsInkiOiI4QlFBc0ltR2VBUzQ2ZnlXdzVNaFlmR1RUMElqQnBGdzJTUzM0RHY0SXJzIn0sImVuYyI6IkExMjhDQkMtSFMyNTYifQ..yc9N8v5sYyv3iGQT926IUg.BoDlwPnTypYq-ivjmQvAYJLb5Q6l-F3LIgQomlz87yW4OPKbWE1zSTEFjDfhU9IPIOSA9Bml4m7iDFwA-1ZXvHteLDtw4R1XRGMEsDIqAYtskTTmzmzNa-_q4F_evAPUmwlO-ZG45Mnq4uhM1fm_D9rBtWolqZSF3xGNNkpOMQKF1Cl8i8wjzRli7-IXgyirlKQsbhhqRzkv8IcY6aHl24j03C-AR2le1r7URUhArM79BY8soZU0lzwI-sD5PZ3l4NDCCei9XkoIAfsXJWmySPoeRb2Ni5UZL4mYpvKDiwmyzGd65KqVw7MsFfI_K767G9C9Azp73gKZD0DyUn1mn0WW5LmyX_yJ-3AROq8p1WZBfG-ZyJ6195_JGG2m9Csg.WCCkNa-x4BeB9hIDIfFuhg"
)

func TestExamplesOfRFC7520OpenByKeyAgreement(t *testing.T) {
	for name, v := range map[string]struct{ curve, d, compact, kid, alg, enc string }{
		"5.4": {"P-384", "iTx2pk7wW-GqJkHcEkFQb2EFyYcO7RugmaW3mRrQVAOUiPommT0IdnYK2xDlZh-j", rfc7520at54,
			"peregrin.took@tuckborough.example", boundary.ECDHESA128KW, boundary.A128GCM},
		"5.5": {"P-256", "r_kHyZ-a06rmxM3yESK84r1otSg-aQcVStkRhA-iCM8", rfc7520at55,
			"meriadoc.brandybuck@buckland.example", boundary.ECDHES, boundary.A128CBCHS256},
	} {
		d, err := base64.RawURLEncoding.DecodeString(v.d)
		if err != nil {
			t.Fatal(err)
		}
		key, err := boundary.CurveOf(v.curve).NewPrivateKey(d)
		if err != nil {
			t.Fatal(err)
		}
		m, err := jwe.Parse([]byte(v.compact), agreements())
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if m.KID != v.kid || m.Envelope.Alg != v.alg || m.Envelope.Enc != v.enc || !m.Fits(boundary.Material{Algorithm: boundary.ECDHES, Curve: v.curve}) ||
			m.Fits(boundary.Material{Algorithm: boundary.ECDHES, Curve: "P-521"}) || m.Fits(boundary.Material{Algorithm: boundary.RSAOAEP256, Bits: 2048}) {
			t.Errorf("%s: parsed to %+v", name, m)
		}
		if got, err := agree(key, m); err != nil || string(got) != frodo {
			t.Errorf("%s: opens to %q, %v", name, got, err)
		}
	}
}

// go-jose seals, keyd opens; apu and apv are put in by hand, because go-jose
// leaves them out of the derivation when it seals.
func TestWhatGoJOSESealsByKeyAgreementOpens(t *testing.T) {
	for _, alg := range agreements().Algs {
		for i, curve := range []elliptic.Curve{elliptic.P256(), elliptic.P384(), elliptic.P521()} {
			for _, enc := range encs() {
				ours, err := ecdsa.GenerateKey(curve, rand.Reader)
				if err != nil {
					t.Fatal(err)
				}
				encrypter, err := jose.NewEncrypter(jose.ContentEncryption(enc), jose.Recipient{Algorithm: jose.KeyAlgorithm(alg), Key: &ours.PublicKey, KeyID: "k"}, nil)
				if err != nil {
					t.Fatal(err)
				}
				sealed, err := encrypter.Encrypt([]byte("plaintext"))
				if err != nil {
					t.Fatal(err)
				}
				compact, err := sealed.CompactSerialize()
				if err != nil {
					t.Fatal(err)
				}
				name := fmt.Sprint(alg, " ", boundary.Curves[i], " ", enc)
				m, err := jwe.Parse([]byte(compact), agreements())
				if err != nil {
					t.Errorf("%s: %v", name, err)
					continue
				}
				private, err := ours.ECDH()
				if err != nil {
					t.Fatal(err)
				}
				if got, err := agree(private, m); err != nil || string(got) != "plaintext" {
					t.Errorf("%s: opens to %q, %v", name, got, err)
				}
				if m.KID != "k" || serialize(m) != compact {
					t.Errorf("%s: parsed to %+v", name, m)
				}
			}
		}
	}
}

// ephemeral is an epk as it is written, and its point.
func ephemeral(t *testing.T, crv string) (member string, key *ecdh.PublicKey) {
	t.Helper()
	private, err := boundary.CurveOf(crv).GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return epkMember(crv, private.PublicKey().Bytes()[1:]), private.PublicKey()
}

func epkMember(crv string, xy []byte) string {
	half := len(xy) / 2
	return fmt.Sprintf(`"epk":{"kty":"EC","crv":"%s","x":"%s","y":"%s"}`, crv, base64.RawURLEncoding.EncodeToString(xy[:half]), base64.RawURLEncoding.EncodeToString(xy[half:]))
}

func TestAgreementReadsPartyInfo(t *testing.T) {
	epk, key := ephemeral(t, "P-256")
	m, err := jwe.Parse([]byte(build(`{"alg":"ECDH-ES","enc":"A256GCM",`+epk+`,"apu":"QWxpY2U","apv":"Qm9i"}`, 0)), agreements())
	if err != nil {
		t.Fatal(err)
	}
	if string(m.Envelope.APU) != "Alice" || string(m.Envelope.APV) != "Bob" || !m.Envelope.EPK.Equal(key) {
		t.Errorf("got %q, %q, %x", m.Envelope.APU, m.Envelope.APV, m.Envelope.EPK.Bytes())
	}
}

func TestAgreementsThatAreRefused(t *testing.T) {
	good, point := ephemeral(t, "P-256")
	xy := point.Bytes()[1:]
	off := slices.Clone(xy)
	off[len(off)-1] ^= 1
	p256 := elliptic.P256().Params()
	x := new(big.Int).SetBytes(xy[:32])
	above := append(new(big.Int).Add(x, p256.P).Bytes(), xy[32:]...) // the same point, spelled otherwise; 33 bytes more often than not
	wide := append(append([]byte{0}, xy[:32]...), append([]byte{0}, xy[32:]...)...)
	other, _ := ephemeral(t, "P-384")
	header := func(epk string) string { return `{"alg":"ECDH-ES","enc":"A256GCM",` + epk + `}` }
	for name, v := range map[string]struct {
		header string
		key    int // bytes of the encrypted key
		want   error
		says   string
	}{
		"no epk":                        {`{"alg":"ECDH-ES","enc":"A256GCM"}`, 0, jwe.ErrMalformed, "no epk"},
		"an epk that is text":           {header(`"epk":"x"`), 0, jwe.ErrMalformed, "not a JSON object"},
		"an epk that is null":           {header(`"epk":null`), 0, jwe.ErrMalformed, "not a JSON object"},
		"an empty epk":                  {header(`"epk":{}`), 0, jwe.ErrAlgorithm, "kty"},
		"an RSA epk":                    {header(`"epk":{"kty":"RSA","n":"AQAB","e":"AQAB"}`), 0, jwe.ErrAlgorithm, "kty"},
		"an epk on X25519":              {header(`"epk":{"kty":"OKP","crv":"X25519","x":"AAAA"}`), 0, jwe.ErrAlgorithm, "X25519"},
		"an epk on P-224":               {header(strings.Replace(good, "P-256", "P-224", 1)), 0, jwe.ErrAlgorithm, "P-224"},
		"an epk with its private half":  {header(strings.Replace(good, `"kty"`, `"d":"AAAA","kty"`, 1)), 0, jwe.ErrMalformed, "private"},
		"a point off the curve":         {header(epkMember("P-256", off)), 0, jwe.ErrMalformed, "not a point of P-256"},
		"the point 0, 0":                {header(epkMember("P-256", make([]byte, 64))), 0, jwe.ErrMalformed, "not a point of P-256"},
		"a coordinate above the field":  {header(epkMember("P-256", append(bytes.Repeat([]byte{0xff}, 32), xy[32:]...))), 0, jwe.ErrMalformed, "not a point of P-256"},
		"a coordinate without zeros":    {header(epkMember("P-256", xy[2:])), 0, jwe.ErrMalformed, "coordinate"},
		"a coordinate with more zeros":  {header(epkMember("P-256", wide)), 0, jwe.ErrMalformed, "coordinate"},
		"a coordinate spelled mod p":    {header(epkMember("P-256", above)), 0, jwe.ErrMalformed, ""},
		"the coordinates of another":    {header(strings.Replace(other, "P-384", "P-256", 1)), 0, jwe.ErrMalformed, "coordinate"},
		"a coordinate with padding":     {header(`"epk":{"kty":"EC","crv":"P-256","x":"AA==","y":"AA=="}`), 0, jwe.ErrMalformed, "padding"},
		"a coordinate that is a number": {header(`"epk":{"kty":"EC","crv":"P-256","x":1,"y":2}`), 0, jwe.ErrMalformed, "not a string"},
		"an apu that is not base64":     {header(good + `,"apu":"!"`), 0, jwe.ErrMalformed, "apu"},
		"an apv that is a number":       {header(good + `,"apv":1`), 0, jwe.ErrMalformed, "apv"},
		"an encrypted key with ECDH-ES": {header(good), 40, jwe.ErrMalformed, "has none"},
		"none with a key wrap":          {strings.Replace(header(good), "ECDH-ES", "ECDH-ES+A256KW", 1), 0, jwe.ErrMalformed, "has 40"},
		"one for another enc":           {strings.Replace(header(good), "ECDH-ES", "ECDH-ES+A128KW", 1), 24, jwe.ErrMalformed, "has 40"},
		"A192KW":                        {strings.Replace(header(good), "ECDH-ES", "ECDH-ES+A192KW", 1), 40, jwe.ErrAlgorithm, "A192KW"},
		"RSA, which is not allowed":     {`{"alg":"RSA-OAEP-256","enc":"A256GCM"}`, 256, jwe.ErrAlgorithm, "RSA-OAEP-256"},
	} {
		m, err := jwe.Parse([]byte(build(v.header, v.key)), agreements())
		if m != nil || !errors.Is(err, v.want) || !strings.Contains(err.Error(), v.says) {
			t.Errorf("%s: got %v, %v, want %v that says %q", name, m, err, v.want, v.says)
		}
		if err != nil {
			presentable(t, err)
		}
	}
	if _, err := jwe.Parse([]byte(build(header(good), 0)), agreements()); err != nil {
		t.Errorf("the good one: %v", err)
	}
	if _, err := jwe.Parse([]byte(build(header(good), 0)), everything()); !errors.Is(err, jwe.ErrAlgorithm) {
		t.Errorf("under a policy for RSA: %v, want ErrAlgorithm", err)
	}
}

// FuzzAgreement: an epk that is taken is a point of its curve in its one
// spelling, and nothing makes the parser fall over.
func FuzzAgreement(f *testing.F) {
	for _, compact := range []string{rfc7520at54, rfc7520at55} {
		part, _, _ := strings.Cut(compact, ".")
		header, err := base64.RawURLEncoding.DecodeString(part)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(header, uint8(0))
		f.Add(header, uint8(24))
	}
	f.Add([]byte(`{"alg":"ECDH-ES+A256KW","enc":"A256GCM","epk":{"kty":"EC","crv":"P-521","x":"AA","y":"AA"},"apu":"","apv":"QQ"}`), uint8(40))
	f.Fuzz(func(t *testing.T, header []byte, size uint8) {
		compact := base64.RawURLEncoding.EncodeToString(header) + build("", int(size))
		m, err := jwe.Parse([]byte(compact), agreements())
		if err != nil {
			presentable(t, err)
			return
		}
		env := &m.Envelope
		if env.EPK == nil || boundary.KeyAlgorithm(env.Alg) != boundary.ECDHES {
			t.Fatalf("parsed to %+v", m)
		}
		if _, err := env.EPK.Curve().NewPublicKey(env.EPK.Bytes()); err != nil {
			t.Errorf("the epk is no point: %v", err)
		}
		if d, err := boundary.DerivationOf(env); err != nil || !bytes.Contains(d.OtherInfo, env.APU) {
			t.Errorf("nothing can be derived: %+v, %v", d, err)
		}
	})
}
