package partner_test

import (
	"crypto"
	"crypto/ecdh"
	"crypto/x509"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/go-cmp/cmp"

	"keyd/internal/partner"
	"keyd/internal/partner/partnersim"
)

const genericURL = "https://partner.example/generic"

func described(t testing.TB, h http.RoundTripper, changes ...func(*partner.JWEConfig)) *partner.JWE {
	t.Helper()
	j, err := tryDescribed(h, changes...)
	if err != nil {
		t.Fatal(err)
	}
	return j
}

func tryDescribed(h http.RoundTripper, changes ...func(*partner.JWEConfig)) (*partner.JWE, error) {
	cfg := partner.JWEConfig{Connection: link("other", h), Key: partner.KeySource{URL: genericURL + "/jwks.json"}}
	cfg.BaseURL = genericURL
	for _, change := range changes {
		change(&cfg)
	}
	return partner.NewJWE(cfg)
}

// sealFor seals as the profile says.
func sealFor(t *testing.T, j *partner.JWE, key crypto.PublicKey, kid, plaintext string) string {
	t.Helper()
	if k, ok := key.(*ecdh.PublicKey); ok {
		key = must(x509.ParsePKIXPublicKey(must(x509.MarshalPKIXPublicKey(k))))
	}
	p := j.Profile()
	enc := must(jose.NewEncrypter(jose.ContentEncryption(p.SealEnc), jose.Recipient{Algorithm: jose.KeyAlgorithm(p.SealAlg), Key: key, KeyID: kid}, nil))
	return must(must(enc.Encrypt([]byte(plaintext))).CompactSerialize())
}

// Partners like those that exist, by config alone.
func TestDescribedPartnersWithTheSimulator(t *testing.T) {
	service := func(c *partner.JWEConfig) {
		c.Authorization, c.TokenURL, c.ClientID = partner.AuthService, genericURL+"/oauth/token", partnersim.DemoClientID
		c.ClientSecret = func() ([]byte, error) { return []byte(partnersim.DemoClientSecret), nil }
	}
	for name, tc := range map[string]struct {
		opt    partnersim.Options
		change func(*partner.JWEConfig)
		client crypto.PublicKey
		kind   string
	}{
		"like Visa": {partnersim.Options{GenericEnc: "A128GCM", GenericMember: "encData", GenericKeyHeader: "keyId", GenericAuth: partnersim.AuthBasic}, func(c *partner.JWEConfig) {
			service(c)
			c.Authorization, c.TokenURL = partner.AuthBasic, ""
			c.Form, c.SealEnc, c.RequestMember = partner.FormMember, "A128GCM", "/encData"
			c.Header = map[string]string{"keyId": "{key_id}"}
			c.OurKey, c.ReplyAlgs, c.ReplyEncs = partner.OurKeyByHand, []string{"RSA-OAEP-256"}, []string{"A256GCM"}
		}, &rsaKey().PublicKey, partner.KindSealed},
		"like Method": {partnersim.Options{GenericMember: "encrypted", GenericAuth: partnersim.AuthSecret}, func(c *partner.JWEConfig) {
			service(c)
			c.Authorization, c.TokenURL, c.ClientID = partner.AuthBearer, "", ""
			c.Form, c.RequestMember, c.Header = partner.FormMember, "/encrypted", map[string]string{"Method-MLE": "jwe"}
			c.OurKey, c.ReplyAlgs, c.ReplyEncs = partner.OurKeyFetched, []string{"RSA-OAEP-256"}, []string{"A256GCM"}
		}, &rsaKey().PublicKey, partner.KindSealed},
		"like FlexPay": {partnersim.Options{GenericAlg: "ECDH-ES+A256KW"}, func(c *partner.JWEConfig) {
			service(c)
			c.SealAlg, c.Accept, c.StaleCodes, c.StaleStatus = "ECDH-ES+A256KW", "application/json", []string{"decryption_failed"}, []int{500}
		}, nil, partner.KindPlain},
		"on a curve, both ways": {partnersim.Options{GenericAlg: "ECDH-ES"}, func(c *partner.JWEConfig) {
			service(c)
			c.SealAlg, c.OurKey, c.ReplyAlgs, c.ReplyEncs = "ECDH-ES", partner.OurKeyFetched, []string{"ECDH-ES+A256KW"}, []string{"A256GCM"}
		}, &ecKey().PublicKey, partner.KindSealed},
		"an API key": {partnersim.Options{GenericAPIKey: "X-API-Key"}, func(c *partner.JWEConfig) {
			service(c)
			c.SecretIn, c.SecretHeader = partner.SecretInForm, map[string]func() ([]byte, error){"x-api-key": c.ClientSecret}
			c.Key = partner.KeySource{URL: genericURL + "/v1/key", Authorization: partner.AuthService, Member: "/data/publicKey", IDMember: "/data/keyId"}
		}, nil, partner.KindPlain},
		"a key for clients only": {partnersim.Options{}, func(c *partner.JWEConfig) {
			service(c)
			c.Key = partner.KeySource{URL: genericURL + "/v1/key", Authorization: partner.AuthService, Member: "/data/publicKey", IDMember: "/data/keyId"}
		}, nil, partner.KindPlain},
	} {
		t.Run(name, func(t *testing.T) {
			tc.opt.KeyOverlap = -1
			sim := partnersim.New(tc.opt)
			if tc.client != nil {
				sim.RegisterClientKey(tc.client, testKID)
			}
			j := described(t, sim.Transport(), tc.change)
			post := func(path string) *partner.Response {
				t.Helper()
				id, _, _, key, err := j.FetchKey(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				return postAs(t, j, path, id, key)
			}
			res := post("/v1/echo")
			want(t, res, 200, tc.kind)
			if tc.kind == partner.KindSealed && strings.Count(string(res.Envelope), ".") != 4 {
				t.Errorf("envelope %q", res.Envelope)
			}
			id, _, _, key, err := j.FetchKey(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			sim.Rotate(partnersim.Generic)
			want(t, postAs(t, j, "/v1/echo", id, key), 400, partner.KindStale)
			if err := sim.Fail(partnersim.Fault{Endpoint: partnersim.EndpointGenericEcho, Kind: partnersim.RateLimit}); err != nil {
				t.Fatal(err)
			}
			want(t, post("/v1/echo"), 429, partner.KindLimited)
		})
	}
}

func postAs(t *testing.T, j *partner.JWE, path, id string, key crypto.PublicKey) *partner.Response {
	t.Helper()
	body := must(j.Frame([]byte(sealFor(t, j, key, id, `{"a":1}`)), 0))
	res, err := j.Do(t.Context(), partner.Request{Method: "POST", Path: path, Body: body, KID: testKID, KeyID: id})
	if err != nil {
		t.Fatal(err)
	}
	return res
}

func TestDescribedPartnerOfFieldsAndOfDirectReplies(t *testing.T) {
	sim := partnersim.New(partnersim.Options{})
	authorization := "Bearer " + sim.NewUserToken(partnersim.Generic)
	fields := described(t, sim.Transport(), func(c *partner.JWEConfig) {
		c.Form, c.Fields = partner.FormFields, []partner.FieldRule{{Paths: []string{"/v1/fields"}, Seal: []string{"/secret"}}}
	})
	id, _, _, key, err := fields.FetchKey(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	do := func(j *partner.JWE, path, body string) (*partner.Response, error) {
		return j.Do(t.Context(), partner.Request{Method: "POST", Path: path, Body: []byte(body), Authorization: authorization})
	}
	res, err := do(fields, "/v1/fields", toJSON(map[string]any{"open": 1, "secret": sealFor(t, fields, key, id, "s")}))
	if err != nil {
		t.Fatal(err)
	}
	want(t, res, 200, partner.KindPlain)
	if _, err = do(fields, "/v1/fields", `{"secret":"1234"}`); !errors.Is(err, partner.ErrRequest) || strings.Contains(err.Error(), "1234") {
		t.Errorf("got %v", err)
	}
	direct := described(t, sim.Transport(), func(c *partner.JWEConfig) { c.Direct, c.ReplyEncs = []string{"/v1/direct"}, []string{"A256GCM"} })
	if d := direct.Endpoint("POST", "/v1/direct").Direct; d != partner.DirectAlways {
		t.Errorf("got %s", d)
	}
	if res, err = do(direct, "/v1/direct", sealFor(t, direct, key, id, `{}`)); err != nil {
		t.Fatal(err)
	}
	want(t, res, 200, partner.KindSealed)
}

func TestHeadersOfADescribedPartner(t *testing.T) {
	j := described(t, &wire{}, func(c *partner.JWEConfig) {
		c.Header = map[string]string{"X-Ours": "kid={kid}", "X-Theirs": "{key_id}", "X-Both": "{kid}/{key_id}", "X-Fixed": "1", "X-Call": "{uuid}"}
	})
	h := j.HeadersTo("a", "b")
	if id := h.Get("X-Call"); len(id) != 36 || id == j.HeadersTo("a", "b").Get("X-Call") {
		t.Errorf("X-Call is %q", id)
	}
	h.Del("X-Call")
	want := http.Header{"Content-Type": {"application/jose"}, "Accept": {"application/jose"}, "Accept-Encoding": {"identity"},
		"X-Ours": {"kid=a"}, "X-Theirs": {"b"}, "X-Both": {"a/b"}, "X-Fixed": {"1"}}
	if diff := cmp.Diff(want, h); diff != "" {
		t.Error(diff)
	}
	h = j.GetHeaders("")
	h.Del("X-Call")
	if diff := cmp.Diff(http.Header{"Accept": {"application/jose"}, "Accept-Encoding": {"identity"}, "X-Fixed": {"1"}}, h); diff != "" {
		t.Error(diff)
	}
	if h = j.Headers("a"); h.Get("X-Ours") != "kid=a" || h.Get("X-Both") != "" {
		t.Errorf("got %v", h)
	}
}

func TestRepliesInClearAreNotLookedInto(t *testing.T) {
	h := &wire{Handler: always(200, compactJWE)}
	for want, change := range map[string]func(*partner.JWEConfig){
		partner.KindPlain:  func(*partner.JWEConfig) {},
		partner.KindSealed: func(c *partner.JWEConfig) { c.Direct = []string{"/v1/x"} },
	} {
		res, err := described(t, h, change).Do(t.Context(), partner.Request{Method: "GET", Path: "/v1/x", Authorization: "Bearer user-1"})
		if err != nil || res.Kind != want {
			t.Errorf("got %+v, %v, want %s", res, err, want)
		}
	}
}

func TestTheConfigsHeadersComeBeforeTheCallers(t *testing.T) {
	var sent http.Header
	j := described(t, &wire{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sent = r.Header.Clone()
		w.WriteHeader(204)
	})}, func(c *partner.JWEConfig) {
		c.Header, c.Forward = map[string]string{"X-Fixed": "1"}, []string{"X-Fixed", "X-Free"}
	})
	_, err := j.Do(t.Context(), partner.Request{Method: "POST", Path: "/v1/x", Body: []byte(compactJWE), Authorization: "Bearer user-1",
		Header: http.Header{"X-Fixed": {"2"}, "x-free": {"3"}}})
	if err != nil || !cmp.Equal(sent["X-Fixed"], []string{"1"}) || sent.Get("X-Free") != "3" {
		t.Errorf("got %v with %v", err, sent)
	}
}

func TestDescribedRequestsThatNeverLeave(t *testing.T) {
	h := &wire{Handler: routes{}}
	whole := described(t, h)
	member := described(t, h, func(c *partner.JWEConfig) { c.Form, c.RequestMember = partner.FormMember, "/a/b" })
	none := described(t, h, func(c *partner.JWEConfig) { c.Authorization = partner.AuthNone })
	framed := string(must(member.Frame([]byte(compactJWE), 0)))
	if framed != `{"a":{"b":"`+compactJWE+`"}}` {
		t.Errorf("framed %s", framed)
	}
	for name, tc := range map[string]struct {
		j             *partner.JWE
		body          string
		authorization string
	}{
		"in clear":           {whole, `{"pin":"1234"}`, "Bearer user-1"},
		"a frame":            {whole, framed, "Bearer user-1"},
		"no frame":           {member, compactJWE, "Bearer user-1"},
		"a frame in clear":   {member, `{"a":{"b":"1234"}}`, "Bearer user-1"},
		"a PIN beside":       {member, `{"a":{"b":"` + compactJWE + `","pin":"1234"}}`, "Bearer user-1"},
		"a PIN above":        {member, `{"pin":"1234","a":{"b":"` + compactJWE + `"}}`, "Bearer user-1"},
		"one member twice":   {member, `{"a":{"b":"1234","b":"` + compactJWE + `"}}`, "Bearer user-1"},
		"something after it": {member, framed + `{}`, "Bearer user-1"},
		"no authorization":   {whole, compactJWE, ""},
		"one too many":       {none, compactJWE, "Bearer user-1"},
	} {
		res, err := tc.j.Do(t.Context(), partner.Request{Method: "POST", Path: "/v1/x", Body: []byte(tc.body), Authorization: tc.authorization})
		if res != nil || !errors.Is(err, partner.ErrRequest) && !errors.Is(err, partner.ErrNotAllowed) || strings.Contains(err.Error(), "1234") {
			t.Errorf("%s: got %+v, %v", name, res, err)
		}
	}
	if len(h.seen) != 0 {
		t.Errorf("sent %v", h.seen)
	}
	tokens := described(t, h, func(c *partner.JWEConfig) { c.TokenURL = genericURL + "/oauth/token" })
	for path, want := range map[string]error{"/oauth/token": partner.ErrNotAllowed, "/OAUTH/token/x": partner.ErrNotAllowed, "/oauth/tokens": nil} {
		if err := tokens.Allows("POST", path); !errors.Is(err, want) {
			t.Errorf("%s: got %v", path, err)
		}
	}
	var sent http.Header
	none = described(t, &wire{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sent = r.Header.Clone()
		w.WriteHeader(204)
	})}, func(c *partner.JWEConfig) { c.Authorization = partner.AuthNone })
	if res, err := none.Do(t.Context(), partner.Request{Method: "POST", Path: "/v1/x", Body: []byte(compactJWE)}); err != nil || res.Kind != partner.KindEmpty || sent.Get("Authorization") != "" {
		t.Errorf("got %+v, %v with %v", res, err, sent)
	}
}

func FuzzDescribedReply(f *testing.F) {
	f.Add([]byte(compactJWE))
	f.Add([]byte(`{"a":{"b":"` + compactJWE + `"}}`))
	f.Add([]byte(`{"a":[]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		for _, member := range []string{"", "/a/b"} {
			j := described(t, &wire{Handler: always(200, string(body))}, func(c *partner.JWEConfig) {
				c.ReplyMember, c.OurKey, c.ReplyAlgs, c.ReplyEncs = member, partner.OurKeyByHand, []string{"RSA-OAEP-256"}, []string{"A256GCM"}
			})
			res, err := j.Do(t.Context(), partner.Request{Method: "GET", Path: "/v1/x", Authorization: "Bearer user-1"})
			if err != nil {
				t.Fatal(err)
			}
			if sealed := res.Kind == partner.KindSealed; sealed != (strings.Count(string(res.Envelope), ".") == 4) || sealed && !strings.Contains(string(body), ".") && !strings.Contains(string(body), `\u002e`) {
				t.Errorf("%q: %s %q", body, res.Kind, res.Envelope)
			}
		}
	})
}
