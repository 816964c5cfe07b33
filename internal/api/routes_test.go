package api_test

import (
	"bytes"
	"cmp"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"keyd/internal/api"
)

// where sends a request to the listener of a route.
func (r *rig) where(listener string) *http.Client {
	switch listener {
	case "client":
		return r.client
	case "admin":
		return r.admin
	}
	return http.DefaultClient
}

// harmless fills in a pattern with names of what is not there, but for the
// partner, by which roles are given.
func harmless(pattern string) string {
	return strings.NewReplacer("{partner}", "wise", "{key}", "no-such-key", "{backend}", "no-such-backend", "{kid}", uuid.NewString()).Replace(pattern)
}

// Each route against each role that a caller can have.
func TestEveryRouteAsksForItsRole(t *testing.T) {
	me, others := []int{os.Getuid()}, []int{os.Getuid() + 1}
	for name, c := range map[string]struct {
		role  api.Role
		rules []api.Rule
	}{
		"client of this partner":    {api.RoleClient, []api.Rule{{Role: api.RoleClient, Partner: "wise", UIDs: me}}},
		"client of every partner":   {api.RoleClient, []api.Rule{{Role: api.RoleClient, Partner: "*", UIDs: me}}},
		"client by group":           {api.RoleClient, []api.Rule{{Role: api.RoleClient, Partner: "wise", GIDs: []int{os.Getgid()}}}},
		"client of another partner": {"", []api.Rule{{Role: api.RoleClient, Partner: "venly", UIDs: me}}},
		"operator":                  {api.RoleOperator, []api.Rule{{Role: api.RoleOperator, UIDs: me}}},
		"auditor":                   {api.RoleAuditor, []api.Rule{{Role: api.RoleAuditor, UIDs: me}}},
		"somebody else":             {"", []api.Rule{{Role: api.RoleOperator, UIDs: others}, {Role: api.RoleClient, Partner: "*", UIDs: others, GIDs: others}}},
		"nobody":                    {"", nil},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, func(s *setup) { s.cfg.Rules = c.rules })
			for _, route := range r.server.Routes() {
				a := r.send(r.where(route.Listener), route.Method, harmless(route.Pattern), "")
				may := route.Listener == "monitoring" || slices.Contains(route.Roles, c.role)
				switch {
				case may && a.status == http.StatusForbidden:
					t.Errorf("%s %s on the %s listener was refused: %s", route.Method, route.Pattern, route.Listener, a.body)
				case !may:
					a.wants(t, 403, "forbidden")
				}
			}
		})
	}
}

func TestEveryChangeIsForOperatorsAlone(t *testing.T) {
	r := newRig(t)
	for _, route := range r.server.Routes() {
		if route.Listener == "admin" && route.Method != "GET" && !slices.Equal(route.Roles, []api.Role{api.RoleOperator}) {
			t.Errorf("%s %s is for %v", route.Method, route.Pattern, route.Roles)
		}
		if route.Listener != "monitoring" && len(route.Roles) == 0 {
			t.Errorf("%s %s is for everybody", route.Method, route.Pattern)
		}
	}
}

func TestRefusalsAreRecordedAndDoNotFillTheDisk(t *testing.T) {
	r := newRig(t, func(s *setup) { s.cfg.Rules = nil })
	before := len(r.entries())
	for range 50 {
		a := r.send(r.admin, "POST", "/v1/versions/"+r.active.KID+"/destroy", `{"reason":"because"}`)
		a.wants(t, 403, "forbidden")
		if !a.closed {
			t.Fatal("the connection stays open for more")
		}
	}
	got := r.entries()[before:]
	if len(got) == 0 || len(got) > 10 {
		t.Fatalf("50 refusals made %d entries, want one a second at most", len(got))
	}
	e := got[0]
	if e.Action != "key.close" || e.Result != "refused" || e.Code != "forbidden" || e.KID != r.active.KID || e.Actor.UID != os.Getuid() || e.Actor.PID != os.Getpid() {
		t.Errorf("got %+v", e)
	}
	// Of another kind, it has an entry of its own at once.
	r.send(r.admin, "GET", "/v1/status", "").wants(t, 403, "forbidden")
	all := r.entries()
	if last := all[len(all)-1]; last.Action != "status" {
		t.Errorf("the next refusal is %+v", last)
	}
	r.holds("key.close", 50)
}

// holds waits until the entries of an action stand for as many as there were.
func (r *rig) holds(action string, want int) {
	r.t.Helper()
	for range 1200 {
		if r.refused(action) == want {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	r.t.Errorf("the entries of %s stand for %d refusals, want %d", action, r.refused(action), want)
}

// refused is how many refusals of an action the audit log stands for so far.
func (r *rig) refused(action string) (n int) {
	r.t.Helper()
	for _, e := range r.entries() {
		if e.Action != action || e.Result == "ok" {
			continue
		}
		times, err := strconv.Atoi(cmp.Or(e.Detail["times"], "1"))
		check(r.t, err)
		n += times
	}
	return n
}

func TestEveryPathRefusesOtherMethods(t *testing.T) {
	r := newRig(t)
	allowed := map[string][]string{}
	for _, route := range r.server.Routes() {
		at := route.Listener + " " + route.Pattern
		allowed[at] = append(allowed[at], route.Method)
	}
	for at, methods := range allowed {
		listener, pattern, _ := strings.Cut(at, " ")
		for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"} {
			if slices.Contains(methods, method) {
				continue
			}
			a := r.send(r.where(listener), method, harmless(pattern), "")
			if a.status != 405 || !slices.Contains(methods, strings.Split(a.header.Get("Allow"), ", ")[0]) {
				t.Errorf("%s %s: got %d, Allow %q", method, pattern, a.status, a.header.Get("Allow"))
			}
			if method != "HEAD" {
				a.wants(t, 405, "method_not_allowed")
			}
		}
	}
}

func TestEveryBodyHasItsLimit(t *testing.T) {
	r := newRig(t)
	for _, route := range r.server.Routes() {
		c, path := r.where(route.Listener), harmless(route.Pattern)
		if route.MaxBody == 0 {
			if route.Method == "POST" {
				r.send(c, route.Method, path, "x").wants(t, 400, "bad_request")
			}
			continue
		}
		large := strings.Repeat("x", int(route.MaxBody)+1)
		r.send(c, route.Method, path, large).wants(t, 413, "too_large")
		if a := r.send(c, route.Method, path, large[:route.MaxBody]); a.status == 413 {
			t.Errorf("%s %s: a body within the limit is too large: %s", route.Method, path, a.body)
		}
		r.chunked(c, route.Method, path, large).wants(t, 413, "too_large")
		if a := r.chunked(c, route.Method, path, large[:route.MaxBody]); a.status == 413 {
			t.Errorf("%s %s: a body within the limit, in chunks, is too large: %s", route.Method, path, a.body)
		}
	}
}

// chunked sends a body without saying how long it is.
func (r *rig) chunked(c *http.Client, method, path, body string) answer {
	r.t.Helper()
	var got answer
	req, err := http.NewRequestWithContext(r.t.Context(), method, "http://keyd"+path, struct{ *strings.Reader }{strings.NewReader(body)})
	check(r.t, err)
	req.ContentLength = -1
	res, err := c.Do(req)
	check(r.t, err)
	defer res.Body.Close()
	var b bytes.Buffer
	_, err = b.ReadFrom(res.Body)
	check(r.t, err)
	got.status, got.header, got.body = res.StatusCode, res.Header, b.Bytes()
	return got
}

// A misspelled dry_run must not become the real thing.
func TestNoParameterIsIgnored(t *testing.T) {
	r := newRig(t)
	for _, route := range r.server.Routes() {
		c, path := r.where(route.Listener), harmless(route.Pattern)
		for _, query := range []string{"dryrun=true", "DRY_RUN=true", "x=1", "%zz", "a;b", "=", "dry_run=true&dry_run=true"} {
			r.send(c, route.Method, path+"?"+query, "").wants(t, 400, "bad_request")
		}
		if !slices.Contains(route.Query, "dry_run") {
			continue
		}
		for _, value := range []string{"", "1", "yes", "True"} {
			path := strings.Replace(path, "no-such-key", keyName, 1)
			body := map[string]string{"/v1/keys": `{"name":"k"}`, "rotate": "", "adopt": `{"kid":"x"}`}
			text := `{"reason":"x"}`
			for suffix, b := range body {
				if strings.HasSuffix(path, suffix) {
					text = b
				}
			}
			r.send(c, route.Method, path+"?dry_run="+value, text, "Content-Type: application/json").wants(t, 400, "bad_request")
		}
	}
	if n := len(r.reg.Versions(keyName)); n != 1 {
		t.Errorf("there are %d versions", n)
	}
}

func TestOddPathsAreNotFoundAndNotRedirected(t *testing.T) {
	r := newRig(t)
	for _, path := range []string{"/", "/v1", "/v1/", "/v1/keys/", "//v1/keys", "/v1//keys", "/v1/./keys", "/v1/keys/../status", "/v2/keys", "/metrics",
		"/v1/keys/%2e%2e/status", "/v1/keys/a%2F..%2F..", "/debug/pprof/", "/v1/keys/wise-response/rotate/x"} {
		a := r.send(r.admin, "GET", path, "")
		a.wants(t, 404, "not_found")
	}
	r.send(r.client, "GET", "/v1/keys", "").wants(t, 404, "not_found")
	r.send(r.client, "POST", "/v1/keys/"+keyName+"/rotate", "").wants(t, 404, "not_found")
	r.send(r.admin, "POST", "/v1/partners/wise/decrypt", "x").wants(t, 404, "not_found")
	r.send(http.DefaultClient, "GET", "/v1/status", "").wants(t, 404, "not_found")
}

func TestBrowsersAreRefused(t *testing.T) {
	r := newRig(t)
	for _, c := range []struct {
		on      string
		path    string
		header  string
		refused bool
	}{
		{"client", "/v1/partners/wise", "Origin: https://evil.example", true},
		{"client", "/v1/partners/wise", "Origin: null", true},
		{"client", "/v1/partners/wise", "Sec-Fetch-Site: none", true},
		{"client", "/v1/partners/wise", "Sec-Fetch-Mode: cors", true},
		{"client", "/v1/partners/wise", "Host: evil.example", true},
		{"client", "/v1/partners/wise", "Host: 127.0.0.1", true},
		{"client", "/v1/partners/wise", "Host: KEYD", false},
		{"client", "/v1/partners/wise", "Host: localhost:80", false},
		{"admin", "/v1/status", "Origin: http://localhost", true},
		{"admin", "/v1/status", "Host: localhost", false},
		{"monitoring", "/metrics", "Origin: http://127.0.0.1", true},
		{"monitoring", "/metrics", "Sec-Fetch-Dest: document", true},
		{"monitoring", "/readyz", "Host: rebound.example", true},
		{"monitoring", "/readyz", "Host: 10.0.0.1:9464", true},
		{"monitoring", "/readyz", "Host: localhost:9464", false},
		{"monitoring", "/readyz", "Host: [::1]:9464", false},
		{"monitoring", "/healthz", "Accept: text/html", false},
	} {
		a := r.send(r.where(c.on), "GET", c.path, "", c.header)
		if c.refused {
			a.wants(t, 403, "forbidden")
		} else if a.status != 200 {
			t.Errorf("%s with %q: got %d %s", c.path, c.header, a.status, a.body)
		}
	}
}

func TestRequestIDsAreTheCallersOrNew(t *testing.T) {
	r := newRig(t)
	envelope := r.seal(r.active, []byte("x"), nil)
	for header, kept := range map[string]string{
		"Keyd-Request-Id: pay-4711":                       "pay-4711",
		"X-Request-Id: pay-4712":                          "pay-4712",
		"X-Request-Id: with space":                        "",
		"X-Request-Id: ünicode":                           "",
		"X-Request-Id: " + strings.Repeat("x", 65):        "",
		"X-Request-Id: " + strings.Repeat("x", 64):        strings.Repeat("x", 64),
		"X-Request-Id: ":                                  "",
		"X-Request-Id: {\"json\":1}":                      `{"json":1}`,
		"Keyd-Request-Id: " + strings.Repeat("\u202e", 3): "",
	} {
		a := r.send(r.client, "POST", "/v1/partners/wise/decrypt", envelope, header).wants(t, 200, "")
		got := a.header.Get("Keyd-Request-Id")
		if kept != "" && got != kept {
			t.Errorf("%q became %q", header, got)
		}
		if _, err := uuid.Parse(got); kept == "" && err != nil {
			t.Errorf("%q became %q, want a UUID", header, got)
		}
		entries := r.entries()
		if last := entries[len(entries)-1]; last.Detail["request"] != got {
			t.Errorf("the audit log has %q for %q", last.Detail["request"], got)
		}
	}
}
