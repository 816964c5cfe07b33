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

// only lets requests with one token through.
func only(token string, then http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer "+token {
			reply(w, 401, `{"error":"invalid_token","error_description":"expired"}`)
			return
		}
		then(w, r)
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
			e := wantError(t, fetchKey(t, h.Wise), "token", 200)
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
			e := wantError(t, err, "token", 0)
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

func TestRefusedTokenIsFetchedOnceMoreAndTheCallRepeatedOnce(t *testing.T) {
	for name, tc := range map[string]struct {
		good          string
		tokens, calls int
	}{
		"the second works": {"token-2", 2, 2},
		"none works":       {"token-9", 2, 2},
	} {
		t.Run(name, func(t *testing.T) {
			h := open(t, routes{askToken: counter(43199), askAnnounce: only(tc.good, routes{}.ServeHTTP)})
			err := announce(t, h.Wise)
			if tc.good == "token-2" && err != nil {
				t.Error(err)
			}
			if tc.good == "token-9" {
				wantError(t, err, "announce", 401, "invalid_token", "expired")
			}
			if a, b := h.wire.asked(askToken), h.wire.asked(askAnnounce); a != tc.tokens || b != tc.calls {
				t.Errorf("%d token requests and %d calls, want %d and %d", a, b, tc.tokens, tc.calls)
			}
		})
	}
}

func TestManyRefusedCallsAskForOneNewToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := func(then http.HandlerFunc) http.HandlerFunc {
			return func(w http.ResponseWriter, r *http.Request) { time.Sleep(time.Second); then(w, r) }
		}
		h := open(t, routes{askToken: slow(counter(43199)), askKey: slow(only("token-2", always(200, keyBody(nil))))})
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				if err := fetchKey(t, h.Wise); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if n := h.wire.asked(askToken); n != 2 {
			t.Errorf("%d tokens asked for, want 2", n)
		}
	})
}

func TestRefusedCredentialsAreAConfigErrorAndNotHammered(t *testing.T) {
	for _, status := range []int{400, 401} {
		synctest.Test(t, func(t *testing.T) {
			var secret atomic.Value
			secret.Store("wrong one")
			h := open(t, routes{askToken: always(status, `{"error":"invalid_grant","error_description":"Invalid user credentials."}`)},
				func(c *partner.WiseConfig) {
					c.ClientSecret = func() ([]byte, error) { return []byte(secret.Load().(string)), nil }
				})
			check := func(asked int, wait time.Duration) {
				t.Helper()
				e := wantError(t, fetchKey(t, h.Wise), "token", status, "credentials", "invalid_grant", "Invalid user credentials.")
				if !errors.Is(e, partner.ErrCredentials) || e.Temporary() || e.RetryAfter() != wait {
					t.Errorf("got %v, temporary %v, retry after %s, want %s", e, e.Temporary(), e.RetryAfter(), wait)
				}
				if n := h.wire.asked(askToken); n != asked {
					t.Errorf("%d token requests, want %d", n, asked)
				}
			}
			check(1, time.Minute)
			time.Sleep(20 * time.Second)
			check(1, 40*time.Second) // the held answer, not a call
			time.Sleep(40 * time.Second)
			check(2, 2*time.Minute)
			secret.Store("another wrong one") // tried at once
			check(3, time.Minute)
			for i, wait := range []time.Duration{2, 4, 8, 15, 15} {
				time.Sleep(15 * time.Minute)
				check(4+i, wait*time.Minute)
			}
		})
	}
}

func TestCorrectedCredentialsWorkAtOnce(t *testing.T) {
	good := false
	h := open(t, routes{askToken: inTurn(always(401, `{}`), counter(43199))}, func(c *partner.WiseConfig) {
		c.ClientSecret = func() ([]byte, error) {
			if good {
				return []byte("right"), nil
			}
			return []byte("wrong"), nil
		}
	})
	wantError(t, fetchKey(t, h.Wise), "token", 401)
	good = true
	if err := fetchKey(t, h.Wise); err != nil {
		t.Error(err)
	}
}

func TestUnreadableSecretIsACredentialsError(t *testing.T) {
	for name, secret := range map[string]func() ([]byte, error){
		"error": func() ([]byte, error) { return nil, errors.New("open /run/credentials/wise: no such file") },
		"empty": func() ([]byte, error) { return nil, nil },
	} {
		t.Run(name, func(t *testing.T) {
			h := open(t, routes{}, func(c *partner.WiseConfig) { c.ClientSecret = secret })
			e := wantError(t, fetchKey(t, h.Wise), "token", 0, "reading the client secret")
			if !errors.Is(e, partner.ErrCredentials) || e.Temporary() || len(h.wire.seen) != 0 {
				t.Errorf("got %v, temporary %v, calls %v", e, e.Temporary(), h.wire.seen)
			}
		})
	}
}

func TestLimitAtTheTokenEndpointIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t, routes{askToken: inTurn(always(429, ``, "Retry-After", "90", "X-Rate-Limited-By", "wise-public-api"), counter(43199))})
		for i := range 3 {
			e := wantError(t, fetchKey(t, h.Wise), "token", 429, "limited by wise-public-api")
			if want := time.Duration(90-30*i) * time.Second; e.RetryAfter() != want || !e.Temporary() {
				t.Errorf("got retry after %s, want %s", e.RetryAfter(), want)
			}
			time.Sleep(30 * time.Second)
		}
		if err := fetchKey(t, h.Wise); err != nil {
			t.Error(err)
		}
		if n := h.wire.asked(askToken); n != 2 {
			t.Errorf("%d token requests, want 2", n)
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

// The faults of two endpoints at once: the API refuses a token and no other is
// to be had.
func TestRefusedTokenIsNotUsedAgainWhenNoOtherIsToBeHad(t *testing.T) {
	for name, second := range map[string]http.HandlerFunc{
		"down": always(503, ``), "gone": breaks(syscall.ECONNREFUSED), "limited": always(429, ``, "Retry-After", "7"),
		"refused": always(401, `{}`), "garbled": always(200, `{`),
	} {
		t.Run(name, func(t *testing.T) {
			h := open(t, routes{askToken: inTurn(counter(43199), second), askKey: only("none", nil)})
			err := fetchKey(t, h.Wise)
			e, ok := errors.AsType[*partner.Error](err)
			if !ok || e.Op != "token" {
				t.Fatalf("got %v, want a token error", err)
			}
			if n := h.wire.asked(askKey); n != 1 {
				t.Errorf("%d calls with a refused token, want 1", n)
			}
			if name == "limited" && (e.RetryAfter() <= 0 || e.RetryAfter() > 7*time.Second) {
				t.Errorf("got retry after %s", e.RetryAfter())
			}
		})
	}
}
