package partnersim_test

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"net/url"
	"testing"

	"github.com/google/uuid"

	"keyd/internal/partner/partnersim"
)

func unmarshal(t *testing.T, a answer, v any) {
	t.Helper()
	if err := json.Unmarshal(a.body, v); err != nil || a.status != 200 {
		t.Fatalf("got %d %s: %v", a.status, a.body, err)
	}
}

// venlyKey is the first of Venly's keys, with its id.
func (c *client) venlyKey() (*rsa.PublicKey, string) {
	c.t.Helper()
	var list struct {
		Success bool
		Result  struct {
			EncryptionKeys []struct{ ID, Keyspec, PublicKey, EncryptionAlgorithm string }
		}
	}
	unmarshal(c.t, c.do("GET", "/venly/api/security", nil, ""), &list)
	first := list.Result.EncryptionKeys[0]
	der, err := base64.StdEncoding.DecodeString(first.PublicKey)
	must(c.t, err)
	key, err := x509.ParsePKIXPublicKey(der)
	must(c.t, err)
	if !list.Success || first.Keyspec != "RSA_2048" || first.EncryptionAlgorithm != "RSAES_OAEP_SHA_256" {
		c.t.Errorf("got %+v", list)
	}
	return key.(*rsa.PublicKey), first.ID
}

// envelope is Venly's, made by hand.
func envelope(t *testing.T, key *rsa.PublicKey, id, plaintext string) map[string]any {
	t.Helper()
	content, iv := make([]byte, 32), make([]byte, 12)
	_, _ = rand.Read(content)
	_, _ = rand.Read(iv)
	wrapped, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, key, content, nil)
	must(t, err)
	block, err := aes.NewCipher(content)
	must(t, err)
	gcm, err := cipher.NewGCM(block)
	must(t, err)
	return map[string]any{"encryption": map[string]any{"type": "AES/GCM/NoPadding", "key": map[string]any{"encryptedValue": wrapped, "encryptionKeyId": id}, "iv": iv},
		"value": gcm.Seal(nil, iv, []byte(plaintext), nil)}
}

func text(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	must(t, err)
	return string(b)
}

func TestVenlyTokens(t *testing.T) {
	c := direct(t, partnersim.New(partnersim.Options{}))
	const path = "/venly/auth/realms/Arkane/protocol/openid-connect/token"
	form := func(id, secret string) string {
		return url.Values{"grant_type": {"client_credentials"}, "client_id": {id}, "client_secret": {secret}}.Encode()
	}
	header := http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}
	if a := c.do("POST", path, header, form(partnersim.DemoClientID, partnersim.DemoClientSecret)); a.status != 200 || a.field(t, "expires_in") != 360.0 {
		t.Errorf("got %d %s", a.status, a.body)
	}
	if a := c.do("POST", path, header, form(partnersim.DemoClientID, "x")); a.status != 401 {
		t.Errorf("another secret: %d", a.status)
	}
	if a := c.do("POST", path, jsonHeader(), `{"grant_type":"client_credentials"}`); a.status != 400 {
		t.Errorf("JSON, as the docs print: %d", a.status)
	}
}

func TestVenlyHeaderForm(t *testing.T) {
	for _, hash := range []string{partnersim.HashBase64, partnersim.HashHex} {
		sim := partnersim.New(partnersim.Options{VenlyHash: hash})
		c := direct(t, sim)
		key, id := c.venlyKey()
		c.token = sim.NewUserToken(partnersim.Venly)
		const body = `{"transactionRequest":{"value":1}}`
		sum := sha256.Sum256([]byte(body))
		hashes := map[string]string{partnersim.HashBase64: base64.StdEncoding.EncodeToString(sum[:]), partnersim.HashHex: hex.EncodeToString(sum[:])}
		method := func(change func(m map[string]any)) map[string]any {
			m := map[string]any{"id": uuid.NewString(), "value": "123456", "idempotencyKey": uuid.NewString(),
				"signature": map[string]string{"type": "sha256", "value": hashes[hash]}}
			if change != nil {
				change(m)
			}
			return m
		}
		post := func(body string, env map[string]any) answer {
			t.Helper()
			h := jsonHeader()
			h.Set("Encrypted-Signing-Method", base64.StdEncoding.EncodeToString([]byte(text(t, env))))
			return c.do("POST", "/venly/api/transactions", h, body)
		}
		once := envelope(t, key, id, text(t, method(nil)))
		if a := post(body, once); a.status != 200 || a.field(t, "success") != true {
			t.Errorf("got %d %s", a.status, a.body)
		}
		set := func(name string, value any) map[string]any {
			return envelope(t, key, id, text(t, method(func(m map[string]any) { m[name] = value })))
		}
		odd := envelope(t, key, id, text(t, method(nil)))
		odd["encryption"].(map[string]any)["type"] = "AES"
		broken := envelope(t, key, id, text(t, method(nil)))
		broken["value"] = make([]byte, 99)
		other := map[string]string{partnersim.HashBase64: partnersim.HashHex, partnersim.HashHex: partnersim.HashBase64}[hash]
		for name, a := range map[string]answer{
			"the same again":   post(body, once),
			"other bytes":      post(body+" ", envelope(t, key, id, text(t, method(nil)))),
			"the other hash":   post(body, set("signature", map[string]string{"type": "sha256", "value": hashes[other]})),
			"another type":     post(body, set("signature", map[string]string{"type": "sha1", "value": hashes[hash]})),
			"no value":         post(body, set("value", "")),
			"no idempotency":   post(body, set("idempotencyKey", "x")),
			"another key":      post(body, envelope(t, &keyPool()[0].PublicKey, id, text(t, method(nil)))),
			"an unknown key":   post(body, envelope(t, key, "x", text(t, method(nil)))),
			"another envelope": post(body, odd),
			"a broken one":     post(body, broken),
			"no header":        c.do("POST", "/venly/api/transactions", jsonHeader(), body),
		} {
			if a.status != 400 || a.field(t, "success") != false {
				t.Errorf("%s: %d %s", name, a.status, a.body)
			}
		}
	}
}

func TestVenlyBodyForm(t *testing.T) {
	sim := partnersim.New(partnersim.Options{KeyOverlap: -1})
	c := direct(t, sim)
	key, id := c.venlyKey()
	c.token = sim.NewUserToken(partnersim.Venly)
	sealed := text(t, envelope(t, key, id, `{"reference":"r"}`))
	for _, path := range []string{"/venly/api/users", "/venly/api/users/u/signing-methods"} {
		if a := c.do("POST", path, jsonHeader(), `{"reference":"r"}`); a.status != 400 {
			t.Errorf("%v in clear: %d", path, a.status)
		}
		if a := c.do("POST", path, jsonHeader(), sealed); a.status != 200 {
			t.Errorf("%v: %d %s", path, a.status, a.body)
		}
	}
	// A user's first method needs no other; the next do, and so does a change.
	for _, call := range [][2]string{{"POST", "/venly/api/users/u/signing-methods"}, {"PUT", "/venly/api/users/u/signing-methods/s"}, {"PUT", "/venly/api/users/new/signing-methods/s"}} {
		if a := c.do(call[0], call[1], jsonHeader(), sealed); a.status != 400 {
			t.Errorf("%v without one: %d", call, a.status)
		}
		sum := sha256.Sum256([]byte(sealed))
		allowed := text(t, envelope(t, key, id, text(t, map[string]any{"id": uuid.NewString(), "value": "123456", "idempotencyKey": uuid.NewString(),
			"signature": map[string]any{"type": "sha256", "value": sum[:]}})))
		h := jsonHeader()
		h.Set("Encrypted-Signing-Method", base64.StdEncoding.EncodeToString([]byte(allowed)))
		if a := c.do(call[0], call[1], h, sealed); a.status != 200 {
			t.Errorf("%v with one: %d %s", call, a.status, a.body)
		}
	}
	sim.Rotate(partnersim.Venly)
	if a := c.do("POST", "/venly/api/users", jsonHeader(), sealed); a.status != 400 {
		t.Errorf("to an old key: %d", a.status)
	}
	if newer, newID := c.venlyKey(); newID == id || newer.Equal(key) {
		t.Error("the old key is shown first")
	}
}

func TestFaultsOfEveryPartnerAreInItsWords(t *testing.T) {
	sim := partnersim.New(partnersim.Options{})
	for e, tc := range map[partnersim.Endpoint]struct {
		at                  partnersim.Partner
		method, path, field string
	}{
		partnersim.EndpointJackHenryKey: {partnersim.JackHenry, "GET", jhCards + "encryption-utils/public-key/pem", "details"},
		partnersim.EndpointConnect:      {partnersim.Powens, "POST", powensPath + "/users/me/connections", "code"},
		partnersim.EndpointUserCreate:   {partnersim.Venly, "POST", "/venly/api/users", "errors"},
		partnersim.EndpointCardKey:      {partnersim.Wise, "GET", cardBase + "clientSideEncryption/fetchEncryptingKey", "errors"},
	} {
		for _, f := range []partnersim.Fault{{Kind: partnersim.Error, Status: 503}, {Kind: partnersim.Error, Status: 503, After: true}, {Kind: partnersim.ExpiredToken}} {
			c := direct(t, sim)
			c.token = sim.NewUserToken(tc.at)
			f.Endpoint = e
			must(t, sim.Fail(f))
			want, field := 503, tc.field
			if f.Kind == partnersim.ExpiredToken {
				want = 401
				if tc.at == partnersim.Wise {
					field = "error"
				}
			}
			if a := c.do(tc.method, tc.path, jsonHeader(), ""); a.status != want || a.field(t, field) == nil {
				t.Errorf("%s %+v: %d %s", e, f, a.status, a.body)
			}
		}
	}
	for _, e := range []partnersim.Endpoint{partnersim.EndpointPowensKey, partnersim.EndpointVenlyKeys, partnersim.EndpointVenlyToken, partnersim.EndpointJackHenryToken} {
		if err := sim.Fail(partnersim.Fault{Endpoint: e, Kind: partnersim.ExpiredToken}); err == nil {
			t.Errorf("%s asks for no token", e)
		}
	}
}
