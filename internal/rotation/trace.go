package rotation

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"keyd/internal/audit"
	"keyd/internal/registry"
)

// auditPage is how many entries of the audit log are held at once.
const auditPage = 100_000

// moves are the actions that always change a version's state: an outcome that
// says ok of one must stand in a history.
var moves = []string{"key.rotate", "key.activate", "key.retire", "key.compromise", "key.close", "key.adopt", "key.rescue"}

// claims is what histories and log say of each other.
type claims struct {
	changes map[uint64][]change // by the entry that recorded the intent
	missing map[uint64][]change // of them, those whose entry was not met yet
	open    map[string]uint64   // intents of moves, by operation
	found   []Finding
}

type change struct {
	kid string
	to  registry.State
}

// told holds the registry and the audit log against each other: every change of
// state has its entry, no entry up to head claims a change that is in no history,
// and what is kept of key pairs is what the log committed to. head is the log's end from before the histories were read.
func (e *Engine) told(ctx context.Context, versions []registry.Version, head uint64) []Finding {
	if e.cfg.ReadAudit == nil {
		return nil
	}
	c := claims{changes: map[uint64][]change{}, open: map[string]uint64{}}
	for _, v := range versions {
		for _, event := range v.History {
			c.changes[event.Audit] = append(c.changes[event.Audit], change{v.KID, event.To})
		}
	}
	c.missing = maps.Clone(c.changes)
	documents := owedBy(versions)
	for after := uint64(0); ; {
		page, err := e.cfg.ReadAudit(ctx, after, auditPage)
		if err != nil {
			return []Finding{{Warning, "audit_unchecked", "audit", "the audit log could not be read: " + err.Error(), "keyd audit verify says where it is broken"}}
		}
		for _, entry := range page {
			c.hold(entry, head)
			documents.meet(entry)
			after = entry.Seq
		}
		if len(page) < auditPage {
			break
		}
	}
	for seq, changes := range c.missing {
		for _, ch := range changes {
			c.found = append(c.found, Finding{Failure, "audit_missing", ch.kid,
				fmt.Sprintf("it became %s under entry %d of the audit log, which is not there", ch.to, seq), "the audit log was cut off or replaced; look for the copy that has it"})
		}
	}
	c.found = append(c.found, documents.unmet()...)
	slices.SortFunc(c.found, func(a, b Finding) int { return strings.Compare(a.Subject+a.Message, b.Subject+b.Message) })
	return c.found
}

// hold compares one entry with the histories.
func (c *claims) hold(entry audit.Entry, head uint64) {
	for _, ch := range c.changes[entry.Seq] {
		// These two move another version beside the one they name.
		beside := entry.Action == "key.activate" || entry.Action == "key.retire"
		if !actions[entry.Action] || entry.KID != ch.kid && !beside {
			c.found = append(c.found, Finding{Failure, "audit_mismatch", ch.kid,
				fmt.Sprintf("it became %s under entry %d of the audit log, which is a %s of %q", ch.to, entry.Seq, entry.Action, entry.KID), "the audit log was replaced; look for the right copy"})
		}
	}
	delete(c.missing, entry.Seq)
	if !slices.Contains(moves, entry.Action) {
		return
	}
	switch entry.Phase {
	case audit.PhaseIntent:
		c.open[entry.Op] = entry.Seq
	case audit.PhaseOutcome:
		seq := c.open[entry.Op]
		delete(c.open, entry.Op)
		if _, stands := c.changes[seq]; !stands && entry.Result == audit.ResultOK && entry.Seq <= head {
			c.found = append(c.found, Finding{Failure, "audit_claims", entry.KID,
				fmt.Sprintf("entry %d of the audit log says that %s was done, and no history has it", entry.Seq, entry.Action), "the registry is older than the audit log; restore the newest backup, then adopt what stands in the backend and is missing here"})
		}
	}
}
