package partnersim_test

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/uuid"

	"keyd/internal/partner/partnersim"
)

// client is a partner's side written by hand from the documents.
type client struct {
	t     *testing.T
	http  *http.Client
	base  string
	token string
	keys  map[string]*rsa.PrivateKey // ours, by keyId
}

// keyPool saves the tests from making RSA keys over and over.
var keyPool = sync.OnceValue(func() []*rsa.PrivateKey {
	var pool []*rsa.PrivateKey
	for range 3 {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			panic(err)
		}
		pool = append(pool, key)
	}
	return pool
})

// direct returns a client that reaches sim without a socket.
func direct(t *testing.T, sim *partnersim.Sim) *client {
	return &client{t: t, http: &http.Client{Transport: sim.Transport()}, base: "http://wise.test", keys: map[string]*rsa.PrivateKey{}}
}

// served returns a client of sim behind a real listener, its connections never reused.
func served(t *testing.T, sim *partnersim.Sim) *client {
	server := httptest.NewServer(sim)
	t.Cleanup(server.Close)
	t.Cleanup(sim.ClearFaults)
	return &client{
		t: t, base: server.URL, keys: map[string]*rsa.PrivateKey{},
		http: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}},
	}
}

// answer is what came back, whole or not.
type answer struct {
	status int
	header http.Header
	body   []byte
}

func (a answer) field(t *testing.T, name string) any {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal(a.body, &m); err != nil {
		t.Fatalf("status %d, body %q: %v", a.status, a.body, err)
	}
	return m[name]
}

// try sends one call and returns the answer or the transport's error.
func (c *client) try(method, path string, header http.Header, body string) (answer, error) {
	req, err := http.NewRequestWithContext(c.t.Context(), method, c.base+path, strings.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	for name, values := range header {
		req.Header[http.CanonicalHeaderKey(name)] = values
	}
	if c.token != "" && req.Header.Get("Authorization") == "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return answer{}, err
	}
	read, err := io.ReadAll(resp.Body)
	if closed := resp.Body.Close(); err == nil {
		err = closed
	}
	return answer{resp.StatusCode, resp.Header, read}, err
}

func (c *client) do(method, path string, header http.Header, body string) answer {
	c.t.Helper()
	a, err := c.try(method, path, header, body)
	if err != nil {
		c.t.Fatalf("%s %s: %v", method, path, err)
	}
	return a
}

func basic(id, secret string) http.Header {
	return http.Header{
		"Authorization": {"Basic " + base64.StdEncoding.EncodeToString([]byte(id+":"+secret))},
		"Content-Type":  {"application/x-www-form-urlencoded"},
	}
}

func (c *client) tryLogin() (answer, error) {
	a, err := c.try("POST", "/oauth/token", basic(partnersim.DemoClientID, partnersim.DemoClientSecret), "grant_type=client_credentials")
	if err == nil && a.status == http.StatusOK && len(a.body) > 0 && json.Valid(a.body) {
		c.token, _ = a.field(c.t, "access_token").(string)
	}
	return a, err
}

func (c *client) login() *client {
	c.t.Helper()
	if a, err := c.tryLogin(); err != nil || a.status != http.StatusOK || c.token == "" {
		c.t.Fatalf("asking for a token: %d %s %v", a.status, a.body, err)
	}
	return c
}

const wiseDate = "2006-01-02 15:04:05"

func uploadJSON(id string, pub *rsa.PublicKey, from, till time.Time) string {
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		panic(err)
	}
	return fmt.Sprintf(`{"keyId":%q,"scope":"PAYLOAD_ENCRYPTION","validFrom":%q,"validTill":%q,`+
		`"publicKeyMaterial":{"algorithm":"RSA_OAEP_256","keyMaterial":%q}}`,
		id, from.UTC().Format(wiseDate), till.UTC().Format(wiseDate), base64.StdEncoding.EncodeToString(der))
}

const uploadPath = "/v1/auth/jose/request/public-keys"

func (c *client) tryUpload(body string) (answer, error) {
	return c.try("POST", uploadPath, http.Header{"Content-Type": {"application/json"}}, body)
}

// upload gives Wise the n-th key of the pool for a day or more and returns its keyId.
func (c *client) upload(n int, from, till time.Time) string {
	c.t.Helper()
	id := uuid.NewString()
	key := keyPool()[n]
	a, err := c.tryUpload(uploadJSON(id, &key.PublicKey, from, till))
	if err != nil || a.status != http.StatusCreated {
		c.t.Fatalf("uploading: %d %s %v", a.status, a.body, err)
	}
	c.keys[id] = key
	return id
}

// day uploads a key that is valid from a minute ago for a day.
func (c *client) day(n int) string {
	c.t.Helper()
	return c.upload(n, time.Now().Add(-time.Minute), time.Now().Add(24*time.Hour))
}

const wiseKeyPath = "/v1/auth/jose/response/public-keys?algorithm=RSA_OAEP_256&scope=PAYLOAD_ENCRYPTION"

// fetch gets Wise's public key and its version.
func (c *client) fetch(query string) (*rsa.PublicKey, int) {
	c.t.Helper()
	a := c.do("GET", wiseKeyPath+query, nil, "")
	var k struct {
		Version     int
		KeyMaterial struct{ KeyMaterial string }
	}
	if err := json.Unmarshal(a.body, &k); err != nil || a.status != http.StatusOK {
		c.t.Fatalf("fetching Wise's key: %d %s %v", a.status, a.body, err)
	}
	return parsePublic(c.t, k.KeyMaterial.KeyMaterial), k.Version
}

func parsePublic(t *testing.T, material string) *rsa.PublicKey {
	t.Helper()
	der, err := base64.StdEncoding.DecodeString(material)
	if err != nil {
		t.Fatal(err)
	}
	pub, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		t.Fatal(err)
	}
	return pub.(*rsa.PublicKey)
}

// seal makes a request JWE; extra goes into its protected header.
func seal(t *testing.T, pub *rsa.PublicKey, extra map[string]string, plaintext string) string {
	t.Helper()
	opts := &jose.EncrypterOptions{}
	for name, value := range extra {
		opts.WithHeader(jose.HeaderKey(name), value)
	}
	enc, err := jose.NewEncrypter(jose.A256GCM, jose.Recipient{Algorithm: jose.RSA_OAEP_256, Key: pub}, opts)
	if err != nil {
		t.Fatal(err)
	}
	jwe, err := enc.Encrypt([]byte(plaintext))
	if err != nil {
		t.Fatal(err)
	}
	compact, err := jwe.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return compact
}

func joseHeaders() http.Header {
	return http.Header{
		"Content-Type":     {"application/jose+json"},
		"Accept":           {"application/jose+json"},
		"X-TW-JOSE-Method": {"jwe"},
	}
}

// open opens a sealed answer by its kid alone and returns kid and plaintext.
func (c *client) open(a answer) (kid, plaintext string, err error) {
	if got := a.header.Get("Content-Type"); a.status != http.StatusOK || got != "application/jose+json" {
		return "", "", fmt.Errorf("status %d, %s, body %q", a.status, got, a.body)
	}
	jwe, err := jose.ParseEncryptedCompact(string(a.body), []jose.KeyAlgorithm{jose.RSA_OAEP_256}, []jose.ContentEncryption{jose.A256GCM})
	if err != nil {
		return "", "", err
	}
	key, ok := c.keys[jwe.Header.KeyID]
	if !ok {
		return jwe.Header.KeyID, "", fmt.Errorf("no key %q", jwe.Header.KeyID)
	}
	plain, err := jwe.Decrypt(key)
	return jwe.Header.KeyID, string(plain), err
}

func (c *client) mustOpen(a answer) (kid, plaintext string) {
	c.t.Helper()
	kid, plaintext, err := c.open(a)
	if err != nil {
		c.t.Fatalf("opening the answer: %v", err)
	}
	return kid, plaintext
}

const probePath = "/v1/auth/jose/playground/jwe"

func (c *client) probe() answer {
	c.t.Helper()
	return c.do("GET", probePath, joseHeaders(), "")
}

// probeKID is the kid Wise seals to when nobody names one.
func (c *client) probeKID() string {
	c.t.Helper()
	kid, _ := c.mustOpen(c.probe())
	return kid
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// generic500 checks for Wise's answer to any trouble with encryption.
func generic500(t *testing.T, a answer) {
	t.Helper()
	if a.status != 500 || a.field(t, "message") != "An unexpected error occurred" || uuid.Validate(a.field(t, "request_id").(string)) != nil {
		t.Errorf("got %d %s, want the generic 500", a.status, a.body)
	}
	if bytes.Count(a.body, []byte(`":`)) != 2 {
		t.Errorf("the generic 500 says more than it should: %s", a.body)
	}
}
