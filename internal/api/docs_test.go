package api_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"go.yaml.in/yaml/v3"

	"keyd/internal/api"
	"keyd/internal/registry"
)

// openapi is docs/openapi.yaml as far as the tests look at it.
type openapi struct {
	Paths map[string]map[string]struct {
		Listeners  []string `yaml:"x-listeners"`
		Roles      []string `yaml:"x-roles"`
		MaxBody    string   `yaml:"x-max-body"`
		Parameters []struct {
			Ref string `yaml:"$ref"`
		}
		RequestBody map[string]any `yaml:"requestBody"`
		Responses   map[string]struct {
			Content map[string]struct{ Schema schema }
		}
	}
	Components struct {
		Parameters map[string]struct{ Name, In string }
		Schemas    map[string]schema
	}
}

type schema struct {
	Ref        string `yaml:"$ref"`
	Type       string
	Format     string
	Enum       []string
	Required   []string
	Properties map[string]schema
	Items      *schema
	Additional any `yaml:"additionalProperties"`
}

func readOpenAPI(t *testing.T) *openapi {
	t.Helper()
	raw, err := os.ReadFile("../../docs/openapi.yaml")
	check(t, err)
	var doc openapi
	check(t, yaml.Unmarshal(raw, &doc))
	return &doc
}

func TestTheOpenAPIFileIsTheRouteTable(t *testing.T) {
	doc := readOpenAPI(t)
	r := newRig(t)
	type line struct {
		Listeners, Roles, Query []string
		MaxBody                 string
	}
	want, got := map[string]line{}, map[string]line{}
	for _, route := range r.server.Routes() {
		at := route.Method + " " + route.Pattern
		l := want[at]
		l.Listeners = append(l.Listeners, route.Listener)
		for _, role := range route.Roles {
			l.Roles = append(l.Roles, string(role))
		}
		l.Query = append(l.Query, route.Query...)
		switch {
		case strings.HasSuffix(at, "/decrypt"):
			l.MaxBody = "limits.envelope"
		case strings.HasSuffix(at, "/call"):
			l.MaxBody = "2 x limits.plaintext + 65536"
		case strings.HasSuffix(at, "/encrypt"):
			l.MaxBody = "limits.plaintext"
		case route.MaxBody > 0:
			l.MaxBody = strconv.FormatInt(route.MaxBody, 10)
		}
		want[at] = l
	}
	for path, operations := range doc.Paths {
		for method, op := range operations {
			l := line{Listeners: op.Listeners, Roles: op.Roles, MaxBody: op.MaxBody}
			var inPath []string
			for _, ref := range op.Parameters {
				p := doc.Components.Parameters[strings.TrimPrefix(ref.Ref, "#/components/parameters/")]
				if p.In == "query" {
					l.Query = append(l.Query, p.Name)
				} else {
					inPath = append(inPath, "{"+p.Name+"}")
				}
			}
			if d := cmp.Diff(inPath, regexp.MustCompile(`\{\w+\}`).FindAllString(path, -1)); d != "" {
				t.Errorf("%s %s: parameters in the path:\n%s", method, path, d)
			}
			if (op.MaxBody != "") != (op.RequestBody != nil) {
				t.Errorf("%s %s: a limit without a body, or the reverse", method, path)
			}
			got[strings.ToUpper(method)+" "+path] = l
		}
	}
	sorted := cmp.Transformer("sorted", func(s []string) string { s = slices.Sorted(slices.Values(s)); return strings.Join(s, " ") })
	if d := cmp.Diff(want, got, sorted); d != "" {
		t.Errorf("docs/openapi.yaml and the route table differ (-table +file):\n%s", d)
	}
}

func TestTheDocumentedCodesAreTheErrorTables(t *testing.T) {
	want := slices.Sorted(maps.Keys(api.Codes()))
	got := slices.Sorted(slices.Values(readOpenAPI(t).Components.Schemas["Problem"].Properties["code"].Enum))
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("docs/openapi.yaml (-table +file):\n%s", d)
	}
	raw, err := os.ReadFile("../../docs/api.md")
	check(t, err)
	for code, statuses := range api.Codes() {
		for _, status := range statuses {
			if line := fmt.Sprintf("| %d | `%s` |", status, code); !strings.Contains(string(raw), line) {
				t.Errorf("docs/api.md has no line %s", line)
			}
		}
	}
}

// example is a route's section in docs/api.md.
type example struct{ route, command string }

func readExamples(t *testing.T) []example {
	t.Helper()
	raw, err := os.ReadFile("../../docs/api.md")
	check(t, err)
	var all []example
	for _, m := range regexp.MustCompile("(?s)\n### ((?:GET|POST) [^\n]+)\n(.*?)```sh\n(.*?)```").FindAllStringSubmatch(string(raw), -1) {
		if strings.Contains(m[2], "\n#") {
			t.Errorf("%s has no example of its own", m[1])
		}
		all = append(all, example{m[1], m[3]})
	}
	return all
}

// Each example of docs/api.md is run, and what comes back held against
// docs/openapi.yaml.
func TestEveryRouteHasAnExampleThatRunsAndAnswersAsDocumented(t *testing.T) {
	doc := readOpenAPI(t)
	documented := map[string]bool{}
	for _, e := range readExamples(t) {
		documented[e.route] = true
		t.Run(e.route, func(t *testing.T) {
			r := newRig(t, func(s *setup) { s.cfg.Version.Revision = "abc" })
			kid := r.stage(e.route)
			check(t, os.WriteFile(r.path("answer.jwe"), []byte(r.seal(r.active, []byte("x"), nil)), 0o600))
			check(t, os.WriteFile(r.path("request.json"), []byte(`{"a":1}`), 0o600))
			command := strings.NewReplacer("/run/keyd/keyd.sock", r.path("keyd.sock"), "/run/keyd/admin.sock", r.path("admin.sock"),
				"127.0.0.1:9464", r.server.Addr().String(), `"backend":"hsm"`, `"backend":"memory"`, "/v1/backends/hsm/", "/v1/backends/memory/").Replace(e.command)
			cmd := exec.CommandContext(t.Context(), "sh", "-c", command)
			cmd.Dir, cmd.Env = r.dir, append(os.Environ(), "KID="+kid, "HANDLE="+r.stray())
			var failed strings.Builder
			cmd.Stderr = &failed
			out, err := cmd.Output()
			if err != nil {
				t.Fatalf("%s: %v\n%s", command, err, failed.String())
			}
			method, path, _ := strings.Cut(e.route, " ")
			answer, ok := doc.Paths[path][strings.ToLower(method)].Responses["200"].Content["application/json"]
			if !ok {
				return
			}
			var value any
			check(t, json.Unmarshal(out, &value))
			doc.holds(t, path, answer.Schema, value)
		})
	}
	for _, route := range newRig(t).server.Routes() {
		if !documented[route.Method+" "+route.Pattern] {
			t.Errorf("docs/api.md has no example of %s %s", route.Method, route.Pattern)
		}
	}
}

// stage makes the version that a route's example is about.
func (r *rig) stage(route string) (kid string) {
	r.t.Helper()
	_, operation, _ := strings.Cut(route, "{kid}")
	switch operation {
	case "/confirm":
		check(r.t, r.reg.PutKey(theKey("venly-response", "venly")))
		v := r.version("venly-response", registry.Announced)
		_, err := r.reg.Amend(v.KID, func(v *registry.Version) error { v.ToldAt = time.Time{}; return nil })
		check(r.t, err)
		return v.KID
	case "/activate":
		return r.version(keyName, registry.Announced).KID
	case "/rescue":
		return r.version(keyName, registry.Destroying).KID
	case "/destroy":
		return r.version(keyName, registry.Compromised).KID
	}
	if strings.HasSuffix(route, "/adopt") {
		_, err := r.token.Plant("legacy-wise-2025", uuid.NewString(), 2048)
		check(r.t, err)
	}
	return r.active.KID
}

// A problem and a readiness that is none, too.
func TestErrorsAnswerAsDocumented(t *testing.T) {
	doc := readOpenAPI(t)
	log := &broken{}
	r := newRig(t, func(s *setup) { log.AuditLog, s.audit = s.audit, log })
	held := func(name string, body []byte) {
		var value any
		check(t, json.Unmarshal(body, &value))
		doc.holds(t, name, doc.Components.Schemas[name], value)
	}
	held("Problem", r.decrypt("garbage").wants(t, 400, "malformed_envelope").body)
	log.now.Store(true)
	held("Problem", r.decrypt("garbage").wants(t, 503, "audit_unavailable").body)
	held("Readiness", r.send(http.DefaultClient, "GET", "/readyz", "").wants(t, 503, "").body)
}

// holds holds a value to a schema: the subset of JSON Schema that the file uses.
func (doc *openapi) holds(t *testing.T, at string, s schema, value any) {
	t.Helper()
	if s.Ref != "" {
		name := strings.TrimPrefix(s.Ref, "#/components/schemas/")
		resolved, ok := doc.Components.Schemas[name]
		if !ok {
			t.Errorf("%s: there is no schema %s", at, name)
		}
		s = resolved
	}
	switch v := value.(type) {
	case map[string]any:
		doc.holdsObject(t, at, s, v)
	case []any:
		if s.Type != "array" || s.Items == nil {
			t.Errorf("%s: got a list, want %s", at, s.Type)
			return
		}
		for i, item := range v {
			doc.holds(t, fmt.Sprintf("%s[%d]", at, i), *s.Items, item)
		}
	case string:
		if s.Type != "string" || s.Enum != nil && !slices.Contains(s.Enum, v) {
			t.Errorf("%s: got %q, want %s of %v", at, v, s.Type, s.Enum)
		}
		if _, err := time.Parse(time.RFC3339, v); s.Format == "date-time" && err != nil {
			t.Errorf("%s: %v", at, err)
		}
		if _, err := uuid.Parse(v); s.Format == "uuid" && err != nil {
			t.Errorf("%s: %q: %v", at, v, err)
		}
	case float64:
		if s.Type != "integer" || v != math.Trunc(v) {
			t.Errorf("%s: got %v, want %s", at, v, s.Type)
		}
	case bool:
		if s.Type != "boolean" {
			t.Errorf("%s: got %v, want %s", at, v, s.Type)
		}
	default:
		t.Errorf("%s: got %v, want %s", at, v, s.Type)
	}
}

func (doc *openapi) holdsObject(t *testing.T, at string, s schema, object map[string]any) {
	t.Helper()
	if s.Type != "object" {
		t.Errorf("%s: got an object, want %s", at, s.Type)
		return
	}
	for _, name := range s.Required {
		if _, ok := object[name]; !ok {
			t.Errorf("%s: no %s", at, name)
		}
	}
	for name, value := range object {
		property, known := s.Properties[name]
		switch {
		case known:
			doc.holds(t, at+"."+name, property, value)
		case s.Additional == false:
			t.Errorf("%s: %s is not documented", at, name)
		}
	}
}
