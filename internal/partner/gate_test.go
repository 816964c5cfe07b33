package partner_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"keyd/internal/partner"
)

const askCase = "POST /v1/cases"

// allowing opens business requests of Wise's cases.
func allowing(methods, paths string) func(*partner.WiseConfig) {
	return func(c *partner.WiseConfig) {
		c.Allow = []partner.Allow{{Methods: strings.Fields(methods), Paths: strings.Fields(paths)}}
	}
}

var cases = allowing("GET POST", "/v1/cases /v1/cases/*")

func caseRequest(change ...func(*partner.Request)) partner.Request {
	r := partner.Request{Method: "POST", Path: "/v1/cases", Body: []byte(compactJWE), KID: testKID, Authorization: "Bearer user-1"}
	for _, f := range change {
		f(&r)
	}
	return r
}

func TestABusinessRequestIsSentAsThePartnerWantsIt(t *testing.T) {
	var sent http.Header
	var target, body string
	h := open(t, routes{askCase: func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		sent, target, body = r.Header.Clone(), r.URL.RequestURI(), string(b)
		envelope(joseType, compactJWE+"\n")(w, r)
	}}, cases)
	res, err := h.Do(t.Context(), caseRequest(func(r *partner.Request) {
		r.Query = url.Values{"a b": {"c&d"}}
		r.Header = http.Header{"x-external-correlation-id": {"corr-1"}}
	}))
	if err != nil {
		t.Fatal(err)
	}
	want := http.Header{"Content-Type": {joseType}, "Accept": {joseType}, "X-Tw-Jose-Method": {"jwe"}, "Accept-Encoding": {"identity"},
		"Authorization": {"Bearer user-1"}, "User-Agent": {"keyd"}, "X-External-Correlation-Id": {"corr-1"}}
	if diff := cmp.Diff(want, sent); diff != "" {
		t.Error(diff)
	}
	if target != "/v1/cases?a+b=c%26d" || body != compactJWE {
		t.Errorf("sent %q with %q", target, body)
	}
	if res.Status != 200 || res.Kind != partner.KindSealed || string(res.Envelope) != compactJWE {
		t.Errorf("got %+v", res)
	}
	if h.wire.asked(askToken) != 0 {
		t.Error("keyd's own token was fetched for a caller's request")
	}
}

func TestRequestsThatNeverLeave(t *testing.T) {
	type change = func(*partner.Request)
	path := func(p string) change { return func(r *partner.Request) { r.Path = p } }
	header := func(name, value string) change {
		return func(r *partner.Request) { r.Header = http.Header{name: {value}} }
	}
	h := open(t, routes{}, allowing("GET POST", "/v1/ /oauth/ /V1/ /a/*/b"), func(c *partner.WiseConfig) { c.Forward = []string{"X-Mine"} })
	for name, tc := range map[string]struct {
		change change
		is     error
	}{
		"another method":              {func(r *partner.Request) { r.Method = "DELETE" }, partner.ErrNotAllowed},
		"no method":                   {func(r *partner.Request) { r.Method = "" }, partner.ErrRequest},
		"CONNECT":                     {func(r *partner.Request) { r.Method = "CONNECT" }, partner.ErrRequest},
		"a method in small letters":   {func(r *partner.Request) { r.Method = "post" }, partner.ErrRequest},
		"a method with a line break":  {func(r *partner.Request) { r.Method = "POST / HTTP/1.1\r\nX:" }, partner.ErrRequest},
		"another path":                {path("/v2/cases"), partner.ErrNotAllowed},
		"another path, same letters":  {path("/v1cases"), partner.ErrNotAllowed},
		"beyond a pattern":            {path("/a/1/b/c"), partner.ErrNotAllowed},
		"short of a pattern":          {path("/a/b"), partner.ErrNotAllowed},
		"the prefix itself":           {path("/v1"), partner.ErrNotAllowed},
		"no path":                     {path(""), partner.ErrRequest},
		"a URL":                       {path("https://evil.example/v1/cases"), partner.ErrRequest},
		"another authority":           {path("//evil.example/v1/cases"), partner.ErrRequest},
		"user information":            {path("@evil.example/v1"), partner.ErrRequest},
		"a port":                      {path(":8080/v1"), partner.ErrRequest},
		"dots":                        {path("/v1/../oauth/token"), partner.ErrRequest},
		"dots at the end":             {path("/v1/cases/.."), partner.ErrRequest},
		"one dot":                     {path("/v1/./cases"), partner.ErrRequest},
		"three dots":                  {path("/v1/.../cases"), partner.ErrRequest},
		"dots with a parameter":       {path("/v1/..;/oauth/token"), partner.ErrRequest},
		"encoded dots":                {path("/v1/%2e%2e/oauth"), partner.ErrRequest},
		"an encoded slash":            {path("/v1/cases%2f.."), partner.ErrRequest},
		"a double encoding":           {path("/v1/%252e%252e/x"), partner.ErrRequest},
		"a back slash":                {path(`/v1/..\oauth`), partner.ErrRequest},
		"an empty segment":            {path("/v1//cases"), partner.ErrRequest},
		"a slash at the end":          {path("/v1/cases/"), partner.ErrRequest},
		"a query in the path":         {path("/v1/cases?x=1"), partner.ErrRequest},
		"a fragment in the path":      {path("/v1/cases#x"), partner.ErrRequest},
		"a line break in the path":    {path("/v1/cases\r\nX: y"), partner.ErrRequest},
		"a zero in the path":          {path("/v1/cases\x00"), partner.ErrRequest},
		"letters that look like ours": {path("/v1/cаses"), partner.ErrRequest},
		"a very long path":            {path("/v1/" + strings.Repeat("x", 4096)), partner.ErrRequest},
		"the token endpoint":          {path("/oauth/token"), partner.ErrNotAllowed},
		"the upload of keys":          {path("/v1/auth/jose/request/public-keys"), partner.ErrNotAllowed},
		"the same in capitals":        {path("/V1/Auth/JOSE/Request/Public-Keys"), partner.ErrNotAllowed},
		"a very long query":           {func(r *partner.Request) { r.Query = url.Values{"x": {strings.Repeat("x", 4096)}} }, partner.ErrRequest},
		"a GET with a body":           {func(r *partner.Request) { r.Method = "GET" }, partner.ErrRequest},
		"a body in clear":             {func(r *partner.Request) { r.Body = []byte(`{"pin":"1234"}`) }, partner.ErrRequest},
		"a body of JWS":               {func(r *partner.Request) { r.Body = []byte("a.b.c") }, partner.ErrRequest},
		"a body with a line break":    {func(r *partner.Request) { r.Body = []byte(compactJWE + "\n") }, partner.ErrRequest},
		"a body too large":            {func(r *partner.Request) { r.Body = []byte("a.b.c.d." + strings.Repeat("e", 1<<20)) }, partner.ErrRequest},
		"no authorization":            {func(r *partner.Request) { r.Authorization = "" }, partner.ErrRequest},
		"another scheme":              {func(r *partner.Request) { r.Authorization = "Basic dTpw" }, partner.ErrRequest},
		"an empty token":              {func(r *partner.Request) { r.Authorization = "Bearer " }, partner.ErrRequest},
		"a token with a line break":   {func(r *partner.Request) { r.Authorization = "Bearer user-1\r\nX: y" }, partner.ErrRequest},
		"a token too long":            {func(r *partner.Request) { r.Authorization = "Bearer " + strings.Repeat("x", 1<<17) }, partner.ErrRequest},
		"a cookie":                    {header("Cookie", "a=b"), partner.ErrNotAllowed},
		"a connection header":         {header("Connection", "x-mine"), partner.ErrNotAllowed},
		"another host":                {header("Host", "evil.example"), partner.ErrNotAllowed},
		"another method in a header":  {header("X-HTTP-Method-Override", "DELETE"), partner.ErrNotAllowed},
		"another path in a header":    {header("X-Original-URL", "/oauth/token"), partner.ErrNotAllowed},
		"an authorization header":     {header("Authorization", "Bearer other"), partner.ErrNotAllowed},
		"another length":              {header("Content-Length", "3"), partner.ErrNotAllowed},
		"a header nobody allowed":     {header("X-Other", "1"), partner.ErrNotAllowed},
		"a line break in a header":    {header("X-Mine", "a\r\nX: y"), partner.ErrRequest},
		"a header too long":           {header("X-Mine", strings.Repeat("x", 8<<10+1)), partner.ErrRequest},
	} {
		t.Run(name, func(t *testing.T) {
			res, err := h.Do(t.Context(), caseRequest(tc.change))
			if !errors.Is(err, tc.is) || res != nil {
				t.Fatalf("got %+v, %v, want %v", res, err, tc.is)
			}
			e := callError(t, err, "call", 0)
			printable(t, e)
			if e.Temporary() || strings.Contains(e.Error(), "1234") || strings.Contains(e.Error(), "user-1") {
				t.Errorf("got %v, temporary %v", e, e.Temporary())
			}
		})
	}
	if len(h.wire.seen) != 0 {
		t.Errorf("sent %v", h.wire.seen)
	}
}

func TestNothingIsAllowedUnlessTheConfigSaysSo(t *testing.T) {
	h := open(t, routes{})
	if _, err := h.Do(t.Context(), caseRequest()); !errors.Is(err, partner.ErrNotAllowed) {
		t.Errorf("got %v", err)
	}
}

func TestPathsThatPatternsAllow(t *testing.T) {
	for _, tc := range []struct {
		pattern, path string
		want          bool
	}{
		{"/v1/cases", "/v1/cases", true},
		{"/v1/cases", "/v1/cases/1", false},
		{"/v1/cases", "/V1/cases", false},
		{"/v1/cases/", "/v1/cases/1", true},
		{"/v1/cases/", "/v1/cases/1/notes", true},
		{"/v1/cases/", "/v1/cases", false},
		{"/v1/cases/", "/v1/cases-of-others/1", false},
		{"/v3/profiles/*/transfers", "/v3/profiles/17/transfers", true},
		{"/v3/profiles/*/transfers", "/v3/profiles/17/18/transfers", false},
		{"/v3/*/", "/v3/x/y", true},
		{"/v3/*/", "/v3/x", false},
		{"/", "/any/thing", true},
		{"/v1/a*", "/v1/ab", false},
		{"/v1/a*", "/v1/a*", true},
	} {
		h := open(t, always(204, ``), allowing("GET", tc.pattern))
		_, err := h.Do(t.Context(), partner.Request{Method: "GET", Path: tc.path, Authorization: "Bearer user-1"})
		if (err == nil) != tc.want || err != nil && !errors.Is(err, partner.ErrNotAllowed) {
			t.Errorf("%s with %s: %v", tc.path, tc.pattern, err)
		}
	}
}

func TestAllowancesThatAreRefused(t *testing.T) {
	for name, change := range map[string]func(*partner.WiseConfig){
		"no methods":              allowing("", "/v1/cases"),
		"no paths":                allowing("GET", ""),
		"a method nobody uses":    allowing("TRACE", "/v1/cases"),
		"a path without a slash":  allowing("GET", "v1/cases"),
		"a URL":                   allowing("GET", "https://x/v1"),
		"dots":                    allowing("GET", "/v1/../x"),
		"two slashes":             allowing("GET", "/v1//"),
		"an encoding":             allowing("GET", "/v1/%61"),
		"a hop-by-hop header":     func(c *partner.WiseConfig) { c.Forward = []string{"Connection"} },
		"a header of a method":    func(c *partner.WiseConfig) { c.Forward = []string{"X-HTTP-Method"} },
		"a header of a path":      func(c *partner.WiseConfig) { c.Forward = []string{"X-Rewrite-URL"} },
		"a header of another hop": func(c *partner.WiseConfig) { c.Forward = []string{"X-Forwarded-For"} },
	} {
		cfg := config(io.Discard)
		change(&cfg)
		if _, err := partner.NewWise(cfg); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

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

func TestKeydsOwnTokenIsUsedWhereTheConfigSaysSoAndShownToNobody(t *testing.T) {
	service := func(c *partner.WiseConfig) { c.Authorization = partner.AuthService }
	mirror := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Echo", r.Header.Get("Authorization"))
		reply(w, 403, `{"error_description":"`+strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")+`"}`)
	}
	h := open(t, routes{askToken: counter(43199), askCase: inTurn(always(401, `{}`), mirror)}, cases, service)
	res, err := h.Do(t.Context(), caseRequest(func(r *partner.Request) { r.Authorization = "" }))
	if err != nil {
		t.Fatal(err)
	}
	if h.wire.asked(askToken) != 2 || h.wire.asked(askCase) != 2 || res.Status != 403 {
		t.Errorf("got %d after %v", res.Status, h.wire.seen)
	}
	if string(res.Body) != `{"error_description":"[redacted]"}` || res.Header.Get("X-Echo") != "Bearer [redacted]" {
		t.Errorf("got %s with %v", res.Body, res.Header)
	}
	// Refused for good: the answer is passed on, nothing is tried a third time.
	h = open(t, routes{askToken: counter(43199), askCase: always(401, `{}`)}, cases, service)
	if res, err = h.Do(t.Context(), caseRequest(func(r *partner.Request) { r.Authorization = "" })); err != nil || res.Status != 401 {
		t.Errorf("got %+v, %v", res, err)
	}
	if h.wire.asked(askCase) != 2 {
		t.Errorf("sent %v", h.wire.seen)
	}
	if _, err = h.Do(t.Context(), caseRequest()); !errors.Is(err, partner.ErrNotAllowed) {
		t.Errorf("a caller's token beside keyd's: %v", err)
	}
}

// On a real connection: a redirect is an answer like any other.
func TestABusinessRequestIsNotRedirected(t *testing.T) {
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("followed") }))
	defer other.Close()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, other.URL, http.StatusTemporaryRedirect)
	}))
	defer s.Close()
	w, _ := dial(t, s.URL, cases)
	res, err := w.Do(t.Context(), caseRequest())
	if err != nil || res.Status != 307 || res.Header.Get("Location") != other.URL {
		t.Errorf("got %+v, %v", res, err)
	}
}

func TestWisesProfileIsWhatTheConfigSays(t *testing.T) {
	want := partner.Profile{Type: "wise", Form: partner.FormBody, SealAlg: "RSA-OAEP-256", SealEnc: "A256GCM", KID: partner.KIDOurs, URLHeader: true,
		ReplyAlgs: []string{"RSA-OAEP-256"}, ReplyEncs: []string{"A256GCM"}, OurKey: partner.OurKeyUploaded, Playground: true}
	if diff := cmp.Diff(want, open(t, routes{}).Profile()); diff != "" {
		t.Error(diff)
	}
	want.KID, want.SealEnc, want.ReplyEncs = partner.KIDNone, "A128GCM", []string{"A128GCM", "A256GCM"}
	h := open(t, routes{}, func(c *partner.WiseConfig) {
		c.ResponseKID.In, c.SealEnc, c.ReplyEncs = partner.KIDNowhere, "A128GCM", []string{"A128GCM", "A256GCM"}
	})
	if diff := cmp.Diff(want, h.Profile()); diff != "" {
		t.Error(diff)
	}
}

func TestWhichEndpointsReplyUnderTheRequestsOwnKey(t *testing.T) {
	for _, tc := range []struct {
		path, want string
		change     func(*partner.WiseConfig)
	}{
		{"/v1/user/pin", partner.DirectAlways, nil},
		{"/v1/one-time-token/pin/verify", partner.DirectAlways, nil},
		{"/v1/auth/jose/playground/jwe-direct-encryption", partner.DirectAlways, nil},
		{"/v1/auth/jose/playground/jwe", partner.DirectNever, nil},
		{"/v2/profiles/17/pin", partner.DirectMaybe, nil},
		{"/v2/profiles/17/pin/verify", partner.DirectMaybe, nil},
		{"/v2/profiles/17/device-fingerprints/verify", partner.DirectMaybe, nil},
		{"/v2/profiles/17", partner.DirectNever, nil},
		{"/v1/cases", partner.DirectNever, nil},
		{"/v1/user/pin", partner.DirectNever, func(c *partner.WiseConfig) { c.Direct = []string{"/v1/cases"} }},
		{"/v1/cases", partner.DirectAlways, func(c *partner.WiseConfig) { c.Direct = []string{"/v1/cases"} }},
		{"/v1/cases/1", partner.DirectMaybe, func(c *partner.WiseConfig) { c.DirectMaybe = []string{"/v1/cases/"} }},
	} {
		change := tc.change
		if change == nil {
			change = func(*partner.WiseConfig) {}
		}
		w := open(t, routes{}, change)
		for _, method := range []string{"GET", "DELETE"} {
			if e := w.Endpoint(method, tc.path); e.Direct != partner.DirectNever || len(e.Header) > 0 {
				t.Errorf("%s %s: got %+v", method, tc.path, e)
			}
		}
		e := w.Endpoint("POST", tc.path)
		if e.Direct != tc.want {
			t.Errorf("%s: got %s, want %s", tc.path, e.Direct, tc.want)
		}
		if got := e.Header.Get("Content-Encoding"); (got == "identity") != (tc.want != partner.DirectNever) {
			t.Errorf("%s: Content-Encoding %q", tc.path, got)
		}
	}
}

func FuzzBusinessPath(f *testing.F) {
	for _, p := range []string{"/v1/cases", "/v1/../oauth", "/v1/cases/..;/x", "//evil", "/v1/%2e%2e", "/v1/cases\\x", "/v1/é", "https://x/v1", "/v1/o'x(1)!*"} {
		f.Add(p)
	}
	f.Fuzz(func(t *testing.T, path string) {
		var got *url.URL
		h := open(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			got = r.URL
			w.WriteHeader(204)
		}), allowing("GET", "/v1/"))
		_, err := h.Do(t.Context(), partner.Request{Method: "GET", Path: path, Authorization: "Bearer user-1"})
		if err != nil {
			if got != nil {
				t.Errorf("sent, and %v", err)
			}
			printable(t, err)
			return
		}
		if got.Host != "api.wise.example" || got.Path != path || got.EscapedPath() != path || got.RawQuery != "" || !strings.HasPrefix(got.Path, "/v1/") {
			t.Errorf("%q went to %v", path, got)
		}
	})
}
