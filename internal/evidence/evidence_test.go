package evidence_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"keyd/client"
	"keyd/internal/audit"
	"keyd/internal/evidence"
)

func TestADocumentHoldsAloneAgainstItsLogAndAgainstItsHead(t *testing.T) {
	s := two(t)
	document := s.export(s.bundle())
	var indented bytes.Buffer
	check(t, json.Indent(&indented, document, "", "   "))
	for name, form := range map[string][]byte{"as sent": document, "indented": indented.Bytes()} {
		v := verify(t, form)
		report, err := v.AgainstLog(s.path)
		check(t, err)
		if len(v.Faults) > 0 || report.Head != v.Export {
			t.Errorf("%s: faults %v, the log's head is %v", name, v.Faults, report.Head)
		}
		if !v.AgainstHead(s.log.Head()) || !v.AgainstHead(v.Bundle.Log.Head) || len(v.Faults) > 0 {
			t.Errorf("%s: held against its heads: %v", name, v.Faults)
		}
	}
	b := verify(t, document).Bundle
	if n := len(b.Entries); n != 2+2*12 {
		t.Errorf("%d entries, want those of the key's life alone", n)
	}
	use := b.Uses[first]["decrypt"]
	if use.OK != 1 || use.Failed != 41 || use.First.IsZero() || !use.Last.After(use.First) || len(b.Uses) != 1 {
		t.Errorf("uses %+v", b.Uses)
	}
}

// TestALaterLogStillHolds: the log goes on, and so does the key.
func TestALaterLogStillHolds(t *testing.T) {
	s := two(t)
	document := s.export(s.bundle())
	s.used(first, audit.ResultOK, nil)
	s.done("key.rotate", alien, nil)
	v := verify(t, document)
	if _, err := v.AgainstLog(s.path); err != nil || len(v.Faults) > 0 {
		t.Errorf("%v, faults %v", err, v.Faults)
	}
	if v.AgainstHead(s.log.Head()) {
		t.Error("it knows an entry that was written after it")
	}
}

// edits change one thing in a document.
var edits = map[string]struct {
	old, new string
	fault    string // the fault it makes beside the digest; "" for none
}{
	"an attribute":               {`"CKA_EXTRACTABLE":"false"`, `"CKA_EXTRACTABLE":"true"`, "its evidence was changed"},
	"a serial number":            {`"serial":"4711"`, `"serial":"4712"`, "its evidence was changed"},
	"a level in a self-test":     {`"said":{"result":"passed","level":"raw"}`, `"said":{"result":"passed","level":"sealed"}`, "its self_test was changed"},
	"a public key":               {`"public_sha256":"`, `"public_sha256":"0`, "its public key has the fingerprint"},
	"the partner's date":         {`"valid_till":"2027`, `"valid_till":"2029`, "and entry"},
	"an actor in the history":    {`"by":"keyd system"`, `"by":"eve(0) operator"`, "names"},
	"a state in the history":     {`"from":"active","to":"draining"`, `"from":"active","to":"compromised"`, "its history ends in"},
	"an entry":                   {`"action":"key.canary"`, `"action":"key.rotate"`, "was edited"},
	"the policy":                 {`"bits":2048`, `"bits":4096`, ""},
	"how often it was used":      {`"failed":41`, `"failed":1`, ""},
	"the instance":               {`"instance":"test"`, `"instance":"prod"`, ""},
	"the head it was made up to": {`"head":{"seq":`, `"head":{"seq":1`, ""},
	"a reason":                   {`"reason":"test"`, `"reason":"best"`, ""},
	"a version's number":         {`"number":2`, `"number":3`, "it is version 3, in the place of 2"},
}

func TestEveryEditIsFound(t *testing.T) {
	s := two(t)
	document := s.export(s.bundle())
	for name, c := range edits {
		t.Run(name, func(t *testing.T) {
			edited := bytes.Replace(document, []byte(c.old), []byte(c.new), 1)
			if bytes.Equal(edited, document) {
				t.Fatalf("there is no %s to edit", c.old)
			}
			v := verify(t, edited)
			if !faulty(v, "changed after it was exported") || c.fault != "" && !faulty(v, c.fault) {
				t.Errorf("faults %v, want the digest and %q", v.Faults, c.fault)
			}
		})
	}
}

func faulty(v *evidence.Verified, part string) bool {
	for _, f := range v.Faults {
		if strings.Contains(f.Subject+": "+f.Message, part) {
			return true
		}
	}
	return false
}

// forgeries are documents whose own digest is right: they were exported like
// that, by a keyd whose registry was changed, or by whoever made all of it anew.
var forgeries = map[string]struct {
	forge func(b *evidence.Bundle)
	fault string
}{
	"a version dropped": {func(b *evidence.Bundle) {
		b.Key.Versions = b.Key.Versions[:1]
	}, "it is not in the document"},
	"the first version dropped": {func(b *evidence.Bundle) {
		b.Key.Versions = []client.Version{renumbered(b.Key.Versions[1], 1)}
	}, "it is not in the document"},
	"evidence changed in the registry": {func(b *evidence.Bundle) {
		b.Key.Versions[0].Evidence = json.RawMessage(strings.Replace(string(b.Key.Versions[0].Evidence), "false", "true", 1))
	}, "its evidence was changed"},
	"evidence of another version": {func(b *evidence.Bundle) {
		b.Key.Versions[0].Evidence = b.Key.Versions[1].Evidence
	}, "does not name the entry"},
	"evidence left out": {func(b *evidence.Bundle) { b.Key.Versions[0].Evidence = nil }, "without evidence"},
	"another public key": {func(b *evidence.Bundle) {
		b.Key.Versions[0].PublicPEM, b.Key.Versions[0].PublicSHA256 = b.Key.Versions[1].PublicPEM, b.Key.Versions[1].PublicSHA256
	}, "the log committed to"},
	"an entry left out": {func(b *evidence.Bundle) { b.Entries = b.Entries[:len(b.Entries)-1] }, ""},
	"a move's entry left out": {func(b *evidence.Bundle) {
		b.Entries = append(b.Entries[:2:2], b.Entries[4:]...)
	}, "which is not in the document"},
	"two entries exchanged": {func(b *evidence.Bundle) {
		b.Entries[3], b.Entries[4] = b.Entries[4], b.Entries[3]
	}, "it stands after entry"},
	"an entry of another key": {func(b *evidence.Bundle) { b.Key.Name = "venly-response" }, "it belongs to the key"},
	"a canary that never was": {func(b *evidence.Bundle) {
		for i, raw := range b.Entries {
			if strings.Contains(string(raw), "key.canary") {
				b.Entries[i] = nil
			}
		}
	}, "a canary is said"},
	"uses counted otherwise": {func(b *evidence.Bundle) { b.Uses = nil }, ""},
}

func renumbered(v client.Version, number int) client.Version {
	v.Number = number
	return v
}

func TestForgeriesAreFound(t *testing.T) {
	for name, c := range forgeries {
		t.Run(name, func(t *testing.T) {
			s := two(t)
			b := s.bundle()
			c.forge(&b)
			v := verify(t, s.export(b))
			if c.fault != "" && !faulty(v, c.fault) {
				t.Errorf("alone: faults %v, want %q", v.Faults, c.fault)
			}
			before := len(v.Faults)
			if _, err := v.AgainstLog(s.path); err != nil || len(v.Faults) == 0 {
				t.Errorf("against the log: %v, faults %v after %d", err, v.Faults, before)
			}
		})
	}
}

// TestAnEntryOfAnotherChainIsFound: an entry that is whole, has the right number
// and says the right thing, and comes from another log.
func TestAnEntryOfAnotherChainIsFound(t *testing.T) {
	ours, theirs := two(t), two(t)
	alien := theirs.bundle().Entries
	for i := range alien {
		b := ours.bundle()
		b.Entries[i] = alien[i]
		if v := verify(t, ours.export(b)); !faulty(v, "it belongs to another chain than entry") {
			t.Errorf("the entry in place %d: faults %v", i+1, v.Faults)
		}
	}
}

// TestAWholeForgeryIsFoundAgainstWhatIsKeptElsewhere: another daemon's document
// holds by itself, and against nothing of ours.
func TestAWholeForgeryIsFoundAgainstWhatIsKeptElsewhere(t *testing.T) {
	ours, theirs := two(t), two(t)
	document := theirs.export(theirs.bundle())
	ours.export(ours.bundle())
	v := verify(t, document)
	if len(v.Faults) > 0 {
		t.Fatalf("alone: %v", v.Faults)
	}
	if !v.AgainstHead(ours.log.Head()) || !faulty(v, "head: entry") {
		t.Errorf("against our head: %v", v.Faults)
	}
	v = verify(t, document)
	_, err := v.AgainstLog(ours.path)
	check(t, err)
	for _, fault := range []string{"it is of another log", "it is another in the log", "no export of this document"} {
		if !faulty(v, fault) {
			t.Errorf("against our log: %v, want %q", v.Faults, fault)
		}
	}
}

func TestALogThatWasCutOrEditedIsSaidToBe(t *testing.T) {
	s := two(t)
	document := s.export(s.bundle())
	log, err := os.ReadFile(s.path)
	check(t, err)
	lines := bytes.SplitAfter(log, []byte("\n"))
	copied := filepath.Join(t.TempDir(), "copy.jsonl")

	check(t, os.WriteFile(copied, bytes.Join(lines[:9], nil), 0o600))
	v := verify(t, document)
	_, err = v.AgainstLog(copied)
	check(t, err)
	if !faulty(v, "the log ends at entry 9") || !faulty(v, "no export of this document") {
		t.Errorf("cut: %v", v.Faults)
	}
	check(t, os.WriteFile(copied, bytes.Replace(log, []byte("key.canary"), []byte("key.binary"), 1), 0o600))
	if _, err := verify(t, document).AgainstLog(copied); !errors.Is(err, audit.ErrBroken) {
		t.Errorf("edited: %v", err)
	}
	if _, err := verify(t, document).AgainstLog(copied + ".no"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("not there: %v", err)
	}
}

func TestWhatIsNoDocumentIsRefused(t *testing.T) {
	for _, text := range []string{"", "{}", "[]", `{"format":"keyd-evidence-2"}`, `{"format":1}`, "\xff"} {
		if _, err := evidence.Verify([]byte(text)); !errors.Is(err, evidence.ErrFormat) {
			t.Errorf("%q: %v", text, err)
		}
	}
	if v := verify(t, []byte(`{"format":"keyd-evidence-1"}`)); len(v.Faults) == 0 {
		t.Error("an empty document holds")
	}
}

// TestAnOperationUnderWayIsNotSettled: its document stands before the outcome
// that commits to it.
func TestAnOperationUnderWayIsNotSettled(t *testing.T) {
	s := two(t)
	b := s.bundle()
	if !b.Settled() {
		t.Fatal("all is done, and not settled")
	}
	for i, raw := range b.Entries {
		if strings.Contains(string(raw), `"phase":"outcome","action":"key.self-test"`) {
			b.Entries = append(b.Entries[:i:i], b.Entries[i+1:]...)
			break
		}
	}
	if b.Settled() {
		t.Error("a self-test without an outcome is settled")
	}
}

func FuzzVerify(f *testing.F) {
	f.Add([]byte(`{"format":"keyd-evidence-1","key":{"versions":[{"kid":"x","evidence":{"audit":1},"history":[{"audit":1}]}]},"entries":[{},null],"export":{}}`))
	f.Add([]byte(`{"format":"keyd-evidence-1"}`))
	f.Fuzz(func(t *testing.T, document []byte) {
		v, err := evidence.Verify(document)
		if err == nil && len(v.Faults) == 0 {
			t.Errorf("a document that no log committed to holds: %.1000s", document)
		}
	})
}
