package api_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"keyd/client"
	"keyd/internal/api"
	"keyd/internal/audit"
	"keyd/internal/registry"
)

// fussy is an audit log that refuses entries one by one, and may have lost its
// head.
type fussy struct {
	api.AuditLog
	entry, head error
}

func (f *fussy) Append(ctx context.Context, e audit.Entry) (audit.Head, error) {
	if f.entry != nil {
		return audit.Head{}, f.entry
	}
	return f.AuditLog.Append(ctx, e)
}

func (f *fussy) HeadErr() error { return f.head }

func TestAnEntryThatIsRefusedIsNotTheEndOfTheLog(t *testing.T) {
	log := &fussy{}
	r := newRig(t, func(s *setup) { log.AuditLog, s.audit = s.audit, log })
	for _, err := range []error{audit.ErrEntry, context.Canceled} {
		log.entry = fmt.Errorf("appending: %w", err)
		r.send(r.admin, "POST", "/v1/keys/"+keyName+"/rotate", "").wants(t, 503, "audit_unavailable")
		r.send(http.DefaultClient, "GET", "/readyz", "").wants(t, 200, "")
	}
	log.entry = nil
	r.send(r.admin, "POST", "/v1/keys/"+keyName+"/rotate", "").wants(t, 200, "")
}

func TestAHeadThatCannotBeWrittenIsAWarning(t *testing.T) {
	log := &fussy{}
	r := newRig(t, func(s *setup) { log.AuditLog, s.audit = s.audit, log })
	log.head = errors.New("the head is read-only")
	a := r.send(http.DefaultClient, "GET", "/readyz", "").wants(t, 200, "")
	if !strings.Contains(string(a.body), "the head is read-only") {
		t.Errorf("/readyz says %s", a.body)
	}
	status, err := client.New(r.path("admin.sock")).Status(t.Context())
	check(t, err)
	if !status.Ready || len(status.Problems) != 1 || status.Problems[0].Code != "audit_head" || status.Problems[0].Severity != "warning" {
		t.Errorf("got %+v", status)
	}
}

func TestAChangeIsLoggedAndRecordedUnderItsRequest(t *testing.T) {
	r := newRig(t)
	reason := func(path string) {
		r.send(r.admin, "POST", path, `{"reason":"x"}`, "Content-Type: application/json", "Keyd-Request-Id: req-815").wants(t, 200, "")
	}
	for path, action := range map[string]string{
		"/v1/keys/" + keyName + "/rotate":              "key.rotate",
		"/v1/versions/" + r.active.KID + "/compromise": "key.compromise",
		"/v1/partners/wise/refresh":                    "partner.fetch-key",
	} {
		before := len(r.entries())
		for _, query := range []string{"?dry_run=true", ""} {
			was := r.logged.String()
			if strings.HasSuffix(path, "compromise") {
				reason(path + query)
			} else {
				r.send(r.admin, "POST", path+query, "", "Keyd-Request-Id: req-815").wants(t, 200, "")
			}
			logged := strings.TrimPrefix(r.logged.String(), was)
			if n := strings.Count(logged, "msg=changed"); n != map[string]int{"": 1}[query] {
				t.Errorf("%s%s was logged %d times:\n%s", path, query, n, logged)
			}
			if query == "" && (!strings.Contains(logged, "request=req-815 action="+action) || !strings.Contains(logged, "operator")) {
				t.Errorf("the log has\n%s", logged)
			}
		}
		got := r.entries()[before:]
		if len(got) == 0 {
			t.Errorf("%s is not in the audit log", path)
		}
		for _, e := range got {
			if e.Detail["request"] != "req-815" {
				t.Errorf("%s: the audit log has %+v", path, e)
			}
		}
	}
}

func TestADryRefreshStoresNothing(t *testing.T) {
	r := newRig(t)
	var pk client.PartnerKey
	check(t, json.Unmarshal(r.send(r.admin, "POST", "/v1/partners/wise/refresh?dry_run=true", "").wants(t, 200, "").body, &pk))
	if pk.ID != "their-key" || pk.LastSeen.IsZero() || pk.FirstSeen.IsZero() {
		t.Errorf("got %+v", pk)
	}
	if _, err := r.reg.PartnerKey("wise"); !errors.Is(err, registry.ErrNotFound) || r.partner.fetches() != 1 {
		t.Errorf("got %v after %d calls", err, r.partner.fetches())
	}
	r.send(r.admin, "POST", "/v1/partners/wise/refresh", "").wants(t, 200, "")
	stored, err := r.reg.PartnerKey("wise")
	check(t, err)
	check(t, json.Unmarshal(r.send(r.admin, "POST", "/v1/partners/wise/refresh?dry_run=true", "").wants(t, 200, "").body, &pk))
	if pk.Changed || !pk.FirstSeen.Equal(stored.FirstSeen) {
		t.Errorf("got %+v, stored is %+v", pk, stored)
	}
	r.send(r.admin, "POST", "/v1/partners/venly/refresh?dry_run=true", "").wants(t, 409, "no_partner_key")
	r.partner.fails(errors.New("no route to host"))
	r.send(r.admin, "POST", "/v1/partners/wise/refresh?dry_run=true", "").wants(t, 502, "partner_error")
}
