package registry

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Move is one step of one version along the transition table.
type Move struct {
	KID string
	To  State
	// DrainUntil is until when a version opens that becomes Draining; zero for
	// every other state.
	DrainUntil time.Time
}

// Move makes several moves in one transaction: all or none. They are applied in
// order, the same version may move more than once, and what holds for a whole
// key (one active version, one that opens) is held to be so at the end. A move
// forgets the tries of the step that led to it. Move returns the versions as
// they are then, in the order in which they were first named.
func (r *Registry) Move(moves []Move, by, reason string, audit uint64, at time.Time) ([]Version, error) {
	moved, err := r.move(moves, by, reason, audit, at)
	if err != nil {
		return nil, fmt.Errorf("moving %s: %w", describe(moves), err)
	}
	return moved, nil
}

func (r *Registry) move(moves []Move, by, reason string, audit uint64, at time.Time) ([]Version, error) {
	if len(moves) == 0 {
		return nil, fmt.Errorf("%w: no moves", ErrInvalid)
	}
	e, err := event(at, by, reason, audit)
	if err != nil {
		return nil, err
	}
	var kids []string
	ix, err := r.update(func(d *draft) error {
		kids, err = d.move(moves, e)
		return err
	})
	if err != nil {
		return nil, err
	}
	versions := make([]Version, len(kids))
	for i, kid := range kids {
		versions[i] = ix.versions[kid].clone()
	}
	return versions, nil
}

func (d *draft) move(moves []Move, e Event) (kids []string, err error) {
	moving := map[string]*Version{}
	closed := map[string]bool{} // keys of which a version was closed that nobody called compromised
	for _, m := range moves {
		v, ok := moving[m.KID]
		if !ok {
			stored, ok := d.versions[m.KID]
			if !ok {
				return nil, fmt.Errorf("version %q: %w", m.KID, ErrNotFound)
			}
			c := stored.clone()
			v, moving[m.KID] = &c, &c
			kids = append(kids, m.KID)
		}
		if v.State.Opens() && !m.To.Opens() && m.To != Compromised {
			closed[v.Key] = true
		}
		if err := v.move(m, e); err != nil {
			return nil, fmt.Errorf("version %s: %w", v.KID, err)
		}
	}
	for _, kid := range kids {
		if late(moving[kid]) {
			return nil, fmt.Errorf("version %s: %w: it is %s, was not compromised before, and cannot be kept as %s", kid, ErrTransition, Destroying, Compromised)
		}
		if err := d.putVersion(*moving[kid]); err != nil {
			return nil, err
		}
	}
	for _, kid := range kids {
		key := moving[kid].Key
		if err := d.holds(key, closed[key]); err != nil {
			return nil, fmt.Errorf("key %s: %w", key, err)
		}
	}
	return kids, nil
}

// late reports whether a version was first called compromised while its deletion
// was under way, and left there: it would count as kept. Back in Destroying it is
// closed for ever, and deleted.
func late(v *Version) bool {
	n := len(v.History)
	return v.State == Compromised && v.History[n-1].From == Destroying && !(&Version{History: v.History[:n-1]}).compromised()
}

// compromised reports whether a version ever was.
func (v *Version) compromised() bool {
	return slices.ContainsFunc(v.History, func(e Event) bool { return e.To == Compromised })
}

// move applies the transition table.
func (v *Version) move(m Move, e Event) error {
	if !v.State.May(m.To) {
		return fmt.Errorf("%w: it is %s and cannot become %s", ErrTransition, v.State, m.To)
	}
	if m.To.Opens() && v.compromised() {
		return fmt.Errorf("%w: it was compromised and never opens again", ErrTransition)
	}
	if m.To.Opens() && !v.State.Opens() {
		if err := ready(v); err != nil {
			return fmt.Errorf("%w: it is %s and cannot become %s: %w", ErrTransition, v.State, m.To, err)
		}
	}
	if (m.To == Draining) == m.DrainUntil.IsZero() {
		return fmt.Errorf("%w: a version that becomes draining, and no other, has a deadline", ErrInvalid)
	}
	switch m.To {
	case Draining:
		v.DrainUntil = m.DrainUntil.UTC()
	case Active:
		v.DrainUntil = time.Time{}
	}
	e.From, e.To = v.State, m.To
	v.State, v.Retry = m.To, Retry{}
	v.History = append(v.History, e)
	return nil
}

// holds applies the rules that a key's versions must keep together.
func (d *draft) holds(key string, closed bool) error {
	s := survey(d.series[key])
	switch {
	case len(s.active) > 1:
		return fmt.Errorf("%w: %s and %s", ErrSecondActive, s.active[0].KID, s.active[1].KID)
	case closed && s.opening == 0 && s.used:
		return ErrLastOpenable
	}
	return nil
}

// surveyed is what the rules ask of a key's versions.
type surveyed struct {
	active   []*Version
	inFlight []*Version
	opening  int  // how many open
	used     bool // one of them is or was active
}

func survey(versions []*Version) surveyed {
	var s surveyed
	for _, v := range versions {
		if v.State == Active {
			s.active = append(s.active, v)
		}
		if v.State.inFlight() {
			s.inFlight = append(s.inFlight, v)
		}
		if v.State.Opens() {
			s.opening++
		}
		for _, e := range v.History {
			s.used = s.used || e.To == Active
		}
	}
	return s
}

// describe names moves for an error.
func describe(moves []Move) string {
	words := make([]string, len(moves))
	for i, m := range moves {
		words[i] = fmt.Sprintf("%q to %s", m.KID, m.To)
	}
	return strings.Join(words, ", ")
}
