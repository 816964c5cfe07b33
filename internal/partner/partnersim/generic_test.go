package partnersim_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"

	"keyd/internal/partner/partnersim"
)

// genericKey is the key of the partner of no name, from its JWKS.
func (c *client) genericKey() jose.JSONWebKey {
	c.t.Helper()
	var set jose.JSONWebKeySet
	unmarshal(c.t, c.do("GET", "/generic/jwks.json", nil, ""), &set)
	if len(set.Keys) != 2 || set.Keys[0].Use != "sig" || set.Keys[1].Use != "enc" {
		c.t.Fatalf("got %+v", set.Keys)
	}
	return set.Keys[1]
}

func sealTo(t *testing.T, alg, enc string, key any, kid, plaintext string) string {
	t.Helper()
	e, err := jose.NewEncrypter(jose.ContentEncryption(enc), jose.Recipient{Algorithm: jose.KeyAlgorithm(alg), Key: key, KeyID: kid}, nil)
	must(t, err)
	jwe, err := e.Encrypt([]byte(plaintext))
	must(t, err)
	compact, err := jwe.CompactSerialize()
	must(t, err)
	return compact
}

func TestGenericKeyIsTheSameInEveryForm(t *testing.T) {
	for _, alg := range []string{"RSA-OAEP-256", "ECDH-ES+A256KW"} {
		sim := partnersim.New(partnersim.Options{GenericAlg: alg})
		c := direct(t, sim)
		key := c.genericKey()
		a := c.do("GET", "/generic/key.pem", nil, "")
		block, _ := pem.Decode(a.body)
		parsed, err := x509.ParsePKIXPublicKey(block.Bytes)
		must(t, err)
		if !parsed.(interface{ Equal(crypto.PublicKey) bool }).Equal(key.Key) {
			t.Errorf("%s: PEM is another key", alg)
		}
		if a := c.do("GET", "/generic/v1/key", nil, ""); a.status != 401 {
			t.Errorf("%s: without a token: %d", alg, a.status)
		}
		header := basic(partnersim.DemoClientID, partnersim.DemoClientSecret)
		c.token = c.do("POST", "/generic/oauth/token", header, "grant_type=client_credentials").field(t, "access_token").(string)
		if data := c.do("GET", "/generic/v1/key", nil, "").field(t, "data").(map[string]any); data["keyId"] != key.KeyID {
			t.Errorf("%s: got %v", alg, data)
		}
		form := http.Header{"Content-Type": header["Content-Type"]}
		c.token = ""
		if a := c.do("POST", "/generic/oauth/token", form, "grant_type=client_credentials&client_id=x&client_secret=y"); a.status != 401 {
			t.Errorf("%s: another client: %d", alg, a.status)
		}
	}
}

func TestGenericEchoes(t *testing.T) {
	ours, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	for name, tc := range map[string]struct {
		opt  partnersim.Options
		ours crypto.Signer
	}{
		"a body":          {partnersim.Options{}, keyPool()[0]},
		"a member":        {partnersim.Options{GenericMember: "encData", GenericEnc: "A128GCM"}, keyPool()[0]},
		"on curves":       {partnersim.Options{GenericAlg: "ECDH-ES+A128KW", GenericEnc: "A128CBC-HS256", GenericMember: "x"}, ours},
		"answer in clear": {partnersim.Options{GenericAlg: "ECDH-ES", GenericEnc: "A256CBC-HS512"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			sim := partnersim.New(tc.opt)
			alg, enc := tc.opt.GenericAlg, tc.opt.GenericEnc
			if alg == "" {
				alg = "RSA-OAEP-256"
			}
			if enc == "" {
				enc = "A256GCM"
			}
			c := direct(t, sim)
			key := c.genericKey()
			if tc.ours != nil {
				der, err := x509.MarshalPKIXPublicKey(tc.ours.Public())
				must(t, err)
				armour := string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
				if a := c.do("POST", "/sim/jwe/client", nil, text(t, map[string]string{"kid": "k1", "pem": armour})); a.status != 204 {
					t.Fatalf("registering: %d %s", a.status, a.body)
				}
			}
			c.token = sim.NewUserToken(partnersim.Generic)
			post := func(jwe string) answer {
				if tc.opt.GenericMember == "" {
					return c.do("POST", "/generic/v1/echo", nil, jwe)
				}
				return c.do("POST", "/generic/v1/echo", jsonHeader(), text(t, map[string]string{tc.opt.GenericMember: jwe}))
			}
			a := post(sealTo(t, alg, enc, key.Key, key.KeyID, `{"a":1}`))
			if a.status != 200 {
				t.Fatalf("got %d %s", a.status, a.body)
			}
			got := string(a.body)
			if tc.ours != nil {
				if tc.opt.GenericMember != "" {
					got = a.field(t, tc.opt.GenericMember).(string)
				}
				jwe, err := jose.ParseEncryptedCompact(got, []jose.KeyAlgorithm{jose.RSA_OAEP_256, jose.ECDH_ES_A256KW}, []jose.ContentEncryption{jose.A256GCM})
				must(t, err)
				plain, err := jwe.Decrypt(tc.ours)
				must(t, err)
				if got = string(plain); jwe.Header.KeyID != "k1" {
					t.Errorf("kid %q", jwe.Header.KeyID)
				}
			}
			if got != `{"echo":{"a":1}}` {
				t.Errorf("got %s", got)
			}
			for why, jwe := range map[string]string{
				"no kid":       sealTo(t, alg, enc, key.Key, "", `{}`),
				"another kid":  sealTo(t, alg, enc, key.Key, "x", `{}`),
				"another enc":  sealTo(t, alg, "A192GCM", key.Key, key.KeyID, `{}`),
				"not a JWE":    "x",
				"a broken tag": flip(sealTo(t, alg, enc, key.Key, key.KeyID, `{}`)),
			} {
				if a := post(jwe); a.status != 400 || a.field(t, "code") != "decryption_failed" {
					t.Errorf("%s: %d %s", why, a.status, a.body)
				}
			}
		})
	}
}

func TestOnlyThePartnersAskedForAnswer(t *testing.T) {
	c := direct(t, partnersim.New(partnersim.Options{Partners: []partnersim.Partner{partnersim.Venly, partnersim.WiseCard}}))
	for path, want := range map[string]int{"/venly/api/security": 200, "/powens/2.0/publickey": 404, "/generic/jwks.json": 404,
		"/twcard-data/v1/clientSideEncryption/fetchEncryptingKey": 401, probePath: 404} {
		if a := c.do("GET", path, nil, ""); a.status != want {
			t.Errorf("%s: %d, want %d", path, a.status, want)
		}
	}
	if err := (partnersim.Options{Partners: []partnersim.Partner{"x"}}).Validate(); err == nil || !strings.Contains(err.Error(), "jackhenry") {
		t.Errorf("got %v", err)
	}
}

// flip changes the first character of a compact JWE's tag.
func flip(jwe string) string {
	i := strings.LastIndexByte(jwe, '.') + 1
	c := "A"
	if jwe[i] == 'A' {
		c = "B"
	}
	return jwe[:i] + c + jwe[i+1:]
}

func TestGenericAuthority(t *testing.T) {
	const path, id, secret = "/generic/v1/key", partnersim.DemoClientID, partnersim.DemoClientSecret
	for name, tc := range map[string]struct {
		opt   partnersim.Options
		token bool // an access token is good
		good  http.Header
		bad   []http.Header
	}{
		"token":                     {partnersim.Options{}, true, http.Header{}, []http.Header{basic(id, secret), {"Authorization": {"Bearer " + secret}}}},
		"basic":                     {partnersim.Options{GenericAuth: partnersim.AuthBasic}, false, basic(id, secret), []http.Header{basic(id, "x"), basic("x", secret), {}}},
		"secret":                    {partnersim.Options{GenericAuth: partnersim.AuthSecret}, false, http.Header{"Authorization": {"Bearer " + secret}}, []http.Header{{"Authorization": {"Bearer x"}}, {}}},
		"an API key beside a token": {partnersim.Options{GenericAPIKey: "X-API-Key"}, true, http.Header{"X-Api-Key": {secret}}, []http.Header{{"X-Api-Key": {"x"}}, {}}},
	} {
		sim := partnersim.New(tc.opt)
		c := direct(t, sim)
		c.token = sim.NewUserToken(partnersim.Generic)
		if a := c.do("GET", path, nil, ""); (a.status == 200) != (name == "token") {
			t.Errorf("%s: a token alone gets %d", name, a.status)
		}
		if !tc.token {
			c.token = ""
		}
		if a := c.do("GET", path, tc.good, ""); a.status != 200 {
			t.Errorf("%s: %d %s", name, a.status, a.body)
		}
		for _, bad := range tc.bad {
			if bad.Get("Authorization") != "" {
				c.token = ""
			}
			if a := c.do("GET", path, bad, ""); a.status != 401 {
				t.Errorf("%s with %v: %d", name, bad, a.status)
			}
		}
	}
}

func TestGenericDirectAndFields(t *testing.T) {
	sim := partnersim.New(partnersim.Options{GenericKeyHeader: "keyId"})
	c := direct(t, sim)
	key := c.genericKey()
	c.token = sim.NewUserToken(partnersim.Generic)
	jwe, content := sealRaw(t, `{"alg":"RSA-OAEP-256","enc":"A256GCM","kid":"`+key.KeyID+`"}`, oaep(key.Key.(*rsa.PublicKey)), `{"a":1}`)
	if a := c.do("POST", "/generic/v1/direct", nil, jwe); a.status != 400 {
		t.Errorf("without the header: %d %s", a.status, a.body)
	}
	named := http.Header{"Keyid": {key.KeyID}, "Content-Type": {"application/json"}}
	if plain := openDirect(t, c.do("POST", "/generic/v1/direct", named, jwe), content); plain != `{"echo":{"a":1}}` {
		t.Errorf("got %s", plain)
	}
	good, err := json.Marshal(map[string]string{"secret": sealTo(t, "RSA-OAEP-256", "A256GCM", key.Key, key.KeyID, "s")})
	must(t, err)
	if a := c.do("POST", "/generic/v1/fields", named, string(good)); a.status != 200 {
		t.Errorf("got %d %s", a.status, a.body)
	}
	if a := c.do("POST", "/generic/v1/fields", named, `{"secret":"s"}`); a.status != 400 {
		t.Errorf("in clear: %d", a.status)
	}
	for _, bad := range []string{`{}`, `{"pem":"x"}`, `{"pem":"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----"}`, `x`} {
		if a := c.do("POST", "/sim/jwe/client", nil, bad); a.status != 400 {
			t.Errorf("%s: %d", bad, a.status)
		}
	}
	for path, want := range map[string]int{"rotate-key/jwe": 201, "rotate-key/x": 404, "user-token/venly": 201, "user-token/x": 404} {
		if a := c.do("POST", "/sim/"+path, nil, ""); a.status != want {
			t.Errorf("%s: %d", path, a.status)
		}
	}
}
