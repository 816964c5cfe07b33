package partner_test

import (
	"context"
	"crypto"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"keyd/internal/partner"
)

// abilities are what every partner has.
type abilities interface {
	Profile() partner.Profile
	Endpoint(method, path string) partner.Endpoint
	FetchKey(ctx context.Context) (id string, version int, algorithm string, public crypto.PublicKey, err error)
	Headers(kid string) http.Header
	GetHeaders(kid string) http.Header
	Frame(envelope []byte, version int) ([]byte, error)
	Allows(method, path string) error
	Do(ctx context.Context, req partner.Request) (*partner.Response, error)
}

// kind is one type of partner, made with callers' tokens, and a body that it
// takes.
type kind struct {
	create func(t *testing.T, h http.RoundTripper) abilities
	body   func(a abilities) []byte
	clear  string // a body that must not leave
}

func kinds() map[string]kind {
	framed := func(a abilities) []byte { return must(a.Frame([]byte(compactJWE), 1)) }
	return map[string]kind{
		"wise": {func(t *testing.T, h http.RoundTripper) abilities {
			cfg := config(io.Discard)
			cfg.HTTP, cfg.Allow = h, []partner.Allow{{Methods: []string{"GET", "POST"}, Paths: []string{"/v1/"}}}
			return must(partner.NewWise(cfg))
		}, framed, `{"pin":"1234"}`},
		"wise-card": {func(t *testing.T, h http.RoundTripper) abilities {
			return openCard(t, h, func(c *partner.WiseCardConfig) { c.Allow[0].Paths = []string{"/v1/"} })
		}, framed, `{"pin":"1234"}`},
		"jackhenry": {func(t *testing.T, h http.RoundTripper) abilities {
			cfg := partner.JackHenryConfig{Connection: link("jh", h), Authorization: partner.AuthCaller, Prefix: "/v1",
				Fields: []partner.FieldRule{{Paths: []string{"/v1/"}, Seal: []string{"/pin"}}}}
			cfg.Allow[0].Paths = []string{"/v1/"}
			return must(partner.NewJackHenry(cfg))
		}, func(abilities) []byte { return []byte(`{"pin":"` + compactJWE + `"}`) }, `{"pin":"1234"}`},
		"powens": {func(t *testing.T, h http.RoundTripper) abilities {
			return powens(t, h, func(c *partner.PowensConfig) {
				c.Allow[0].Paths, c.Fields = []string{"/v1/"}, []partner.FieldRule{{Paths: []string{"/v1/"}, Seal: []string{"/pin"}}}
			})
		}, func(abilities) []byte { return []byte(`{"pin":"` + compactJWE + `"}`) }, `{"pin":"1234"}`},
		"venly": {func(t *testing.T, h http.RoundTripper) abilities {
			return venly(t, h, func(c *partner.VenlyConfig) { c.Authorization, c.Allow[0].Paths = partner.AuthCaller, []string{"/v1/"} })
		}, func(a abilities) []byte {
			return must(a.(*partner.Venly).SealBody(&rsaKey().PublicKey, "k1", []byte(`{"pincode":"1234"}`)))
		}, `{"pincode":"1234"}`},
		"jwe": {func(t *testing.T, h http.RoundTripper) abilities {
			return described(t, h, func(c *partner.JWEConfig) {
				c.Form, c.RequestMember, c.Allow[0].Paths = partner.FormMember, "/encData", []string{"/v1/"}
			})
		}, framed, `{"encData":"1234"}`},
	}
}

func TestWhatEveryPartnerCanDo(t *testing.T) {
	for name, k := range kinds() {
		t.Run(name, func(t *testing.T) {
			var answer http.HandlerFunc
			h := &wire{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { answer(w, r) })}
			a := k.create(t, h)
			checkProfile(t, name, a.Profile())
			for _, headers := range []func(string) http.Header{a.Headers, a.GetHeaders} {
				if got := headers(testKID); got.Get("Accept-Encoding") != "identity" || got.Get("Accept") == "" || got.Get("Authorization") != "" {
					t.Errorf("headers %v", got)
				}
				headers(testKID).Set("Accept", "changed")
				if headers(testKID).Get("Accept") == "changed" {
					t.Error("headers are not the caller's to change")
				}
			}
			post := func(path, body, authorization string) (*partner.Response, error) {
				return a.Do(t.Context(), partner.Request{Method: "POST", Path: path, Body: []byte(body), KID: testKID, KeyID: "k1", Authorization: authorization})
			}
			good := string(k.body(a))
			for why, try := range map[string]func() (*partner.Response, error){
				"in clear":     func() (*partner.Response, error) { return post("/v1/x", k.clear, "Bearer user-1") },
				"not allowed":  func() (*partner.Response, error) { return post("/v2/x", good, "Bearer user-1") },
				"by dots":      func() (*partner.Response, error) { return post("/v1/../x", good, "Bearer user-1") },
				"to a host":    func() (*partner.Response, error) { return post("//evil.example/v1/x", good, "Bearer user-1") },
				"with a token": func() (*partner.Response, error) { return post("/v1/x", good, "user-1") },
				"with none":    func() (*partner.Response, error) { return post("/v1/x", good, "") },
			} {
				res, err := try()
				if res != nil || !errors.Is(err, partner.ErrRequest) && !errors.Is(err, partner.ErrNotAllowed) || strings.Contains(err.Error(), "1234") {
					t.Errorf("%s: got %+v, %v", why, res, err)
				}
			}
			for path, want := range map[string]error{"/v1/x": nil, "/v2/x": partner.ErrNotAllowed, "/v1/../x": partner.ErrRequest, "//evil.example/v1/x": partner.ErrRequest} {
				if err := a.Allows("POST", path); !errors.Is(err, want) {
					t.Errorf("%s: got %v, want %v", path, err, want)
				}
			}
			if len(h.seen) != 0 {
				t.Fatalf("sent %v", h.seen)
			}
			for want, given := range map[string]http.HandlerFunc{
				partner.KindLimited: always(429, `{}`, "Retry-After", "5"),
				partner.KindEmpty:   always(204, ``),
				partner.KindPlain:   always(404, `{"message":"none"}`),
			} {
				answer = given
				res, err := post("/v1/x", good, "Bearer user-1")
				if err != nil || res.Kind != want || (res.RetryAfter == 5*time.Second) != (want == partner.KindLimited) {
					t.Errorf("want %s: got %+v, %v", want, res, err)
				}
			}
			for why, given := range map[string]http.HandlerFunc{
				"in its own words": breaks(errors.New("malformed: user-1 1234")),
				"cut":              breaks(io.ErrUnexpectedEOF),
				"compressed":       always(200, `x`, "Content-Encoding", "gzip"),
				"too large":        always(200, strings.Repeat("1", 1<<20+1)),
			} {
				answer = given
				res, err := post("/v1/x", good, "Bearer user-1")
				e, ok := errors.AsType[*partner.Error](err)
				if !ok || res != nil || e.Op != "call" || strings.Contains(e.Error(), "1234") || strings.Contains(e.Error(), "user-1") {
					t.Errorf("%s: got %+v, %v", why, res, err)
				}
			}
		})
	}
}

// checkProfile holds a profile to what must be true of any.
func checkProfile(t *testing.T, name string, p partner.Profile) {
	t.Helper()
	if p.Type != name || !slices.Contains([]string{partner.FormBody, partner.FormMember, partner.FormFields, partner.FormVenly}, p.Form) ||
		(p.SealAlg == "") != (p.Form == partner.FormVenly) {
		t.Errorf("got %+v", p)
	}
	for _, alg := range p.ReplyAlgs {
		if !slices.Contains([]string{"RSA-OAEP-256", "ECDH-ES", "ECDH-ES+A128KW", "ECDH-ES+A256KW"}, alg) || p.OurKey == partner.OurKeyNone {
			t.Errorf("replies of alg %s, our key %s", alg, p.OurKey)
		}
	}
}
