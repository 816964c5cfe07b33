package evidence

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"keyd/internal/audit"
)

// ErrFormat: a file is not a document of this package at all.
var ErrFormat = errors.New("not the evidence of a key")

// Fault is something in a document that does not hold.
type Fault struct {
	Subject string `json:"subject"` // a kid, an entry, "document", "log" or "head"
	Message string `json:"message"`
}

// Verified is what a document was found to be.
type Verified struct {
	Bundle  Bundle
	Export  audit.Head // the entry under which it was exported
	Faults  []Fault    // none if all holds
	entries map[uint64]entry
	kids    map[string]bool
}

// entry is one of a document's, found to be whole.
type entry struct {
	audit.Entry
	prev string
	hash string
	raw  []byte
}

// Verify looks whether a document is whole and says the same throughout. What
// does not hold stands in Faults; an error means that it cannot be looked at.
func Verify(document []byte) (*Verified, error) {
	v := &Verified{entries: map[uint64]entry{}, kids: map[string]bool{}}
	if err := json.Unmarshal(document, &v.Bundle); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	if v.Bundle.Format != Format {
		return nil, fmt.Errorf("%w: its format is %+.32q, want %s", ErrFormat, v.Bundle.Format, Format)
	}
	for _, mine := range v.Bundle.Key.Versions {
		v.kids[mine.KID] = true
	}
	v.exported(document)
	v.log()
	for i := range v.Bundle.Key.Versions {
		version{&v.Bundle.Key.Versions[i], v}.hold(i + 1)
	}
	v.complete()
	return v, nil
}

func (v *Verified) fault(subject, format string, args ...any) {
	v.Faults = append(v.Faults, Fault{subject, fmt.Sprintf(format, args...)})
}

// line reads one of the document's entries as it stood in the log.
func line(raw json.RawMessage) (entry, error) {
	var compact bytes.Buffer
	if err := json.Compact(&compact, raw); err != nil {
		return entry{}, err
	}
	e, prev, head, err := audit.ReadLine(compact.Bytes())
	return entry{e, prev, head.Hash, compact.Bytes()}, err
}

// exported holds the document against the entry under which it was exported.
func (v *Verified) exported(document []byte) {
	export, err := line(v.Bundle.Export)
	if err != nil {
		v.fault("document", "the entry of its export is not whole: %v", err)
		return
	}
	v.Export = audit.Head{Seq: export.Seq, Hash: export.hash}
	rest, ok := unseal(document, v.Bundle.Export)
	switch {
	case !ok:
		v.fault("document", "the entry of its export is not its last member")
	case export.Action != Action || export.Result != audit.ResultOK || export.Key != v.Bundle.Key.Name:
		v.fault("document", "the entry of its export, %d, is a %s of %q", export.Seq, export.Action, export.Key)
	case export.Detail["sha256"] != audit.Digest(rest):
		v.fault("document", "it was changed after it was exported: its digest is not the one in entry %d", export.Seq)
	}
	if export.Seq <= v.Bundle.Log.Head.Seq {
		v.fault("document", "the entry of its export, %d, is not after entry %d, up to which it was made", export.Seq, v.Bundle.Log.Head.Seq)
	}
}

// log reads the entries: whole, in order, and chained where they are
// neighbours.
func (v *Verified) log() {
	last := entry{hash: strings.Repeat("0", 64)} // what the first entry of a log names
	for i, raw := range v.Bundle.Entries {
		e, err := line(raw)
		if err != nil {
			v.fault("entries", "the entry in place %d: %v", i+1, err)
			continue
		}
		name := fmt.Sprintf("entry %d", e.Seq)
		switch {
		case e.Seq <= last.Seq:
			v.fault(name, "it stands after entry %d", last.Seq)
		case e.Seq == last.Seq+1 && e.prev != last.hash:
			v.fault(name, "it belongs to another chain than entry %d", last.Seq)
		case e.Seq > v.Bundle.Log.Head.Seq:
			v.fault(name, "it is after entry %d, up to which the document was made", v.Bundle.Log.Head.Seq)
		case e.Seq == v.Bundle.Log.Head.Seq && e.hash != v.Bundle.Log.Head.Hash:
			v.fault(name, "it is not the head that the document was made up to")
		case e.Key != v.Bundle.Key.Name && !v.kids[e.KID]:
			v.fault(name, "it belongs to the key %q", e.Key)
		}
		v.entries[e.Seq] = e
		last = e
	}
}

// complete looks for versions that the log has and the document has not.
func (v *Verified) complete() {
	seqs := make([]uint64, 0, len(v.entries))
	for seq := range v.entries {
		seqs = append(seqs, seq)
	}
	slices.Sort(seqs)
	for _, seq := range seqs {
		e := v.entries[seq]
		made := e.Action == "key.rotate" || e.Action == "key.adopt"
		if made && e.Phase == audit.PhaseOutcome && e.Result == audit.ResultOK && !v.kids[e.KID] {
			v.fault(e.KID, "entry %d says that the version was made (%s), and it is not in the document", seq, e.Action)
		}
	}
}

// outcome finds the outcome of an intent.
func (v *Verified) outcome(intent entry) (entry, bool) {
	for _, e := range v.entries {
		if e.Op == intent.Op && e.Phase == audit.PhaseOutcome {
			return e, true
		}
	}
	return entry{}, false
}
