package api_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	"keyd/client"
	"keyd/internal/api"
	"keyd/internal/audit"
	"keyd/internal/registry"
)

func TestABackupIsWholeRecordedAndOpens(t *testing.T) {
	r := newRig(t)
	var copied bytes.Buffer
	sum, err := client.New(r.path("admin.sock")).Backup(t.Context(), &copied)
	check(t, err)
	digest := sha256.Sum256(copied.Bytes())
	if sum != hex.EncodeToString(digest[:]) {
		t.Errorf("the sum is %s", sum)
	}
	check(t, os.WriteFile(r.path("copy.db"), copied.Bytes(), 0o600))
	reg, err := registry.Open(r.path("copy.db"), registry.Options{})
	check(t, err)
	defer reg.Close()
	if v, err := reg.Version(r.active.KID); err != nil || v.State != registry.Active {
		t.Errorf("got %+v, %v", v, err)
	}
	entries := r.entries()
	intent, outcome := entries[len(entries)-2], entries[len(entries)-1]
	if intent.Phase != "intent" || intent.Action != "registry.backup" || outcome.Op != intent.Op || outcome.Result != "ok" || outcome.Detail["sha256"] != sum {
		t.Errorf("the audit log has %+v and %+v", intent, outcome)
	}
}

func TestABackupThatIsBrokenOffHasNoSum(t *testing.T) {
	// The outcome cannot be recorded: the bytes are out, the sum must not follow.
	r := newRig(t, func(s *setup) { s.audit = &afterFirst{AuditLog: s.audit} })
	res, err := r.admin.Get("http://keyd/v1/backup")
	check(t, err)
	defer res.Body.Close()
	_, err = io.Copy(io.Discard, res.Body)
	if err == nil && res.Trailer.Get("Keyd-Sha256") != "" {
		t.Error("the backup came with its sum")
	}
	if err == nil {
		t.Error("the backup ended as if it were whole")
	}
}

// afterFirst fails every Append but the first.
type afterFirst struct {
	api.AuditLog
	calls atomic.Int32
}

func (a *afterFirst) Append(ctx context.Context, e audit.Entry) (audit.Head, error) {
	if a.calls.Add(1) > 1 {
		return audit.Head{}, audit.ErrFailed
	}
	return a.AuditLog.Append(ctx, e)
}

func TestTheAuditLogIsReadInPieces(t *testing.T) {
	r := newRig(t)
	envelope := r.seal(r.active, []byte("x"), nil)
	for range 20 {
		r.decrypt(envelope).wants(t, 200, "")
	}
	read := func(query string) []audit.Entry {
		var all []audit.Entry
		check(t, json.Unmarshal(r.send(r.admin, "GET", "/v1/audit"+query, "").wants(t, 200, "").body, &all))
		return all
	}
	all := read("")
	if len(all) < 20 || read("?tail=3")[0].Seq != all[len(all)-3].Seq || len(read("?tail=0")) != 0 || len(read("?limit=0")) != 0 {
		t.Errorf("got %d entries", len(all))
	}
	if got := read("?after=5&limit=2"); len(got) != 2 || got[0].Seq != 6 || got[1].Seq != 7 {
		t.Errorf("got %+v", got)
	}
	if got := read("?after=1000000"); got == nil || len(got) != 0 {
		t.Errorf("got %+v, want an empty list", got)
	}
	for _, query := range []string{"?tail=-1", "?tail=1001", "?limit=x", "?after=99999999999999999999", "?tail=1&after=1", "?tail="} {
		r.send(r.admin, "GET", "/v1/audit"+query, "").wants(t, 400, "bad_request")
	}
}

func TestTheAuditLogIsVerified(t *testing.T) {
	r := newRig(t)
	r.decrypt("garbage")
	admin := client.New(r.path("admin.sock"))
	report, err := admin.AuditVerify(t.Context())
	check(t, err)
	if !report.OK || report.Report.Entries == 0 || report.Report.Head.Seq != report.Report.Entries {
		t.Errorf("got %+v", report)
	}
	text, err := os.ReadFile(r.path("audit.jsonl"))
	check(t, err)
	check(t, os.WriteFile(r.path("audit.jsonl"), bytes.Replace(text, []byte(`"failed"`), []byte(`"ok"`), 1), 0o600))
	report, err = admin.AuditVerify(t.Context())
	check(t, err)
	if report.OK || !strings.Contains(report.Broken, "line 1") {
		t.Errorf("got %+v", report)
	}
	check(t, os.Remove(r.path("audit.jsonl")))
	r.send(r.admin, "GET", "/v1/audit", "").wants(t, 500, "internal")
	r.send(r.admin, "GET", "/v1/audit/verify", "").wants(t, 500, "internal")
}

func TestStatusIsTheWholePicture(t *testing.T) {
	r := newRig(t)
	admin := client.New(r.path("admin.sock"))
	status, err := admin.Status(t.Context())
	check(t, err)
	if status.Instance != "test" || status.Version != "v1.2.3" || !status.Ready || status.StartedAt.IsZero() || len(status.Backends) != 1 ||
		status.Backends[0].Levels["RSA-OAEP-256"] != "unwrap" || len(status.Keys) != 1 || len(status.Keys[0].Versions) != 1 || status.Keys[0].ActiveKID != r.active.KID ||
		len(status.Partners) != 2 || len(status.Problems) != 0 {
		t.Errorf("got %+v", status)
	}
	doctor, err := admin.Doctor(t.Context())
	check(t, err)
	if doctor.OK || len(doctor.Checked) == 0 { // the rig's versions name no entry of the audit log
		t.Errorf("got %+v", doctor)
	}
	version, err := admin.VersionInfo(t.Context())
	check(t, err)
	if version.Version != "v1.2.3" || version.Schema != registry.SchemaVersion {
		t.Errorf("got %+v", version)
	}
	keys, err := admin.Keys(t.Context())
	check(t, err)
	partners, err := admin.Partners(t.Context())
	check(t, err)
	if len(keys) != 1 || keys[0].Versions != nil || len(partners) != 2 {
		t.Errorf("got %+v and %+v", keys, partners)
	}
	pk, err := admin.RefreshPartner(t.Context(), "wise", false)
	check(t, err)
	if pk.Changed || pk.ID != "their-key" {
		t.Errorf("got %+v", pk)
	}
	if _, err := admin.RefreshPartner(t.Context(), "nobody", false); !isProblem(err, http.StatusNotFound) {
		t.Errorf("got %v", err)
	}
	if _, err := admin.RefreshPartner(t.Context(), "venly", false); !isProblem(err, http.StatusConflict) {
		t.Errorf("got %v", err)
	}
}

func isProblem(err error, status int) bool {
	p, ok := errors.AsType[*client.Problem](err)
	return ok && p.Status == status
}
