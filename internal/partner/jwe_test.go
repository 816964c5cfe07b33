package partner_test

import (
	"crypto"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

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

// spkiFingerprint is the name of a key that Mastercard gives to it.
func spkiFingerprint(key crypto.PublicKey) string {
	sum := sha256.Sum256(must(x509.MarshalPKIXPublicKey(key)))
	return hex.EncodeToString(sum[:])
}

func certificate(t *testing.T, from, till time.Time) []byte {
	t.Helper()
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "partner"}, NotBefore: from, NotAfter: till}
	der := must(x509.CreateCertificate(rand.Reader, tmpl, tmpl, &rsaKey().PublicKey, rsaKey()))
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func TestKeyOfAPartnerComesFromWhereTheConfigSays(t *testing.T) {
	public := &rsaKey().PublicKey
	now := time.Now()
	dir := t.TempDir()
	file := func(name string, content []byte) partner.KeySource {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return partner.KeySource{File: path}
	}
	text := forms(public)
	answers := routes{
		"GET /jwk":    always(200, toJSON(jwkOf(public, "k1", ""))),
		"GET /jwks":   always(200, toJSON(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{jwkOf(public, "k1", ""), jwkOf(&otherRSA().PublicKey, "k2", "")}})),
		"GET /twice":  always(200, toJSON(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{jwkOf(public, "k1", ""), jwkOf(&otherRSA().PublicKey, "k1", "")}})),
		"GET /pem":    envelope("text/plain", text["PEM"]),
		"GET /spki":   envelope("text/plain", text["base64 of DER"]+"\n"),
		"GET /own":    always(200, toJSON(map[string]any{"data": []any{map[string]any{"key": text["base64 of PEM"], "id": "k1"}}})),
		"GET /nested": always(200, toJSON(map[string]any{"jwk": jwkOf(public, "k1", "")})),
		"GET /query": func(w http.ResponseWriter, r *http.Request) {
			if r.URL.RawQuery != "format=jwk&purpose=pin" {
				t.Errorf("asked %s", r.URL)
			}
			reply(w, 200, toJSON(jwkOf(public, "k1", "")))
		},
	}
	with := func(s partner.KeySource, id, choose string) partner.KeySource {
		s.KeyID, s.Choose = id, choose
		return s
	}
	at := func(path string) partner.KeySource { return partner.KeySource{URL: "https://keys.example" + path} }
	inside := at("/own")
	inside.Member, inside.IDMember = "/data/0/key", "/data/0/id"
	nested := at("/nested")
	nested.Member = "/jwk"
	for name, tc := range map[string]struct {
		source partner.KeySource
		want   string
	}{
		"a JWK":                 {at("/jwk"), "k1"},
		"with a query":          {at("/query?purpose=pin&format=jwk"), "k1"},
		"the first of a set":    {with(at("/jwks"), "", partner.ChooseFirst), "k1"},
		"one of a set":          {with(at("/jwks"), "k1", ""), "k1"},
		"PEM":                   {with(at("/pem"), "mine", ""), "mine"},
		"base64 of DER":         {with(at("/spki"), "mine", ""), "mine"},
		"JSON of its own":       {inside, "k1"},
		"a JWK inside of it":    {nested, "k1"},
		"a fingerprint":         {with(at("/pem"), partner.KeyIDFingerprint, ""), spkiFingerprint(public)},
		"a file of PEM":         {with(file("a", []byte(text["PEM"])), "mine", ""), "mine"},
		"a file of a JWK":       {file("b", []byte(toJSON(jwkOf(public, "k1", "")))), "k1"},
		"a file of a nameless":  {with(file("c", []byte(toJSON(jwkOf(public, "", "")))), "mine", ""), "mine"},
		"a certificate":         {with(file("d", certificate(t, now.Add(-time.Hour), now.Add(time.Hour))), "mine", ""), "mine"},
		"a PKCS#1 key in a set": {with(file("e", []byte(text["PEM, PKCS#1"])), "mine", ""), "mine"},
	} {
		t.Run(name, func(t *testing.T) {
			id, version, alg, key, err := described(t, &wire{Handler: answers}, func(c *partner.JWEConfig) { c.Key = tc.source }).FetchKey(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if id != tc.want || version != 0 || alg != "RSA-OAEP-256" || !public.Equal(key) {
				t.Errorf("got %q, %d, %s, %v", id, version, alg, key)
			}
		})
	}
	for name, source := range map[string]partner.KeySource{
		"no name":         at("/pem"),
		"several":         at("/jwks"),
		"not there":       with(at("/jwks"), "k9", ""),
		"one name twice":  with(at("/twice"), "k1", partner.ChooseFirst),
		"no member":       {URL: "https://keys.example/own", Member: "/data/1/key"},
		"no id":           {URL: "https://keys.example/own", Member: "/data/0/key", IDMember: "/data/0/x"},
		"no file":         {File: filepath.Join(dir, "none")},
		"a large file":    with(file("x", []byte(text["PEM"]+strings.Repeat("\n", 1<<20))), "mine", ""),
		"an old one":      with(file("y", certificate(t, now.Add(-2*time.Hour), now.Add(-time.Hour))), "mine", ""),
		"one to come":     with(file("z", certificate(t, now.Add(time.Hour), now.Add(2*time.Hour))), "mine", ""),
		"a name of words": with(at("/pem"), "my key", ""),
	} {
		_, _, _, key, err := described(t, &wire{Handler: answers}, func(c *partner.JWEConfig) { c.Key = source }).FetchKey(t.Context())
		if !errors.Is(err, partner.ErrAnswer) || key != nil {
			t.Errorf("%s: got %v, %v", name, key, err)
		}
	}
	_, _, _, _, err := described(t, &wire{Handler: answers}, func(c *partner.JWEConfig) { c.Key, c.SealAlg = at("/jwk"), "ECDH-ES" }).FetchKey(t.Context())
	if !errors.Is(err, partner.ErrAnswer) {
		t.Errorf("an RSA key for ECDH-ES: %v", err)
	}
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
		"like Visa": {partnersim.Options{GenericEnc: "A128GCM", GenericMember: "encData", GenericKeyHeader: "keyId"}, func(c *partner.JWEConfig) {
			service(c)
			c.Form, c.SealEnc, c.RequestMember = partner.FormMember, "A128GCM", "/encData"
			c.Header = map[string]string{"keyId": "{key_id}"}
			c.OurKey, c.ReplyAlgs, c.ReplyEncs = partner.OurKeyByHand, []string{"RSA-OAEP-256"}, []string{"A256GCM"}
		}, &rsaKey().PublicKey, partner.KindSealed},
		"like Method": {partnersim.Options{GenericMember: "encrypted"}, func(c *partner.JWEConfig) {
			service(c)
			c.SecretIn = partner.SecretInForm
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
	var sent http.Header
	none = described(t, &wire{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sent = r.Header.Clone()
		w.WriteHeader(204)
	})}, func(c *partner.JWEConfig) { c.Authorization = partner.AuthNone })
	if res, err := none.Do(t.Context(), partner.Request{Method: "POST", Path: "/v1/x", Body: []byte(compactJWE)}); err != nil || res.Kind != partner.KindEmpty || sent.Get("Authorization") != "" {
		t.Errorf("got %+v, %v with %v", res, err, sent)
	}
}

func TestKeyThatCallersAreShown(t *testing.T) {
	sim := partnersim.New(partnersim.Options{})
	j := described(t, sim.Transport(), func(c *partner.JWEConfig) {
		c.Key = partner.KeySource{URL: genericURL + "/v1/key", Authorization: partner.AuthCaller, Member: "/data/publicKey", IDMember: "/data/keyId"}
	})
	if _, _, _, _, err := j.FetchKey(t.Context()); !errors.Is(err, partner.ErrNeedsCaller) || !j.Profile().CallersKey {
		t.Errorf("got %v", err)
	}
	id, _, _, key, err := j.FetchKeyAs(t.Context(), "Bearer "+sim.NewUserToken(partnersim.Generic))
	if err != nil || id == "" || key == nil {
		t.Errorf("got %q, %v, %v", id, key, err)
	}
	if _, _, _, _, err := j.FetchKeyAs(t.Context(), ""); !errors.Is(err, partner.ErrRequest) {
		t.Errorf("got %v", err)
	}
	open := described(t, sim.Transport())
	if _, _, _, _, err := open.FetchKeyAs(t.Context(), "Bearer user-1"); err != nil {
		t.Errorf("a key for everybody: %v", err)
	}
	for _, r := range sim.Requests() {
		if r.Endpoint == partnersim.EndpointGenericJWKS && r.Header.Get("Authorization") != "" {
			t.Error("a token went where none is asked for")
		}
	}
}

func TestDescribedProfileIsWhatTheConfigSays(t *testing.T) {
	j := described(t, &wire{}, func(c *partner.JWEConfig) {
		c.Form, c.SealAlg, c.SealEnc, c.KID, c.RequestMember = partner.FormMember, "ECDH-ES+A128KW", "A128GCM", partner.KIDOurs, "/x"
		c.URLHeader, c.JOSE, c.IssuedAt = true, map[string]string{"typ": "JOSE"}, partner.IssuedMilliseconds
		c.ReplyAlgs, c.ReplyEncs, c.OurKey, c.KeyForm = []string{"ECDH-ES"}, []string{"A256GCM"}, partner.OurKeyInBody, partner.KeyPoint
	})
	want := partner.Profile{Type: "jwe", Form: partner.FormMember, SealAlg: "ECDH-ES+A128KW", SealEnc: "A128GCM", KID: partner.KIDOurs, URLHeader: true,
		JOSE: map[string]string{"typ": "JOSE"}, IssuedAt: "milliseconds", ReplyAlgs: []string{"ECDH-ES"}, ReplyEncs: []string{"A256GCM"}, OurKey: partner.OurKeyInBody}
	if diff := cmp.Diff(want, j.Profile()); diff != "" {
		t.Error(diff)
	}
	point := must(j.PublicKey(&ecKey().PublicKey, "k"))
	if string(point) != toJSON(base64.StdEncoding.EncodeToString(must(ecKey().PublicKey.ECDH()).Bytes())) {
		t.Errorf("got %s", point)
	}
	if err := j.Announce(t.Context(), testKID, &ecKey().PublicKey, testFrom, testTill); err != nil {
		t.Error(err)
	}
	wantProfile := partner.Profile{Type: "jwe", Form: partner.FormBody, SealAlg: "RSA-OAEP-256", SealEnc: "A256GCM", KID: partner.KIDTheirs, OurKey: partner.OurKeyNone}
	if diff := cmp.Diff(wantProfile, described(t, &wire{}).Profile()); diff != "" {
		t.Error(diff)
	}
}

func TestDescriptionsThatAreRefused(t *testing.T) {
	for says, change := range map[string]func(*partner.JWEConfig){
		"form":                      func(c *partner.JWEConfig) { c.Form = "xml" },
		"seal alg":                  func(c *partner.JWEConfig) { c.SealAlg = "RSA1_5" },
		"reply alg":                 func(c *partner.JWEConfig) { c.ReplyAlgs, c.OurKey = []string{"RSA1_5"}, partner.OurKeyByHand },
		`reply alg "dir"`:           func(c *partner.JWEConfig) { c.ReplyAlgs, c.OurKey = []string{"dir"}, partner.OurKeyByHand },
		"reply encs":                func(c *partner.JWEConfig) { c.ReplyAlgs, c.OurKey = []string{"ECDH-ES"}, partner.OurKeyByHand },
		"our key is none":           func(c *partner.JWEConfig) { c.ReplyAlgs, c.ReplyEncs = []string{"ECDH-ES"}, []string{"A256GCM"} },
		`our key "uploaded"`:        func(c *partner.JWEConfig) { c.OurKey = partner.OurKeyUploaded },
		"key form":                  func(c *partner.JWEConfig) { c.KeyForm = "x" },
		"kid":                       func(c *partner.JWEConfig) { c.KID = "x" },
		"issued at":                 func(c *partner.JWEConfig) { c.IssuedAt = "days" },
		"request member":            func(c *partner.JWEConfig) { c.Form = partner.FormMember },
		"and with that alone":       func(c *partner.JWEConfig) { c.RequestMember = "/x" },
		"plain names":               func(c *partner.JWEConfig) { c.Form, c.RequestMember = partner.FormMember, "x~1" },
		"fields: want form":         func(c *partner.JWEConfig) { c.Fields = []partner.FieldRule{{Paths: []string{"/"}}} },
		`path "x"`:                  func(c *partner.JWEConfig) { c.Direct = []string{"x"} },
		`header "Authorization"`:    func(c *partner.JWEConfig) { c.Header = map[string]string{"Authorization": "x"} },
		`header "X"`:                func(c *partner.JWEConfig) { c.Header = map[string]string{"X": "a\nb"} },
		`jose "alg"`:                func(c *partner.JWEConfig) { c.JOSE = map[string]string{"alg": "none"} },
		`jose "crit"`:               func(c *partner.JWEConfig) { c.JOSE = map[string]string{"crit": "x"} },
		"authorization":             func(c *partner.JWEConfig) { c.Authorization = "x" },
		"token URL":                 func(c *partner.JWEConfig) { c.Authorization = partner.AuthService },
		"client ID":                 func(c *partner.JWEConfig) { c.Key.Authorization = partner.AuthService },
		"secret in":                 func(c *partner.JWEConfig) { c.SecretIn = "query" },
		"want a URL or a file":      func(c *partner.JWEConfig) { c.Key = partner.KeySource{} },
		"a URL or a file":           func(c *partner.JWEConfig) { c.Key.File = "x" },
		"not a URL":                 func(c *partner.JWEConfig) { c.Key.URL = "https://a b" },
		"want https":                func(c *partner.JWEConfig) { c.Key.URL = "http://keys.example" },
		"host, port and path":       func(c *partner.JWEConfig) { c.Key.URL = "https://u:p@keys.example" },
		"choose":                    func(c *partner.JWEConfig) { c.Key.Choose = "last" },
		"not a JSON pointer":        func(c *partner.JWEConfig) { c.Key.Member = "x" },
		"without a member":          func(c *partner.JWEConfig) { c.Key.IDMember = "/x" },
		`key: authorization "none"`: func(c *partner.JWEConfig) { c.Key.Authorization = partner.AuthNone },
		"needs no authorization":    func(c *partner.JWEConfig) { c.Key = partner.KeySource{File: "x", Authorization: partner.AuthCaller} },
		"not the partner's host": func(c *partner.JWEConfig) {
			c.Key = partner.KeySource{URL: "https://keys.example/k", Authorization: partner.AuthCaller}
		},
	} {
		if _, err := tryDescribed(&wire{}, change); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: got %v", says, err)
		}
	}
}

func FuzzDescribedKey(f *testing.F) {
	f.Add([]byte(`{"keys":[{"kty":"EC","crv":"P-256","kid":"k","x":"AA","y":"AA"}]}`))
	f.Add([]byte(sampleKey))
	f.Add([]byte("-----BEGIN PUBLIC KEY-----\n" + sampleKey + "\n-----END PUBLIC KEY-----\n"))
	f.Add([]byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"))
	f.Add([]byte(`{"data":{"key":"` + sampleKey + `"}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		for _, alg := range []string{"RSA-OAEP-256", "ECDH-ES"} {
			for _, member := range []string{"", "/data/key"} {
				_, _, _, key, err := described(t, &wire{Handler: always(200, string(body))}, func(c *partner.JWEConfig) {
					c.SealAlg, c.Key.Member, c.Key.KeyID = alg, member, partner.KeyIDFingerprint
				}).FetchKey(t.Context())
				if err != nil {
					if !errors.Is(err, partner.ErrAnswer) {
						t.Errorf("got %v", err)
					}
					printable(t, err)
					continue
				}
				switch k := key.(type) {
				case *rsa.PublicKey:
					if alg == "ECDH-ES" || k.N.BitLen() < 2048 {
						t.Errorf("got %v", k)
					}
				case *ecdh.PublicKey:
					if alg != "ECDH-ES" {
						t.Errorf("got %v", k)
					}
				}
			}
		}
	})
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
