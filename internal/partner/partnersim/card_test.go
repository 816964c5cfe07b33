package partnersim_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"strings"
	"testing"

	"github.com/google/uuid"

	"keyd/internal/partner/partnersim"
)

const (
	cardBase   = "/twcard-data/v1/"
	cardHeader = `{"alg":"RSA1_5","enc":"A256GCM"}`
)

func pkcs1v15(key *rsa.PublicKey) func([]byte) ([]byte, error) {
	return func(content []byte) ([]byte, error) {
		return rsa.EncryptPKCS1v15(rand.Reader, key, content) //nolint:staticcheck // SA1019: as the guide says
	}
}

// cardKey reads the key in the form that it is in.
func (c *client) cardKey(form string) *rsa.PublicKey {
	c.t.Helper()
	a := c.do("GET", cardBase+"clientSideEncryption/fetchEncryptingKey", nil, "")
	var k struct {
		Version int
		Key     string
	}
	if err := json.Unmarshal(a.body, &k); err != nil || a.status != 200 || k.Version != 1 {
		c.t.Fatalf("got %d %s", a.status, a.body)
	}
	der := []byte(k.Key)
	if form != partnersim.KeyPEM {
		var err error
		der, err = base64.StdEncoding.DecodeString(k.Key)
		must(c.t, err)
	}
	if block, _ := pem.Decode(der); block != nil {
		der = block.Bytes
	}
	if form == partnersim.KeyPKCS1 {
		key, err := x509.ParsePKCS1PublicKey(der)
		must(c.t, err)
		return key
	}
	key, err := x509.ParsePKIXPublicKey(der)
	must(c.t, err)
	return key.(*rsa.PublicKey)
}

func cardHeaders() http.Header {
	return http.Header{"Content-Type": {"application/json"}, "X-Tw-Twcard-Card-Token": {uuid.NewString()}, "X-Tw-Twcard-Order-Id": {uuid.NewString()}}
}

func frame(jwe string) string { return `{"keyVersion":1,"encryptedPayload":"` + jwe + `"}` }

func TestCardDataInEachForm(t *testing.T) {
	for i, form := range []string{partnersim.KeySPKI, partnersim.KeyPEM, partnersim.KeyBase64PEM, partnersim.KeyPKCS1} {
		how := []string{partnersim.CardSealed, partnersim.CardQuoted, partnersim.CardFramed, partnersim.CardClear}[i]
		t.Run(form+", "+how, func(t *testing.T) {
			sim := partnersim.New(partnersim.Options{CardKeyForm: form, CardReply: how})
			c := direct(t, sim)
			c.token = sim.NewUserToken(partnersim.Wise)
			key := c.cardKey(form)
			call := func(path, plaintext string) (answer, []byte) {
				jwe, content := sealRaw(t, cardHeader, pkcs1v15(key), plaintext)
				return c.do("POST", cardBase+"sensitive-card-data/"+path, cardHeaders(), frame(jwe)), content
			}
			a, _ := call("preset-pin", `{"pin":"4711"}`)
			if a.status != 200 || len(a.body) > 0 {
				t.Fatalf("preset-pin: %d %s", a.status, a.body)
			}
			for path, want := range map[string]string{"pin": `"pin":"4711"`, "details": `"pan":"4396910000012345"`} {
				a, content := call(path, "")
				var framed struct {
					EncryptedPayload string
				}
				var text string
				switch how {
				case partnersim.CardQuoted:
					must(t, json.Unmarshal(a.body, &text))
				case partnersim.CardFramed:
					must(t, json.Unmarshal(a.body, &framed))
					text = framed.EncryptedPayload
				}
				if how == partnersim.CardClear {
					if !strings.Contains(string(a.body), want) {
						t.Errorf("%s: %s", path, a.body)
					}
					continue
				}
				if text != "" {
					if a.header.Get("Content-Type") != "application/json" {
						t.Errorf("%s: type %s", path, a.header.Get("Content-Type"))
					}
					a.body, a.header = []byte(text), http.Header{"Content-Type": {"application/jose+json"}}
				}
				if plain := openDirect(t, a, content); !strings.Contains(plain, want) || !strings.Contains(plain, `"nonce"`) {
					t.Errorf("%s: %s", path, plain)
				}
			}
		})
	}
}

func TestCardRequestsThatAreRefused(t *testing.T) {
	sim := partnersim.New(partnersim.Options{CardBadKey: 400})
	c := direct(t, sim)
	c.token = sim.NewUserToken(partnersim.Wise)
	key := c.cardKey("")
	jwe, _ := sealRaw(t, cardHeader, pkcs1v15(key), ``)
	short, _ := sealRaw(t, cardHeader, pkcs1v15(key), `{"pin":"12"}`)
	oaepJWE, _ := sealRaw(t, wiseHeader, oaep(key), ``)
	other, _ := sealRaw(t, cardHeader, pkcs1v15(&keyPool()[0].PublicKey), ``)
	for name, tc := range map[string]struct {
		path, body string
		change     func(http.Header)
		want       int
	}{
		"no card token":    {"pin", frame(jwe), func(h http.Header) { h.Del("X-Tw-Twcard-Card-Token") }, 400},
		"no order":         {"preset-pin", frame(jwe), func(h http.Header) { h.Del("X-Tw-Twcard-Order-Id") }, 400},
		"card is no UUID":  {"details", frame(jwe), func(h http.Header) { h.Set("X-Tw-Twcard-Card-Token", "1") }, 400},
		"the wrong type":   {"pin", frame(jwe), func(h http.Header) { h.Set("Content-Type", "application/jose+json") }, 415},
		"not JSON":         {"pin", jwe, nil, 400},
		"no version":       {"pin", `{"encryptedPayload":"` + jwe + `"}`, nil, 422},
		"another version":  {"pin", `{"keyVersion":2,"encryptedPayload":"` + jwe + `"}`, nil, 422},
		"no payload":       {"pin", `{"keyVersion":1}`, nil, 400},
		"another alg":      {"pin", frame(oaepJWE), nil, 400},
		"another key":      {"pin", frame(other), nil, 400},
		"a PIN too short":  {"preset-pin", frame(short), nil, 422},
		"in clear":         {"preset-pin", frame(`{\"pin\":\"1234\"}`), nil, 400},
		"no authorization": {"pin", frame(jwe), func(h http.Header) { h.Set("Authorization", "Bearer unknown") }, 401},
	} {
		header := cardHeaders()
		if tc.change != nil {
			tc.change(header)
		}
		if a := c.do("POST", cardBase+"sensitive-card-data/"+tc.path, header, tc.body); a.status != tc.want {
			t.Errorf("%s: %d %s, want %d", name, a.status, a.body, tc.want)
		}
	}
	for _, r := range sim.Requests() {
		if r.Effect {
			t.Errorf("took effect: %+v", r)
		}
	}
}
