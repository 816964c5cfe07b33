package partner_test

import (
	"crypto"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"keyd/internal/partner"
	"keyd/internal/partner/partnersim"
)

const (
	venlyToken = "/venly/auth/realms/Arkane/protocol/openid-connect/token"
	askVenly   = "GET /api/security"
	aMethod    = "756ae7a7-3713-43ee-9936-0dff50306488"
	// The sample key of Venly's documentation.
	venlyKey = "MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAnDcmfHx3yZxwgZW7r+iUlUdI4a6Ot5WP8P4gzc/emfafLgOGQCoZue6n99BD6iRynnwqHUKd3fS50UX5vmZmXOJGHXlXCRsv5Z1/P32s/q5bLnTGpmzZOQXeiaOMbXgcOWcS0XhVGfioB3VsfURFBOU7okmMY0iAPPA7cdBK5fLTb0CYulMdIKfgWzeBBbqT0J6mRdUfbvXqA2gOLmaZRXKerdJUBbnNc3oOxgsk2noMlyOUId6SZsJYxQZRyjErBSjM+qNitEYLKO8tlxiPtLFWOGAa782nSMNJaLcdGWdz5TeADyvlJbbsvItA1lDWTbnJQyeN0bMDzL5XYcPTkQIDAQAB"
)

func venly(t testing.TB, h http.RoundTripper, changes ...func(*partner.VenlyConfig)) *partner.Venly {
	t.Helper()
	cfg := partner.VenlyConfig{Connection: link("venly", h), ClientID: partnersim.DemoClientID, TokenURL: "https://partner.example" + venlyToken,
		ClientSecret: func() ([]byte, error) { return []byte(partnersim.DemoClientSecret), nil }}
	for _, change := range changes {
		change(&cfg)
	}
	return must(partner.NewVenly(cfg))
}

func venlyKeys(keys ...map[string]any) string {
	return toJSON(map[string]any{"success": true, "result": map[string]any{"encryptionKeys": keys}})
}

func venlyEntry(id, key, alg string) map[string]any {
	return map[string]any{"id": id, "keyspec": "RSA_2048", "publicKey": key, "encryptionAlgorithm": alg}
}

const oaepKMS = "RSAES_OAEP_SHA_256"

func TestVenlyKeyIsTheFirstOrTheOneNamed(t *testing.T) {
	ours := spki(&rsaKey().PublicKey)
	for name, tc := range map[string]struct{ body, keyID, want string }{
		"one":            {venlyKeys(venlyEntry("k1", venlyKey, oaepKMS)), "", "k1"},
		"the first":      {venlyKeys(venlyEntry("k1", venlyKey, oaepKMS), venlyEntry("k2", ours, oaepKMS)), "", "k1"},
		"the one named":  {venlyKeys(venlyEntry("k1", ours, oaepKMS), venlyEntry("k2", venlyKey, oaepKMS)), "k2", "k2"},
		"the one for it": {venlyKeys(venlyEntry("k1", ours, "RSAES_OAEP_SHA_1"), venlyEntry("k2", venlyKey, oaepKMS)), "", "k2"},
	} {
		h := &wire{Handler: routes{askVenly: func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") != "" {
				t.Errorf("%s: sent %v", name, r.Header)
			}
			reply(w, 200, tc.body)
		}}}
		id, version, alg, key, err := venly(t, h, func(c *partner.VenlyConfig) { c.KeyID = tc.keyID }).FetchKey(t.Context())
		if err != nil || id != tc.want || version != 0 || alg != "RSA-OAEP-256" || spki(key) != venlyKey {
			t.Errorf("%s: got %q, %d, %s, %v", name, id, version, alg, err)
		}
	}
}

func TestVenlyKeysThatAreRefused(t *testing.T) {
	weak := newRSA(1024)
	good := venlyEntry("k1", venlyKey, oaepKMS)
	for name, tc := range map[string]struct{ body, keyID string }{
		"none":                    {venlyKeys(), ""},
		"no success":              {strings.Replace(venlyKeys(good), "true", "false", 1), ""},
		"not the one named":       {venlyKeys(good), "k2"},
		"for another algorithm":   {venlyKeys(venlyEntry("k1", venlyKey, "RSAES_PKCS1_V1_5")), ""},
		"no id":                   {venlyKeys(venlyEntry("", venlyKey, oaepKMS)), ""},
		"a weak key":              {venlyKeys(venlyEntry("k1", spki(&weak.PublicKey), oaepKMS)), ""},
		"an EC key":               {venlyKeys(venlyEntry("k1", spki(&ecKey().PublicKey), oaepKMS)), ""},
		"PEM":                     {venlyKeys(venlyEntry("k1", forms(&rsaKey().PublicKey)["PEM"], oaepKMS)), ""},
		"a comma, as in the docs": {strings.Replace(venlyKeys(good), `"}]`, `",}]`, 1), ""},
	} {
		_, _, _, key, err := venly(t, &wire{Handler: routes{askVenly: always(200, tc.body)}},
			func(c *partner.VenlyConfig) { c.KeyID = tc.keyID }).FetchKey(t.Context())
		if !errors.Is(err, partner.ErrAnswer) || key != nil {
			t.Errorf("%s: got %v, %v", name, key, err)
		}
	}
}

// Both forms, checked by a Venly written from its documents alone.
func TestVenlyWithTheSimulator(t *testing.T) {
	for _, hash := range []string{partner.HashBase64, partner.HashHex} {
		sim := partnersim.New(partnersim.Options{VenlyHash: hash, KeyOverlap: -1})
		v := venly(t, sim.Transport(), func(c *partner.VenlyConfig) {
			c.BaseURL, c.Hash = "https://partner.example/venly", hash
		})
		id, _, _, key, err := v.FetchKey(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		do := func(method, path string, body []byte, header string) *partner.Response {
			t.Helper()
			req := partner.Request{Method: method, Path: path, Body: body}
			if header != "" {
				req.Header = http.Header{"Encrypted-Signing-Method": {header}}
			}
			res, err := v.Do(t.Context(), req)
			if err != nil {
				t.Fatal(err)
			}
			return res
		}
		order := []byte(`{"transactionRequest": {"type":"TRANSFER", "value": 1}}`)
		pin := partner.SigningMethod{ID: aMethod, Value: []byte(`12"34\5é` + "\n"), PhysicalDeviceID: "d"}
		sealed := must(v.SealHeader(key, id, pin, order))
		want(t, do("POST", "/api/transactions", order, sealed), 200, partner.KindPlain)
		want(t, do("POST", "/api/transactions", order, sealed), 400, partner.KindStale) // a second time
		again := must(v.SealHeader(key, id, pin, order))
		want(t, do("POST", "/api/transactions", append(order, ' '), again), 400, partner.KindStale) // other bytes
		want(t, do("POST", "/api/transactions", order, ""), 400, partner.KindStale)
		user := must(v.SealBody(key, id, []byte(`{"reference":"r","signingMethod":{"type":"PIN","value":"123456"}}`)))
		want(t, do("POST", "/api/users", user, ""), 200, partner.KindPlain)
		change := must(v.SealBody(key, id, []byte(`{"value":"654321"}`)))
		want(t, do("PUT", "/api/users/u/signing-methods/s", change, ""), 400, partner.KindStale)
		want(t, do("PUT", "/api/users/u/signing-methods/s", change, must(v.SealHeader(key, id, pin, change))), 200, partner.KindPlain)
		sim.Rotate(partnersim.Venly)
		want(t, do("POST", "/api/transactions", order, must(v.SealHeader(key, id, pin, order))), 400, partner.KindStale)
		if id, _, _, key, err = v.FetchKey(t.Context()); err != nil {
			t.Fatal(err)
		}
		want(t, do("POST", "/api/transactions", order, must(v.SealHeader(key, id, pin, order))), 200, partner.KindPlain)
		// Our token runs out meanwhile, and nobody notices.
		sim.ExpireTokens()
		want(t, do("POST", "/api/transactions", order, must(v.SealHeader(key, id, pin, order))), 200, partner.KindPlain)
		if n := sim.Count(partnersim.EndpointVenlyToken); n != 2 {
			t.Errorf("%d tokens asked for, want 2", n)
		}
	}
}

func TestVenlyBodyAsAString(t *testing.T) {
	sim := partnersim.New(partnersim.Options{})
	v := venly(t, sim.Transport(), func(c *partner.VenlyConfig) { c.BaseURL, c.Body = "https://partner.example/venly", partner.BodyString })
	id, _, _, key, err := v.FetchKey(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	res, err := v.Do(t.Context(), partner.Request{Method: "POST", Path: "/api/users", Body: must(v.SealBody(key, id, []byte(`{"reference":"r"}`)))})
	if err != nil {
		t.Fatal(err)
	}
	last := sim.Requests()[sim.Count(partnersim.Any)-1]
	if res.Status != 400 || !strings.Contains(last.Refusal, "not a JSON object") {
		t.Errorf("got %d, %s", res.Status, last.Refusal)
	}
}

func TestVenlyTokenIsRenewedHalfAMinuteEarly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		forms := 0
		h := &wire{Handler: routes{"POST " + venlyToken: func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			want := url.Values{"grant_type": {"client_credentials"}, "client_id": {partnersim.DemoClientID}, "client_secret": {partnersim.DemoClientSecret}}
			if string(body) != want.Encode() || r.Header.Get("Authorization") != "" {
				t.Errorf("asked %s with %v", body, r.Header)
			}
			forms++
			reply(w, 200, tokenBody("token-1", 300))
		}, "GET /api/x": always(200, `{}`)}}
		v := venly(t, h)
		for _, after := range []time.Duration{0, 269 * time.Second, 2 * time.Second} {
			time.Sleep(after)
			if _, err := v.Do(t.Context(), partner.Request{Method: "GET", Path: "/api/x"}); err != nil {
				t.Fatal(err)
			}
		}
		if forms != 2 {
			t.Errorf("%d tokens asked for, want one at the start and one after 270 s of 300", forms)
		}
	})
}

func TestVenlyRequestsThatNeverLeave(t *testing.T) {
	h := &wire{Handler: routes{}}
	v := venly(t, h)
	sealed := string(must(v.SealBody(&rsaKey().PublicKey, "k1", []byte(`{}`))))
	for name, req := range map[string]partner.Request{
		"a PIN in clear":         {Path: "/api/users", Body: []byte(`{"signingMethod":{"type":"PIN","value":"123456"}}`)},
		"one of a method":        {Path: "/api/users/u/signing-methods", Body: []byte(`{"type":"PIN","value":"123456"}`)},
		"one as it used to be":   {Path: "/api/transactions", Body: []byte(`{"pincode":"123456"}`)},
		"one beside an envelope": {Path: "/api/users", Body: []byte(`{"pincode":"123456",` + sealed[1:])},
		"one twice":              {Path: "/api/users", Body: []byte(`{"signingMethod":{"value":"123456"},"signingMethod":{}}`)},
		"one in the old header":  {Path: "/api/transactions", Body: []byte(`{}`), Header: http.Header{"Signing-Method": {"id:123456"}}},
		"no JSON":                {Path: "/api/transactions", Body: []byte(`123456`)},
		"a token of somebody's":  {Path: "/api/transactions", Body: []byte(`{}`), Authorization: "Bearer user-1"},
	} {
		req.Method = "POST"
		res, err := v.Do(t.Context(), req)
		if res != nil || !errors.Is(err, partner.ErrRequest) && !errors.Is(err, partner.ErrNotAllowed) || strings.Contains(err.Error(), "123456") {
			t.Errorf("%s: got %+v, %v", name, res, err)
		}
	}
	if len(h.seen) != 0 {
		t.Errorf("sent %v", h.seen)
	}
}

func TestVenlySealsNothingOdd(t *testing.T) {
	v := venly(t, &wire{})
	key, weak := &rsaKey().PublicKey, newRSA(1024)
	pin := partner.SigningMethod{ID: aMethod, Value: []byte("123456")}
	for name, seal := range map[string]func() error{
		"no id":     func() error { return headerError(v, key, partner.SigningMethod{Value: pin.Value}) },
		"no value":  func() error { return headerError(v, key, partner.SigningMethod{ID: aMethod}) },
		"not UTF-8": func() error { return headerError(v, key, partner.SigningMethod{ID: aMethod, Value: []byte{0xff}}) },
		"an idempotency of x": func() error {
			return headerError(v, key, partner.SigningMethod{ID: aMethod, Value: pin.Value, IdempotencyKey: "x"})
		},
		"a weak key":       func() error { return headerError(v, &weak.PublicKey, pin) },
		"an EC key":        func() error { return headerError(v, &ecKey().PublicKey, pin) },
		"no key":           func() error { return headerError(v, nil, pin) },
		"a body of text":   func() error { _, err := v.SealBody(key, "k1", []byte(`123456`)); return err },
		"a body of a list": func() error { _, err := v.SealBody(key, "k1", []byte(`[1]`)); return err },
		"no body":          func() error { _, err := v.SealBody(key, "k1", nil); return err },
	} {
		if err := seal(); err == nil || strings.Contains(err.Error(), "123456") {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if string(pin.Value) != "123456" {
		t.Error("the caller's value was changed")
	}
}

func headerError(v *partner.Venly, key crypto.PublicKey, m partner.SigningMethod) error {
	_, err := v.SealHeader(key, "k1", m, nil)
	return err
}

func TestVenlyEnvelopesAreNeverTheSame(t *testing.T) {
	v := venly(t, &wire{})
	seen := map[string]bool{}
	for range 4 {
		var e struct {
			Encryption struct {
				IV  string
				Key struct{ EncryptedValue, EncryptionKeyID string }
			}
			Value string
		}
		raw := must(base64.StdEncoding.DecodeString(must(v.SealHeader(&rsaKey().PublicKey, "k1", partner.SigningMethod{ID: aMethod, Value: []byte("123456")}, nil))))
		if err := json.Unmarshal(raw, &e); err != nil || e.Encryption.Key.EncryptionKeyID != "k1" {
			t.Fatalf("%s: %v", raw, err)
		}
		for _, part := range []string{e.Encryption.IV, e.Encryption.Key.EncryptedValue, e.Value} {
			if seen[part] || part == "" {
				t.Errorf("%q a second time", part)
			}
			seen[part] = true
		}
	}
}

func TestVenlyProfileEndpointsAndConfig(t *testing.T) {
	v := venly(t, &wire{})
	if diff := cmp.Diff(partner.Profile{Type: "venly", Form: partner.FormVenly, KID: partner.KIDTheirs, OurKey: partner.OurKeyNone}, v.Profile()); diff != "" {
		t.Error(diff)
	}
	for _, tc := range [][3]string{{"POST", "/api/users", "body"}, {"POST", "/api/users/u/signing-methods", "body"}, {"PUT", "/api/users/u/signing-methods/s", "body"},
		{"POST", "/api/transactions", "header"}, {"DELETE", "/api/users/u/signing-methods/s", "header"}} {
		if got := v.Endpoint(tc[0], tc[1]).Envelope; got != tc[2] {
			t.Errorf("%s %s: %s", tc[0], tc[1], got)
		}
	}
	for says, change := range map[string]func(*partner.VenlyConfig){
		"client ID":       func(c *partner.VenlyConfig) { c.ClientID = "" },
		"token URL":       func(c *partner.VenlyConfig) { c.TokenURL = "x" },
		"authorization":   func(c *partner.VenlyConfig) { c.Authorization = "both" },
		"hash":            func(c *partner.VenlyConfig) { c.Hash = "md5" },
		"body":            func(c *partner.VenlyConfig) { c.Body = "xml" },
		"PINs in clear":   func(c *partner.VenlyConfig) { c.Forward = []string{"signing-method"} },
		"not for callers": func(c *partner.VenlyConfig) { c.Forward = []string{"Te"} },
	} {
		cfg := partner.VenlyConfig{Connection: link("venly", &wire{}), ClientID: "c", ClientSecret: func() ([]byte, error) { return nil, nil }}
		change(&cfg)
		if _, err := partner.NewVenly(cfg); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: got %v", says, err)
		}
	}
}

func FuzzVenlyKeys(f *testing.F) {
	f.Add([]byte(venlyKeys(venlyEntry("k1", venlyKey, oaepKMS))))
	f.Add([]byte(`{"success":true,"result":{"encryptionKeys":[{"id":"k1",}]}}`))
	f.Add([]byte(`{"success":false,"errors":[{"code":"x","message":"y"}]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		id, _, _, key, err := venly(t, &wire{Handler: routes{askVenly: always(200, string(body))}}).FetchKey(t.Context())
		if err != nil {
			if !errors.Is(err, partner.ErrAnswer) || key != nil {
				t.Errorf("got %v, %v", key, err)
			}
			printable(t, err)
		} else if id == "" {
			t.Error("a key without an id")
		}
	})
}

// What is sealed is JSON whatever the value is, and holds it unchanged.
func FuzzSigningMethod(f *testing.F) {
	f.Add("123456", "device")
	f.Add("\"\\\x00\x1f\u2028é", "")
	v := venly(f, &wire{}, func(c *partner.VenlyConfig) { c.BaseURL = "https://partner.example" })
	f.Fuzz(func(t *testing.T, value, device string) {
		plain, err := partner.MethodJSON(v, partner.SigningMethod{ID: aMethod, Value: []byte(value), IdempotencyKey: testKID, PhysicalDeviceID: device})
		if err != nil {
			return
		}
		var got struct{ ID, Value, IdempotencyKey, PhysicalDeviceID string }
		if err := json.Unmarshal(plain, &got); err != nil || got.ID != aMethod || got.Value != value || got.IdempotencyKey != testKID {
			t.Errorf("%q: %s, %v", value, plain, err)
		}
	})
}
