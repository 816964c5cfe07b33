// Package partner speaks to the counterparties keyd serves: it tells them about
// our public keys, fetches theirs, carries sealed business requests there, and
// says what the answers are.
//
// A partner is one type in files of its own (wise*.go, ...). Whichever it is, it
// has the same abilities, so that whoever uses it need not know which it is:
//
//	Profile   what sealing to it and opening from it needs to know
//	Endpoint  what is special about one of its endpoints
//	FetchKey  its public key: *rsa.PublicKey or *ecdh.PublicKey
//	Headers   what a request with a sealed body needs; GetHeaders without one
//	Frame     the body of a request, of the envelope it carries
//	Do        sends a caller's request, if the config allows it
//
// and some have more: Announce, Playground, FetchKeyAs. What they share is the
// HTTP plumbing: TLS from version 1.2, an optional client certificate and
// proxy, no redirects, bodies of bounded size, and one error type that carries
// what the partner said without ever carrying a secret.
//
// Nothing here holds a private key or opens an envelope. The only secrets that
// pass through are the partner's API credentials, which are read when needed,
// the access token made from them, which lives in memory alone, and what
// callers bring.
package partner

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"
)

var (
	// ErrCredentials: the partner's token endpoint refused our credentials, or
	// they could not be read here. Somebody has to change a setting.
	ErrCredentials = errors.New("the credentials for the partner do not work")
	// ErrAnswer: the answer is not what the partner's documentation promises:
	// another status, not JSON, a field missing or wrong, too large, empty.
	ErrAnswer = errors.New("not the answer the partner documents")
	// ErrEcho: the partner took our public key but repeated something else than
	// we sent. What it now holds has to be looked at by a person.
	ErrEcho = errors.New("the partner repeats another key than was sent")
	// ErrDuplicate: the partner answered 409 to an announcement. It may hold
	// the key from an earlier try whose answer was lost.
	ErrDuplicate = errors.New("the partner says it already has this key")
)

// Error is a call to a partner that did not work. Its text and its fields are
// free of secrets, of control characters and of bodies: partner-made text is
// shortened and cleaned before it gets here.
type Error struct {
	Partner string // the partner's name in the config
	Op      string // "token", "announce", "key", "playground" or "call"
	Status  int    // HTTP status; 0 when there was no answer
	Code    string // the partner's own error code, where it gave one
	Message string // the partner's own words, where it gave any
	// TraceID and RequestID are what the partner's support asks for.
	TraceID   string
	RequestID string
	// LimitedBy names the limiter behind a 429 (X-Rate-Limited-By).
	LimitedBy string

	retryAfter time.Duration
	temporary  bool
	cause      *cause
}

// Error says who was asked what, and what came back.
func (e *Error) Error() string {
	parts := []string{e.Partner, e.Op}
	if e.Status != 0 {
		parts = append(parts, fmt.Sprintf("HTTP %d", e.Status))
	}
	if e.cause != nil {
		parts = append(parts, e.cause.text)
	}
	if e.Code != "" {
		parts = append(parts, e.Code)
	}
	if e.Message != "" {
		parts = append(parts, e.Message)
	}
	text := strings.Join(parts, ": ")
	var notes []string
	for _, n := range [][2]string{{"limited by", e.LimitedBy}, {"request_id", e.RequestID}, {"trace", e.TraceID}} {
		if n[1] != "" {
			notes = append(notes, n[0]+" "+n[1])
		}
	}
	if len(notes) > 0 {
		text += " (" + strings.Join(notes, ", ") + ")"
	}
	return text
}

// Is matches what lies behind the error, such as ErrAnswer or
// context.DeadlineExceeded. There is no Unwrap: the original error may quote
// what the partner sent, and that may quote what we sent.
func (e *Error) Is(target error) bool { return e.cause != nil && errors.Is(e.cause.err, target) }

// RetryAfter is how long the partner asked us to wait before the next try; 0
// when it did not say.
func (e *Error) RetryAfter() time.Duration { return e.retryAfter }

// Temporary reports whether the same call may work later with nothing changed
// on our side: no answer, a cut one, 429 or a server error.
func (e *Error) Temporary() bool { return e.temporary }

// cause is an error whose text has been cleaned. It does not unwrap.
type cause struct {
	text string
	err  error
}

// passes tells what may pass by itself from what needs a person.
func passes(status int, err error) bool {
	switch {
	case errors.Is(err, ErrCredentials), errors.Is(err, ErrEcho), errors.Is(err, ErrDuplicate),
		errors.Is(err, ErrRequest), errors.Is(err, ErrNotAllowed), errors.Is(err, ErrNeedsCaller):
		return false
	case status == http.StatusRequestTimeout, status == http.StatusTooEarly, status == http.StatusTooManyRequests, status >= 500:
		return true
	case errors.Is(err, ErrAnswer):
		return false
	case status >= 300:
		return false
	}
	// No answer, or a cut one. A TLS handshake that one side refused stays
	// refused: a certificate or a setting has to change.
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return false
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "remote error" {
		return false
	}
	return true
}
