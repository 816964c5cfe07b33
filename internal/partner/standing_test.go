package partner_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"keyd/internal/partner"
)

// said is a secret as it is read from where the config says.
func said(value string) func() ([]byte, error) {
	return func() ([]byte, error) { return []byte(value), nil }
}

const (
	aPassword = "pass word-9f8e7d6c"
	anAPIKey  = "key-0a1b2c3d4e5f"
)

// standing has all of it, and the key behind it too.
func standing(auth string) func(*partner.JWEConfig) {
	return func(c *partner.JWEConfig) {
		c.Authorization, c.ClientID, c.ClientSecret = auth, "us er", said(aPassword)
		c.SecretHeader = map[string]func() ([]byte, error){"x-api-key": said(anAPIKey)}
		c.Key.Authorization = auth
		c.Header = map[string]string{"X-Fixed": "1"}
	}
}

func TestStandingAuthorityIsOnEachRequestToThePartner(t *testing.T) {
	for auth, want := range map[string]string{
		partner.AuthBasic:  "Basic " + base64.StdEncoding.EncodeToString([]byte("us er:"+aPassword)),
		partner.AuthBearer: "Bearer " + aPassword,
	} {
		h := &wire{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if got := []string{r.Header.Get("Authorization"), r.Header.Get("X-Api-Key"), r.Header.Get("X-Fixed")}; !cmp.Equal(got, []string{want, anAPIKey, "1"}) {
				t.Errorf("%s %s: sent %q", r.Method, r.URL.Path, got)
			}
			reply(w, 200, spki(&rsaKey().PublicKey))
		})}
		j := described(t, h, standing(auth), func(c *partner.JWEConfig) { c.Key.KeyID = "k" })
		if _, _, _, _, err := j.FetchKey(t.Context()); err != nil {
			t.Error(err)
		}
		for _, req := range []partner.Request{{Method: "GET", Path: "/v1/x"}, {Method: "POST", Path: "/v1/x", Body: []byte(compactJWE)}} {
			if _, err := j.Do(t.Context(), req); err != nil {
				t.Error(err)
			}
		}
		if len(h.seen) != 3 {
			t.Errorf("%s: seen %v", auth, h.seen)
		}
		// What says which headers a caller has to send says nothing of them.
		for _, shown := range []http.Header{j.HeadersTo("a", "b"), j.Headers("a"), j.GetHeaders("a")} {
			if shown.Get("X-Api-Key") != "" || shown.Get("Authorization") != "" {
				t.Errorf("shown %v", shown)
			}
		}
		// Nobody has another authority beside it.
		if _, err := j.Do(t.Context(), partner.Request{Method: "GET", Path: "/v1/x", Authorization: "Bearer user-1"}); !errors.Is(err, partner.ErrNotAllowed) {
			t.Errorf("got %v", err)
		}
	}
}

func TestStandingAuthorityGoesToThePartnersHostAlone(t *testing.T) {
	var seen []string
	h := &wire{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen = append(seen, r.Host+" "+r.Header.Get("X-Api-Key"))
		switch {
		case strings.HasSuffix(r.URL.Path, "/token"):
			reply(w, 200, tokenBody("token-1", 600))
		case r.URL.Path == "/key":
			reply(w, 200, spki(&rsaKey().PublicKey))
		default:
			w.Header().Set("Location", "https://elsewhere.example/v1/x")
			reply(w, 307, "")
		}
	})}
	j := described(t, h, func(c *partner.JWEConfig) {
		c.SecretHeader = map[string]func() ([]byte, error){"X-API-Key": said(anAPIKey)}
		c.Key = partner.KeySource{URL: "https://keys.example/key", KeyID: "k"}
		c.Authorization, c.TokenURL, c.ClientID, c.ClientSecret = partner.AuthService, "https://login.example/token", testID, said(testSecret)
	})
	if _, _, _, _, err := j.FetchKey(t.Context()); err != nil {
		t.Error(err)
	}
	res, err := j.Do(t.Context(), partner.Request{Method: "POST", Path: "/v1/x", Body: []byte(compactJWE)})
	if err != nil || res.Status != 307 {
		t.Errorf("got %+v, %v", res, err)
	}
	want := []string{"keys.example ", "login.example ", "partner.example " + anAPIKey}
	if diff := cmp.Diff(want, seen); diff != "" {
		t.Error(diff)
	}
}

func TestStandingAuthorityIsReadAgainForEachRequest(t *testing.T) {
	key, seen := "first-key", []string{}
	h := &wire{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen = append(seen, r.Header.Get("X-Api-Key"))
		w.WriteHeader(204)
	})}
	j := described(t, h, func(c *partner.JWEConfig) {
		c.Authorization = partner.AuthNone
		c.SecretHeader = map[string]func() ([]byte, error){"X-API-Key": func() ([]byte, error) { return []byte(key), nil }}
	})
	for _, key = range []string{"first-key", "second-key"} {
		if _, err := j.Do(t.Context(), partner.Request{Method: "GET", Path: "/v1/x"}); err != nil {
			t.Error(err)
		}
	}
	if fmt.Sprint(seen) != "[first-key second-key]" {
		t.Errorf("sent %v", seen)
	}
}

// Whatever the partner shows back of it, neither a caller nor an error has it.
func TestStandingAuthorityIsInNoAnswerAndNoError(t *testing.T) {
	for _, auth := range []string{partner.AuthBasic, partner.AuthBearer} {
		for _, status := range []int{200, 400, 500} {
			h := &wire{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_, sent, _ := strings.Cut(r.Header.Get("Authorization"), " ")
				mirrored := sent + " " + aPassword + " " + r.Header.Get("X-Api-Key") + " ordinary"
				w.Header().Set("X-Mirror", mirrored)
				reply(w, status, toJSON(map[string]string{"message": mirrored}))
			})}
			j := described(t, h, standing(auth))
			res, err := j.Do(t.Context(), partner.Request{Method: "GET", Path: "/v1/x"})
			if err != nil {
				t.Fatal(err)
			}
			_, _, _, _, fetched := j.FetchKey(t.Context())
			if fetched == nil || !strings.Contains(string(res.Body), "ordinary") {
				t.Errorf("got %s, %v", res.Body, fetched)
			}
			for _, text := range []string{string(res.Body), fmt.Sprint(res.Header), fmt.Sprintf("%v %+v", fetched, fetched)} {
				for _, secret := range []string{aPassword, anAPIKey, base64.StdEncoding.EncodeToString([]byte("us er:" + aPassword))[:20]} {
					if strings.Contains(text, secret) {
						t.Errorf("%s, %d: %q shows %q", auth, status, text, secret)
					}
				}
			}
		}
	}
}

func TestSecretsThatCannotStandInAHeaderAreNotSent(t *testing.T) {
	h := &wire{Handler: routes{}}
	for name, read := range map[string]func() ([]byte, error){
		"not there": func() ([]byte, error) { return nil, errors.New("no such file") },
		"empty":     said(""),
		"two lines": said("aaaa\r\nX-Evil: bbbb"),
		"blanks":    said(" aaaa"),
		"too long":  said(strings.Repeat("a", 9<<10)),
	} {
		for what, change := range map[string]func(*partner.JWEConfig){
			"the header X-Api-Key": func(c *partner.JWEConfig) { c.SecretHeader = map[string]func() ([]byte, error){"X-Api-Key": read} },
			"the client secret":    func(c *partner.JWEConfig) { c.ClientSecret = read },
		} {
			j := described(t, h, standing(partner.AuthBasic), change)
			_, err := j.Do(t.Context(), partner.Request{Method: "GET", Path: "/v1/x"})
			_, _, _, _, fetched := j.FetchKey(context.Background())
			for _, err := range []error{err, fetched} {
				e, ok := errors.AsType[*partner.Error](err)
				if !ok || e.Temporary() || !errors.Is(err, partner.ErrCredentials) || !strings.Contains(err.Error(), what) || strings.Contains(err.Error(), "aaaa") {
					t.Errorf("%s: %s: got %v", name, what, err)
				}
			}
		}
	}
	if len(h.seen) != 0 {
		t.Errorf("sent %v", h.seen)
	}
}
