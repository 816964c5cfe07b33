package partner_test

import (
	"errors"
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
