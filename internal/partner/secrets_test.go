package partner_test

import (
	"context"
	"crypto"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"unicode"

	"keyd/internal/partner"
)

// mirrors are servers that show back what they were sent, in every place of an
// answer that can end in an error.
func mirrors() map[string]http.HandlerFunc {
	shown := func(r *http.Request) string {
		auth := r.Header.Get("Authorization")
		_, basic, _ := strings.Cut(auth, " ")
		plain, _ := base64.StdEncoding.DecodeString(basic)
		if r.URL.Path != "/oauth/token" {
			return auth + " " + basic
		}
		return auth + " " + basic + " " + string(plain) + " " + testSecret
	}
	body := func(status int, format string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			reply(w, status, fmt.Sprintf(format, toJSON(shown(r)), r.Header.Get("Authorization")))
		}
	}
	header := func(status int, names ...string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			for _, n := range names {
				w.Header().Set(n, shown(r))
			}
			reply(w, status, `{}`)
		}
	}
	raw := func(format string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			c, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				panic(err)
			}
			_, _ = fmt.Fprintf(c, format, shown(r))
			_ = c.Close()
		}
	}
	m := map[string]http.HandlerFunc{
		"status line":    raw("HTTP/1.1 %s\r\n\r\n"),
		"protocol":       raw("%s\r\n\r\n"),
		"header line":    raw("HTTP/1.1 500 x\r\n%s\r\n\r\n"),
		"length":         raw("HTTP/1.1 500 x\r\nContent-Length: %s\r\n\r\n"),
		"coding":         raw("HTTP/1.1 201 x\r\nTransfer-Encoding: %s\r\n\r\n"),
		"odd success":    body(202, `{"message":%s,"x":%q}`),
		"compressed":     header(200, "Content-Encoding"),
		"compressed 201": header(201, "Content-Encoding"),
		"type 200":       header(200, "Content-Type"),
		"not JSON 200":   body(200, `%s %s`),
		"not JSON 201":   body(201, `%s %s`),
		"wrong types":    body(200, `{"keyId":%s,"scope":%q,"version":"x","token_type":%[2]q,"access_token":[%[1]s]}`),
		"wrong scope":    body(200, `{"keyId":%s,"scope":%q,"token_type":"x","access_token":"x"}`),
		"wrong echo":     body(201, `{"keyId":%s,"scope":%q,"deactivationTimestamp":%[1]s}`),
	}
	for _, status := range []int{302, 400, 401, 403, 404, 409, 422, 429, 500, 503} {
		m[fmt.Sprint("headers of ", status)] = header(status, "X-Trace-Id", "X-Rate-Limited-By", "Retry-After", "Location", "Content-Type")
		for name, format := range map[string]string{
			"oauth": `{"error":%s,"error_description":%[1]s}`, "message": `{"message":%s,"request_id":%[1]s,"code":%[1]s}`,
			"list": `{"errors":[{"code":%s,"message":%[1]s,"path":%[1]s,"arguments":[%[1]s]}]}`, "text": `%s %s`,
		} {
			m[fmt.Sprint(name, " of ", status)] = body(status, format)
		}
	}
	return m
}

func TestNoSecretIsInAnyErrorOrLog(t *testing.T) {
	const token = "tok-2f0d7c8e-5a11-4c7e" // short enough not to be cut for its length
	needles := []string{token, testSecret, "hunter2", "aHVudGVyMi", base64.StdEncoding.EncodeToString([]byte("our+client"))[:10]}
	check := func(t *testing.T, err error, l *logs) {
		t.Helper()
		if err == nil {
			return
		}
		texts := []string{err.Error(), fmt.Sprintf("%v %+v %s %q", err, err, err, err), l.String()}
		if e, ok := errors.AsType[*partner.Error](err); ok {
			texts = append(texts, e.Code, e.Message, e.TraceID, e.RequestID, e.LimitedBy)
			if len(e.Error()) > 2000 {
				t.Errorf("error of %d bytes", len(e.Error()))
			}
		}
		for _, text := range texts {
			for _, n := range needles {
				if strings.Contains(text, n) {
					t.Errorf("%q shows %q", text, n)
				}
			}
			if strings.ContainsFunc(strings.ReplaceAll(text, "\n", ""), unicode.IsControl) {
				t.Errorf("%q has control characters", text)
			}
		}
	}
	for name, mirror := range mirrors() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := httptest.NewServer(routes{askToken: always(200, tokenBody(token, 43199)),
				askAnnounce: mirror, askKey: mirror, askPlay: mirror, askPlayPost: mirror})
			defer s.Close()
			w, l := dial(t, s.URL)
			_, postErr := w.PlaygroundPost(t.Context(), testKID, func(string) (string, error) { return compactJWE, nil })
			for _, err := range []error{announce(t, w), fetchKey(t, w), playground(t, w), postErr} {
				check(t, err, l)
			}
			s2 := httptest.NewServer(routes{askToken: mirror})
			defer s2.Close()
			w, l = dial(t, s2.URL)
			err := fetchKey(t, w)
			if err == nil {
				t.Error("a mirror gave a token")
			}
			check(t, err, l)
		})
	}
}

func TestSecretInsideASecretDoesNotUncoverTheRest(t *testing.T) {
	mirror := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/oauth/token" {
			reply(w, 200, tokenBody("token-1", 43199))
			return
		}
		reply(w, 400, toJSON(map[string]string{"message": "you sent " + r.Header.Get("Authorization")}))
	}))
	defer mirror.Close()
	w, _ := dial(t, "http://127.0.0.1:1", func(c *partner.WiseConfig) { c.Proxy = strings.Replace(mirror.URL, "//", "//user:token@", 1) })
	e := callError(t, fetchKey(t, w), "key", 400)
	if want := "you sent Bearer [redacted]"; e.Message != want {
		t.Errorf("got %q, want %q", e.Message, want)
	}
}

func TestErrorsDoNotLeadToTheOriginal(t *testing.T) {
	h := open(t, routes{askKey: breaks(fmt.Errorf("a proxy echoed Bearer token-1"))})
	err := fetchKey(t, h.Wise)
	wantError(t, err, "key", 0, "a proxy echoed Bearer [redacted]")
	if u, ok := err.(interface{ Unwrap() error }); ok {
		t.Errorf("it unwraps to %v", u.Unwrap())
	}
}

func TestLongAndUnprintableTextIsCut(t *testing.T) {
	message := "first\x1b[31m\nsecond\u202e " + strings.Repeat("k", 65) + " " + strings.Repeat("word ", 100)
	h := open(t, routes{askKey: always(400, toJSON(map[string]string{"message": message}))})
	e := callError(t, fetchKey(t, h.Wise), "key", 400)
	if want := "first?[31m second? [65 characters] word word"; !strings.HasPrefix(e.Message, want) {
		t.Errorf("got %q, want it to begin with %q", e.Message, want)
	}
	if n := len([]rune(e.Message)); n > 250 {
		t.Errorf("%d characters", n)
	}
}

// Whatever a partner shows back of what it was sent, in keyd's own calls and in
// those of callers.
func TestNoSecretIsInAnErrorOfAnyPartner(t *testing.T) {
	const user, own = "usr-2f0d7c8e-5a11-4c7e", "tok-2f0d7c8e-5a11-4c7e"
	secret := func() ([]byte, error) { return []byte(testSecret), nil }
	signer := &ps256{key: rsaKey(), kid: testKID}
	type fetcher interface {
		FetchKey(ctx context.Context) (string, int, string, crypto.PublicKey, error)
	}
	type shown interface {
		FetchKeyAs(ctx context.Context, authorization string) (string, int, string, crypto.PublicKey, error)
	}
	for name, create := range map[string]func(h http.RoundTripper) fetcher{
		"card": func(h http.RoundTripper) fetcher { return openCard(t, h) },
		"jackhenry": func(h http.RoundTripper) fetcher {
			return jackHenry(t, h, signer, func(c *partner.JackHenryConfig) { c.TokenURL = "https://partner.example/token" })
		},
		"powens": func(h http.RoundTripper) fetcher { return powens(t, h, service) },
		"jwe": func(h http.RoundTripper) fetcher {
			return described(t, h, func(c *partner.JWEConfig) {
				c.Key.Authorization, c.TokenURL, c.ClientID, c.ClientSecret, c.SecretIn = partner.AuthService, genericURL+"/token", testID, secret, partner.SecretInForm
			})
		},
		"jwe, callers": func(h http.RoundTripper) fetcher {
			return described(t, h, func(c *partner.JWEConfig) { c.Key.Authorization = partner.AuthCaller })
		},
	} {
		for _, status := range []int{200, 400, 401, 403, 429, 500} {
			for _, tokens := range []bool{false, true} { // whether the token endpoint works
				var sent []string
				h := &wire{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					body, _ := io.ReadAll(r.Body)
					if tokens && strings.Contains(r.URL.Path, "token") {
						reply(w, 200, toJSON(map[string]any{"access_token": own, "token": own, "token_type": "bearer", "expires_in": 600}))
						return
					}
					form, _ := url.ParseQuery(string(body))
					sent = append(sent, form.Get("client_assertion"))
					mirrored := r.Header.Get("Authorization") + " " + string(body) + " " + form.Get("client_assertion") + " " + testSecret
					w.Header().Set("X-Trace-Id", mirrored)
					reply(w, status, toJSON(map[string]any{"error": mirrored, "message": mirrored, "details": []string{mirrored}, "request_id": mirrored}))
				})}
				p := create(h)
				_, _, _, _, err := p.FetchKey(t.Context())
				if as, ok := p.(shown); ok && errors.Is(err, partner.ErrNeedsCaller) {
					_, _, _, _, err = as.FetchKeyAs(t.Context(), "Bearer "+user)
				}
				if err == nil {
					t.Fatalf("%s, %d: a mirror has a key", name, status)
				}
				text := fmt.Sprintf("%v %+v %q", err, err, err)
				needles := []string{user, own}
				for _, assertion := range sent {
					if assertion != "" {
						needles = append(needles, assertion, assertion[:40])
					}
				}
				if !tokens && (name == "powens" || name == "jwe") { // the secret was in the request
					needles = append(needles, "hunter2")
				}
				for _, needle := range needles {
					if strings.Contains(text, needle) {
						t.Errorf("%s, %d: %s shows %q", name, status, text, needle)
					}
				}
			}
		}
	}
}
