// Package jwe reads and makes the envelopes partners send, JWE in compact
// serialization (RFC 7516 §7.1), without ever holding a private key: [Parse]
// turns one into a [boundary.Envelope] for a backend to open, [ParseDirect] one
// that answers a request under that request's own content key, and [Seal] makes
// one for a partner's public key.
//
// The parser is keyd's own and strict. An envelope has one spelling, so no line
// breaks, no base64 padding, no loose bits, no lengths but the right ones; and
// alg and enc come from the caller's policy, the header is only compared with
// it. Everything that can be refused is refused here, before a private key is
// touched.
package jwe

import (
	"errors"

	"keyd/internal/boundary"
)

// What an envelope is refused with. The messages around them say what is off
// and where, hold nothing secret and nothing unprintable, and are short: they
// may be shown to whoever sent the envelope.
var (
	// ErrMalformed: it is not a JWE in compact serialization as the RFC writes it.
	ErrMalformed = errors.New("malformed JWE")
	// ErrTooLarge: it, or its header, is longer than allowed.
	ErrTooLarge = errors.New("JWE too large")
	// ErrAlgorithm: it asks for an algorithm, or for something to be done, that
	// the policy does not allow.
	ErrAlgorithm = errors.New("JWE algorithm not allowed")
	// ErrNever is an ErrAlgorithm that no policy can allow.
	ErrNever = errors.New("never accepted")
)

// Policy is what a partner may send. The zero Policy refuses everything.
type Policy struct {
	// Algs are the key management algorithms allowed, of those that
	// boundary.KeyAlgorithm knows: another name in this list is still refused.
	Algs []string
	// Encs are the content encryptions allowed, of those boundary knows.
	Encs []string
	// MaxSize is the longest envelope, in bytes as received.
	MaxSize int
}

// Message is an envelope that was parsed and is allowed by the policy. Nothing
// in it is authenticated before a backend has opened Envelope.
type Message struct {
	// KID is the header's kid, "" where there is none: whether that will do is
	// the caller's to say.
	KID string
	// Envelope is for the backend. It shares no memory with what was parsed.
	Envelope boundary.Envelope
}

// Fits reports whether the envelope can have been sealed to a key of this
// material: its encrypted key is as long as the modulus, or its ephemeral key
// is on the same curve. Which key an envelope is for is public.
func (m *Message) Fits(key boundary.Material) bool {
	env := &m.Envelope
	switch {
	case boundary.KeyAlgorithm(env.Alg) != key.Algorithm:
		return false
	case env.EPK != nil:
		return env.EPK.Curve() == boundary.CurveOf(key.Curve)
	}
	return len(env.EncryptedKey) == (key.Bits+7)/8
}
