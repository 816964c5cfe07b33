package registry

import "slices"

// State is where a version stands in its life (NIST SP 800-57 part 1 section 7).
type State string

const (
	// Pending: the intent is recorded; material may or may not exist yet.
	Pending State = "pending"
	// Announced: material exists, passed its self-test, and the partner has
	// been or is just being told. It opens, because a partner may use a new
	// key the second it has it, even when its answer to our upload was lost.
	Announced State = "announced"
	// Active: new requests name this kid. At most one per key.
	Active State = "active"
	// Draining: no longer named in requests, still opens until its deadline.
	Draining State = "draining"
	// Compromised: never opens again; the private key is kept until destroyed.
	Compromised State = "compromised"
	// Destroying: deletion has been asked for or is pending. A backend that waits
	// with it can be told not to: the version is then what it was before. It may
	// also be found to be compromised so late.
	Destroying State = "destroying"
	// Destroyed: the backend says the private key is gone.
	Destroyed State = "destroyed"
)

// States lists every state in the order of a life.
var States = []State{Pending, Announced, Active, Draining, Compromised, Destroying, Destroyed}

// next is the transition table: what a version in a state may become.
// docs/lifecycle.md is generated from it.
var next = map[State][]State{
	Pending:     {Announced, Destroying, Compromised},
	Announced:   {Active, Destroying, Compromised},
	Active:      {Draining, Compromised},
	Draining:    {Active, Destroying, Compromised},
	Compromised: {Destroying},
	Destroying:  {Draining, Compromised, Destroyed},
	Destroyed:   nil,
}

// May reports whether the table allows the move.
func (s State) May(to State) bool { return slices.Contains(next[s], to) }

// Opens reports whether a version in this state opens envelopes.
func (s State) Opens() bool { return s == Announced || s == Active || s == Draining }

// Held reports whether the backend is expected to hold the private key: not
// before the material is made, not once its deletion is under way.
func (s State) Held() bool { return s.Opens() || s == Compromised }

// Final reports whether nothing follows.
func (s State) Final() bool { return len(next[s]) == 0 }

// inFlight reports whether the version is on its way to its first use. A key
// has one such version at a time.
func (s State) inFlight() bool { return s == Pending || s == Announced }
