package evidence

import (
	"bytes"
	"fmt"
	"maps"
	"slices"

	"keyd/internal/audit"
)

// AgainstHead holds a document against the number and hash of an entry that
// somebody kept elsewhere. It reports whether there was anything to compare: an
// entry that is not in the document says nothing of it.
func (v *Verified) AgainstHead(head audit.Head) bool {
	known := map[uint64]string{v.Export.Seq: v.Export.Hash, v.Bundle.Log.Head.Seq: v.Bundle.Log.Head.Hash}
	for seq, e := range v.entries {
		known[seq] = e.hash
	}
	hash, ok := known[head.Seq]
	if ok && hash != head.Hash {
		v.fault("head", "entry %d has another hash than the one given: the document is of another log", head.Seq)
	}
	return ok
}

// AgainstLog holds a document against a copy of the audit log, which is verified
// on the way: the entries must be the log's own, and none that belongs to the
// key may be missing. A log that is not whole is an [audit.BrokenError].
func (v *Verified) AgainstLog(path string) (audit.Report, error) {
	c := newCollector(v.Bundle.Key)
	upTo := v.Bundle.Log.Head
	reached, exported := false, false
	report, err := audit.Scan(path, nil, func(line []byte, head audit.Head) {
		switch {
		case head.Seq <= upTo.Seq:
			c.take(line)
			if head.Seq == upTo.Seq {
				reached = true
				if head != upTo {
					v.fault("log", "entry %d of the log, up to which the document was made, is another: it is of another log", head.Seq)
				}
			}
		case head.Seq == v.Export.Seq:
			exported = head == v.Export
		}
	})
	if err != nil {
		return report, err
	}
	if c.err != nil {
		return report, fmt.Errorf("reading the audit log %s: %w", path, c.err)
	}
	v.same(c)
	if !reached {
		v.fault("log", "the log ends at entry %d, the document was made up to %d", report.Head.Seq, upTo.Seq)
	}
	if !exported {
		v.fault("log", "the log has no export of this document as entry %d", v.Export.Seq)
	}
	return report, nil
}

// same compares the document's entries with those that the log has of the key.
func (v *Verified) same(c *collector) {
	have := map[uint64]bool{}
	for _, raw := range c.entries {
		e, _, head, err := audit.ReadLine(raw)
		if err != nil {
			c.err = err
			return
		}
		have[head.Seq] = true
		if mine, ok := v.entries[head.Seq]; !ok {
			v.fault(fmt.Sprintf("entry %d", head.Seq), "the log has it (%s of %s), the document has not", e.Action, e.KID)
		} else if !bytes.Equal(mine.raw, raw) {
			v.fault(fmt.Sprintf("entry %d", head.Seq), "it is another in the log")
		}
	}
	for _, seq := range slices.Sorted(maps.Keys(v.entries)) {
		if !have[seq] {
			v.fault(fmt.Sprintf("entry %d", seq), "the log has none of this number that belongs to the key")
		}
	}
	if !maps.EqualFunc(v.Bundle.Uses, c.uses, maps.Equal[map[string]Use, map[string]Use]) {
		v.fault("uses", "the log counts the uses of versions otherwise")
	}
}
