package partner_test

import (
	"encoding/base64"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"keyd/internal/partner"
)

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
		"form":                   func(c *partner.JWEConfig) { c.Form = "xml" },
		"seal alg":               func(c *partner.JWEConfig) { c.SealAlg = "RSA1_5" },
		"reply alg":              func(c *partner.JWEConfig) { c.ReplyAlgs, c.OurKey = []string{"RSA1_5"}, partner.OurKeyByHand },
		`reply alg "dir"`:        func(c *partner.JWEConfig) { c.ReplyAlgs, c.OurKey = []string{"dir"}, partner.OurKeyByHand },
		"reply encs":             func(c *partner.JWEConfig) { c.ReplyAlgs, c.OurKey = []string{"ECDH-ES"}, partner.OurKeyByHand },
		"our key is none":        func(c *partner.JWEConfig) { c.ReplyAlgs, c.ReplyEncs = []string{"ECDH-ES"}, []string{"A256GCM"} },
		`our key "uploaded"`:     func(c *partner.JWEConfig) { c.OurKey = partner.OurKeyUploaded },
		"key form":               func(c *partner.JWEConfig) { c.KeyForm = "x" },
		"kid":                    func(c *partner.JWEConfig) { c.KID = "x" },
		"issued at":              func(c *partner.JWEConfig) { c.IssuedAt = "days" },
		"request member":         func(c *partner.JWEConfig) { c.Form = partner.FormMember },
		"and with that alone":    func(c *partner.JWEConfig) { c.RequestMember = "/x" },
		"plain names":            func(c *partner.JWEConfig) { c.Form, c.RequestMember = partner.FormMember, "x~1" },
		"fields: want form":      func(c *partner.JWEConfig) { c.Fields = []partner.FieldRule{{Paths: []string{"/"}}} },
		`path "x"`:               func(c *partner.JWEConfig) { c.Direct = []string{"x"} },
		`header "Authorization"`: func(c *partner.JWEConfig) { c.Header = map[string]string{"Authorization": "x"} },
		`header "X"`:             func(c *partner.JWEConfig) { c.Header = map[string]string{"X": "a\nb"} },
		`jose "alg"`:             func(c *partner.JWEConfig) { c.JOSE = map[string]string{"alg": "none"} },
		`jose "crit"`:            func(c *partner.JWEConfig) { c.JOSE = map[string]string{"crit": "x"} },
		"authorization":          func(c *partner.JWEConfig) { c.Authorization = "x" },
		`header "x-api-key": set`: func(c *partner.JWEConfig) {
			c.Header, c.SecretHeader = map[string]string{"X-Api-Key": "1"}, map[string]func() ([]byte, error){"x-api-key": said("s")}
		},
		`header "X-API-KEY": set`: func(c *partner.JWEConfig) {
			c.Forward, c.SecretHeader = []string{"X-Api-Key"}, map[string]func() ([]byte, error){"X-API-KEY": said("s")}
		},
		`secret header "Cookie"`: func(c *partner.JWEConfig) { c.SecretHeader = map[string]func() ([]byte, error){"Cookie": said("s")} },
		`client ID or`:           func(c *partner.JWEConfig) { c.Authorization, c.ClientSecret = partner.AuthBasic, said("s") },
		`or client secret`:       func(c *partner.JWEConfig) { c.Key.Authorization, c.ClientID = partner.AuthBearer, "x" },
		`client ID "a:b"`: func(c *partner.JWEConfig) {
			c.Authorization, c.ClientID, c.ClientSecret = partner.AuthBasic, "a:b", said("s")
		},
		"a secret would go to": func(c *partner.JWEConfig) {
			c.ClientSecret, c.Key = said("s"), partner.KeySource{URL: "https://partner.example:444/k", Authorization: partner.AuthBearer}
		},
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
