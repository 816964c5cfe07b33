package api_test

import (
	"encoding/json"
	"fmt"
	"os"
	"testing"
	"time"

	"keyd/client"
	"keyd/internal/audit"
	"keyd/internal/evidence"
	"keyd/internal/registry"
)

// lived is a key that the engine itself made two versions of, one of which was
// compromised and destroyed.
func lived(t *testing.T, r *rig) (name, kid string) {
	t.Helper()
	ctx, admin := t.Context(), client.New(r.path("admin.sock"))
	policy := client.Policy{Rotate: "0 3 1 */3 *", ValidFor: "150d", DrainFor: "30d", SettleFor: "0s", Canary: "off"}
	_, err := admin.CreateKey(ctx, client.CreateKey{Name: "venly-response", Partner: "venly", Backend: backendName, Policy: policy}, false)
	check(t, err)
	r.run()
	key, err := admin.Key(ctx, "venly-response")
	check(t, err)
	kid = key.Versions[0].KID
	_, err = admin.Confirm(ctx, kid, "handed over by courier", false)
	check(t, err)
	r.run()
	_, err = admin.Compromise(ctx, kid, "a drill", false)
	check(t, err)
	_, err = admin.Destroy(ctx, kid, "over", false)
	check(t, err)
	r.run()
	if key, err = admin.Key(ctx, "venly-response"); err != nil || len(key.Versions) != 2 || key.Versions[0].State != "destroyed" {
		t.Fatalf("%v, %+v", err, key)
	}
	return key.Name, kid
}

func TestTheEvidenceOfAKeyHoldsAgainstTheLogItWasTakenFrom(t *testing.T) {
	r := newRig(t)
	name, kid := lived(t, r)
	document, err := client.New(r.path("admin.sock")).Evidence(t.Context(), name)
	check(t, err)
	v, err := evidence.Verify(document)
	check(t, err)
	_, err = v.AgainstLog(r.path("audit.jsonl"))
	check(t, err)
	for _, f := range v.Faults {
		t.Errorf("%s: %s", f.Subject, f.Message)
	}
	b := v.Bundle
	if b.Instance != "test" || b.Key.Name != name || len(b.Key.Versions) != 2 || b.Key.Versions[0].KID != kid || b.Key.Policy.DrainFor != "30d" {
		t.Errorf("got %+v", b.Key)
	}
	for _, version := range b.Key.Versions {
		if len(version.SelfTest) == 0 || len(version.Evidence) == 0 || version.PublicSHA256 == "" || version.PublicPEM == "" {
			t.Errorf("version %d lacks something: %+v", version.Number, version)
		}
	}
	entries := r.entries()
	last := entries[len(entries)-1]
	if last.Action != "key.evidence" || last.Actor.UID != os.Getuid() || last.Actor.Role != "operator" || last.Detail["versions"] != "2" || last.Seq != v.Export.Seq {
		t.Errorf("the export is recorded as %+v", last)
	}
}

// TestEvidenceWaitsForWhatIsUnderWay: a version whose self-test has no outcome
// yet is not shown half.
func TestEvidenceWaitsForWhatIsUnderWay(t *testing.T) {
	r := newRig(t)
	e := audit.Entry{Op: "test", Phase: audit.PhaseIntent, Action: "key.self-test", Actor: audit.System, Key: keyName, KID: r.active.KID}
	head, err := r.log.Append(t.Context(), e)
	check(t, err)
	_, err = r.reg.Amend(r.active.KID, func(v *registry.Version) error {
		v.SelfTest = json.RawMessage(fmt.Sprintf(`{"at":"2026-11-25T00:00:00Z","result":"passed","method":"by hand","audit":%d}`, head.Seq))
		return nil
	})
	check(t, err)
	answered := make(chan error, 1)
	go func() {
		document, err := client.New(r.path("admin.sock")).Evidence(t.Context(), keyName)
		if err == nil {
			var v *evidence.Verified
			if v, err = evidence.Verify(document); err == nil && !v.Bundle.Settled() {
				err = fmt.Errorf("it was shown before its outcome: %s", v.Bundle.Entries)
			}
		}
		answered <- err
	}()
	select {
	case err := <-answered:
		t.Errorf("an answer before the outcome: %v", err)
	case <-time.After(time.Second):
	}
	e.Phase, e.Result = audit.PhaseOutcome, audit.ResultOK
	_, err = r.log.Append(t.Context(), e)
	check(t, err)
	check(t, <-answered)
}

func TestNoEvidenceWithoutItsEntry(t *testing.T) {
	log := &broken{}
	r := newRig(t, func(s *setup) { log.AuditLog, s.audit = s.audit, log })
	log.now.Store(true)
	r.send(r.admin, "GET", "/v1/keys/"+keyName+"/evidence", "").wants(t, 503, "audit_unavailable")
	log.now.Store(false)
	r.send(r.admin, "GET", "/v1/keys/no-such-key/evidence", "").wants(t, 404, "not_found")
}
