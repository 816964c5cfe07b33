package partnersim_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/uuid"

	"keyd/internal/partner/partnersim"
)

const (
	jhTokenPath = "/jackhenry/a/oidc-provider/api/v0/token"
	jhCards     = "/jackhenry/api/card-mgmt/v1/"
)

// claims of a client assertion as they should be.
func claims() map[string]any {
	return map[string]any{"iss": partnersim.DemoJackHenryClientID, "sub": partnersim.DemoJackHenryClientID, "aud": "http://wise.test" + jhTokenPath,
		"jti": uuid.NewString(), "exp": time.Now().Add(time.Minute).Unix()}
}

func assertion(t *testing.T, key *rsa.PrivateKey, alg jose.SignatureAlgorithm, kid string, claims map[string]any) string {
	t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: jose.JSONWebKey{Key: key, KeyID: kid}}, nil)
	must(t, err)
	payload, err := json.Marshal(claims)
	must(t, err)
	jws, err := signer.Sign(payload)
	must(t, err)
	compact, err := jws.CompactSerialize()
	must(t, err)
	return compact
}

func (c *client) jhLogin(assertion string, change func(url.Values)) answer {
	c.t.Helper()
	form := url.Values{"grant_type": {"client_credentials"}, "client_assertion": {assertion}, "scope": {"openid"},
		"client_assertion_type": {"urn:ietf:params:oauth:client-assertion-type:jwt-bearer"}}
	if change != nil {
		change(form)
	}
	return c.do("POST", jhTokenPath, http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}, form.Encode())
}

func TestClientAssertions(t *testing.T) {
	key, other := keyPool()[0], keyPool()[1]
	sim := partnersim.New(partnersim.Options{})
	sim.RegisterAssertionKey(&key.PublicKey, "k1")
	c := direct(t, sim)
	good := assertion(t, key, jose.PS256, "k1", claims())
	if a := c.jhLogin(good, nil); a.status != 200 || a.field(t, "expires_in") != 600.0 {
		t.Fatalf("got %d %s", a.status, a.body)
	}
	with := func(name string, value any) string {
		m := claims()
		m[name] = value
		return assertion(t, key, jose.PS256, "k1", m)
	}
	for name, bad := range map[string]string{
		"used before":      good,
		"not signed":       strings.Join(strings.Split(good, ".")[:2], ".") + ".",
		"another alg":      assertion(t, key, jose.RS256, "k1", claims()),
		"another key":      assertion(t, other, jose.PS256, "k1", claims()),
		"another kid":      assertion(t, key, jose.PS256, "k2", claims()),
		"no kid":           assertion(t, key, jose.PS256, "", claims()),
		"another audience": with("aud", "https://login.example/token"),
		"another issuer":   with("iss", "somebody"),
		"another subject":  with("sub", "somebody"),
		"no jti":           with("jti", ""),
		"expired":          with("exp", time.Now().Add(-time.Second).Unix()),
		"in milliseconds":  with("exp", time.Now().Add(time.Minute).UnixMilli()),
		"not JSON":         "a.b.c",
	} {
		if a := c.jhLogin(bad, nil); a.status != 401 || a.field(t, "error") != "invalid_client" {
			t.Errorf("%s: %d %s", name, a.status, a.body)
		}
	}
	for name, change := range map[string]func(url.Values){
		"another grant":          func(f url.Values) { f.Set("grant_type", "password") },
		"another assertion type": func(f url.Values) { f.Del("client_assertion_type") },
		"no scope":               func(f url.Values) { f.Del("scope") },
	} {
		if a := c.jhLogin(assertion(t, key, jose.PS256, "k1", claims()), change); a.status != 400 {
			t.Errorf("%s: %d %s", name, a.status, a.body)
		}
	}
	reasons := map[string]bool{}
	for _, r := range sim.Requests() {
		reasons[r.Refusal] = true
	}
	if len(reasons) < 8 {
		t.Errorf("the log does not tell the refusals apart: %v", reasons)
	}
}

func TestClientKeysByURL(t *testing.T) {
	document, status := "", 200
	jwks := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = w.Write([]byte(document))
	}))
	defer jwks.Close()
	sim := partnersim.New(partnersim.Options{})
	c := direct(t, sim)
	if a := c.do("POST", "/sim/jackhenry/client", nil, `{"jwks_url":"`+jwks.URL+`"}`); a.status != 204 {
		t.Fatalf("registering: %d %s", a.status, a.body)
	}
	publish := func(keys ...jose.JSONWebKey) {
		raw, err := json.Marshal(jose.JSONWebKeySet{Keys: keys})
		must(t, err)
		document = string(raw)
	}
	first, second := keyPool()[0], keyPool()[1]
	login := func(key *rsa.PrivateKey, kid string) int {
		t.Helper()
		return c.jhLogin(assertion(t, key, jose.PS256, kid, claims()), nil).status
	}
	publish(jose.JSONWebKey{Key: &first.PublicKey, KeyID: "k1", Use: "sig"})
	if got := login(first, "k1"); got != 200 {
		t.Errorf("the first key: %d", got)
	}
	publish(jose.JSONWebKey{Key: &first.PublicKey, KeyID: "k1", Use: "sig"}, jose.JSONWebKey{Key: &second.PublicKey, KeyID: "k2", Use: "sig"})
	if a, b := login(first, "k1"), login(second, "k2"); a != 200 || b != 200 {
		t.Errorf("in a rotation: %d, %d", a, b)
	}
	publish(jose.JSONWebKey{Key: &second.PublicKey, KeyID: "k2", Use: "enc"})
	if got := login(second, "k2"); got != 401 {
		t.Errorf("a key for something else: %d", got)
	}
	if status = 404; login(second, "k2") != 401 {
		t.Error("a document that is not there")
	}
	der, err := x509.MarshalPKIXPublicKey(&second.PublicKey)
	must(t, err)
	fixed, err := json.Marshal(map[string]string{"kid": "k2", "pem": string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))})
	must(t, err)
	if a := c.do("POST", "/sim/jackhenry/client", nil, string(fixed)); a.status != 204 || login(second, "k2") != 200 {
		t.Errorf("a fixed key: %d %s", a.status, a.body)
	}
	for _, bad := range []string{`{}`, `{"pem":"x"}`, `{"pem":"x","jwks_url":"y"}`, `x`} {
		if a := c.do("POST", "/sim/jackhenry/client", nil, bad); a.status != 400 {
			t.Errorf("%s: %d", bad, a.status)
		}
	}
}

func TestJackHenryRequestsThatAreRefused(t *testing.T) {
	sim := partnersim.New(partnersim.Options{})
	c := direct(t, sim)
	c.token = sim.NewUserToken(partnersim.JackHenry)
	a := c.do("GET", jhCards+"encryption-utils/public-key/pem", nil, "")
	armoured, err := base64.StdEncoding.DecodeString(a.field(t, "publicKey").(string))
	must(t, err)
	block, _ := pem.Decode(armoured)
	parsed, err := x509.ParsePKIXPublicKey(block.Bytes)
	must(t, err)
	kid := a.field(t, "keyId").(string)
	ours, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	seal := func(alg jose.KeyAlgorithm, key any, kid, plaintext string) string {
		e, err := jose.NewEncrypter(jose.A256GCM, jose.Recipient{Algorithm: alg, Key: key, KeyID: kid}, nil)
		must(t, err)
		jwe, err := e.Encrypt([]byte(plaintext))
		must(t, err)
		compact, err := jwe.CompactSerialize()
		must(t, err)
		return compact
	}
	der, err := x509.MarshalPKIXPublicKey(&ours.PublicKey)
	must(t, err)
	const pan = `{"primaryAccountNumber":"4396910000012345"}`
	good := map[string]any{"publicKey": base64.StdEncoding.EncodeToString(der), "expiration": map[string]any{},
		"encryptedPrimaryAccountNumber": seal(jose.ECDH_ES, parsed, kid, pan)}
	post := func(body map[string]any) answer {
		t.Helper()
		raw, err := json.Marshal(body)
		must(t, err)
		return c.do("POST", jhCards+"i/card-credentials/search-by-pan?includeCardVerificationCode=true", http.Header{"Content-Type": {"application/json"}}, string(raw))
	}
	a = post(good)
	jwe, err := jose.ParseEncryptedCompact(a.field(t, "encryptedCardCredentials").(string), []jose.KeyAlgorithm{jose.ECDH_ES}, []jose.ContentEncryption{jose.A256GCM})
	must(t, err)
	if plain, err := jwe.Decrypt(ours); err != nil || string(plain) != `{"cardVerificationCode":"111"}` {
		t.Errorf("got %s, %v", plain, err)
	}
	for name, change := range map[string]map[string]any{
		"no key":           {"publicKey": nil},
		"an odd key":       {"publicKey": "AAAA"},
		"a key with a kid": {"publicKey": map[string]string{"kty": "EC"}},
		"no expiration":    {"expiration": nil},
		"no PAN":           {"encryptedPrimaryAccountNumber": nil},
		"a PAN in clear":   {"encryptedPrimaryAccountNumber": "4396910000012345"},
		"an odd PAN":       {"encryptedPrimaryAccountNumber": seal(jose.ECDH_ES, parsed, kid, `{"primaryAccountNumber":"x"}`)},
		"no kid":           {"encryptedPrimaryAccountNumber": seal(jose.ECDH_ES, parsed, "", pan)},
		"another kid":      {"encryptedPrimaryAccountNumber": seal(jose.ECDH_ES, parsed, "k", pan)},
		"another alg":      {"encryptedPrimaryAccountNumber": seal(jose.ECDH_ES_A256KW, parsed, kid, pan)},
		"another key":      {"encryptedPrimaryAccountNumber": seal(jose.ECDH_ES, &ours.PublicKey, kid, pan)},
	} {
		body := maps.Clone(good)
		maps.Copy(body, change)
		a := post(body)
		if a.status != 400 || a.header.Get("Content-Type") != "application/problem+json" || a.field(t, "type") != "jackhenry/operation-failed" {
			t.Errorf("%s: %d %s", name, a.status, a.body)
		}
	}
	c.token = sim.NewUserToken(partnersim.Wise)
	if a := post(good); a.status != 401 {
		t.Errorf("with a token of Wise's: %d", a.status)
	}
	for _, r := range sim.Requests() {
		if strings.Contains(r.Refusal, "4396") {
			t.Errorf("the log shows the PAN: %+v", r)
		}
	}
}
