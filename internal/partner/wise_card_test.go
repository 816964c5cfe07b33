package partner_test

import (
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/go-cmp/cmp"

	"keyd/internal/partner"
	"keyd/internal/partner/partnersim"
)

// link is a connection to a handler or a simulator, by which everything below
// the base URL may be asked for.
func link(name string, h http.RoundTripper) partner.Connection {
	return partner.Connection{Name: name, BaseURL: "https://partner.example", HTTP: h, Logger: slog.New(slog.DiscardHandler),
		Allow: []partner.Allow{{Methods: []string{"GET", "POST", "PUT", "DELETE"}, Paths: []string{"/"}}}}
}

func openCard(t testing.TB, h http.RoundTripper, changes ...func(*partner.WiseCardConfig)) *partner.WiseCard {
	t.Helper()
	cfg := partner.WiseCardConfig{Connection: link("card", h)}
	for _, change := range changes {
		change(&cfg)
	}
	w, err := partner.NewWiseCard(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

const (
	cardPath  = "/twcard-data/v1/sensitive-card-data/"
	cardToken = "ca0c8154-1e14-4464-a1ce-dcea7dc3de52"
	askCard   = "GET /twcard-data/v1/clientSideEncryption/fetchEncryptingKey"
)

// forms is one key in every form that a partner might write it in.
func forms(key *rsa.PublicKey) map[string]string {
	armour := func(kind string, der []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	encode := base64.StdEncoding.EncodeToString
	whole, bare := must(x509.MarshalPKIXPublicKey(key)), x509.MarshalPKCS1PublicKey(key)
	return map[string]string{
		"PEM":                    armour("PUBLIC KEY", whole),
		"PEM, PKCS#1":            armour("RSA PUBLIC KEY", bare),
		"PEM, spaces around":     "\n " + armour("PUBLIC KEY", whole) + "\n",
		"base64 of PEM":          encode([]byte(armour("PUBLIC KEY", whole))),
		"base64 of PEM, PKCS#1":  encode([]byte(armour("RSA PUBLIC KEY", bare))),
		"base64 of DER":          encode(whole),
		"base64 of DER, PKCS#1":  encode(bare),
		"base64 of DER in lines": inLines(encode(whole)),
	}
}

func TestCardKeyIsReadInEveryForm(t *testing.T) {
	for name, text := range forms(&rsaKey().PublicKey) {
		t.Run(name, func(t *testing.T) {
			w := openCard(t, &wire{Handler: routes{askCard: func(rw http.ResponseWriter, r *http.Request) {
				if got := r.Header.Get("Authorization"); got != "Bearer user-1" {
					t.Errorf("got Authorization %q", got)
				}
				reply(rw, 200, toJSON(map[string]any{"version": 7, "key": text, "added": true}))
			}}})
			id, version, alg, public, err := w.FetchKeyAs(t.Context(), "Bearer user-1")
			if err != nil {
				t.Fatal(err)
			}
			if id != "" || version != 7 || alg != "RSA1_5" || !rsaKey().PublicKey.Equal(public) {
				t.Errorf("got %q, %d, %s, %v", id, version, alg, public)
			}
		})
	}
}

func TestCardKeysThatAreRefused(t *testing.T) {
	weak := newRSA(1024)
	for name, body := range map[string]string{
		"not JSON":      `MIIB`,
		"no key":        `{"version":1}`,
		"no version":    toJSON(map[string]any{"key": sampleKey}),
		"an odd one":    toJSON(map[string]any{"version": -1, "key": sampleKey}),
		"a weak key":    toJSON(map[string]any{"version": 1, "key": spki(&weak.PublicKey)}),
		"an EC key":     toJSON(map[string]any{"version": 1, "key": spki(&newAuthority(t).key.PublicKey)}),
		"a private key": toJSON(map[string]any{"version": 1, "key": "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----"}),
		"two keys":      toJSON(map[string]any{"version": 1, "key": strings.Repeat(forms(&rsaKey().PublicKey)["PEM"], 2)}),
		"half a key":    toJSON(map[string]any{"version": 1, "key": sampleKey[:100]}),
		"half a PEM":    toJSON(map[string]any{"version": 1, "key": forms(&rsaKey().PublicKey)["PEM"][:100]}),
		"key and more":  toJSON(map[string]any{"version": 1, "key": base64.StdEncoding.EncodeToString(append(x509.MarshalPKCS1PublicKey(&rsaKey().PublicKey), 0))}),
		"the wrong URL": `<html>`,
	} {
		w := openCard(t, &wire{Handler: routes{askCard: always(200, body)}})
		_, _, _, public, err := w.FetchKeyAs(t.Context(), "Bearer user-1")
		if !errors.Is(err, partner.ErrAnswer) || public != nil {
			t.Errorf("%s: got %v, %v", name, public, err)
		}
	}
}

func TestCardKeyNeedsACallersToken(t *testing.T) {
	h := &wire{Handler: routes{}}
	w := openCard(t, h)
	_, _, _, _, err := w.FetchKey(t.Context())
	if !errors.Is(err, partner.ErrNeedsCaller) {
		t.Errorf("got %v", err)
	}
	for _, authorization := range []string{"", "Basic x", "user-1"} {
		if _, _, _, _, err = w.FetchKeyAs(t.Context(), authorization); !errors.Is(err, partner.ErrRequest) {
			t.Errorf("%q: %v", authorization, err)
		}
	}
	if len(h.seen) > 0 {
		t.Errorf("asked %v", h.seen)
	}
	w = openCard(t, &wire{Handler: routes{askCard: always(401, `{"error":"invalid_token","error_description":"user-1"}`)}})
	_, _, _, _, err = w.FetchKeyAs(t.Context(), "Bearer user-1")
	if err == nil || err.Error() != "card: key: HTTP 401: invalid_token: [redacted]" {
		t.Errorf("got %v", err)
	}
}

// cardJWE seals as a payment backend or keyd would; the content key is go-jose's secret.
func cardJWE(t *testing.T, key *rsa.PublicKey, plaintext string) []byte {
	t.Helper()
	enc := must(jose.NewEncrypter(jose.A256GCM, jose.Recipient{Algorithm: jose.RSA1_5, Key: key}, nil))
	return []byte(must(must(enc.Encrypt([]byte(plaintext))).CompactSerialize()))
}

func TestCardDataWithTheSimulator(t *testing.T) {
	for how, tc := range map[string]struct {
		opt   partnersim.Options
		kind  string
		level string
	}{
		"sealed": {partnersim.Options{}, partner.KindSealed, partner.RepliesSealed},
		"quoted": {partnersim.Options{CardReply: partnersim.CardQuoted, CardKeyForm: partnersim.KeyPEM}, partner.KindSealed, partner.RepliesSealed},
		"framed": {partnersim.Options{CardReply: partnersim.CardFramed, CardKeyForm: partnersim.KeyBase64PEM}, partner.KindSealed, partner.RepliesSealed},
		"clear":  {partnersim.Options{CardReply: partnersim.CardClear, CardKeyForm: partnersim.KeyPKCS1}, partner.KindPlain, partner.RepliesClear},
	} {
		t.Run(how, func(t *testing.T) {
			tc.opt.KeyOverlap = -1
			sim := partnersim.New(tc.opt)
			authorization := "Bearer " + sim.NewUserToken(partnersim.Wise)
			for _, replies := range []string{"", tc.level} {
				w := openCard(t, sim.Transport(), func(c *partner.WiseCardConfig) { c.Replies = replies })
				_, version, _, public, err := w.FetchKeyAs(t.Context(), authorization)
				if err != nil {
					t.Fatal(err)
				}
				do := func(path, header, plaintext string) *partner.Response {
					t.Helper()
					body := must(w.Frame(cardJWE(t, public.(*rsa.PublicKey), plaintext), version))
					res, err := w.Do(t.Context(), partner.Request{Method: "POST", Path: cardPath + path, Body: body,
						Header: http.Header{header: {cardToken}}, Authorization: authorization})
					if err != nil {
						t.Fatal(err)
					}
					return res
				}
				want(t, do("preset-pin", "x-tw-twcard-order-id", `{"pin":"4711"}`), 200, partner.KindEmpty)
				want(t, do("details", "x-tw-twcard-card-token", ``), 200, tc.kind)
				want(t, do("pin", "x-tw-twcard-card-token", ``), 200, tc.kind)
				sim.Rotate(partnersim.WiseCard)
				want(t, do("pin", "x-tw-twcard-card-token", ``), 500, partner.KindStale)
			}
			other := partner.RepliesSealed
			if tc.level == other {
				other = partner.RepliesClear
			}
			w := openCard(t, sim.Transport(), func(c *partner.WiseCardConfig) { c.Replies = other })
			_, _, _, public, err := w.FetchKeyAs(t.Context(), authorization)
			if err != nil {
				t.Fatal(err)
			}
			_, err = w.Do(t.Context(), partner.Request{Method: "POST", Path: cardPath + "details",
				Body:   must(w.Frame(cardJWE(t, public.(*rsa.PublicKey), ""), 1)),
				Header: http.Header{"X-Tw-Twcard-Card-Token": {cardToken}}, Authorization: authorization})
			if !errors.Is(err, partner.ErrAnswer) || strings.Contains(err.Error(), "4396") {
				t.Errorf("replies %s: %v", other, err)
			}
		})
	}
}

func TestCardRequestsThatNeverLeave(t *testing.T) {
	h := &wire{Handler: routes{}}
	w := openCard(t, h)
	frame := func(payload string) []byte { return []byte(`{"keyVersion":1,"encryptedPayload":"` + payload + `"}`) }
	token := http.Header{"X-Tw-Twcard-Card-Token": {cardToken}}
	for name, req := range map[string]partner.Request{
		"a PIN in clear":     {Path: cardPath + "preset-pin", Body: []byte(`{"pin":"1234"}`)},
		"a bare envelope":    {Path: cardPath + "pin", Body: []byte(compactJWE)},
		"a frame in clear":   {Path: cardPath + "pin", Body: frame("1234")},
		"a PIN beside":       {Path: cardPath + "pin", Body: []byte(`{"keyVersion":1,"encryptedPayload":"` + compactJWE + `","pin":"1234"}`)},
		"a payload twice":    {Path: cardPath + "pin", Body: []byte(`{"keyVersion":1,"encryptedPayload":"1234","encryptedPayload":"` + compactJWE + `"}`)},
		"in other letters":   {Path: cardPath + "pin", Body: []byte(`{"keyVersion":1,"EncryptedPayload":"1234","encryptedPayload":"` + compactJWE + `"}`)},
		"null":               {Path: cardPath + "pin", Body: []byte(`null`)},
		"two frames":         {Path: cardPath + "pin", Body: append(frame(compactJWE), frame(compactJWE)...)},
		"no card token":      {Path: cardPath + "details", Body: frame(compactJWE), Header: http.Header{}},
		"an order for it":    {Path: cardPath + "pin", Body: frame(compactJWE), Header: http.Header{"X-Tw-Twcard-Order-Id": {cardToken}}},
		"a card for it":      {Path: cardPath + "preset-pin", Body: frame(compactJWE)},
		"no authorization":   {Path: cardPath + "pin", Body: frame(compactJWE), Authorization: "-"},
		"an odd path":        {Path: cardPath + "../pin", Body: frame(compactJWE)},
		"a header not known": {Path: cardPath + "pin", Body: frame(compactJWE), Header: http.Header{"X-Other": {"1"}}},
	} {
		req.Method = "POST"
		if req.Header == nil {
			req.Header = token
		}
		if req.Authorization == "" {
			req.Authorization = "Bearer user-1"
		}
		res, err := w.Do(t.Context(), req)
		if res != nil || !errors.Is(err, partner.ErrRequest) && !errors.Is(err, partner.ErrNotAllowed) || strings.Contains(err.Error(), "1234") {
			t.Errorf("%s: got %+v, %v", name, res, err)
		}
	}
	if len(h.seen) > 0 {
		t.Errorf("sent %v", h.seen)
	}
}

func TestCardProfileAndFrame(t *testing.T) {
	w := openCard(t, &wire{})
	wantProfile := partner.Profile{Type: "wise-card", Form: partner.FormMember, SealAlg: "RSA1_5", SealEnc: "A256GCM", KID: partner.KIDNone,
		ReplyEncs: []string{"A256GCM"}, OurKey: partner.OurKeyNone, CallersKey: true}
	if diff := cmp.Diff(wantProfile, w.Profile()); diff != "" {
		t.Error(diff)
	}
	for replies, direct := range map[string]string{"": partner.DirectMaybe, "either": partner.DirectMaybe, "sealed": partner.DirectAlways, "clear": partner.DirectNever} {
		w := openCard(t, &wire{}, func(c *partner.WiseCardConfig) { c.Replies = replies })
		if got := w.Endpoint("POST", cardPath+"pin"); got.Direct != direct || !cmp.Equal(got.Needs, []string{"X-Tw-Twcard-Card-Token"}) {
			t.Errorf("%s: got %+v", replies, got)
		}
	}
	for _, byKey := range []bool{false, true} {
		w := openCard(t, &wire{}, func(c *partner.WiseCardConfig) { c.KeyVersion = byKey })
		version := map[bool]string{false: "1", true: "7"}[byKey]
		body, err := w.Frame([]byte(compactJWE), 7)
		if err != nil || string(body) != `{"keyVersion":`+version+`,"encryptedPayload":"`+compactJWE+`"}` {
			t.Errorf("got %s, %v", body, err)
		}
	}
	if body, err := w.Frame([]byte("1234"), 1); err == nil || body != nil {
		t.Errorf("a frame around no envelope: %s", body)
	}
	cfg := partner.WiseCardConfig{Connection: link("card", &wire{}), Replies: "maybe"}
	if _, err := partner.NewWiseCard(cfg); err == nil || !strings.Contains(err.Error(), `replies "maybe"`) {
		t.Errorf("got %v", err)
	}
}

func FuzzCardAnswers(f *testing.F) {
	f.Add([]byte(`{"version":1,"key":"`+sampleKey+`"}`), []byte(compactJWE))
	f.Add([]byte(`{"version":1,"key":"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----"}`), []byte(`"`+compactJWE+`"`))
	f.Add([]byte(`{}`), []byte(`{"encryptedPayload":"a.b.c.d.e"}`))
	f.Fuzz(func(t *testing.T, key, answer []byte) {
		w := openCard(t, &wire{Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			if r.Method == "GET" {
				reply(rw, 200, string(key))
				return
			}
			reply(rw, 200, string(answer))
		})})
		if _, _, _, public, err := w.FetchKeyAs(t.Context(), "Bearer user-1"); err != nil {
			printable(t, err)
		} else if k, ok := public.(*rsa.PublicKey); !ok || k.N.BitLen() < 2048 {
			t.Errorf("got %v", public)
		}
		res, err := w.Do(t.Context(), partner.Request{Method: "POST", Path: cardPath + "pin", Body: must(w.Frame([]byte(compactJWE), 1)),
			Header: http.Header{"X-Tw-Twcard-Card-Token": {cardToken}}, Authorization: "Bearer user-1"})
		if err != nil {
			t.Fatal(err)
		}
		if (res.Kind == partner.KindSealed) != (strings.Count(string(res.Envelope), ".") == 4) {
			t.Errorf("%q: %s, %q", answer, res.Kind, res.Envelope)
		}
	})
}
