package api_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"keyd/internal/api"
	"keyd/internal/audit"
	"keyd/internal/boundary"
	"keyd/internal/registry"
	"keyd/internal/rotation"
	"keyd/internal/rotation/backendtest"
)

func TestNoLineOfTheErrorTableHidesAnother(t *testing.T) {
	for err, code := range api.Known() {
		if got := api.CodeOf(fmt.Errorf("doing: %w", err)); got != code {
			t.Errorf("%v is answered as %s, want %s", err, got, code)
		}
	}
	if got := api.CodeOf(errors.New("a bug")); got != "internal" {
		t.Errorf("an unknown error is answered as %s", got)
	}
}

// What an error is beside another: the first is what matters.
func TestTheWorseOfTwoErrorsIsAnswered(t *testing.T) {
	for _, c := range []struct {
		err  error
		code string
	}{
		{errors.Join(rotation.ErrState, fmt.Errorf("recording: %w: %w", rotation.ErrAudit, audit.ErrFailed)), "audit_unavailable"},
		{fmt.Errorf("%w: %w", api.ErrBackend, boundary.ErrNoKey), "backend_unavailable"},
		{fmt.Errorf("opening: %w: %w", boundary.ErrUnavailable, context.DeadlineExceeded), "backend_unavailable"},
		{fmt.Errorf("opening: %w: %w", boundary.ErrBusy, context.DeadlineExceeded), "backend_busy"},
		{fmt.Errorf("%w: opening: %w", rotation.ErrSelfTest, boundary.ErrOpen), "self_test"},
		{fmt.Errorf("%w: opening: %w", rotation.ErrSelfTest, boundary.ErrUnavailable), "backend_unavailable"},
		// The engine looks before it asks the registry; only between the two can these come.
		{fmt.Errorf("moving: %w", registry.ErrTransition), "transition"},
		{fmt.Errorf("moving: %w", registry.ErrSecondActive), "second_active"},
		{fmt.Errorf("moving: %w", registry.ErrLastOpenable), "last_openable"},
		{fmt.Errorf("amending: %w", registry.ErrImmutable), "immutable"},
	} {
		if got := api.CodeOf(c.err); got != c.code {
			t.Errorf("%v is answered as %s, want %s", c.err, got, c.code)
		}
	}
}

func TestABackendThatCannotTakeOverAKeySaysSo(t *testing.T) {
	for op, c := range map[string]struct {
		err    error
		status int
		code   string
	}{
		"find": {boundary.ErrUnsupported, 409, "unsupported"},
		"open": {boundary.ErrOpen, 409, "self_test"},
	} {
		t.Run(op, func(t *testing.T) {
			r := newRig(t)
			_, err := r.token.Plant("legacy", "", 2048)
			check(t, err)
			r.token.Inject(backendtest.Fault{Op: op, Err: c.err})
			body := fmt.Sprintf(`{"kid":%q,"find":"legacy","valid_till":%q}`, uuid.NewString(), time.Now().Add(time.Hour).UTC().Format(time.RFC3339))
			r.send(r.admin, "POST", "/v1/keys/"+keyName+"/adopt", body, "Content-Type: application/json").wants(t, c.status, c.code)
		})
	}
}

func TestTitleAndDetailDoNotSayTheSame(t *testing.T) {
	r := newRig(t)
	for name, c := range map[string]struct {
		on, path, body string
		detail         string
	}{
		"state":     {"admin", "/v1/versions/" + r.active.KID + "/confirm", "", "confirming " + r.active.KID + ": it is active; only an announced version waits for the partner"},
		"too large": {"admin", "/v1/keys", strings.Repeat("x", 20<<10), "20480 bytes, at most 16384 are taken"},
		"not found": {"admin", "/v1/keys/No-Key/rotate", "", `key "No-Key"`},
		"partner":   {"client", "/v1/partners/nobody/encrypt", "x", `partner "nobody"`},
		"last":      {"client", "/v1/partners/venly/encrypt", "x", "partner venly"},
	} {
		t.Run(name, func(t *testing.T) {
			p := r.send(r.where(c.on), "POST", c.path, c.body).problem(t)
			if p.Detail != c.detail {
				t.Errorf("%s: got %q, want %q", p.Title, p.Detail, c.detail)
			}
		})
	}
}

func TestLittleOfACallersTextIsShown(t *testing.T) {
	r := newRig(t)
	long := strings.Repeat("A", 500)
	for name, c := range map[string]struct{ path, body string }{
		"a kid":             {"/v1/versions/" + long + "/destroy", `{"reason":"x"}`},
		"a key":             {"/v1/keys/" + long + "/rotate", ""},
		"a key with \u202e": {"/v1/keys/" + url.PathEscape("\u202e\n"+long) + "/rotate", ""},
		"a partner":         {"/v1/partners/" + long + "/refresh", ""},
		"a name":            {"/v1/keys", `{"name":"` + long + `"}`},
		"a member":          {"/v1/keys", `{"` + long + `":1}`},
		"a duration":        {"/v1/keys", `{"name":"k","policy":{"valid_for":"` + long + `"}}`},
		"a time":            {"/v1/keys/" + keyName + "/adopt", `{"valid_till":"` + long + `"}`},
		"a label":           {"/v1/keys/" + keyName + "/adopt", `{"kid":"6f1ed002-ab5e-4cd8-8a5d-0d2e4f2b8a11","valid_till":"2099-01-01T00:00:00Z","find":"` + long[:255] + `"}`},
		"a reason":          {"/v1/versions/" + r.active.KID + "/destroy", `{"reason":"` + strings.Repeat("A", 2000) + `"}`},
		"a line":            {"/v1/versions/" + r.active.KID + "/destroy", `{"reason":"x\ny"}`},
		"a parameter":       {"/v1/keys?" + long + "=1", ""},
	} {
		t.Run(name, func(t *testing.T) {
			headers := []string{}
			if c.body != "" {
				headers = append(headers, "Content-Type: application/json")
			}
			a := r.send(r.admin, "POST", c.path, c.body, headers...)
			if p := a.problem(t); a.status >= 500 || p.Detail == "" || strings.Contains(p.Detail, long[:65]) || strings.ContainsAny(p.Detail, "\u202e\n") {
				t.Errorf("got %d %q", a.status, p.Detail)
			}
		})
	}
}

// A kid is 36 characters in lower case; nothing else is looked up.
func TestAKIDHasOneSpelling(t *testing.T) {
	r := newRig(t)
	for _, kid := range []string{strings.ToUpper(r.active.KID), "urn:uuid:" + r.active.KID, "{" + r.active.KID + "}", strings.ReplaceAll(r.active.KID, "-", "")} {
		r.send(r.admin, "GET", "/v1/versions/"+url.PathEscape(kid), "").wants(t, 404, "not_found")
		r.send(r.admin, "POST", "/v1/versions/"+url.PathEscape(kid)+"/confirm", "").wants(t, 404, "not_found")
	}
	r.send(r.admin, "GET", "/v1/versions/"+r.active.KID, "").wants(t, 200, "")
}

func TestTheHintSaysWhoCanAllowIt(t *testing.T) {
	r := newRig(t)
	for name, c := range map[string]struct {
		change func(map[string]any)
		hint   string
	}{
		"dir":         {func(h map[string]any) { h["alg"] = "dir" }, "never"},
		"RSA1_5":      {func(h map[string]any) { h["alg"] = "RSA1_5" }, "never"},
		"RSA-OAEP":    {func(h map[string]any) { h["alg"] = "RSA-OAEP" }, "never"},
		"zip":         {func(h map[string]any) { h["zip"] = "DEF" }, "never"},
		"crit":        {func(h map[string]any) { h["crit"], h["exp"] = []string{"exp"}, 1 }, "never"},
		"another enc": {func(h map[string]any) { h["enc"] = "A128GCM" }, "encs"},
	} {
		h := map[string]any{"alg": boundary.RSAOAEP256, "enc": enc, "kid": r.active.KID}
		c.change(h)
		if p := r.decrypt(r.seal(r.active, []byte("x"), h)).wants(t, 400, "algorithm_not_allowed").problem(t); !strings.Contains(p.Hint, c.hint) {
			t.Errorf("%s: got the hint %q", name, p.Hint)
		}
	}
	refused := newRig(t, func(s *setup) { s.cfg.Rules = nil })
	if p := refused.decrypt("x").wants(t, 403, "forbidden").problem(t); !strings.Contains(p.Hint, "roles.clients") {
		t.Errorf("got the hint %q", p.Hint)
	}
	if p := r.send(r.admin, "POST", "/v1/keys", "{}").wants(t, 415, "unsupported_media").problem(t); p.Hint == "" {
		t.Error("415 has no hint")
	}
}
