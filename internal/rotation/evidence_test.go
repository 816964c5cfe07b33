package rotation_test

import (
	"crypto"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"keyd/internal/audit"
	"keyd/internal/boundary"
	"keyd/internal/registry"
	"keyd/internal/rotation"
)

// outcome is the outcome of an action on a version; the test fails without one.
func (w *world) outcome(action, kid string) audit.Entry {
	w.t.Helper()
	for _, e := range w.trail.all() {
		if e.Phase == audit.PhaseOutcome && e.Action == action && e.KID == kid {
			return e
		}
	}
	w.t.Fatalf("the log has no outcome of %s for %s", action, kid)
	return audit.Entry{}
}

// documents are what is kept of a version's key pair.
func (w *world) documents(v registry.Version) (rotation.Evidence, rotation.SelfTest) {
	w.t.Helper()
	var evidence rotation.Evidence
	var test rotation.SelfTest
	w.must(json.Unmarshal(v.Evidence, &evidence))
	w.must(json.Unmarshal(v.SelfTest, &test))
	return evidence, test
}

func TestTheAuditLogCommitsToWhatIsKeptOfAKeyPair(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		w.create(weekly())
		v := w.the(registry.Active)
		evidence, test := w.documents(v)
		if evidence.Attributes["CKA_LABEL"] == "" || evidence.Backend != "memory" || evidence.At.IsZero() || evidence.Level == "" {
			w.t.Errorf("the evidence is %+v", evidence)
		}
		if test.Result != "passed" || !test.At.Equal(v.TestedAt) || test.Level != evidence.Level || !strings.Contains(test.Method, "RSA-OAEP-256, A256GCM") {
			w.t.Errorf("the self-test is %+v", test)
		}
		made, tested := w.outcome("key.generate", v.KID), w.outcome("key.self-test", v.KID)
		if made.Detail["evidence"] != audit.Digest(v.Evidence) || made.Detail["public"] != rotation.Fingerprint(v.Public) || made.Detail["level"] != string(evidence.Level) {
			w.t.Errorf("the outcome of key.generate says %v", made.Detail)
		}
		if tested.Detail["self_test"] != audit.Digest(v.SelfTest) || tested.Detail["level"] != string(test.Level) {
			w.t.Errorf("the outcome of key.self-test says %v", tested.Detail)
		}
		for name, pair := range map[string][2]uint64{"evidence": {evidence.Audit, made.Seq}, "self-test": {test.Audit, tested.Seq}} {
			if pair[0] == 0 || w.trail.all()[pair[0]-1].Op != w.trail.all()[pair[1]-1].Op {
				w.t.Errorf("the %s names entry %d, which is not the intent of outcome %d", name, pair[0], pair[1])
			}
		}
		told := w.outcome("key.announce", v.KID).Detail
		if told["public"] != rotation.Fingerprint(v.Public) || told["valid_till"] != v.ValidTill.Format(time.RFC3339) || told["valid_from"] != v.ValidFrom.Format(time.RFC3339) {
			w.t.Errorf("the outcome of key.announce says %v", told)
		}
		if used := w.outcome("key.canary", v.KID).Detail["used"]; used != v.KID {
			w.t.Errorf("the canary used %q", used)
		}
	})
}

func TestAnAdoptedKeyPairHasItsEvidenceCommittedToo(t *testing.T) {
	t.Parallel()
	bubble(t, func(w *world) {
		w.plant(2048)
		quiet(w, theKey(weekly()))
		_, err := w.adopt(nil)
		w.must(err)
		v := w.versions()[0]
		evidence, test := w.documents(v)
		said := w.outcome("key.adopt", v.KID).Detail
		if said["evidence"] != audit.Digest(v.Evidence) || said["self_test"] != audit.Digest(v.SelfTest) || said["public"] != rotation.Fingerprint(v.Public) {
			w.t.Errorf("the outcome of key.adopt says %v", said)
		}
		if evidence.Audit == 0 || evidence.Audit != test.Audit || evidence.Audit != v.History[0].Audit {
			w.t.Errorf("the evidence names entry %d, the self-test %d, the history %d", evidence.Audit, test.Audit, v.History[0].Audit)
		}
	})
}

func TestAKeyThatSignsIsTestedBySigning(t *testing.T) {
	inWorld(t, func(w *world) {
		w.change = func(c *rotation.Config) {
			c.Partners[partnerName] = rotation.Partner{Verifier: &inBand{told: map[string]crypto.PublicKey{}}}
		}
	}, func(w *world) {
		key := theKey(weekly())
		key.Algorithm = boundary.PS256
		_, err := w.engine.Create(w.t.Context(), operator, key, false)
		w.must(err)
		w.pass(0)
		if _, test := w.documents(w.the(registry.Active)); test.Result != "passed" || !strings.Contains(test.Method, "signature") {
			w.t.Errorf("the self-test is %+v", test)
		}
	})
}

// TestCheckFindsWhatWasChangedInTheRegistry edits the file behind keyd's back.
func TestCheckFindsWhatWasChangedInTheRegistry(t *testing.T) {
	t.Parallel()
	for name, edit := range map[string]func(*registry.Version){
		"an attribute": func(v *registry.Version) {
			v.Evidence = json.RawMessage(strings.Replace(string(v.Evidence), `"memory"`, `"pkcs11"`, 1))
		},
		"the level of the self-test": func(v *registry.Version) {
			v.SelfTest = json.RawMessage(strings.Replace(string(v.SelfTest), `"level":"`, `"level":"sealed`, 1))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(w *world) {
				w.create(weekly())
				kid := w.the(registry.Active).KID
				w.stop()
				w.store.editVersion(w.t, kid, edit)
				w.open()
				if f := finding(w.engine.Check(w.t.Context()), "evidence_changed"); f.Subject != kid || f.Severity != rotation.Failure {
					w.t.Errorf("found %+v", w.engine.Check(w.t.Context()))
				}
			})
		})
	}
}

// TestASelfTestThatFailedIsNotKept: what is shown as a proof is one.
func TestASelfTestThatFailedIsNotKept(t *testing.T) {
	t.Parallel()
	bubble(t, func(w *world) {
		w.token.Inject(faultOf("open", 3))
		w.create(weekly())
		v := w.the(registry.Pending)
		if len(v.SelfTest) != 0 || len(v.Evidence) == 0 {
			w.t.Errorf("kept %s beside %s", v.SelfTest, v.Evidence)
		}
		if e := w.outcome("key.self-test", v.KID); e.Result != audit.ResultFailed || e.Detail["self_test"] != "" {
			w.t.Errorf("the outcome says %+v", e)
		}
		w.pass(rest)
		w.check()
		if v = w.the(registry.Active); len(v.SelfTest) == 0 {
			w.t.Error("the test that passed in the end is not kept")
		}
	})
}
