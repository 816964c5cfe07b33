package partner_test

import (
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"keyd/internal/partner"
)

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
