package partnersim_test

import (
	"crypto/rsa"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"

	"keyd/internal/partner/partnersim"
)

const powensPath = "/powens/2.0"

func jsonHeader() http.Header { return http.Header{"Content-Type": {"application/json"}} }

// powensKey reads the key in the form that it is in.
func (c *client) powensKey(form string) jose.JSONWebKey {
	c.t.Helper()
	a := c.do("GET", powensPath+"/publickey", nil, "")
	var set jose.JSONWebKeySet
	var one jose.JSONWebKey
	if form == partnersim.KeysSet {
		unmarshal(c.t, a, &set)
		one = set.Keys[0]
	} else {
		unmarshal(c.t, a, &one)
	}
	if _, ok := one.Key.(*rsa.PublicKey); !ok || one.KeyID == "" {
		c.t.Fatalf("got %s", a.body)
	}
	return one
}

func TestPowensTokens(t *testing.T) {
	c := direct(t, partnersim.New(partnersim.Options{}))
	body := func(id, secret, grant string) string {
		return `{"grant_type":"` + grant + `","client_id":"` + id + `","client_secret":"` + secret + `","scope":["x"]}`
	}
	good := body(partnersim.DemoClientID, partnersim.DemoClientSecret, "client_credentials")
	a := c.do("POST", powensPath+"/auth/token", jsonHeader(), good)
	if a.status != 200 || a.field(t, "token") == nil || a.field(t, "expires_in") != nil {
		t.Errorf("got %d %s", a.status, a.body)
	}
	for name, tc := range map[string]struct {
		body string
		want int
	}{
		"another client": {body("x", partnersim.DemoClientSecret, "client_credentials"), 401},
		"another secret": {body(partnersim.DemoClientID, "x", "client_credentials"), 401},
		"another grant":  {body(partnersim.DemoClientID, partnersim.DemoClientSecret, "password"), 400},
		"a form":         {"grant_type=client_credentials", 400},
	} {
		if a := c.do("POST", powensPath+"/auth/token", jsonHeader(), tc.body); a.status != tc.want || a.field(t, "code") == nil || a.field(t, "request_id") == nil {
			t.Errorf("%s: %d %s", name, a.status, a.body)
		}
	}
}

func TestPowensOpensEachValue(t *testing.T) {
	for _, form := range []string{partnersim.KeysSingle, partnersim.KeysSet} {
		sim := partnersim.New(partnersim.Options{PowensKeys: form})
		c := direct(t, sim)
		key := c.powensKey(form)
		c.token = sim.NewUserToken(partnersim.Powens)
		seal := func(alg jose.KeyAlgorithm, enc jose.ContentEncryption, kid, value string) string {
			e, err := jose.NewEncrypter(enc, jose.Recipient{Algorithm: alg, Key: key.Key, KeyID: kid}, nil)
			must(t, err)
			jwe, err := e.Encrypt([]byte(value))
			must(t, err)
			compact, err := jwe.CompactSerialize()
			must(t, err)
			return compact
		}
		good := func(value string) string { return seal(jose.RSA_OAEP_256, jose.A256GCM, key.KeyID, value) }
		post := func(login, password string) answer {
			return c.do("POST", powensPath+"/users/me/connections", jsonHeader(), `{"id_connector":59,"login":"`+login+`","password":"`+password+`"}`)
		}
		if a := post(good("me"), good("pass")); a.status != 200 || a.field(t, "id_connector") != 59.0 {
			t.Errorf("got %d %s", a.status, a.body)
		}
		sum := sha256.Sum256([]byte("pass"))
		log := sim.Requests()
		if got := log[len(log)-1].Opened; got["password"] != hex.EncodeToString(sum[:]) || len(got) != 2 {
			t.Errorf("log: %v", got)
		}
		for name, tc := range map[string]struct{ password, code string }{
			"in clear":       {"pass", "config"},
			"no kid":         {seal(jose.RSA_OAEP_256, jose.A256GCM, "", "pass"), "keymanager"},
			"another kid":    {seal(jose.RSA_OAEP_256, jose.A256GCM, "k", "pass"), "keymanager"},
			"as js-jose has": {seal(jose.RSA_OAEP, jose.A256GCM, key.KeyID, "pass"), "keymanager"},
			"as Swift has":   {seal(jose.RSA_OAEP_256, jose.A256CBC_HS512, key.KeyID, "pass"), "keymanager"},
			"cut off":        {good("pass")[:400], "config"},
			"a broken tag":   {strings.TrimRight(good("pass"), "-_abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789") + "AAAAAAAAAAAAAAAAAAAAAA", "keymanager"},
		} {
			if a := post(good("me"), tc.password); a.status != 400 || a.field(t, "code") != tc.code {
				t.Errorf("%s: %d %s", name, a.status, a.body)
			}
		}
		c.token = sim.NewUserToken(partnersim.Venly)
		if a := post(good("me"), good("pass")); a.status != 401 || !strings.Contains(string(a.body), `"code":"unauthorized"`) {
			t.Errorf("with a token of Venly's: %d %s", a.status, a.body)
		}
	}
}
