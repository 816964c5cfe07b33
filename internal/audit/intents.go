package audit

import (
	"bytes"
	"cmp"
	"maps"
	"slices"
)

// intents are those without an outcome so far, by their operations.
type intents map[string]Entry

// follow takes in the next line of a log. Most lines are events, which are not
// decoded.
func (open intents) follow(line []byte) error {
	// Of what stands before the phase nothing can hold this text: in a string its
	// quotes are escaped.
	_, phase, _ := bytes.Cut(line, []byte(`"phase":"`))
	if !bytes.HasPrefix(phase, []byte(PhaseIntent)) && (len(open) == 0 || !bytes.HasPrefix(phase, []byte(PhaseOutcome))) {
		return nil
	}
	e, err := decode(line)
	switch {
	case err != nil:
		return err
	case e.Phase == PhaseIntent:
		open[e.Op] = e
	case e.Phase == PhaseOutcome:
		delete(open, e.Op)
	}
	return nil
}

func (open intents) oldestFirst() []Entry {
	return slices.SortedFunc(maps.Values(open), func(a, b Entry) int { return cmp.Compare(a.Seq, b.Seq) })
}
