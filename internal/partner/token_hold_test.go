package partner_test

import (
	"errors"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"keyd/internal/partner"
)

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

func TestLateRefusalDoesNotDropANewerToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t, routes{askToken: counter(43199), askPlay: only("token-2", routes{}.ServeHTTP),
			askKey: func(w http.ResponseWriter, r *http.Request) {
				time.Sleep(10 * time.Second)
				only("token-2", routes{}.ServeHTTP)(w, r)
			}})
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := fetchKey(t, h.Wise); err != nil {
				t.Error(err)
			}
		})
		time.Sleep(time.Second)
		if err := playground(t, h.Wise); err != nil {
			t.Error(err)
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
				e := callError(t, fetchKey(t, h.Wise), "token", status, "credentials", "invalid_grant", "Invalid user credentials.")
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
			e := callError(t, fetchKey(t, h.Wise), "token", 0, "reading the client secret")
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
			e := callError(t, fetchKey(t, h.Wise), "token", 429, "limited by wise-public-api")
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
