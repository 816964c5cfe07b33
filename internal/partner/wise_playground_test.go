package partner_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"keyd/internal/partner"
)

func envelope(contentType, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header()["Content-Type"] = []string{contentType}
		_, _ = io.WriteString(w, body)
	}
}

func TestHeadersNameTheKeyWhereTheConfigSaysSo(t *testing.T) {
	plain := http.Header{
		"Content-Type": {joseType}, "Accept": {joseType}, "X-Tw-Jose-Method": {"jwe"}, "Accept-Encoding": {"identity"},
	}
	named := plain.Clone()
	named.Set("X-Response-Kid", testKID)
	for name, tc := range map[string]struct {
		setting partner.ResponseKID
		kid     string
		want    http.Header
		inJOSE  bool
	}{
		"default":             {partner.ResponseKID{}, testKID, plain, true},
		"in the JOSE header":  {partner.ResponseKID{In: partner.KIDInJOSE}, testKID, plain, true},
		"nowhere":             {partner.ResponseKID{In: partner.KIDNowhere}, testKID, plain, false},
		"in a header":         {partner.ResponseKID{In: partner.KIDInHeader, Header: "X-Response-Kid"}, testKID, named, false},
		"in a header, no kid": {partner.ResponseKID{In: partner.KIDInHeader, Header: "X-Response-Kid"}, "", plain, false},
	} {
		t.Run(name, func(t *testing.T) {
			var sent http.Header
			keep := func(w http.ResponseWriter, r *http.Request) {
				sent = r.Header.Clone()
				envelope(joseType, compactJWE)(w, r)
			}
			h := open(t, routes{askPlay: keep, askPlayPost: keep}, func(c *partner.WiseConfig) { c.ResponseKID = tc.setting })
			if diff := cmp.Diff(tc.want, h.Headers(tc.kid)); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(tc.want, h.GetHeaders(tc.kid)); diff != "" {
				t.Error(diff)
			}
			if h.NamesKIDInJOSE() != tc.inJOSE {
				t.Errorf("NamesKIDInJOSE is %v", h.NamesKIDInJOSE())
			}
			seal := func(string) (string, error) { return compactJWE, nil }
			for _, call := range []func() ([]byte, error){
				func() ([]byte, error) { return h.Playground(t.Context(), tc.kid) },
				func() ([]byte, error) { return h.PlaygroundPost(t.Context(), tc.kid, seal) },
			} {
				if got, err := call(); err != nil || string(got) != compactJWE {
					t.Errorf("got %q, %v", got, err)
				}
				want := tc.want.Clone()
				want.Set("Authorization", "Bearer token-1")
				want.Set("User-Agent", "keyd")
				if diff := cmp.Diff(want, sent); diff != "" {
					t.Error(diff)
				}
			}
		})
	}
}

func TestHeadersAreTheCallersToChange(t *testing.T) {
	h := open(t, routes{})
	h.Headers(testKID).Set("Accept", "changed")
	if got := h.GetHeaders(testKID).Get("Accept"); got != joseType {
		t.Errorf("got Accept %q", got)
	}
}

func TestPlaygroundTakesOnlyAnEnvelope(t *testing.T) {
	for name, tc := range map[string]struct {
		h         http.HandlerFunc
		status    int
		is        error
		temporary bool
		says      string
	}{
		"empty":           {envelope(joseType, ""), 200, partner.ErrAnswer, false, "empty body"},
		"blank":           {envelope(joseType, " \n"), 200, partner.ErrAnswer, false, "empty body"},
		"204":             {always(204, ""), 204, partner.ErrAnswer, false, "HTTP 204"},
		"plain JSON":      {always(200, `{"message":"jose-playground-response-"}`), 200, partner.ErrAnswer, false, "application/json"},
		"no type":         {envelope("", compactJWE), 200, partner.ErrAnswer, false, "of type"},
		"JWS":             {envelope(joseType, "a.b.c"), 200, partner.ErrAnswer, false, "not a compact JWE"},
		"six parts":       {envelope(joseType, "a.b.c.d.e.f"), 200, partner.ErrAnswer, false, "not a compact JWE"},
		"too large":       {envelope(joseType, compactJWE+strings.Repeat("A", 1<<20)), 200, partner.ErrAnswer, false, "more than"},
		"error in plain":  {always(400, `{"error":"jws_error","error_description":"Unable to verify the request signature"}`), 400, nil, false, "jws_error: Unable to verify"},
		"the general 500": {always(500, `{"message":"An unexpected error occurred","request_id":"2e9a"}`, "x-trace-id", "7f"), 500, nil, true, "An unexpected error occurred (request_id 2e9a, trace 7f)"},
		"sealed error body": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", joseType)
			w.WriteHeader(500)
			_, _ = io.WriteString(w, compactJWE)
		}, 500, nil, true, "a body of type application/jose+json"},
		"500, empty":         {always(500, ""), 500, nil, true, "empty body"},
		"connection refused": {breaks(syscall.ECONNREFUSED), 0, syscall.ECONNREFUSED, true, "connection refused"},
	} {
		t.Run(name, func(t *testing.T) {
			h := open(t, routes{askPlay: tc.h})
			e := callError(t, playground(t, h.Wise), "playground", tc.status, tc.says)
			if tc.is != nil && !errors.Is(e, tc.is) || e.Temporary() != tc.temporary {
				t.Errorf("got %v, temporary %v", e, e.Temporary())
			}
		})
	}
}

func TestPlaygroundTakesTypeParametersAndLineEnds(t *testing.T) {
	h := open(t, routes{askPlay: envelope("Application/JOSE+JSON; charset=utf-8", compactJWE+"\r\n")})
	got, err := h.Playground(t.Context(), testKID)
	if err != nil || string(got) != compactJWE {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestPlaygroundPostSealsForTheDocumentedPath(t *testing.T) {
	h := open(t, routes{askPlayPost: func(w http.ResponseWriter, r *http.Request) {
		if b, _ := io.ReadAll(r.Body); string(b) != "sealed" {
			t.Errorf("got body %q", b)
		}
		envelope(joseType, compactJWE)(w, r)
	}})
	_, err := h.PlaygroundPost(t.Context(), testKID, func(url string) (string, error) {
		if url != "/v1/auth/jose/playground/jwe" {
			t.Errorf("got url %q", url)
		}
		return "sealed", nil
	})
	if err != nil {
		t.Error(err)
	}
	broken := errors.New("no partner key")
	_, err = h.PlaygroundPost(t.Context(), testKID, func(string) (string, error) { return "", broken })
	if !errors.Is(err, broken) || h.wire.asked(askPlayPost) != 1 {
		t.Errorf("got %v after %v", err, h.wire.seen)
	}
}

// The rule for a key that may be stale, on the calls it is for.
func TestStaleKeyIsFetchedOnceAndTheCallRepeatedOnce(t *testing.T) {
	general := always(500, `{"message":"An unexpected error occurred","request_id":"2e9a"}`)
	for name, tc := range map[string]struct {
		play   http.HandlerFunc
		key    http.HandlerFunc
		ok     bool
		fresh  int // fetches of a fresh key
		posts  int
		errors []string
	}{
		"the stored key works":    {envelope(joseType, compactJWE), nil, true, 0, 1, nil},
		"a fresh one works":       {inTurn(general, envelope(joseType, compactJWE)), nil, true, 1, 2, nil},
		"none works":              {general, nil, false, 1, 2, []string{"2e9a"}},
		"an outage is no reason":  {always(503, ``), nil, false, 0, 1, []string{"503"}},
		"nor is a limit":          {always(429, ``), nil, false, 0, 1, []string{"429"}},
		"nor a broken connection": {breaks(syscall.ECONNRESET), nil, false, 0, 1, []string{"reset"}},
		"no fresh one to be had":  {general, always(503, ``), false, 1, 1, []string{"2e9a", "fetching a fresh key", "503"}},
	} {
		t.Run(name, func(t *testing.T) {
			h := open(t, routes{askPlayPost: tc.play, askKey: tc.key})
			load := func(ctx context.Context, fresh bool) (string, error) {
				if !fresh {
					return "stored", nil
				}
				_, _, _, _, err := h.FetchKey(ctx)
				return "fresh", err
			}
			var used []string
			err := partner.RetryStale(t.Context(), load, func(ctx context.Context, key string) error {
				used = append(used, key)
				_, err := h.PlaygroundPost(ctx, testKID, func(string) (string, error) { return "sealed to " + key, nil })
				return err
			}, partner.StaleKey)
			if (err == nil) != tc.ok {
				t.Errorf("got %v, want success %v", err, tc.ok)
			}
			for _, s := range tc.errors {
				if !strings.Contains(err.Error(), s) {
					t.Errorf("error %q does not say %q", err, s)
				}
			}
			if diff := cmp.Diff([]string{"stored", "fresh"}[:tc.posts], used); diff != "" {
				t.Error(diff)
			}
			if a, b := h.wire.asked(askKey), h.wire.asked(askPlayPost); a != tc.fresh || b != tc.posts {
				t.Errorf("%d keys fetched and %d posts, want %d and %d", a, b, tc.fresh, tc.posts)
			}
		})
	}
}

func TestRetryStaleNeedsAKeyToBeginWith(t *testing.T) {
	none := errors.New("none stored")
	err := partner.RetryStale(t.Context(),
		func(context.Context, bool) (int, error) { return 0, none },
		func(context.Context, int) error { t.Error("called without a key"); return nil },
		func(error) bool { return true })
	if !errors.Is(err, none) {
		t.Errorf("got %v", err)
	}
}

func TestOnlyA500OfASealedCallMayMeanAStaleKey(t *testing.T) {
	h := open(t, routes{askKey: always(500, ``), askPlay: always(500, ``), askAnnounce: always(500, ``)})
	if !partner.StaleKey(playground(t, h.Wise)) {
		t.Error("a 500 from the playground may mean a stale key")
	}
	for _, err := range []error{fetchKey(t, h.Wise), announce(t, h.Wise), errors.New("other"), nil} {
		if partner.StaleKey(err) {
			t.Errorf("%v does not mean a stale key", err)
		}
	}
}
