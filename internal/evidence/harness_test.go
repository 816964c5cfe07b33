package evidence_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"log/slog"
	"maps"
	"path/filepath"
	"testing"
	"time"

	"keyd/client"
	"keyd/internal/audit"
	"keyd/internal/evidence"
)

const (
	first  = "11111111-1111-4111-8111-111111111111"
	second = "22222222-2222-4222-8222-222222222222"
	alien  = "33333333-3333-4333-8333-333333333333"
)

// story is an audit log on disk, and the key whose life it tells.
type story struct {
	t    *testing.T
	path string
	log  *audit.Log
	key  client.Key
}

func newStory(t *testing.T) *story {
	t.Helper()
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	log, err := audit.Open(audit.Config{Path: path, Logger: slog.New(slog.DiscardHandler)})
	check(t, err)
	t.Cleanup(func() { check(t, log.Close()) })
	return &story{t: t, path: path, log: log, key: client.Key{Name: "wise-response", Partner: "wise", Backend: "hsm", Algorithm: "RSA-OAEP-256", Bits: 2048}}
}

// done writes an intent and its outcome, and returns the intent's number.
func (s *story) done(action, kid string, said map[string]string) uint64 {
	s.t.Helper()
	e := audit.Entry{Op: action + kid, Phase: audit.PhaseIntent, Action: action, Actor: audit.System, Key: s.key.Name, KID: kid, Partner: "wise"}
	head, err := s.log.Append(context.Background(), e)
	check(s.t, err)
	e.Phase, e.Result, e.Detail = audit.PhaseOutcome, audit.ResultOK, said
	_, err = s.log.Append(context.Background(), e)
	check(s.t, err)
	return head.Seq
}

// used writes that a version was used.
func (s *story) used(kid, result string, detail map[string]string) {
	s.t.Helper()
	_, err := s.log.Append(context.Background(), audit.Entry{Phase: audit.PhaseEvent, Action: "decrypt", Actor: audit.System, Key: s.key.Name, KID: kid,
		Partner: "wise", Result: result, Detail: detail})
	check(s.t, err)
}

// version tells the life of one version up to its activation.
func (s *story) version(kid string, number int) *client.Version {
	s.t.Helper()
	at := time.Date(2026, 11, 25, 10, number, 0, 0, time.UTC)
	der := []byte("the public key of " + kid)
	sum := sha256.Sum256(der)
	v := client.Version{KID: kid, Key: s.key.Name, Number: number, State: "active", Opens: true, Backend: "hsm", Algorithm: "RSA-OAEP-256", Bits: 2048,
		PublicPEM:    string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})),
		PublicSHA256: hex.EncodeToString(sum[:]), ValidFrom: at, ValidTill: at.AddDate(0, 5, 0), ToldAt: at, CanaryAt: at, CanaryKID: kid}
	moved := func(from, to string, seq uint64) {
		v.History = append(v.History, client.Event{At: at, From: from, To: to, By: audit.System.String(), Reason: "test", Audit: seq})
	}
	moved("", "pending", s.done("key.rotate", kid, nil))
	v.Evidence = s.document("key.generate", kid, `"device":{"serial":"4711","model":"A&B <1>"},"attributes":{"CKA_EXTRACTABLE":"false"},"level":"raw"`,
		"evidence", map[string]string{"public": v.PublicSHA256})
	v.SelfTest = s.document("key.self-test", kid, `"result":"passed","level":"raw"`, "self_test", nil)
	moved("pending", "announced", s.done("key.announce", kid, map[string]string{"valid_till": v.ValidTill.Format(time.RFC3339)}))
	s.done("key.canary", kid, map[string]string{"used": kid})
	moved("announced", "active", s.done("key.activate", kid, nil))
	s.key.Versions = append(s.key.Versions, v)
	return &s.key.Versions[len(s.key.Versions)-1]
}

// document writes the entries around a document that names their intent.
func (s *story) document(action, kid, members, name string, said map[string]string) json.RawMessage {
	s.t.Helper()
	e := audit.Entry{Op: action + kid, Phase: audit.PhaseIntent, Action: action, Actor: audit.System, Key: s.key.Name, KID: kid}
	head, err := s.log.Append(context.Background(), e)
	check(s.t, err)
	raw, err := json.Marshal(map[string]any{"audit": head.Seq, "at": "2026-11-25T10:00:00Z", "said": json.RawMessage("{" + members + "}")})
	check(s.t, err)
	e.Phase, e.Result, e.Detail = audit.PhaseOutcome, audit.ResultOK, map[string]string{name: audit.Digest(raw)}
	maps.Copy(e.Detail, said)
	_, err = s.log.Append(context.Background(), e)
	check(s.t, err)
	return raw
}

// bundle collects what there is.
func (s *story) bundle() evidence.Bundle {
	s.t.Helper()
	b := evidence.Bundle{Format: evidence.Format, Instance: "test", At: time.Now().UTC(), Key: s.key}
	var err error
	b.Entries, b.Uses, b.Log, err = evidence.Collect(s.path, s.key)
	check(s.t, err)
	return b
}

// export seals a bundle under an entry of its own.
func (s *story) export(b evidence.Bundle) []byte {
	s.t.Helper()
	document, digest, err := b.Unsealed()
	check(s.t, err)
	head, err := s.log.Append(context.Background(), audit.Entry{Phase: audit.PhaseEvent, Action: evidence.Action, Actor: audit.System, Key: b.Key.Name,
		Result: audit.ResultOK, Detail: map[string]string{"sha256": digest}})
	check(s.t, err)
	lines, err := audit.Read(s.path, head.Seq-1, 1)
	check(s.t, err)
	return evidence.Seal(document, lines[0].Raw)
}

// two is a key with a version that drains and one that is active.
func two(t *testing.T) *story {
	t.Helper()
	s := newStory(t)
	s.done("key.create", "", nil)
	s.version(first, 1)
	s.used(first, audit.ResultOK, nil)
	s.used(alien, audit.ResultOK, nil) // of another key, whatever its name says
	s.version(second, 2)
	old, by := &s.key.Versions[0], s.key.Versions[1].History[2].Audit
	old.History = append(old.History, client.Event{At: time.Now(), From: "active", To: "draining", By: audit.System.String(), Audit: by})
	old.State = "draining"
	s.used(first, audit.ResultFailed, map[string]string{"times": "41", "kid": second})
	return s
}

func verify(t *testing.T, document []byte) *evidence.Verified {
	t.Helper()
	v, err := evidence.Verify(document)
	check(t, err)
	return v
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
