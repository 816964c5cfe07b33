package registry

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
)

// Violation is a rule that does not hold.
type Violation struct {
	Code    string // stable, for programs
	Key     string
	KID     string
	Message string
}

// Check reads what is stored and reports every rule of the registry's own that
// does not hold in it; none if all is well. It takes as long as opening, and
// writes wait for it. It must not be called from Amend's function.
func (r *Registry) Check() []Violation {
	r.mu.Lock()
	defer r.mu.Unlock()
	stored, err := r.stored()
	if err != nil {
		return []Violation{{Code: "unreadable", Message: fmt.Sprintf("what is stored cannot be read: %v", err)}}
	}
	c := checker{index: stored, handles: map[[2]string]string{}}
	if held := r.index.Load(); held != nil && !reflect.DeepEqual(held, stored) {
		c.add("memory", "", "", "what is held in memory is not what is stored")
	}
	for _, key := range slices.Sorted(maps.Keys(stored.series)) {
		for i, v := range stored.series[key] {
			c.version(v, i+1)
		}
		c.key(key)
	}
	return c.found
}

// checker collects violations in an index.
type checker struct {
	index   *index
	handles map[[2]string]string // kid by backend and handle
	found   []Violation
}

func (c *checker) add(code, key, kid, format string, args ...any) {
	c.found = append(c.found, Violation{Code: code, Key: key, KID: kid, Message: fmt.Sprintf(format, args...)})
}

// key checks what a key's versions must keep together.
func (c *checker) key(key string) {
	if _, ok := c.index.keys[key]; !ok {
		c.add("no_key", key, "", "there are versions of the key %q and no such key", key)
	}
	s := survey(c.index.series[key])
	if len(s.active) > 1 {
		c.add("second_active", key, s.active[1].KID, "%d versions are active", len(s.active))
	}
	if len(s.inFlight) > 1 {
		c.add("in_flight", key, s.inFlight[1].KID, "%d versions are in flight", len(s.inFlight))
	}
	if s.used && s.opening == 0 && !compromisedLast(c.index.series[key]) {
		c.add("unopenable", key, "", "it was in use, no version of it opens, and the last one was not closed as compromised")
	}
}

// compromisedLast reports whether the last version that stopped opening was
// closed as compromised. An event counts as later only if both its time and its
// audit entry say so: clocks are put back, and an entry is written before the
// lock is taken.
func compromisedLast(versions []*Version) bool {
	var closings []Event
	for _, v := range versions {
		for _, e := range v.History {
			if e.From.Opens() && !e.To.Opens() {
				closings = append(closings, e)
			}
		}
	}
	return slices.ContainsFunc(closings, func(e Event) bool {
		return e.To == Compromised && !slices.ContainsFunc(closings, func(other Event) bool {
			return other.To != Compromised && other.At.After(e.At) && other.Audit > e.Audit
		})
	})
}

// version checks one version that should have a number.
func (c *checker) version(v *Version, number int) {
	if v.Number != number {
		c.add("number", v.Key, v.KID, "it has the number %d in the place of %d", v.Number, number)
	}
	if !slices.Contains(States, v.State) {
		c.add("state", v.Key, v.KID, "its state is %q, which is none", v.State)
	}
	if problem := path(v); problem != "" {
		c.add("history", v.Key, v.KID, "%s", problem)
	}
	if v.State.Opens() {
		if err := ready(v); err != nil {
			c.add("material", v.Key, v.KID, "it is %s, and %v", v.State, err)
		}
	}
	if v.State == Draining && v.DrainUntil.IsZero() {
		c.add("deadline", v.Key, v.KID, "it is draining without a deadline")
	}
	if v.Handle != "" {
		key := [2]string{v.Backend, v.Handle}
		if other, ok := c.handles[key]; ok {
			c.add("handle", v.Key, v.KID, "version %s has the same private key %s", other, v.Handle)
		}
		c.handles[key] = v.KID
	}
}

// path reports how a history is not a path of the table that ends in the state.
func path(v *Version) string {
	if len(v.History) == 0 {
		return "it has no history"
	}
	first := Pending
	if v.Adopted {
		first = Announced
	}
	at := State("")
	compromised := false
	for i, e := range v.History {
		switch {
		case compromised && e.To.Opens():
			return fmt.Sprintf("event %d lets it open again after it was compromised", i+1)
		case e.From != at:
			return fmt.Sprintf("event %d leaves %q, where it was %q", i+1, e.From, at)
		case i == 0 && e.To != first:
			return fmt.Sprintf("it began as %q, not as %q", e.To, first)
		case i > 0 && !at.May(e.To):
			return fmt.Sprintf("event %d takes it from %q to %q, which the table does not allow", i+1, e.From, e.To)
		}
		at = e.To
		compromised = compromised || at == Compromised
	}
	if at != v.State {
		return fmt.Sprintf("its history ends in %q and its state is %q", at, v.State)
	}
	return ""
}
