package rotation

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"maps"
	"slices"
	"time"

	"keyd/internal/audit"
	"keyd/internal/boundary"
	"keyd/internal/registry"
)

// Evidence is what is kept of a version's key pair: what the backend said of it
// when it was made or adopted. It is a [registry.Version]'s Evidence, as JSON.
type Evidence struct {
	boundary.Evidence
	// Audit is the audit entry with the intent; its outcome has the digest of
	// this document.
	Audit uint64 `json:"audit"`
}

// SelfTest is the proof that a version's key pair works, before anybody was
// told of it. It is a [registry.Version]'s SelfTest, as JSON.
type SelfTest struct {
	At     time.Time      `json:"at"`
	Result string         `json:"result"` // "passed": one that has not is no document but an outcome that says so
	Method string         `json:"method"` // what was done, in words
	Level  boundary.Level `json:"level,omitempty"`
	Audit  uint64         `json:"audit"` // as in Evidence
}

const passed = "passed"

// How a key pair is tested.
const (
	byOpening   = "32 random bytes sealed with the standard library (%s, %s) were opened by the backend"
	byVerifying = "a signature over 32 random bytes (PS256) by the backend was verified with the standard library"
)

// What an outcome says of the documents that came of it, in its details.
const (
	saidEvidence = "evidence"  // the digest of the Evidence
	saidSelfTest = "self_test" // the digest of the SelfTest
	saidPublic   = "public"    // the fingerprint of the public key
	saidLevel    = "level"     // the boundary level found
	saidGone     = "gone"      // whether the backend says that the private key is gone; if not, its deletion waits
)

// Fingerprint is how a public key is named: the SHA-256, in hex, of its DER
// SubjectPublicKeyInfo.
func Fingerprint(public []byte) string {
	sum := sha256.Sum256(public)
	return hex.EncodeToString(sum[:])
}

// commitMade has an outcome commit to a key pair that was made or adopted. It
// comes before the registry is written, which may happen and be told as failed.
func commitMade(said map[string]string, public, evidence []byte) {
	said[saidPublic], said[saidEvidence] = Fingerprint(public), audit.Digest(evidence)
	var e Evidence
	if json.Unmarshal(evidence, &e) == nil && e.Level != "" {
		said[saidLevel] = string(e.Level)
	}
}

// commitTested has an outcome commit to a self-test.
func commitTested(said map[string]string, selfTest []byte) {
	said[saidSelfTest] = audit.Digest(selfTest)
	var t SelfTest
	if json.Unmarshal(selfTest, &t) == nil && t.Level != "" {
		said[saidLevel] = string(t.Level)
	}
}

// kept reports whether a document stands that belongs to an intent, and what
// the outcome says of it.
func (e *Engine) kept(intent audit.Entry) (said map[string]string, ok bool) {
	v, err := e.reg.Version(intent.KID)
	if err != nil {
		return nil, false
	}
	said = map[string]string{}
	if intentOf(v.Evidence) == intent.Seq {
		commitMade(said, v.Public, v.Evidence)
	}
	if intentOf(v.SelfTest) == intent.Seq {
		commitTested(said, v.SelfTest)
	}
	return said, len(said) > 0
}

// intentOf is the audit entry that a document names; 0 if there is none.
func intentOf(document []byte) uint64 {
	var named struct {
		Audit uint64 `json:"audit"`
	}
	if len(document) == 0 || json.Unmarshal(document, &named) != nil {
		return 0
	}
	return named.Audit
}

// commitments holds the documents of versions against the outcomes that commit
// to them.
type commitments struct {
	owed map[string]map[string]string // by kid and detail: the value that is still to be met
	// intents are the entries that documents name, and under those of them that
	// no outcome has been met of yet: a document stands before the outcome does.
	intents map[uint64]bool
	under   map[string]string // kid by operation
}

// owedBy is what the audit log must say of versions. Documents that name no
// entry are owed nothing.
func owedBy(versions []registry.Version) *commitments {
	c := &commitments{owed: map[string]map[string]string{}, intents: map[uint64]bool{}, under: map[string]string{}}
	for _, v := range versions {
		said := map[string]string{}
		if seq := intentOf(v.Evidence); seq > 0 {
			said[saidEvidence], said[saidPublic] = audit.Digest(v.Evidence), Fingerprint(v.Public)
			c.intents[seq] = true
		}
		if seq := intentOf(v.SelfTest); seq > 0 {
			said[saidSelfTest] = audit.Digest(v.SelfTest)
			c.intents[seq] = true
		}
		c.owed[v.KID] = said
	}
	return c
}

// meet takes an entry in: what it commits to is owed no more. An outcome that
// says failed commits too: the registry may have failed after it had written.
func (c *commitments) meet(entry audit.Entry) {
	switch entry.Phase {
	case audit.PhaseIntent:
		if c.intents[entry.Seq] {
			c.under[entry.Op] = entry.KID
		}
	case audit.PhaseOutcome:
		delete(c.under, entry.Op)
		for name, value := range c.owed[entry.KID] {
			if entry.Detail[name] == value {
				delete(c.owed[entry.KID], name)
			}
		}
	}
}

// unmet are the documents that the log does not commit to.
func (c *commitments) unmet() []Finding {
	for _, kid := range c.under { // under way, or to be settled at the next start
		delete(c.owed, kid)
	}
	what := map[string]string{saidEvidence: "what the backend said of its key pair", saidSelfTest: "its self-test", saidPublic: "its public key"}
	var found []Finding
	for _, kid := range slices.Sorted(maps.Keys(c.owed)) {
		for _, name := range slices.Sorted(maps.Keys(c.owed[kid])) {
			found = append(found, Finding{Failure, "evidence_changed", kid,
				what[name] + ", as it stands in the registry, is not what the audit log committed to",
				"the registry was changed by something else than keyd; restore a backup"})
		}
	}
	return found
}
