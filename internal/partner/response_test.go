package partner_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"keyd/internal/partner"
)

func TestAnswersToBusinessRequestsAreToldApart(t *testing.T) {
	sealedAs := func(status int, contentType, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", contentType)
			w.WriteHeader(status)
			_, _ = io.WriteString(w, body)
		}
	}
	get := func(r *partner.Request) { r.Method, r.Path, r.Body = "GET", "/v1/cases/1", nil }
	for name, tc := range map[string]struct {
		h      http.HandlerFunc
		change func(*partner.Request)
		status int
		kind   string
		retry  string
	}{
		"sealed":                     {sealedAs(200, joseType, compactJWE), nil, 200, partner.KindSealed, "0s"},
		"sealed, created":            {sealedAs(201, joseType+"; charset=utf-8", compactJWE), nil, 201, partner.KindSealed, "0s"},
		"a sealed error":             {sealedAs(422, joseType, compactJWE), nil, 422, partner.KindSealed, "0s"},
		"empty 200":                  {always(200, ``), nil, 200, partner.KindEmpty, "0s"},
		"empty, of the sealed type":  {sealedAs(200, joseType, ""), nil, 200, partner.KindEmpty, "0s"},
		"204":                        {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) }, nil, 204, partner.KindEmpty, "0s"},
		"plain success":              {always(200, `{"ok":true}`), nil, 200, partner.KindPlain, "0s"},
		"plain error":                {always(400, `{"errors":[]}`), nil, 400, partner.KindPlain, "0s"},
		"401 of the caller":          {always(401, `{}`), nil, 401, partner.KindPlain, "0s"},
		"redirect":                   {always(302, `{}`, "Location", "https://evil.example"), nil, 302, partner.KindPlain, "0s"},
		"the general 500":            {always(500, `{"message":"An unexpected error occurred"}`), nil, 500, partner.KindStale, "0s"},
		"an empty 500":               {always(500, ``), nil, 500, partner.KindStale, "0s"},
		"500 to what was not sealed": {always(500, `{"message":"x"}`), get, 500, partner.KindPlain, "0s"},
		"an outage":                  {always(503, `{}`, "Retry-After", "30"), nil, 503, partner.KindPlain, "30s"},
		"limited":                    {always(429, `{}`, "Retry-After", "5"), nil, 429, partner.KindLimited, "5s"},
		"limited, no time":           {always(429, ``), nil, 429, partner.KindLimited, "0s"},
	} {
		t.Run(name, func(t *testing.T) {
			h := open(t, tc.h, cases)
			change := tc.change
			if change == nil {
				change = func(*partner.Request) {}
			}
			res, err := h.Do(t.Context(), caseRequest(change))
			if err != nil {
				t.Fatal(err)
			}
			if res.Status != tc.status || res.Kind != tc.kind || res.RetryAfter.String() != tc.retry {
				t.Errorf("got %d, %s, %s", res.Status, res.Kind, res.RetryAfter)
			}
			if (string(res.Envelope) == compactJWE) != (tc.kind == partner.KindSealed) {
				t.Errorf("envelope %q", res.Envelope)
			}
			if len(h.wire.seen) != 1 {
				t.Errorf("sent %v", h.wire.seen)
			}
		})
	}
}

func TestAnswersThatAreNone(t *testing.T) {
	for name, tc := range map[string]struct {
		h         http.HandlerFunc
		status    int
		says      string
		temporary bool
	}{
		"sealed type, no envelope": {envelope(joseType, `{"pin":"1234"}`), 200, "not a compact JWE", false},
		"too large":                {always(200, strings.Repeat("x", 1<<20+1)), 200, "more than 1048576 bytes", false},
		"compressed":               {always(200, `x`, "Content-Encoding", "gzip"), 200, `content encoding "gzip"`, false},
		"gone":                     {breaks(fmt.Errorf("POST user-1 1234: %w", io.ErrUnexpectedEOF)), 0, "unexpected EOF", true},
		"in words of its own":      {breaks(errors.New("malformed: user-1 1234")), 0, "no answer that can be read", true},
	} {
		t.Run(name, func(t *testing.T) {
			h := open(t, tc.h, cases)
			res, err := h.Do(t.Context(), caseRequest())
			e := callError(t, err, "call", tc.status, tc.says)
			if res != nil || e.Temporary() != tc.temporary || strings.Contains(e.Error(), "user-1") {
				t.Errorf("got %+v, %v, temporary %v", res, e, e.Temporary())
			}
		})
	}
}

func TestBodiesAreAsLargeAsTheConfigSays(t *testing.T) {
	large := func(c *partner.WiseConfig) { c.MaxBody = 3 << 20 }
	body := []byte("a.b.c.d." + strings.Repeat("e", 2<<20))
	h := open(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		reply(w, 200, strings.Repeat("x", int(n)))
	}), cases, large)
	res, err := h.Do(t.Context(), caseRequest(func(r *partner.Request) { r.Body = body }))
	if err != nil || len(res.Body) != len(body) {
		t.Errorf("got %d bytes, %v", len(body), err)
	}
	body = append(body, body...)
	if _, err := h.Do(t.Context(), caseRequest(func(r *partner.Request) { r.Body = body })); !errors.Is(err, partner.ErrRequest) {
		t.Errorf("got %v", err)
	}
	h = open(t, always(200, strings.Repeat("x", 3<<20+1)), cases, large)
	_, err = h.Do(t.Context(), caseRequest())
	_ = callError(t, err, "call", 200, "more than 3145728 bytes")
	if err := fetchKey(t, open(t, routes{askKey: always(200, strings.Repeat(" ", 1<<20+1))}, large).Wise); !errors.Is(err, partner.ErrAnswer) {
		t.Errorf("a key of any size: %v", err)
	}
}

func TestWhatConcernsTheConnectionIsNotPassedBack(t *testing.T) {
	h := open(t, always(200, `{}`, "Set-Cookie", "a=b", "Connection", "X-Hop, close", "X-Hop", "1", "X-Trace-Id", "t-1",
		"Strict-Transport-Security", "max-age=1", "X-2fa-Approval", "ott-1"), cases)
	res, err := h.Do(t.Context(), caseRequest())
	if err != nil {
		t.Fatal(err)
	}
	want := http.Header{"Content-Type": {"application/json"}, "X-Trace-Id": {"t-1"}, "X-2fa-Approval": {"ott-1"}}
	if diff := cmp.Diff(want, res.Header); diff != "" {
		t.Error(diff)
	}
}
