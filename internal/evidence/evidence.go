// Package evidence makes the life of a key into one document that stands alone:
// the key and its policy, every version with what the backend said of its key
// pair, the entries of the audit log that belong to it, and the place in the log
// that they were taken from. It verifies such a document without the daemon,
// alone or against a copy of the log.
//
// # How a document holds together
//
// When a key pair is made or tested, the outcome in the audit log gets the
// digest of what is kept of it ([audit.Digest]). A document is exported under an
// entry of its own, key.evidence, which has the digest of all the rest and is
// the document's last member. Each entry is the line of the log as it stands
// there, with its own hash, so that
//
//   - a document that was changed in any way is not the one that was exported;
//   - evidence that was changed before that is not what the log committed to;
//   - the hash of the export's entry, which is the head of the audit log when it
//     is written, stands for the whole document and the whole log before it.
//
// Whoever makes all of a document anew can make its hashes too. That it is the
// one that keyd wrote shows against a copy of the log, or against the export's
// head if somebody kept it.
package evidence

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"keyd/client"
	"keyd/internal/audit"
)

const (
	// Format names the form of a document.
	Format = "keyd-evidence-1"
	// Action is what the entry is called under which a document is exported.
	Action = "key.evidence"
)

// Bundle is a document.
type Bundle struct {
	Format   string             `json:"format"`
	Instance string             `json:"instance"`
	Keyd     client.VersionInfo `json:"keyd"` // which exported it
	At       time.Time          `json:"at"`
	Key      client.Key         `json:"key"` // with all its versions
	// Uses is how often the log has a version used, by kid and action.
	Uses map[string]map[string]Use `json:"uses"`
	// Log is the audit log as it was then, verified from its first entry to its
	// head. Entries are those up to there that belong to the key.
	Log     audit.Report      `json:"log"`
	Entries []json.RawMessage `json:"entries"`
	// Export is the entry that commits to all the above.
	Export json.RawMessage `json:"export,omitempty"`
}

// Use is how often something was done with a version, as far as the audit log
// is told of it: see audit.decrypts in the config.
type Use struct {
	OK     uint64    `json:"ok"`
	Failed uint64    `json:"failed"`
	First  time.Time `json:"first"`
	Last   time.Time `json:"last"`
}

// Collect reads the audit log for what belongs to a key: entries about it and
// its versions, but for their use, which is counted. The whole log is verified
// on the way.
func Collect(path string, key client.Key) (entries []json.RawMessage, uses map[string]map[string]Use, log audit.Report, err error) {
	c := newCollector(key)
	log, err = audit.Scan(path, nil, func(line []byte, _ audit.Head) { c.take(line) })
	return c.entries, c.uses, log, errors.Join(err, c.err)
}

// Settled reports whether every document about a key pair has the outcome that
// commits to it: an operation that is under way has it not yet.
func (b Bundle) Settled() bool {
	v := &Verified{Bundle: b, entries: map[uint64]entry{}}
	for _, raw := range b.Entries {
		if e, err := line(raw); err == nil {
			v.entries[e.Seq] = e
		}
	}
	for _, version := range b.Key.Versions {
		for _, document := range []json.RawMessage{version.Evidence, version.SelfTest} {
			if intent, ok := v.entries[intentOf(document)]; ok {
				if _, ok := v.outcome(intent); !ok {
					return false
				}
			}
		}
	}
	return true
}

// Unsealed is a document before it has its export's entry, and the digest that
// the entry is to have.
func (b Bundle) Unsealed() (document []byte, digest string, err error) {
	b.Export = nil
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false) // the lines of the log are not written so either
	if err := enc.Encode(b); err != nil {
		return nil, "", fmt.Errorf("writing the evidence of %s: %w", b.Key.Name, err)
	}
	document = bytes.TrimSuffix(buf.Bytes(), []byte("\n"))
	return document, audit.Digest(document), nil
}

const exportMember = `,"export":`

// Seal puts the export's entry at the end of a document.
func Seal(document []byte, export json.RawMessage) []byte {
	sealed := append(bytes.TrimSuffix(document, []byte("}")), exportMember...)
	sealed = append(sealed, export...)
	return append(sealed, '}')
}

// unseal is the document as it was before Seal. What the digest is over is
// compact, however it was printed since.
func unseal(document []byte, export json.RawMessage) ([]byte, bool) {
	var compact, last bytes.Buffer
	if json.Compact(&compact, document) != nil || json.Compact(&last, export) != nil {
		return nil, false
	}
	rest, ok := bytes.CutSuffix(compact.Bytes(), append(append([]byte(exportMember), last.Bytes()...), '}'))
	return append(rest, '}'), ok
}
