package partner_test

import (
	"crypto"
	"crypto/rsa"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/go-cmp/cmp"

	"keyd/internal/partner"
	"keyd/internal/partner/partnersim"
)

const (
	askPowensKey   = "GET /publickey"
	askPowensToken = "POST /auth/token"
	connections    = "/users/me/connections"
)

func powens(t testing.TB, h http.RoundTripper, changes ...func(*partner.PowensConfig)) *partner.Powens {
	t.Helper()
	cfg := partner.PowensConfig{Connection: link("powens", h)}
	for _, change := range changes {
		change(&cfg)
	}
	return must(partner.NewPowens(cfg))
}

// service makes a client use keyd's own token, for everything.
func service(c *partner.PowensConfig) {
	c.Authorization, c.KeyAuthorization = partner.AuthService, partner.AuthService
	c.ClientID, c.ClientSecret = testID, func() ([]byte, error) { return []byte(testSecret), nil }
	c.Scopes = []string{"connections:admin"}
}

func jwkOf(key crypto.PublicKey, kid, use string) jose.JSONWebKey {
	return jose.JSONWebKey{Key: key, KeyID: kid, Use: use}
}

func sealRSA(t testing.TB, key crypto.PublicKey, kid, plaintext string) string {
	t.Helper()
	enc := must(jose.NewEncrypter(jose.A256GCM, jose.Recipient{Algorithm: jose.RSA_OAEP_256, Key: key, KeyID: kid}, nil))
	return must(must(enc.Encrypt([]byte(plaintext))).CompactSerialize())
}

func TestPowensKeyIsReadAsAKeyAndAsASet(t *testing.T) {
	public, other := &rsaKey().PublicKey, &otherRSA().PublicKey
	set := func(keys ...jose.JSONWebKey) string { return toJSON(jose.JSONWebKeySet{Keys: keys}) }
	for name, tc := range map[string]struct{ body, keyID string }{
		"one":               {toJSON(jwkOf(public, "k1", "enc")), ""},
		"one, no use":       {toJSON(jwkOf(public, "k1", "")), ""},
		"one, an odd alg":   {toJSON(jose.JSONWebKey{Key: public, KeyID: "k1", Algorithm: "RS256"}), ""},
		"a set of one":      {set(jwkOf(public, "k1", "enc")), ""},
		"a set, one fits":   {set(jwkOf(other, "k2", "sig"), jwkOf(public, "k1", "enc")), ""},
		"a set, named":      {set(jwkOf(other, "k2", "enc"), jwkOf(public, "k1", "enc")), "k1"},
		"members unheard":   {`{"new":[1],` + toJSON(jwkOf(public, "k1", "enc"))[1:], ""},
		"operations listed": {`{"key_ops":["encrypt"],` + toJSON(jwkOf(public, "k1", ""))[1:], ""},
	} {
		t.Run(name, func(t *testing.T) {
			h := &wire{Handler: routes{askPowensKey: func(w http.ResponseWriter, r *http.Request) {
				if got := r.Header.Get("Authorization"); got != "" {
					t.Errorf("sent Authorization %q", got)
				}
				reply(w, 200, tc.body)
			}}}
			id, version, alg, key, err := powens(t, h, func(c *partner.PowensConfig) { c.KeyID = tc.keyID }).FetchKey(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if id != "k1" || version != 0 || alg != "RSA-OAEP-256" || !public.Equal(key) {
				t.Errorf("got %q, %d, %s, %v", id, version, alg, key)
			}
		})
	}
}

func TestPowensKeysThatAreRefused(t *testing.T) {
	public, other := &rsaKey().PublicKey, &otherRSA().PublicKey
	set := func(keys ...jose.JSONWebKey) string { return toJSON(jose.JSONWebKeySet{Keys: keys}) }
	good := toJSON(jwkOf(public, "k1", "enc"))
	weak := newRSA(1024)
	for name, tc := range map[string]struct{ body, keyID string }{
		"not JSON":          {"x", ""},
		"null":              {"null", ""},
		"a list":            {"[" + good + "]", ""},
		"an empty set":      {`{"keys":[]}`, ""},
		"no kid":            {toJSON(jwkOf(public, "", "enc")), ""},
		"an odd kid":        {toJSON(jwkOf(public, "k 1", "enc")), ""},
		"another kid":       {good, "k9"},
		"several fit":       {set(jwkOf(public, "k1", "enc"), jwkOf(other, "k2", "enc")), ""},
		"one kid twice":     {set(jwkOf(public, "k1", "enc"), jwkOf(other, "k1", "enc")), "k1"},
		"for signatures":    {toJSON(jwkOf(public, "k1", "sig")), ""},
		"for verifying":     {`{"key_ops":["verify"],` + toJSON(jwkOf(public, "k1", ""))[1:], ""},
		"a private key":     {toJSON(jwkOf(rsaKey(), "k1", "enc")), ""},
		"a secret key":      {toJSON(jwkOf([]byte("0123456789abcdef"), "k1", "enc")), ""},
		"an EC key":         {toJSON(jwkOf(&ecKey().PublicKey, "k1", "enc")), ""},
		"a weak key":        {toJSON(jwkOf(&weak.PublicKey, "k1", "enc")), ""},
		"members in CAPS":   {strings.Replace(good, `"n"`, `"N"`, 1), ""},
		"padding":           {strings.Replace(good, `"AQAB"`, `"AQAB=="`, 1), ""},
		"exponent of three": {strings.Replace(good, `"AQAB"`, `"Aw"`, 1), ""},
		"a huge exponent":   {strings.Replace(good, `"AQAB"`, `"AQABAQABAQAB"`, 1), ""},
		"n is a number":     {`{"kty":"RSA","kid":"k1","n":7,"e":"AQAB"}`, ""},
	} {
		h := &wire{Handler: routes{askPowensKey: always(200, tc.body)}}
		id, _, _, key, err := powens(t, h, func(c *partner.PowensConfig) { c.KeyID = tc.keyID }).FetchKey(t.Context())
		if !errors.Is(err, partner.ErrAnswer) || key != nil || id != "" {
			t.Errorf("%s: got %q, %v, %v", name, id, key, err)
		}
	}
}

func TestPowensTokenLivesThirtyMinutesThoughItDoesNotSay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked []string
		h := &wire{Handler: routes{askPowensKey: always(200, toJSON(jwkOf(&rsaKey().PublicKey, "k1", "enc"))),
			askPowensToken: func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				asked = append(asked, string(body))
				if r.Header.Get("Authorization") != "" || r.Header.Get("Content-Type") != "application/json" {
					t.Errorf("headers %v", r.Header)
				}
				reply(w, 200, `{"token":"token-1","scope":["connections:admin"]}`)
			}}}
		p := powens(t, h, service)
		for range 5 { // at 0, 13, 26, 39 and 52 minutes
			if _, _, _, _, err := p.FetchKey(t.Context()); err != nil {
				t.Fatal(err)
			}
			time.Sleep(13 * time.Minute)
		}
		if len(asked) != 2 {
			t.Errorf("%d tokens asked for, want one at the start and one after 27 minutes", len(asked))
		}
		want := toJSON(map[string]any{"grant_type": "client_credentials", "client_id": testID, "client_secret": testSecret, "scope": []string{"connections:admin"}})
		if asked[0] != want {
			t.Errorf("asked %s, want %s", asked[0], want)
		}
	})
}

func TestPowensTokenRefusalsHideTheSecret(t *testing.T) {
	mirror := func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		reply(w, 401, `{"code":"wrongpass","description":`+toJSON("you sent "+string(body))+`}`)
	}
	for _, handler := range []http.HandlerFunc{mirror, always(200, `{"token":""}`), always(200, `{"token":7}`), always(200, `{"access_token":"token-1"}`), always(200, testSecret)} {
		h := &wire{Handler: routes{askPowensToken: handler}}
		_, _, _, _, err := powens(t, h, service).FetchKey(t.Context())
		if err == nil {
			t.Fatal("a refusal is a token")
		}
		printable(t, err)
		if strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "bytes") {
			t.Errorf("got %v", err)
		}
	}
}

func TestPowensWithTheSimulator(t *testing.T) {
	for _, keys := range []string{partnersim.KeysSingle, partnersim.KeysSet} {
		sim := partnersim.New(partnersim.Options{PowensKeys: keys, KeyOverlap: -1, ExtraFields: true})
		base := func(c *partner.PowensConfig) { c.BaseURL = "https://partner.example/powens/2.0" }
		p := powens(t, sim.Transport(), base)
		authorization := "Bearer " + sim.NewUserToken(partnersim.Powens)
		connect := func(p *partner.Powens, id string, key crypto.PublicKey) *partner.Response {
			t.Helper()
			res, err := p.Do(t.Context(), partner.Request{Method: "POST", Path: connections, Authorization: authorization,
				Body: []byte(toJSON(map[string]any{"id_connector": 59, "login": sealRSA(t, key, id, "me"), "password": sealRSA(t, key, id, "hunter2")}))})
			if err != nil {
				t.Fatal(err)
			}
			return res
		}
		id, _, _, key, err := p.FetchKey(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		want(t, connect(p, id, key), 200, partner.KindPlain)
		if last := sim.Requests()[sim.Count(partnersim.Any)-1]; len(last.Opened) != 2 {
			t.Errorf("log %+v", last)
		}
		want(t, connect(p, "other", key), 400, partner.KindStale)
		sim.Rotate(partnersim.Powens)
		want(t, connect(p, id, key), 400, partner.KindStale)
		old := powens(t, sim.Transport(), base, func(c *partner.PowensConfig) { c.StaleCodes = []string{"dataError"} })
		want(t, connect(old, id, key), 400, partner.KindPlain)
		if id, _, _, key, err = p.FetchKey(t.Context()); err != nil {
			t.Fatal(err)
		}
		want(t, connect(p, id, key), 200, partner.KindPlain)
		for kind, fault := range map[string]partnersim.Fault{partner.KindLimited: {Kind: partnersim.RateLimit},
			partner.KindPlain: {Kind: partnersim.ExpiredToken}, partner.KindEmpty: {Kind: partnersim.Empty}} {
			authorization = "Bearer " + sim.NewUserToken(partnersim.Powens)
			fault.Endpoint = partnersim.EndpointConnect
			if err := sim.Fail(fault); err != nil {
				t.Fatal(err)
			}
			if res := connect(p, id, key); res.Kind != kind {
				t.Errorf("%s: %d, %s", fault.Kind, res.Status, res.Kind)
			}
		}
	}
	sim := partnersim.New(partnersim.Options{})
	p := powens(t, sim.Transport(), service, func(c *partner.PowensConfig) {
		c.BaseURL, c.ClientID = "https://partner.example/powens/2.0", partnersim.DemoClientID
		c.ClientSecret = func() ([]byte, error) { return []byte(partnersim.DemoClientSecret), nil }
	})
	id, _, _, key, err := p.FetchKey(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	res, err := p.Do(t.Context(), partner.Request{Method: "POST", Path: connections + "/17",
		Body: []byte(toJSON(map[string]any{"login": sealRSA(t, key, id, "me"), "password": sealRSA(t, key, id, "hunter2")}))})
	if err != nil || res.Status != 200 || sim.Count(partnersim.EndpointPowensToken) != 1 {
		t.Errorf("got %+v, %v", res, err)
	}
}

func TestPowensRequestsThatNeverLeave(t *testing.T) {
	h := &wire{Handler: routes{}}
	p := powens(t, h, func(c *partner.PowensConfig) {
		c.Fields = []partner.FieldRule{{Paths: []string{"/users/*/connections", "/users/*/connections/"}, Seal: []string{"/password", "/more/0/a~1b"}}}
	})
	for name, req := range map[string]partner.Request{
		"a password in clear":   {Path: connections, Body: []byte(`{"password":"hunter2"}`)},
		"one deep inside":       {Path: connections + "/1", Body: []byte(`{"more":[{"a/b":"hunter2"}]}`)},
		"a password twice":      {Path: connections, Body: []byte(`{"password":"hunter2","password":"` + compactJWE + `"}`)},
		"twice, deep inside":    {Path: connections, Body: []byte(`{"more":[{"a/b":"hunter2","a\u002fb":"` + compactJWE + `"}]}`)},
		"a token":               {Path: "/auth/token", Body: []byte(`{}`)},
		"a token of a user":     {Path: "/auth/init", Body: []byte(`{}`)},
		"no JSON":               {Path: connections, Body: []byte(`password=hunter2`)},
		"somebody else's token": {Path: connections, Body: []byte(`{}`), Authorization: "Basic x"},
	} {
		req.Method = "POST"
		if req.Authorization == "" {
			req.Authorization = "Bearer user-1"
		}
		res, err := p.Do(t.Context(), req)
		if res != nil || !errors.Is(err, partner.ErrRequest) && !errors.Is(err, partner.ErrNotAllowed) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: got %+v, %v", name, res, err)
		}
	}
	if len(h.seen) != 0 {
		t.Errorf("sent %v", h.seen)
	}
	want := partner.Endpoint{Direct: partner.DirectNever, Header: http.Header{}, Seal: []string{"/password", "/more/0/a~1b"}}
	if diff := cmp.Diff(want, p.Endpoint("POST", connections)); diff != "" {
		t.Error(diff)
	}
}

func TestPowensProfileAndConfig(t *testing.T) {
	want := partner.Profile{Type: "powens", Form: partner.FormFields, SealAlg: "RSA-OAEP-256", SealEnc: "A256GCM", KID: partner.KIDTheirs, OurKey: partner.OurKeyNone}
	if diff := cmp.Diff(want, powens(t, &wire{}).Profile()); diff != "" {
		t.Error(diff)
	}
	for says, change := range map[string]func(*partner.PowensConfig){
		"authorization":     func(c *partner.PowensConfig) { c.Authorization = "both" },
		"key authorization": func(c *partner.PowensConfig) { c.KeyAuthorization = "query" },
		"client ID":         func(c *partner.PowensConfig) { c.KeyAuthorization = partner.AuthService },
		"stale status":      func(c *partner.PowensConfig) { c.StaleStatus = []int{200} },
		"and not 429":       func(c *partner.PowensConfig) { c.StaleStatus = []int{429} },
	} {
		cfg := partner.PowensConfig{Connection: link("powens", &wire{})}
		change(&cfg)
		if _, err := partner.NewPowens(cfg); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: got %v", says, err)
		}
	}
}

func FuzzJWK(f *testing.F) {
	const sample = `{"kty":"RSA","kid":"k1","use":"enc","e":"AQAB","n":"wBjfPXePuZJr6jXEPibN8fpgysswqURHJGk5tod-T3SZBgVEXji0cuXF6xCdh7FMwIUROZ3ZsJFxOwyX8dNYzqEiiQy-C_wCr7_OzvRXQsy6qEQyW8fFsuEuqHRwb-ndAtz7HWZhq7P3K8XHCvJ72zeqZySXmxMYZDVwiwp-kMfRofLIivBjkN5DGWfn_7sxDLJr7_DdNgM1lMIHJtc3arffExROOnYkZ-UaUDxPo22Wnrdeb1h5S9s9m8Z46etMVEDbKJ7KEFppcRbMdckLnY3THZm_le5oxjrdVEDyhVioTC01NT0CTiqnNHfzB90ktWLsbKVww-bgDKAgx2x8EQ"}`
	f.Add([]byte(sample))
	f.Add([]byte(`{"keys":[` + sample + `]}`))
	f.Add([]byte(`{"keys":[` + sample + `,{"kty":"EC","crv":"P-256","x":"AA","y":"AA"}]}`))
	f.Add([]byte(`{"keys":null}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		h := &wire{Handler: routes{askPowensKey: always(200, string(body))}}
		id, _, _, key, err := powens(t, h).FetchKey(t.Context())
		if err != nil {
			if !errors.Is(err, partner.ErrAnswer) {
				t.Errorf("got %v", err)
			}
			printable(t, err)
			return
		}
		if k, ok := key.(*rsa.PublicKey); !ok || k.N.BitLen() < 2048 || id == "" || strings.ContainsAny(id, " \r\n") {
			t.Errorf("got %q, %v", id, key)
		}
	})
}
