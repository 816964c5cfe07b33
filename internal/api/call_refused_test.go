package api_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"keyd/internal/api"
)

func TestWhatTheConfigDoesNotAllowIsRefusedAndOnRecord(t *testing.T) {
	for err, want := range map[error]struct {
		status int
		code   string
		result string
	}{
		fmt.Errorf("%w: POST /v1/cases", api.ErrCallNotAllowed): {403, "call_not_allowed", "refused"},
		fmt.Errorf("%w: a GET with a body", api.ErrCallRequest): {400, "bad_request", "failed"},
		errors.New("no route to host"):                          {502, "partner_error", "failed"},
	} {
		r, _ := newCallRig(t, func(api.Request, int) (*api.Response, error) { return nil, err })
		r.call(post("x")).wants(t, want.status, want.code)
		entries := r.last(2)
		if len(entries) != 2 || entries[1].Action != "call" || entries[1].Phase != "outcome" || entries[1].Result != want.result || entries[1].Code != want.code {
			t.Errorf("%v: on record: %+v", err, entries)
		}
	}
}

func TestNothingIsDoneForACallThatTheConfigDoesNotAllow(t *testing.T) {
	r, f := newCallRig(t, func(api.Request, int) (*api.Response, error) { return inClear(200, "{}"), nil })
	f.refuses = fmt.Errorf("%w: POST /v1/cases", api.ErrCallNotAllowed)
	direct := post("x")
	direct.Direct = new(true)
	r.call(direct).wants(t, 403, "call_not_allowed")
	entries := r.last(2)
	if len(entries) != 2 || entries[0].Action != "call" || entries[0].Phase != "intent" || entries[1].Result != "refused" { // and no exchange between them
		t.Errorf("on record: %+v", entries)
	}
	if len(f.got) != 0 {
		t.Errorf("sent %+v", f.got)
	}
	f.refuses = nil
	r.call(direct)
	if entries := r.last(4); entries[1].Action != "exchange.begin" { // as it is when a call is allowed
		t.Errorf("on record: %+v", entries)
	}
}

func TestCallsAreAGrantOfTheirOwn(t *testing.T) {
	me := []int{os.Getuid()}
	answers := func(api.Request, int) (*api.Response, error) { return inClear(200, "{}"), nil }
	for role, want := range map[api.Role][2]int{api.RoleClient: {403, 200}, api.RoleCaller: {200, 403}} {
		r, f := newCallRig(t, answers, func(s *setup) { s.cfg.Rules = []api.Rule{{Role: role, Partner: "wise", UIDs: me}} })
		got := [2]int{r.call(post("x")).status, r.send(r.client, "POST", "/v1/partners/wise/encrypt", "x").status}
		if got != want || len(f.got) != map[api.Role]int{api.RoleCaller: 1}[role] {
			t.Errorf("%s: call and encrypt answer %v, want %v", role, got, want)
		}
		r.send(r.client, "POST", "/v1/partners/venly/call", `{}`, "Content-Type: application/json").wants(t, 403, "forbidden")
		r.send(r.client, "GET", "/v1/partners/wise", "").wants(t, 200, "")
	}
}

func TestWhatCannotBeRecordedDoesNotLeave(t *testing.T) {
	log := &broken{}
	var r *rig
	r, f := newCallRig(t, func(api.Request, int) (*api.Response, error) {
		log.now.Store(true) // once it has left
		return inClear(200, "secret"), nil
	}, func(s *setup) { log.AuditLog, s.audit = s.audit, log })
	if a := r.call(post("x")).wants(t, 503, "audit_unavailable"); bytes.Contains(a.body, []byte("secret")) {
		t.Errorf("got %s", a.body)
	}
	r.call(post("x")).wants(t, 503, "audit_unavailable")
	if len(f.got) != 1 {
		t.Errorf("%d requests left", len(f.got))
	}
}

func TestDocumentsOfCallsThatAreRefused(t *testing.T) {
	r, f := newCallRig(t, func(api.Request, int) (*api.Response, error) { return inClear(200, "{}"), nil })
	for name, doc := range map[string]string{
		"nothing":                ``,
		"a form":                 `method=POST`,
		"a list":                 `[]`,
		"a member not known":     `{"method":"GET","path":"/","host":"evil.example"}`,
		"two bodies":             `{"method":"POST","path":"/","body":"x","body_base64":"eA=="}`,
		"a body of JSON":         `{"method":"POST","path":"/","body":{"a":1}}`,
		"a body of nothing":      `{"method":"POST","path":"/","body":null}`,
		"half a character":       `{"method":"POST","path":"/","body":"\ud800"}`,
		"no base64":              `{"method":"POST","path":"/","body_base64":"!"}`,
		"base64 of digits":       `{"method":"POST","path":"/","body_base64":1234}`,
		"base64 with lines":      `{"method":"POST","path":"/","body_base64":"eA==\n"}`,
		"fields of a whole":      `{"method":"POST","path":"/","body":"{}","fields":["/a"]}`,
		"sealed and unsealed":    `{"method":"POST","path":"/","body":"{}","unsealed":true,"direct":true}`,
		"a way to seal nothing":  `{"method":"GET","path":"/","direct":true}`,
		"a signing method":       `{"method":"POST","path":"/","body":"x","signing_method":{"id":"a","value":"b"}}`,
		"a pointer that is none": `{"method":"GET","path":"/","open_fields":["a"]}`,
		"too many pointers":      `{"method":"GET","path":"/","open_fields":[` + strings.Repeat(`"/a",`, 40) + `"/a"]}`,
		"more after it":          `{"method":"GET","path":"/"}{}`,
	} {
		a := r.send(r.client, "POST", "/v1/partners/wise/call", doc, "Content-Type: application/json")
		if a.status != 400 {
			t.Errorf("%s: got %d %s", name, a.status, a.body)
		}
	}
	r.send(r.client, "POST", "/v1/partners/wise/call", `{"method":"GET","path":"/"}`).wants(t, 415, "unsupported_media")
	for _, size := range []int{32<<10 + 1, 200 << 10} { // of the plaintext, and of the document
		r.send(r.client, "POST", "/v1/partners/wise/call", `{"method":"POST","path":"/v1/cases","body":"`+strings.Repeat("x", size)+`"}`, "Content-Type: application/json").wants(t, 413, "too_large")
	}
	r.send(r.client, "POST", "/v1/partners/nobody/call", `{}`, "Content-Type: application/json").wants(t, 404, "not_found")
	if len(f.got) != 0 {
		t.Errorf("sent %+v", f.got)
	}
}
