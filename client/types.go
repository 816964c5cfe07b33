// Package client speaks to a keyd daemon over its unix sockets and owns the
// types that travel there. It imports none of keyd's internals, so a payment
// backend can use it too.
package client

import (
	"encoding/json"
	"time"
)

// Problem is an error answer: application/problem+json (RFC 9457).
type Problem struct {
	Type      string `json:"type"`   // urn:keyd:problem:<code>
	Title     string `json:"title"`  // what happened
	Status    int    `json:"status"` // HTTP status
	Detail    string `json:"detail,omitempty"`
	Code      string `json:"code"`           // stable, for programs
	Hint      string `json:"hint,omitempty"` // what to do next
	RequestID string `json:"request_id"`
}

// Error makes a Problem usable as a Go error.
func (p *Problem) Error() string {
	s := p.Title
	if p.Detail != "" {
		s += ": " + p.Detail
	}
	if p.Hint != "" {
		s += " (" + p.Hint + ")"
	}
	return s
}

// Key is a named purpose for a partner: a series of versions.
type Key struct {
	Name      string    `json:"name"`
	Partner   string    `json:"partner"`
	Backend   string    `json:"backend"`
	Algorithm string    `json:"algorithm"`
	Bits      int       `json:"bits,omitempty"`  // of an RSA modulus
	Curve     string    `json:"curve,omitempty"` // of a key for ECDH-ES
	Policy    Policy    `json:"policy"`
	CreatedAt time.Time `json:"created_at"`
	NextDue   time.Time `json:"next_due,omitzero"`
	ActiveKID string    `json:"active_kid,omitempty"`
	Next      Step      `json:"next"` // what the reconciler does next
	Versions  []Version `json:"versions,omitempty"`
}

// Policy is a key's rotation policy; durations are Go's ("2880h") or days ("120d").
type Policy struct {
	Rotate      string `json:"rotate"`
	ValidFor    string `json:"valid_for"`
	DrainFor    string `json:"drain_for"`
	SettleFor   string `json:"settle_for"`
	Canary      string `json:"canary"`
	MinBoundary string `json:"min_boundary,omitempty"`
	// First is "make" (or "") to make the first version at once, "adopt" to wait
	// until one is adopted.
	First string `json:"first,omitempty"`
}

// Step is a step of a rotation: what, for which version, from when, and why.
type Step struct {
	Name   string    `json:"name"` // "none", "intent", "generate", "self-test", "announce", "confirm", "settle", "canary", "activate", "retire", "disable", "drain", "destroy"
	KID    string    `json:"kid,omitempty"`
	At     time.Time `json:"at,omitzero"` // not before
	Reason string    `json:"reason"`
}

// Version is one piece of key material.
type Version struct {
	KID       string `json:"kid"`
	Key       string `json:"key"`
	Number    int    `json:"number"`
	State     string `json:"state"`
	Opens     bool   `json:"opens"`
	Backend   string `json:"backend"`
	Handle    string `json:"handle,omitempty"`
	PublicPEM string `json:"public_pem,omitempty"`
	// PublicSHA256 is the fingerprint: over the DER SubjectPublicKeyInfo, in hex.
	PublicSHA256 string    `json:"public_sha256,omitempty"`
	Algorithm    string    `json:"algorithm"`
	Bits         int       `json:"bits,omitempty"`
	Curve        string    `json:"curve,omitempty"`
	ValidFrom    time.Time `json:"valid_from"`
	ValidTill    time.Time `json:"valid_till"`
	DrainUntil   time.Time `json:"drain_until,omitzero"`
	ToldAt       time.Time `json:"told_at,omitzero"`
	CanaryAt     time.Time `json:"canary_at,omitzero"`
	CanaryKID    string    `json:"canary_kid,omitempty"`
	LastOpenAt   time.Time `json:"last_open_at,omitzero"`
	DisabledAt   time.Time `json:"disabled_at,omitzero"` // compromised, and put out of use in its backend
	Tries        int       `json:"tries,omitempty"`
	NextTry      time.Time `json:"next_try,omitzero"`
	LastError    string    `json:"last_error,omitempty"`
	Adopted      bool      `json:"adopted,omitempty"`
	// Evidence is what the backend said of the key pair, SelfTest how it was
	// proved to work. The audit log committed to both.
	Evidence json.RawMessage `json:"evidence,omitempty"`
	SelfTest json.RawMessage `json:"self_test,omitempty"`
	History  []Event         `json:"history"`
}

// Event is one change of a version's state.
type Event struct {
	At     time.Time `json:"at"`
	From   string    `json:"from,omitempty"`
	To     string    `json:"to"`
	By     string    `json:"by"`
	Reason string    `json:"reason"`
	Audit  uint64    `json:"audit"`
}

// CreateKey is the body of POST /v1/keys.
type CreateKey struct {
	Name      string `json:"name"`
	Partner   string `json:"partner"`
	Backend   string `json:"backend"`
	Algorithm string `json:"algorithm,omitempty"` // default RSA-OAEP-256
	Bits      int    `json:"bits,omitempty"`      // default 2048
	Curve     string `json:"curve,omitempty"`     // for ECDH-ES, default P-256
	Policy    Policy `json:"policy"`
}

// Adopt is the body of POST /v1/keys/{key}/adopt.
type Adopt struct {
	KID       string    `json:"kid"`               // under which the partner knows it
	Find      string    `json:"find"`              // CKA_ID in hex, or the label, of the private key
	Backend   string    `json:"backend,omitempty"` // that holds it; default the one of the key's next version
	ValidTill time.Time `json:"valid_till"`        // as told to the partner
	ValidFrom time.Time `json:"valid_from"`        // as told to the partner; default now
	Told      bool      `json:"told,omitempty"`    // the partner has it already
}

// Reason is the body of the operations that ask why.
type Reason struct {
	Reason string `json:"reason"`
}

// Change is the answer of every operation that changes something, and of its
// dry run.
type Change struct {
	DryRun  bool     `json:"dry_run"`
	Key     string   `json:"key"`
	KID     string   `json:"kid,omitempty"`
	Steps   []Step   `json:"steps"`             // what was done or would be done, in order
	ByHand  []string `json:"by_hand,omitempty"` // what a person must still do
	Version *Version `json:"version,omitempty"`
}

// Status is the whole picture.
type Status struct {
	Instance  string    `json:"instance"`
	Version   string    `json:"version"`
	Now       time.Time `json:"now"`
	StartedAt time.Time `json:"started_at"`
	Ready     bool      `json:"ready"`
	Backends  []Backend `json:"backends"`
	Keys      []Key     `json:"keys"`
	Partners  []Partner `json:"partners"`
	Problems  []Finding `json:"problems"`
	AuditHead Head      `json:"audit_head"`
}

// Backend is the state of a backend.
type Backend struct {
	Name   string            `json:"name"`
	Kind   string            `json:"kind"`
	Levels map[string]string `json:"levels"` // boundary levels, by key algorithm
	// MinBoundary is the config's: what is below it is not done.
	MinBoundary string            `json:"min_boundary,omitempty"`
	Device      map[string]string `json:"device"`
	Sessions    int               `json:"sessions"`
	InUse       int               `json:"in_use"`
	Error       string            `json:"error,omitempty"`
	Process     *Process          `json:"process,omitempty"` // of a PKCS#11 library
}

// Process is where a PKCS#11 library runs.
type Process struct {
	State      string    `json:"state"` // "ready", "starting", "down", "probing"
	Since      time.Time `json:"since"`
	PID        int       `json:"pid,omitempty"`
	Generation uint64    `json:"generation"`         // processes that came to serve, this one included
	Next       time.Time `json:"next,omitzero"`      // when another one is tried
	LastEnd    string    `json:"last_end,omitempty"` // why the last one is gone
}

// Finding is something wrong: what, with what, and what to do.
type Finding struct {
	Severity string `json:"severity"` // "warning", "error"
	Code     string `json:"code"`     // stable
	Subject  string `json:"subject"`  // key, kid, backend or partner
	Message  string `json:"message"`
	Hint     string `json:"hint,omitempty"`
}

// Doctor is the answer of GET /v1/doctor.
type Doctor struct {
	OK       bool      `json:"ok"`
	Checked  []string  `json:"checked"` // the invariants looked at, in words
	Findings []Finding `json:"findings"`
}

// Orphan is a private key that stands in a backend under keyd's name, and that
// no version has.
type Orphan struct {
	Backend string `json:"backend"`
	Handle  string `json:"handle"`
	Label   string `json:"label,omitempty"`
	KID     string `json:"kid,omitempty"`
	Why     string `json:"why"`  // "unknown" to the registry, "destroyed" as far as it knows, or the "duplicate" of a version's
	Told    bool   `json:"told"` // the audit log says that the partner was told of it
	Gone    bool   `json:"gone"` // the backend has destroyed it; false while its deletion waits
}

// DestroyOrphans is the body of POST /v1/backends/{backend}/orphans/destroy.
type DestroyOrphans struct {
	Handles []string `json:"handles"`
	Reason  string   `json:"reason"`
	Told    bool     `json:"told,omitempty"` // destroy those too that the partner was told of
}

// DestroyedOrphans is its answer.
type DestroyedOrphans struct {
	DryRun  bool     `json:"dry_run"`
	Orphans []Orphan `json:"orphans"`
}

// Head is the end of the audit chain.
type Head struct {
	Seq  uint64 `json:"seq"`
	Hash string `json:"hash"`
}

// Version information of the daemon.
type VersionInfo struct {
	Version  string `json:"version"`
	Go       string `json:"go"`
	Revision string `json:"revision,omitempty"`
	Schema   int    `json:"schema"` // of the registry
}
