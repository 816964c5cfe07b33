package registry

import (
	"encoding/json"
	"time"
)

// Key is a named purpose for a partner with a policy: a series of versions.
type Key struct {
	Name      string    `json:"name"`
	Partner   string    `json:"partner"`
	Backend   string    `json:"backend"`
	Algorithm string    `json:"algorithm"`       // RSA-OAEP-256, ECDH-ES or PS256
	Bits      int       `json:"bits,omitempty"`  // of an RSA modulus
	Curve     string    `json:"curve,omitempty"` // of a key for ECDH-ES
	Policy    Policy    `json:"policy"`
	CreatedAt time.Time `json:"created_at"`
	// NextDue is when the schedule next asks for a rotation. It is persisted
	// so that a run missed while the daemon was down is made up for, once.
	NextDue time.Time `json:"next_due,omitzero"`
}

// Policy says when a key's versions move on. internal/rotation interprets it.
type Policy struct {
	Rotate    string   `json:"rotate"`     // five-field cron, UTC
	ValidFor  Duration `json:"valid_for"`  // validTill told to the partner, from the intent
	DrainFor  Duration `json:"drain_for"`  // how long the old version still opens
	SettleFor Duration `json:"settle_for"` // wait between announcing and the canary
	// Canary: "open" (the partner's answer must open under one of our
	// versions), "kid" (under the new one), or "off".
	Canary string `json:"canary"`
	// First: "make" (or "") makes the first version at once, "adopt" waits for
	// an operator to adopt one that the partner knows already.
	First string `json:"first,omitempty"`
	// MinBoundary refuses to make or use a version below this level; "" is none.
	MinBoundary string `json:"min_boundary,omitempty"`
}

// Version is one piece of key material of a key.
type Version struct {
	KID     string `json:"kid"` // UUID, chosen before anything is generated
	Key     string `json:"key"`
	Number  int    `json:"number"` // 1, 2, … within the key
	State   State  `json:"state"`
	Backend string `json:"backend"` // may differ from the key's after a move
	Handle  string `json:"handle,omitempty"`
	// Public is the DER SubjectPublicKeyInfo, once the material exists.
	Public    []byte `json:"public,omitempty"`
	Algorithm string `json:"algorithm"`
	Bits      int    `json:"bits,omitempty"`
	Curve     string `json:"curve,omitempty"`
	// ValidFrom and ValidTill are fixed with the intent, in whole seconds UTC,
	// so that every retry tells the partner the same dates.
	ValidFrom  time.Time `json:"valid_from"`
	ValidTill  time.Time `json:"valid_till"`
	DrainUntil time.Time `json:"drain_until,omitzero"`

	// Marks of the rotation's steps, each set once its side effect is done.
	GeneratedAt time.Time `json:"generated_at,omitzero"`
	TestedAt    time.Time `json:"tested_at,omitzero"`
	ToldAt      time.Time `json:"told_at,omitzero"` // the partner said yes, or an operator confirmed it
	CanaryAt    time.Time `json:"canary_at,omitzero"`
	CanaryKID   string    `json:"canary_kid,omitempty"` // which of our kids the canary's answer named
	LastOpenAt  time.Time `json:"last_open_at,omitzero"`
	DisabledAt  time.Time `json:"disabled_at,omitzero"` // compromised, and put out of use in the backend

	// Retry is the state of the step now being tried. A move forgets it.
	Retry Retry `json:"retry,omitzero"`

	Adopted  bool            `json:"adopted,omitempty"`  // came with material made elsewhere
	Evidence json.RawMessage `json:"evidence,omitempty"` // what the backend said of the key pair
	// SelfTest is how it was proved that the key pair works.
	SelfTest json.RawMessage `json:"self_test,omitempty"`
	History  []Event         `json:"history"`
}

// Retry remembers failed tries of one step across restarts.
type Retry struct {
	Step  string    `json:"step,omitempty"`
	Tries int       `json:"tries,omitempty"`
	Next  time.Time `json:"next,omitzero"`
	Last  string    `json:"last,omitempty"` // the last error, free of secrets
}

// Event is one change of a version's state, written in the transaction that
// made it.
type Event struct {
	At     time.Time `json:"at"`
	From   State     `json:"from,omitempty"` // "" for the first
	To     State     `json:"to"`
	By     string    `json:"by"`
	Reason string    `json:"reason"`
	Audit  uint64    `json:"audit"` // seq of the audit entry that recorded the intent
}

// PartnerKey is a partner's own public key, which requests are sealed to.
type PartnerKey struct {
	Partner     string    `json:"partner"`
	ID          string    `json:"id"`      // the partner's name for it; may be ""
	Version     int       `json:"version"` // 0 where the partner has none
	Algorithm   string    `json:"algorithm"`
	Public      []byte    `json:"public"`      // DER SubjectPublicKeyInfo
	Fingerprint string    `json:"fingerprint"` // hex SHA-256 of Public
	FirstSeen   time.Time `json:"first_seen"`
	LastSeen    time.Time `json:"last_seen"`
}

// Duration is a time.Duration that reads and prints as "720h" or "30d" in
// JSON and YAML.
type Duration time.Duration
