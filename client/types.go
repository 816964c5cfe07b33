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

// Partner is what a caller needs to talk to a partner.
type Partner struct {
	Name       string            `json:"name"`
	Type       string            `json:"type"`
	ActiveKID  string            `json:"active_kid,omitempty"` // ours, for the partner's answers
	Headers    map[string]string `json:"headers"`              // to send with a sealed request
	GetHeaders map[string]string `json:"get_headers"`          // to send with a request that has no body
	Key        *PartnerKey       `json:"key,omitempty"`        // theirs
	Encs       []string          `json:"encs"`                 // content encryptions accepted in answers
	Pins       []string          `json:"pins,omitempty"`       // fingerprints of the only keys of theirs that are sealed to
}

// PartnerKey is a partner's own public key.
type PartnerKey struct {
	ID          string    `json:"id,omitempty"`
	Version     int       `json:"version,omitempty"`
	Algorithm   string    `json:"algorithm"`
	PublicPEM   string    `json:"public_pem"`
	Fingerprint string    `json:"fingerprint"`
	FirstSeen   time.Time `json:"first_seen"`
	LastSeen    time.Time `json:"last_seen"`
	Changed     bool      `json:"changed,omitempty"` // by this refresh
}

// Sealed is the JSON answer of encrypt.
type Sealed struct {
	// JWE is the envelope, where all of the request is sealed.
	JWE string `json:"jwe,omitempty"`
	// Body is what to send, where that is not the envelope itself.
	Body    string            `json:"body,omitempty"`
	Headers map[string]string `json:"headers"`               // to send with it
	KID     string            `json:"kid,omitempty"`         // our active version
	KeyID   string            `json:"partner_key,omitempty"` // theirs: id or fingerprint
	// Exchange opens the reply, where that is not sealed to our standing key.
	Exchange *Exchange `json:"exchange,omitempty"`
}

// Send is what to send of a sealed request: the envelope, or the body that it
// stands in; "" if all of it is in a header.
func (s *Sealed) Send() string {
	if s.Body != "" {
		return s.Body
	}
	return s.JWE
}

// Call is the body of POST /v1/partners/{partner}/call: a request that keyd
// seals, sends and opens the answer of. Of how it is sealed it needs to say only
// what keyd does not know of the endpoint.
type Call struct {
	Method  string              `json:"method"`
	Path    string              `json:"path"` // below the partner's URL
	Query   map[string][]string `json:"query,omitempty"`
	Headers map[string]string   `json:"headers,omitempty"`
	// Body is the text of the request's body, BodyBase64 its bytes: one of them.
	Body       string `json:"body,omitempty"`
	BodyBase64 []byte `json:"body_base64,omitempty"`
	// Unsealed sends the body as it is, where the partner takes it so.
	Unsealed      bool           `json:"unsealed,omitempty"`
	Fields        []string       `json:"fields,omitempty"`
	PublicKeyAt   string         `json:"public_key_at,omitempty"`
	Ephemeral     *bool          `json:"ephemeral,omitempty"`
	Direct        *bool          `json:"direct,omitempty"`
	Form          string         `json:"form,omitempty"`
	SigningMethod *SigningMethod `json:"signing_method,omitempty"`
	// OpenFields and OpenJSONFields are JSON pointers of envelopes in the answer.
	OpenFields     []string `json:"open_fields,omitempty"`
	OpenJSONFields []string `json:"open_json_fields,omitempty"`
}

// Answer is what a partner answered, whatever its status.
type Answer struct {
	Status  int               `json:"status"`
	Headers map[string]string `json:"headers"`
	// Content says what the body was: "sealed" or "fields" and opened, "plain",
	// "empty", or "unopened": then Body is as it came, and Problem says why.
	Content string `json:"content"`
	// Body is the text of the body, BodyBase64 its bytes where it is none.
	Body       string `json:"body,omitempty"`
	BodyBase64 []byte `json:"body_base64,omitempty"`
	KID        string `json:"kid,omitempty"`         // the version that opened it
	Boundary   string `json:"boundary,omitempty"`    // how deep inside the hardware
	PartnerKey string `json:"partner_key,omitempty"` // theirs that the request was sealed to
	Retried    bool   `json:"retried,omitempty"`     // it was sent twice, the first time to an old key
	RetryAfter int    `json:"retry_after,omitempty"` // seconds
	// Problem is why it did not open, and Exchange what opens it if that passes.
	Problem  *Problem  `json:"problem,omitempty"`
	Exchange *Exchange `json:"exchange,omitempty"`
}

// Bytes is the body.
func (a *Answer) Bytes() []byte {
	if a.BodyBase64 != nil {
		return a.BodyBase64
	}
	return []byte(a.Body)
}

// JWKS is a JWK set (RFC 7517 §5) of public keys.
type JWKS struct {
	Keys []JWK `json:"keys"`
}

// JWK is a public key of ours (RFC 7517 §4).
type JWK struct {
	Type  string `json:"kty"` // RSA or EC
	Use   string `json:"use"` // enc or sig
	Alg   string `json:"alg"`
	KID   string `json:"kid"`
	N     string `json:"n,omitempty"`
	E     string `json:"e,omitempty"`
	Curve string `json:"crv,omitempty"`
	X     string `json:"x,omitempty"`
	Y     string `json:"y,omitempty"`
}

// Exchange is a request whose reply opens with something that belongs to it
// alone. It opens one reply.
type Exchange struct {
	ID        string    `json:"id"`
	Kind      string    `json:"kind"` // "direct", "ephemeral"
	ExpiresAt time.Time `json:"expires_at"`
}

// Opened is what Decrypt returns: the body and the headers of the answer.
type Opened struct {
	Plaintext []byte
	KID       string // Keyd-Kid
	Boundary  string // Keyd-Boundary
	RequestID string // Keyd-Request-Id
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
