package client

import "time"

// Partner is what a caller needs to talk to a partner.
type Partner struct {
	Name       string            `json:"name"`
	Type       string            `json:"type"`
	ActiveKID  string            `json:"active_kid,omitempty"` // ours, for the partner's answers
	Headers    map[string]string `json:"headers"`              // to send with a sealed request
	GetHeaders map[string]string `json:"get_headers"`          // to send with a request that has no body
	Key        *PartnerKey       `json:"key,omitempty"`        // theirs
	Algs       []string          `json:"algs"`                 // accepted in answers sealed to our key; none of them where there is none
	Encs       []string          `json:"encs"`                 // content encryptions accepted in answers
	Calls      []Allowed         `json:"calls,omitempty"`      // what Call may send
	Pins       []string          `json:"pins,omitempty"`       // fingerprints of the only keys of theirs that are sealed to
}

// Allowed is a set of requests that keyd sends to a partner: a path that ends in
// "/" stands for all below it, a segment "*" for any one.
type Allowed struct {
	Methods []string `json:"methods"`
	Paths   []string `json:"paths"`
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
	Unsealed bool `json:"unsealed,omitempty"`
	// Repeatable: sent twice it does what it does once, so it may be sent again if
	// the answer does not open. A GET always may.
	Repeatable    bool           `json:"repeatable,omitempty"`
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
	Retried    bool   `json:"retried,omitempty"`     // it was sent twice: the first was sealed to an old key, or its answer did not open
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
