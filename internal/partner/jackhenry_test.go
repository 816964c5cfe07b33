package partner_test

import (
	"context"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/go-cmp/cmp"

	"keyd/internal/partner"
	"keyd/internal/partner/partnersim"
)

const (
	sampleECKey = "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAENbreHBIwTOkuZ28/uH8ayFnURXD9qXXfcSRMwq9kO3M7YEh4pZgBDg+sMGFdGHVyti0fWzSekXiRkqrcAJRM7Q=="

	jhBase  = "https://partner.example/jackhenry"
	jhToken = "/jackhenry/a/oidc-provider/api/v0/token"
	jhKey   = "/jackhenry/api/card-mgmt/v1/encryption-utils/public-key/pem"
	search  = "/api/card-mgmt/v1/inst-1/card-credentials/search-by-pan"
	tokens  = "/api/card-mgmt/v1/inst-1/tokenization/card-tokens"
)

var ecKey = sync.OnceValue(func() *ecdsa.PrivateKey { return must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)) })

// ps256 signs as a backend does, under a kid that can change.
type ps256 struct {
	key *rsa.PrivateKey
	kid string
	err error
}

func (s *ps256) now(context.Context) (string, func([]byte) ([]byte, error), error) {
	return s.kid, func(input []byte) ([]byte, error) {
		if s.err != nil {
			return nil, s.err
		}
		digest := sha256.Sum256(input)
		return rsa.SignPSS(rand.Reader, s.key, crypto.SHA256, digest[:], &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash})
	}, nil
}

func jackHenry(t testing.TB, h http.RoundTripper, signer *ps256, changes ...func(*partner.JackHenryConfig)) *partner.JackHenry {
	t.Helper()
	cfg := partner.JackHenryConfig{Connection: link("jh", h), ClientID: partnersim.DemoJackHenryClientID,
		TokenURL: "https://partner.example" + jhToken, Signer: signer.now}
	cfg.BaseURL = jhBase
	for _, change := range changes {
		change(&cfg)
	}
	return must(partner.NewJackHenry(cfg))
}

// jhSim is a simulated Jack Henry that knows the signer's key.
func jhSim(t testing.TB, opt partnersim.Options, changes ...func(*partner.JackHenryConfig)) (*partnersim.Sim, *partner.JackHenry, *ps256) {
	t.Helper()
	sim, signer := partnersim.New(opt), &ps256{key: rsaKey(), kid: testKID}
	sim.RegisterAssertionKey(&signer.key.PublicKey, signer.kid)
	return sim, jackHenry(t, sim.Transport(), signer, changes...), signer
}

func sealEC(t testing.TB, key crypto.PublicKey, kid, plaintext string) string {
	t.Helper()
	if k, ok := key.(*ecdh.PublicKey); ok { // go-jose wants the other type
		key = must(x509.ParsePKIXPublicKey(must(x509.MarshalPKIXPublicKey(k))))
	}
	enc := must(jose.NewEncrypter(jose.A256GCM, jose.Recipient{Algorithm: jose.ECDH_ES, Key: key, KeyID: kid}, nil))
	return must(must(enc.Encrypt([]byte(plaintext))).CompactSerialize())
}

const onePAN = `{"primaryAccountNumber":"4396910000012345"}`

func TestJackHenryKeyIsReadInEachForm(t *testing.T) {
	for _, form := range []string{partnersim.KeyBase64PEM, partnersim.KeyPEM, partnersim.KeySPKI} {
		sim, j, _ := jhSim(t, partnersim.Options{JackHenryPEM: form})
		for range 2 {
			id, version, alg, public, err := j.FetchKey(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			key, ok := public.(*ecdh.PublicKey)
			if !ok || key.Curve() != ecdh.P256() || id == "" || version != 0 || alg != "ECDH-ES" {
				t.Errorf("%s: got %q, %d, %s, %v", form, id, version, alg, public)
			}
		}
		if n := sim.Count(partnersim.EndpointJackHenryToken); n != 1 {
			t.Errorf("%d tokens asked for, want 1", n)
		}
	}
}

func TestJackHenryKeysThatAreRefused(t *testing.T) {
	answer := func(key, id string) string { return toJSON(map[string]string{"publicKey": key, "keyId": id}) }
	p224 := must(ecdsa.GenerateKey(elliptic.P224(), rand.Reader))
	x25519 := must(ecdh.X25519().GenerateKey(rand.Reader))
	for name, body := range map[string]string{
		"not JSON":           `x`,
		"no key":             answer("", "k"),
		"no id":              answer(spki(&ecKey().PublicKey), ""),
		"an id of two lines": answer(spki(&ecKey().PublicKey), "k\nX: y"),
		"a very long id":     answer(spki(&ecKey().PublicKey), strings.Repeat("k", 257)),
		"an RSA key":         answer(sampleKey, "k"),
		"another curve":      answer(spki(&p224.PublicKey), "k"),
		"no JOSE curve":      answer(spki(x25519.PublicKey()), "k"),
		"a raw point":        answer(base64.StdEncoding.EncodeToString(must(ecKey().PublicKey.ECDH()).Bytes()), "k"),
	} {
		h := &wire{Handler: routes{"POST " + jhToken: always(200, tokenBody("token-1", 600)), "GET " + jhKey: always(200, body)}}
		_, _, _, public, err := jackHenry(t, h, &ps256{key: rsaKey()}).FetchKey(t.Context())
		if !errors.Is(err, partner.ErrAnswer) || public != nil {
			t.Errorf("%s: got %v, %v", name, public, err)
		}
	}
}

var otherRSA = sync.OnceValue(func() *rsa.PrivateKey { return newRSA(2048) })

// The whole of Jack Henry: seal a value, carry our key, open what comes back.
func TestJackHenryWithTheSimulator(t *testing.T) {
	for form, opt := range map[string]partnersim.Options{
		partner.KeySPKI:      {JackHenryReplyKID: partnersim.ReplyKIDThumbprint},
		partner.KeyPoint:     {JackHenryKeyForm: partnersim.KeyPoint},
		partner.KeyBase64PEM: {JackHenryKeyForm: partnersim.KeyBase64PEM},
		partner.KeyJWK:       {JackHenryKeyForm: partnersim.KeyJWK, JackHenryReplyKID: partnersim.ReplyKIDJWK},
		partner.KeyBase64JWK: {JackHenryKeyForm: partnersim.KeyBase64JWK, JackHenryReplyKID: partnersim.ReplyKIDJWK},
	} {
		t.Run(form, func(t *testing.T) {
			_, j, _ := jhSim(t, opt, func(c *partner.JackHenryConfig) { c.KeyForm = form })
			id, _, _, public, err := j.FetchKey(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			ours := must(j.PublicKey(must(ecKey().PublicKey.ECDH()), testKID))
			body := toJSON(map[string]any{"publicKey": ours, "encryptedPrimaryAccountNumber": sealEC(t, public, id, onePAN),
				"expiration": map[string]int{"month": 10, "year": 2031}})
			res, err := j.Do(t.Context(), partner.Request{Method: "POST", Path: search, Body: []byte(body),
				Query: url.Values{"includePrimaryAccountNumber": {"true"}}, Header: http.Header{"x-request-id": {testKID}}})
			if err != nil {
				t.Fatal(err)
			}
			want(t, res, 200, partner.KindPlain)
			if res.Header.Get("X-Request-Id") != testKID {
				t.Errorf("headers %v", res.Header)
			}
			var sealed struct{ EncryptedCardCredentials string }
			if err := json.Unmarshal(res.Body, &sealed); err != nil {
				t.Fatal(err)
			}
			jwe := must(jose.ParseEncryptedCompact(sealed.EncryptedCardCredentials, []jose.KeyAlgorithm{jose.ECDH_ES}, []jose.ContentEncryption{jose.A256GCM}))
			plain := must(jwe.Decrypt(ecKey()))
			if string(plain) != onePAN {
				t.Errorf("got %s", plain)
			}
			kid := map[string]string{partnersim.ReplyKIDThumbprint: "-", partnersim.ReplyKIDJWK: testKID}[opt.JackHenryReplyKID]
			if kid == "-" {
				sum := must((&jose.JSONWebKey{Key: &ecKey().PublicKey}).Thumbprint(crypto.SHA256))
				kid = base64.RawURLEncoding.EncodeToString(sum)
			}
			if jwe.Header.KeyID != kid {
				t.Errorf("kid %q, want %q", jwe.Header.KeyID, kid)
			}
		})
	}
}

func TestJackHenryAnswersAreToldApart(t *testing.T) {
	sim, j, _ := jhSim(t, partnersim.Options{KeyOverlap: -1})
	id, _, _, public, err := j.FetchKey(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	post := func(path, jwe string) *partner.Response {
		t.Helper()
		res, err := j.Do(t.Context(), partner.Request{Method: "POST", Path: path, Body: []byte(toJSON(map[string]string{"encryptedPrimaryAccountNumber": jwe}))})
		if err != nil {
			t.Fatal(err)
		}
		return res
	}
	res := post(tokens, sealEC(t, public, id, onePAN))
	want(t, res, 200, partner.KindPlain)
	if len(res.Header.Get("X-Request-Id")) != 36 {
		t.Errorf("no request id: %v", res.Header)
	}
	const validate = "/api/card-mgmt/v1/inst-1/digital-wallets/validations/encrypted-card-data"
	want(t, post(validate, sealEC(t, public, id, onePAN)), 200, partner.KindEmpty)
	want(t, post(tokens, sealEC(t, public, "", onePAN)), 400, partner.KindStale) // kid is required
	sim.Rotate(partnersim.JackHenry)
	res = post(tokens, sealEC(t, public, id, onePAN))
	want(t, res, 400, partner.KindStale)
	if res.Header.Get("Content-Type") != "application/problem+json" || !strings.Contains(string(res.Body), "jackhenry/operation-failed") {
		t.Errorf("got %s", res.Body)
	}
	for kind, fault := range map[string]partnersim.Fault{
		partner.KindLimited: {Kind: partnersim.RateLimit}, partner.KindPlain: {Kind: partnersim.Error, Status: 503}, partner.KindEmpty: {Kind: partnersim.Empty},
	} {
		id, _, _, public, err := j.FetchKey(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		fault.Endpoint = partnersim.EndpointCardToken
		if err := sim.Fail(fault); err != nil {
			t.Fatal(err)
		}
		if res := post(tokens, sealEC(t, public, id, onePAN)); res.Kind != kind {
			t.Errorf("%s: got %d, %s", fault.Kind, res.Status, res.Kind)
		}
	}
	// Our own token runs out: another is fetched, the caller does not notice.
	id, _, _, public, _ = j.FetchKey(t.Context())
	if err := sim.Fail(partnersim.Fault{Endpoint: partnersim.EndpointCardToken, Kind: partnersim.ExpiredToken}); err != nil {
		t.Fatal(err)
	}
	want(t, post(tokens, sealEC(t, public, id, onePAN)), 200, partner.KindPlain)
}

func TestJackHenryRequestsThatNeverLeave(t *testing.T) {
	h := &wire{Handler: routes{}}
	j := jackHenry(t, h, &ps256{key: rsaKey()})
	for name, tc := range map[string]struct{ path, body, authorization string }{
		"a PAN in clear":       {search, `{"encryptedPrimaryAccountNumber":"4396910000012345"}`, ""},
		"a PAN as a number":    {tokens, `{"encryptedPrimaryAccountNumber":4396910000012345}`, ""},
		"a PAN in an object":   {tokens, `{"encryptedPrimaryAccountNumber":{"primaryAccountNumber":"4396910000012345"}}`, ""},
		"no JSON":              {tokens, compactJWE, ""},
		"a list":               {tokens, `[]`, ""},
		"a token of somebody":  {tokens, `{}`, "Bearer user-1"},
		"a path of dots":       {"/api/../x", `{}`, ""},
		"a header nobody gave": {tokens + "\r\n", `{}`, ""},
	} {
		res, err := j.Do(t.Context(), partner.Request{Method: "POST", Path: tc.path, Body: []byte(tc.body), Authorization: tc.authorization})
		if res != nil || !errors.Is(err, partner.ErrRequest) && !errors.Is(err, partner.ErrNotAllowed) || strings.Contains(err.Error(), "4396") {
			t.Errorf("%s: got %+v, %v", name, res, err)
		}
	}
	if len(h.seen) != 0 {
		t.Errorf("sent %v", h.seen)
	}
}

func TestJackHenryWithTheCallersToken(t *testing.T) {
	sim := partnersim.New(partnersim.Options{})
	cfg := partner.JackHenryConfig{Connection: link("jh", sim.Transport()), Authorization: partner.AuthCaller}
	cfg.BaseURL = jhBase
	j := must(partner.NewJackHenry(cfg))
	if !j.Profile().CallersKey {
		t.Error("the profile does not say that the key needs a caller")
	}
	if _, _, _, _, err := j.FetchKey(t.Context()); !errors.Is(err, partner.ErrNeedsCaller) {
		t.Errorf("got %v", err)
	}
	authorization := "Bearer " + sim.NewUserToken(partnersim.JackHenry)
	id, _, _, public, err := j.FetchKeyAs(t.Context(), authorization)
	if err != nil {
		t.Fatal(err)
	}
	body := toJSON(map[string]string{"encryptedPrimaryAccountNumber": sealEC(t, public, id, onePAN)})
	res, err := j.Do(t.Context(), partner.Request{Method: "POST", Path: tokens, Body: []byte(body), Authorization: authorization})
	if err != nil {
		t.Fatal(err)
	}
	want(t, res, 200, partner.KindPlain)
	if n := sim.Count(partnersim.EndpointJackHenryToken); n != 0 {
		t.Errorf("%d tokens of our own were asked for", n)
	}
}

func TestJackHenryProfileEndpointsAndConfig(t *testing.T) {
	j := jackHenry(t, &wire{}, &ps256{})
	wantProfile := partner.Profile{Type: "jackhenry", Form: partner.FormFields, SealAlg: "ECDH-ES", SealEnc: "A256GCM", KID: partner.KIDTheirs,
		ReplyAlgs: []string{"ECDH-ES"}, ReplyEncs: []string{"A256GCM"}, OurKey: partner.OurKeyInBody}
	if diff := cmp.Diff(wantProfile, j.Profile()); diff != "" {
		t.Error(diff)
	}
	for path, want := range map[string]partner.Endpoint{
		search: {Seal: []string{"/encryptedPrimaryAccountNumber"}, PublicKey: "/publicKey"},
		"/api/card-mgmt/v1/inst-1/card-credentials/by-token": {PublicKey: "/publicKey"},
		tokens: {Seal: []string{"/encryptedPrimaryAccountNumber"}},
		"/x":   {},
	} {
		want.Direct, want.Header = partner.DirectNever, http.Header{}
		if diff := cmp.Diff(want, j.Endpoint("POST", path)); diff != "" {
			t.Errorf("%s: %s", path, diff)
		}
	}
	if err := j.Announce(t.Context(), testKID, &ecKey().PublicKey, testFrom, testTill); err != nil {
		t.Error(err)
	}
	for says, change := range map[string]func(*partner.JackHenryConfig){
		"client ID":     func(c *partner.JackHenryConfig) { c.ClientID = "" },
		"signs client":  func(c *partner.JackHenryConfig) { c.Signer = nil },
		"token URL":     func(c *partner.JackHenryConfig) { c.TokenURL = "http://login.example/token" },
		"without auth":  func(c *partner.JackHenryConfig) { c.Authorization = partner.AuthCaller },
		"authorization": func(c *partner.JackHenryConfig) { c.Authorization = "both" },
		"key form":      func(c *partner.JackHenryConfig) { c.KeyForm = "der" },
		"prefix":        func(c *partner.JackHenryConfig) { c.Prefix = "api" },
		"pointer": func(c *partner.JackHenryConfig) {
			c.Fields = []partner.FieldRule{{Paths: []string{"/"}, Seal: []string{"pan"}}}
		},
		"want paths": func(c *partner.JackHenryConfig) { c.Fields = []partner.FieldRule{{}} },
		`path "x"`:   func(c *partner.JackHenryConfig) { c.Fields = []partner.FieldRule{{Paths: []string{"x"}}} },
	} {
		cfg := partner.JackHenryConfig{Connection: link("jh", &wire{}), ClientID: "c", Signer: (&ps256{}).now}
		change(&cfg)
		if _, err := partner.NewJackHenry(cfg); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: got %v", says, err)
		}
	}
}

func TestProblemDetailsAreSaid(t *testing.T) {
	h := &wire{Handler: routes{"POST " + jhToken: always(200, tokenBody("token-1", 600)),
		"GET " + jhKey: always(403, `{"type":"jackhenry/operation-failed","title":"Forbidden","details":["no rights for it","more"],"data":{}}`)}}
	_, _, _, _, err := jackHenry(t, h, &ps256{key: rsaKey()}).FetchKey(t.Context())
	if want := "jh: key: HTTP 403: jackhenry/operation-failed: no rights for it"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func FuzzJackHenryAnswers(f *testing.F) {
	f.Add([]byte(`{"publicKey":"`+sampleECKey+`","keyId":"k"}`), []byte(`{"access_token":"token-1","expires_in":300}`))
	f.Add([]byte(`{"publicKey":"-----BEGIN PUBLIC KEY-----\n","keyId":"k"}`), []byte(`{"access_token":"token-1","token_type":"bearer"}`))
	f.Add([]byte(`{"type":"x","details":["a"]}`), []byte(`{"error":"invalid_client"}`))
	f.Fuzz(func(t *testing.T, key, token []byte) {
		h := &wire{Handler: routes{"POST " + jhToken: always(200, string(token)), "GET " + jhKey: always(200, string(key))}}
		_, _, _, public, err := jackHenry(t, h, &ps256{key: rsaKey()}).FetchKey(t.Context())
		if err != nil {
			printable(t, err)
			return
		}
		if k, ok := public.(*ecdh.PublicKey); !ok || k.Curve() == ecdh.X25519() {
			t.Errorf("got %v", public)
		}
	})
}
