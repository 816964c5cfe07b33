package partner_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"keyd/internal/partner"
)

// counter hands out token-1, token-2, … that live for some seconds.
func counter(seconds int) http.HandlerFunc {
	var n atomic.Int64
	return func(w http.ResponseWriter, _ *http.Request) {
		reply(w, 200, tokenBody(fmt.Sprintf("token-%d", n.Add(1)), seconds))
	}
}

func TestTokenRequestIsTheDocumentedOne(t *testing.T) {
	h := open(t, routes{askToken: func(w http.ResponseWriter, r *http.Request) {
		// RFC 6749 §2.3.1: both halves form-encoded, then Basic.
		want := "Basic " + base64.StdEncoding.EncodeToString([]byte("our+client%3Aid:hunter2%2Fwith%2Bodd%3A%22bytes%22+%26+%C3%A9%25"))
		if got := r.Header.Get("Authorization"); got != want {
			t.Errorf("got Authorization %q, want %q", got, want)
		}
		if got := r.Header.Get("Content-Type"); got != "application/x-www-form-urlencoded" {
			t.Errorf("got Content-Type %q", got)
		}
		if got := r.Header.Get("Accept-Encoding"); got != "identity" {
			t.Errorf("got Accept-Encoding %q", got)
		}
		if body, _ := io.ReadAll(r.Body); string(body) != "grant_type=client_credentials" {
			t.Errorf("got body %q", body)
		}
		reply(w, 200, tokenBody("token-1", 43199))
	}})
	if err := fetchKey(t, h.Wise); err != nil {
		t.Fatal(err)
	}
}

func TestSecretIsWipedAndReadAgainForEachToken(t *testing.T) {
	var given [][]byte
	h := open(t, routes{askToken: counter(43199), askKey: only("token-2", always(200, keyBody(nil)))},
		func(c *partner.WiseConfig) {
			c.ClientSecret = func() ([]byte, error) {
				given = append(given, []byte(testSecret))
				return given[len(given)-1], nil
			}
		})
	if err := fetchKey(t, h.Wise); err != nil {
		t.Fatal(err)
	}
	if len(given) != 2 {
		t.Fatalf("secret read %d times, want 2", len(given))
	}
	for _, b := range given {
		if strings.Trim(string(b), "\x00") != "" {
			t.Error("the secret was not wiped")
		}
	}
}

func TestTokenIsKeptAndRenewedBeforeItExpires(t *testing.T) {
	for _, tc := range []struct {
		name    string
		body    string
		keep    time.Duration // still the first token
		renewed time.Duration // a second one was asked for
	}{
		{"twelve hours: a tenth early", tokenBody("x", 43199), 10*time.Hour + 47*time.Minute, 10*time.Hour + 48*time.Minute},
		{"six minutes: a minute early", tokenBody("x", 360), 299 * time.Second, 300 * time.Second},
		{"one minute: at half time", tokenBody("x", 60), 29 * time.Second, 30 * time.Second},
		{"a year: a day at most", tokenBody("x", 365*86400), 21*time.Hour + 35*time.Minute, 21*time.Hour + 36*time.Minute},
		{"not said: five minutes", `{"access_token":"x","token_type":"Bearer"}`, 239 * time.Second, 240 * time.Second},
		{"a string", `{"access_token":"x","token_type":"bearer","expires_in":"360"}`, 299 * time.Second, 300 * time.Second},
		{"a date only", `{"access_token":"x","token_type":"bearer","expires_at":"2000-01-01T01:00:00.000Z"}`, 53 * time.Minute, 54 * time.Minute},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := open(t, routes{askToken: always(200, tc.body)})
				use := func(want int) {
					t.Helper()
					if err := fetchKey(t, h.Wise); err != nil {
						t.Fatal(err)
					}
					if got := h.wire.asked(askToken); got != want {
						t.Errorf("%d tokens asked for, want %d", got, want)
					}
				}
				use(1)
				time.Sleep(tc.keep)
				use(1)
				time.Sleep(tc.renewed - tc.keep)
				use(2)
			})
		})
	}
}

func TestTokenOfAnyFormIsTaken(t *testing.T) {
	for _, token := range []string{"a", "2f0d7c8e-5a11-4c7e-9d67-1c2b3a4d5e6f", "eyJ" + strings.Repeat("a.-_~+/=", 8000)} {
		h := open(t, routes{askToken: always(200, tokenBody(token, 43199)), askKey: only(token, always(200, keyBody(nil)))})
		if err := fetchKey(t, h.Wise); err != nil {
			t.Errorf("%d bytes: %v", len(token), err)
		}
	}
}

func TestTokenAnswersThatAreNone(t *testing.T) {
	for name, body := range map[string]string{
		"empty":            ``,
		"not JSON":         `<html>`,
		"cut":              `{"access_token":"tok`,
		"two objects":      tokenBody("secret-token", 1) + tokenBody("secret-token", 1),
		"no token":         `{"token_type":"bearer"}`,
		"a number":         `{"access_token":12345678901,"token_type":"bearer"}`,
		"line break":       `{"access_token":"secret-token\r\nX: y","token_type":"bearer"}`,
		"space":            `{"access_token":"secret-token x","token_type":"bearer"}`,
		"not ASCII":        `{"access_token":"secret-tokén","token_type":"bearer"}`,
		"other type":       `{"access_token":"secret-token","token_type":"mac"}`,
		"expired":          `{"access_token":"secret-token","token_type":"bearer","expires_in":0}`,
		"expired long ago": `{"access_token":"secret-token","token_type":"bearer","expires_at":"1999-01-01T00:00:00Z"}`,
		"life in words":    `{"access_token":"secret-token","token_type":"bearer","expires_in":"secret-token"}`,
		"endless":          tokenBody(strings.Repeat("secret-token", 6000), 1),
		"too large":        tokenBody("secret-token", 1) + strings.Repeat(" ", 1<<20),
	} {
		t.Run(name, func(t *testing.T) {
			h := open(t, routes{askToken: always(200, body)})
			e := callError(t, fetchKey(t, h.Wise), "token", 200)
			if !errors.Is(e, partner.ErrAnswer) || e.Temporary() {
				t.Errorf("got %v, temporary %v", e, e.Temporary())
			}
			if s := e.Error(); strings.Contains(s, "secret-tok") || strings.Contains(s, "12345678901") {
				t.Errorf("error quotes the token: %v", e)
			}
			if h.wire.asked(askKey) != 0 {
				t.Error("the API was called without a token")
			}
		})
	}
}

func TestManyCallersShareOneTokenRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t, routes{askToken: func(w http.ResponseWriter, _ *http.Request) {
			time.Sleep(time.Second)
			reply(w, 200, tokenBody("token-1", 43199))
		}})
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				if err := fetchKey(t, h.Wise); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if n := h.wire.asked(askToken); n != 1 {
			t.Errorf("%d tokens asked for, want 1", n)
		}
	})
}

func TestImpatientCallerDoesNotSpoilTheTokenForOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t, routes{askToken: func(w http.ResponseWriter, _ *http.Request) {
			time.Sleep(10 * time.Second)
			reply(w, 200, tokenBody("token-1", 43199))
		}})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var wg sync.WaitGroup
		wg.Go(func() {
			_, _, _, _, err := h.FetchKey(ctx)
			e := callError(t, err, "token", 0)
			if !errors.Is(e, context.DeadlineExceeded) || !e.Temporary() {
				t.Errorf("got %v", e)
			}
		})
		wg.Go(func() {
			if err := fetchKey(t, h.Wise); err != nil {
				t.Error(err)
			}
		})
		wg.Wait()
		if n := h.wire.asked(askToken); n != 1 {
			t.Errorf("%d tokens asked for, want 1", n)
		}
	})
}

func TestEarlyRenewalMayFail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t, routes{askToken: inTurn(always(200, tokenBody("token-1", 1000)), always(500, ``), breaks(syscall.ECONNRESET))})
		if err := fetchKey(t, h.Wise); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			time.Sleep(450 * time.Second) // 900 s, then 999 s
			if err := fetchKey(t, h.Wise); err != nil {
				t.Errorf("the old token still works, got %v", err)
			}
		}
		if !strings.Contains(h.logs.String(), "renewing the access token failed") {
			t.Errorf("the log does not say it: %s", h.logs)
		}
		time.Sleep(100 * time.Second)
		wantError(t, fetchKey(t, h.Wise), "token", 0, "connection reset")
	})
}
