package partnersim_test

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"

	"keyd/internal/partner/partnersim"
)

// sealRaw makes a compact JWE by hand (RFC 7516 §5.1), because the caller needs
// the content key for the reply.
func sealRaw(t *testing.T, header string, wrap func(content []byte) ([]byte, error), plaintext string) (compact string, content []byte) {
	t.Helper()
	content, iv := make([]byte, 32), make([]byte, 12)
	_, _ = rand.Read(content)
	_, _ = rand.Read(iv)
	wrapped, err := wrap(content)
	must(t, err)
	block, err := aes.NewCipher(content)
	must(t, err)
	gcm, err := cipher.NewGCM(block)
	must(t, err)
	encode := base64.RawURLEncoding.EncodeToString
	protected := encode([]byte(header))
	out := gcm.Seal(nil, iv, []byte(plaintext), []byte(protected))
	n := len(out) - gcm.Overhead()
	return strings.Join([]string{protected, encode(wrapped), encode(iv), encode(out[:n]), encode(out[n:])}, "."), content
}

func oaep(key *rsa.PublicKey) func([]byte) ([]byte, error) {
	return func(content []byte) ([]byte, error) {
		return rsa.EncryptOAEP(sha256.New(), rand.Reader, key, content, nil)
	}
}

const wiseHeader = `{"alg":"RSA-OAEP-256","enc":"A256GCM"}`

// openDirect opens a reply of alg "dir".
func openDirect(t *testing.T, a answer, content []byte) string {
	t.Helper()
	if got := a.header.Get("Content-Type"); a.status != 200 || got != "application/jose+json" {
		t.Fatalf("got %d, %s, %s", a.status, got, a.body)
	}
	jwe, err := jose.ParseEncryptedCompact(string(a.body), []jose.KeyAlgorithm{jose.DIRECT}, []jose.ContentEncryption{jose.A256GCM})
	must(t, err)
	plain, err := jwe.Decrypt(content)
	must(t, err)
	if jwe.Header.KeyID != "" {
		t.Errorf("the reply names the key %q", jwe.Header.KeyID)
	}
	return string(plain)
}

const directPath = "/v1/auth/jose/playground/jwe-direct-encryption"

func TestADirectReplyComesUnderTheRequestsOwnKey(t *testing.T) {
	c := direct(t, partnersim.New(partnersim.Options{})).login() // no key of ours is known there
	wise, _ := c.fetch("")
	jwe, content := sealRaw(t, wiseHeader, oaep(wise), `{"message":"hello"}`)
	plain := openDirect(t, c.do("POST", directPath, joseHeaders(), jwe), content)
	if plain != `{"message":"jose-playground-response-hello","method":"POST"}` {
		t.Errorf("got %s", plain)
	}
	if a := c.do("POST", directPath, joseHeaders(), `{"message":"hello"}`); a.status != 500 {
		t.Errorf("in clear: %d", a.status)
	}
	if a := c.do("GET", directPath, joseHeaders(), ""); a.status != 404 {
		t.Errorf("GET: %d", a.status)
	}
}

func TestFaultsOfADirectReply(t *testing.T) {
	sim := partnersim.New(partnersim.Options{})
	c := direct(t, sim).login()
	wise, _ := c.fetch("")
	for _, kind := range []partnersim.Kind{partnersim.WrongKey, partnersim.DirectReply, partnersim.BadTag, partnersim.StrayTail, partnersim.PlainJSON, partnersim.WrongKID} {
		must(t, sim.Fail(partnersim.Fault{Endpoint: partnersim.EndpointDirect, Kind: kind}))
		jwe, content := sealRaw(t, wiseHeader, oaep(wise), `{"message":"hello"}`)
		a := c.do("POST", directPath, joseHeaders(), jwe)
		parsed, err := jose.ParseEncryptedCompact(string(a.body), []jose.KeyAlgorithm{jose.DIRECT}, []jose.ContentEncryption{jose.A256GCM})
		if err == nil {
			_, err = parsed.Decrypt(content)
		}
		if (err == nil) != (kind == partnersim.WrongKID) || kind == partnersim.WrongKID && parsed.Header.KeyID == "" {
			t.Errorf("%s: %v", kind, err)
		}
	}
}

func TestPINEndpoints(t *testing.T) {
	sim := partnersim.New(partnersim.Options{})
	c := direct(t, sim).login()
	c.token = sim.NewUserToken(partnersim.Wise)
	wise, _ := c.fetch("")
	call := func(path, plaintext string, change func(http.Header)) (answer, []byte) {
		header := joseHeaders()
		header["Content-Encoding"], header["Accept-Encoding"] = []string{"identity"}, []string{"identity"}
		header["One-Time-Token"] = []string{"ott-1"}
		if change != nil {
			change(header)
		}
		jwe, content := sealRaw(t, wiseHeader, oaep(wise), plaintext)
		return c.do("POST", path, header, jwe), content
	}
	const pin, other = `{"pin":"1234"}`, `{"pin":"4321"}`
	for _, tc := range []struct {
		path, plaintext string
		want            int
	}{
		{"/v1/one-time-token/pin/verify", pin, 400}, // none is set yet
		{"/v1/user/pin", `{"pin":"12"}`, 422},
		{"/v1/user/pin", pin, 204},
		{"/v1/user/pin", pin, 409},
		{"/v1/one-time-token/pin/verify", other, 400},
		{"/v2/profiles/17/pin", pin, 200},
		{"/v2/profiles/x/pin", pin, 422},
		{"/v2/profiles/17/pin/verify", other, 400},
	} {
		a, _ := call(tc.path, tc.plaintext, nil)
		if a.status != tc.want || a.status < 300 && (len(a.body) > 0 || a.header.Get("Content-Type") != "") {
			t.Errorf("%s %s: %d %s, want %d", tc.path, tc.plaintext, a.status, a.body, tc.want)
		}
		if a.status >= 400 && a.header.Get("Content-Type") != "application/json" {
			t.Errorf("%s: an error of type %q", tc.path, a.header.Get("Content-Type"))
		}
	}
	a, content := call("/v1/one-time-token/pin/verify", pin, nil)
	if plain := openDirect(t, a, content); !strings.Contains(plain, `"oneTimeToken":"ott-1"`) {
		t.Errorf("got %s", plain)
	}
	a, _ = call("/v2/profiles/17/pin/verify", pin, nil)
	if a.status != 200 || a.header.Get("Content-Type") != "application/json" || !strings.Contains(string(a.body), "ott-1") {
		t.Errorf("got %d %s", a.status, a.body)
	}
	if a, _ = call("/v1/one-time-token/pin/verify", pin, func(h http.Header) { h.Del("One-Time-Token") }); a.status != 400 {
		t.Errorf("without a one-time token: %d", a.status)
	}
	if a, _ = call("/v2/profiles/17/pin/verify", pin, func(h http.Header) { h.Del("Content-Encoding") }); a.status != 400 {
		t.Errorf("without Content-Encoding: %d", a.status)
	}
	for _, r := range sim.Requests() {
		if strings.Contains(r.Refusal, "1234") {
			t.Errorf("the log shows the PIN: %+v", r)
		}
	}
}
