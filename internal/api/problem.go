package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"time"

	"keyd/client"
	"keyd/internal/audit"
	"keyd/internal/boundary"
	"keyd/internal/exchange"
	"keyd/internal/field"
	"keyd/internal/jwe"
	"keyd/internal/registry"
	"keyd/internal/rotation"
)

// What the API itself refuses a request with.
var (
	// errForbidden: the caller has no role that the route needs.
	errForbidden = errors.New("the caller has no role for this")
	// errNotClient: the caller is no client of the partner.
	errNotClient = errors.New("the caller is no client of the partner")
	// errBrowser: the request was made by a web page.
	errBrowser = errors.New("requests made by a browser are refused")
	// errNoRoute: there is no such path on this listener.
	errNoRoute = errors.New("there is no such path here")
	// errNotFound: there is no such key, version or partner.
	errNotFound = errors.New("there is nothing of that name")
	// errMethod: the path is there, and not for this method.
	errMethod = errors.New("the path does not take this method")
	// errBadRequest: the request cannot be understood.
	errBadRequest = errors.New("the request cannot be understood")
	// errTooLarge: the body is larger than the route takes.
	errTooLarge = errors.New("the body is too large")
	// errMedia: the body is of a type that the route does not take.
	errMedia = errors.New("the body is of a type that is not taken here")
	// errSlow: the body did not arrive in time.
	errSlow = errors.New("the body did not arrive in time")
	// errPartner: a call to the partner did not work.
	errPartner = errors.New("asking the partner did not work")
	// errUnanswered: a call to the partner has no answer that can be handed on.
	errUnanswered = errors.New("the partner did not answer")
	// errCallsFull: as many calls are under way as may be.
	errCallsFull = errors.New("too many calls are under way")
	// errNoActive: the partner's key has no active version to name in a request.
	errNoActive = errors.New("no version is active")
	// errMoving: what was asked for changed while it was read, each time.
	errMoving = errors.New("it is changing")
	// errNever: the envelope asks for what no config can allow.
	errNever = errors.New("the envelope asks for an algorithm that is not allowed")
	// errOtherReply: the envelope is of another kind than the exchange's replies.
	errOtherReply = errors.New("not a reply of this exchange")
	// errNotText: what an envelope held cannot stand where it was to be put.
	errNotText = errors.New("what was sealed cannot stand in JSON")
	// errNeedsToken: the partner shows its key to a caller's token only.
	errNeedsToken = errors.New("the partner shows its key to a user's own token only")
)

// What an Opener refuses an envelope with, besides the errors of jwe, boundary
// and audit.
var (
	// ErrMissingKID: the envelope does not say which version it is for.
	ErrMissingKID = errors.New("the envelope names no kid")
	// ErrUnknownKID: no version of this partner has the kid.
	ErrUnknownKID = errors.New("the kid is not known")
	// ErrNotOpen: the version does not open yet.
	ErrNotOpen = errors.New("the version does not open yet")
	// ErrCompromised: the version was closed and never opens again.
	ErrCompromised = errors.New("the version is compromised")
	// ErrDestroyed: the version's private key is gone or going.
	ErrDestroyed = errors.New("the version is destroyed")
	// ErrBackend: the backend failed in a way of its own, or lacks the key.
	ErrBackend = errors.New("the backend failed")
	// ErrAudit: the attempt could not be recorded, so it has no answer.
	ErrAudit = errors.New("the audit log cannot be written")
)

// kind is how an error looks from outside.
type kind struct {
	err    error
	status int
	code   string // stable
	title  string
	hint   string
	detail bool          // the error's own text is safe to show, and of use
	retry  time.Duration // Retry-After
}

// internal is what every error is that stands in no line of the table.
var internal = kind{status: http.StatusInternalServerError, code: "internal", title: "Something went wrong inside keyd",
	hint: "the daemon's log says what, under this request id"}

// kinds is the one table from errors to problems. The first line that matches
// is the answer, so what makes the others unimportant comes first.
var kinds = []kind{
	{err: ErrAudit, status: 503, code: "audit_unavailable", title: "The audit log cannot be written", hint: "see whether its disk is full; keyd must then be restarted", retry: 30 * time.Second},
	{err: rotation.ErrAudit, status: 503, code: "audit_unavailable", title: "The audit log cannot be written", hint: "see whether its disk is full; keyd must then be restarted", detail: true, retry: 30 * time.Second},

	{err: ErrCallNotAllowed, status: 403, code: "call_not_allowed", title: "The call is not allowed by the config", hint: "allow of the partner in the config says which methods and paths, and forward which headers", detail: true},
	{err: ErrCallRequest, status: 400, code: "bad_request", title: "The request cannot be understood", detail: true},
	{err: rotation.ErrNotPinned, status: 409, code: "partner_key_not_pinned", title: "The partner's public key is not one that is pinned", hint: "nothing is sealed to it; ask the partner, by another way than its API, and add the fingerprint to pin in the config if it is right", detail: true},
	{err: ErrCallCredentials, status: 502, code: "partner_error", title: "keyd's own credentials for the partner do not work", hint: "the request was not sent; see client_secret and secret_headers of the partner in the config, and what they name", detail: true},
	{err: errUnanswered, status: 502, code: "partner_error", title: "The partner did not answer", hint: "if the request left, it may have had its effect: find out before it is sent again", detail: true},
	{err: errPartner, status: 502, code: "partner_error", title: "Asking the partner did not work", hint: "keyd partners refresh tries it again", detail: true},

	{err: errForbidden, status: 403, code: "forbidden", title: "The caller may not do this", hint: "the roles in the config say who may; the refusal is in the audit log"},
	{err: errNotClient, status: 403, code: "forbidden", title: "The caller may not do this", hint: "roles.clients in the config say whose user or group may seal and open for which partner (may: [crypt]) and who may call it (may: [call]); the refusal is in the audit log"},
	{err: errBrowser, status: 403, code: "forbidden", title: "Requests made by a browser are refused", hint: "use keyd's own command, or curl with --unix-socket and the host keyd or localhost"},
	{err: errNoRoute, status: 404, code: "not_found", title: "There is no such path on this listener", hint: "docs/api.md lists them; the client and the admin socket serve different ones"},
	{err: errMethod, status: 405, code: "method_not_allowed", title: "The path does not take this method", hint: "the header Allow says which it takes"},
	{err: errTooLarge, status: 413, code: "too_large", title: "The body is too large", hint: "the limits are in the config", detail: true},
	{err: errMedia, status: 415, code: "unsupported_media", title: "The body is of a type that is not taken here", hint: "curl --data-binary @file sends an envelope or a plaintext as it is, curl --json what the admin socket takes", detail: true},
	{err: errSlow, status: 408, code: "slow_body", title: "The body did not arrive in time"},

	{err: jwe.ErrMalformed, status: 400, code: "malformed_envelope", title: "Not a JWE in compact serialization", detail: true},
	{err: errNever, status: 400, code: "algorithm_not_allowed", title: "The envelope asks for an algorithm that is not allowed", hint: "keyd never accepts it, whatever the config says: the partner must seal with alg RSA-OAEP-256 or ECDH-ES, without zip and crit; a reply with alg dir opens in its exchange", detail: true},
	{err: errOtherReply, status: 400, code: "algorithm_not_allowed", title: "The envelope is not a reply of this exchange", hint: "what is sealed to our standing key is opened without an exchange", detail: true},
	{err: jwe.ErrAlgorithm, status: 400, code: "algorithm_not_allowed", title: "The envelope asks for an algorithm that is not allowed", hint: "the partner's encs in the config say what is", detail: true},
	{err: jwe.ErrTooLarge, status: 413, code: "too_large", title: "The envelope is too large", hint: "the limits are in the config", detail: true},
	{err: exchange.ErrUnknown, status: 404, code: "exchange_unknown", title: "No such exchange is open", hint: "it opens one reply, for the partner and the user it was begun for, and for a few minutes; make the request again"},
	{err: exchange.ErrLost, status: 410, code: "exchange_lost", title: "The exchange was lost", hint: "keyd or its token was restarted since; make the request again", detail: true},
	{err: exchange.ErrFull, status: 429, code: "exchange_limit", title: "Too many exchanges are open", hint: "open the replies, or let exchanges end sooner; limits.exchanges in the config", detail: true, retry: 5 * time.Second},
	{err: errCallsFull, status: 429, code: "call_limit", title: "Too many calls to the partner are under way", hint: "nothing was sent; the partner may be slow: keyd_partner_call_seconds; limits.calls in the config", detail: true, retry: time.Second},
	{err: ErrMissingKID, status: 400, code: "missing_kid", title: "The envelope names no kid", hint: "the partner must be told which of our keys to seal to: send the headers of GET /v1/partners/{partner}"},
	{err: ErrUnknownKID, status: 404, code: "unknown_kid", title: "The kid of the envelope is not known", hint: "keyd keys show lists the kids; an envelope is opened for the partner it came from"},
	{err: ErrNotOpen, status: 409, code: "key_not_open", title: "The version that the envelope is for does not open yet", hint: "the partner has not been told of it by keyd: see the version's history"},
	{err: ErrCompromised, status: 410, code: "key_compromised", title: "The version that the envelope is for is compromised", hint: "ask the partner again, naming the active version"},
	{err: ErrDestroyed, status: 410, code: "key_destroyed", title: "The version that the envelope is for is destroyed", hint: "ask the partner again, naming the active version"},
	{err: boundary.ErrBelowFloor, status: 503, code: "below_floor", title: "The backend works at a lower boundary than the key's policy allows", hint: "see min_boundary of the key and of its backend, and keyd status"},
	{err: rotation.ErrBoundary, status: 503, code: "below_floor", title: "The backend works at a lower boundary than the key's policy allows", hint: "see min_boundary of the key, and keyd status", detail: true},

	{err: boundary.ErrBusy, status: 503, code: "backend_busy", title: "The key backend is busy", hint: "try again; if it stays so, raise the backend's sessions", retry: time.Second},
	{err: boundary.ErrDisabled, status: 503, code: "backend_unavailable", title: "The private key is disabled in its backend", hint: "keyd doctor says which; find out who disabled it, and enable it there", retry: 30 * time.Second},
	{err: boundary.ErrUnavailable, status: 503, code: "backend_unavailable", title: "The key backend cannot be used now", hint: "keyd status says why", retry: 5 * time.Second},
	{err: context.DeadlineExceeded, status: 504, code: "timeout", title: "It took too long", hint: "keyd status says how the backends and partners are"},
	{err: context.Canceled, status: 504, code: "timeout", title: "The request was given up", hint: "the caller went away, or keyd is stopping"},
	{err: rotation.ErrSelfTest, status: 409, code: "self_test", title: "The key pair failed its self-test", detail: true},
	// RFC 7516 §11.5: one answer whatever the reason, so nothing of the error's
	// own text.
	{err: boundary.ErrOpen, status: 422, code: "open_failed", title: "The envelope does not open", hint: "it was sealed to another key, or changed on the way"},
	{err: errNotText, status: 422, code: "not_text", title: "What was sealed cannot stand in JSON", hint: "open that envelope by itself; field puts back a string, field_json a JSON value", detail: true},
	{err: ErrBackend, status: 503, code: "backend_unavailable", title: "The key backend cannot be used now", hint: "keyd doctor says why", retry: 5 * time.Second},

	{err: errNeedsToken, status: 400, code: "needs_token", title: "The partner shows its key to a user's own token only", hint: "send yours with encrypt or call, in the header Authorization (--token); keyd hands it to the partner, and keeps the key"},
	{err: errNotFound, status: 404, code: "not_found", title: "There is nothing of that name", detail: true},
	{err: registry.ErrNotFound, status: 404, code: "not_found", title: "There is nothing of that name", detail: true},
	{err: errNoActive, status: 409, code: "no_active", title: "The partner's key has no active version", hint: "keyd keys list says what it waits for", retry: 30 * time.Second},
	{err: rotation.ErrState, status: 409, code: "state", title: "Not possible in this state", detail: true},
	{err: rotation.ErrNeeded, status: 409, code: "needed", title: "The version may still be needed", detail: true},
	{err: rotation.ErrNoPartner, status: 409, code: "no_partner", title: "No such partner is configured", detail: true},
	{err: rotation.ErrNoBackend, status: 409, code: "no_backend", title: "No such backend is configured", detail: true},
	{err: rotation.ErrNoPartnerKey, status: 409, code: "no_partner_key", title: "The partner's public key is not known", detail: true},
	{err: errMoving, status: 409, code: "in_flight", title: "A rotation is under way", hint: "ask again when keyd keys show says that nothing is left to do", detail: true},
	{err: registry.ErrExists, status: 409, code: "exists", title: "The name is taken", detail: true},
	{err: registry.ErrInFlight, status: 409, code: "in_flight", title: "A rotation is under way", hint: "keyd keys show says what it waits for", detail: true},
	{err: registry.ErrSecondActive, status: 409, code: "second_active", title: "Another version is active", detail: true},
	{err: registry.ErrLastOpenable, status: 409, code: "last_openable", title: "No version would open any more", detail: true},
	{err: registry.ErrTransition, status: 409, code: "transition", title: "The version cannot move to that state", detail: true},
	{err: registry.ErrImmutable, status: 409, code: "immutable", title: "That cannot be changed", detail: true},
	{err: boundary.ErrNoKey, status: 404, code: "no_key", title: "The backend holds no such key", detail: true},
	{err: boundary.ErrAmbiguous, status: 409, code: "ambiguous", title: "More than one key matches", hint: "give the CKA_ID in hex", detail: true},
	{err: boundary.ErrUnsupported, status: 409, code: "unsupported", title: "The backend cannot do that", detail: true},
	{err: field.ErrPointer, status: 400, code: "bad_request", title: "The request cannot be understood", detail: true},
	{err: field.ErrDocument, status: 400, code: "bad_request", title: "The request cannot be understood", hint: "with field the body is a JSON document", detail: true},
	{err: field.ErrMissing, status: 400, code: "bad_request", title: "The request cannot be understood", hint: "field is a JSON pointer (RFC 6901), such as /card/pan", detail: true},
	{err: field.ErrOverlap, status: 400, code: "bad_request", title: "The request cannot be understood", detail: true},
	{err: errBadRequest, status: 400, code: "bad_request", title: "The request cannot be understood", detail: true},
	{err: rotation.ErrInvalid, status: 400, code: "bad_request", title: "Not a usable request", detail: true},
	{err: registry.ErrInvalid, status: 400, code: "bad_request", title: "Not a valid value", detail: true},
	{err: audit.ErrBroken, status: 503, code: "audit_unavailable", title: "The audit log cannot be read", hint: "keyd audit verify says where it is broken", detail: true},
}

// kindOf finds how an error looks from outside.
func kindOf(err error) kind {
	for _, k := range kinds {
		if errors.Is(err, k.err) {
			return k
		}
	}
	return internal
}

// retryAfter is what an error of a partner or of a backend may say.
type retryAfter interface{ RetryAfter() time.Duration }

// problem is an error as it is answered (RFC 9457).
func problem(err error, requestID string) (p client.Problem, after time.Duration) {
	k := kindOf(err)
	p = client.Problem{Type: "urn:keyd:problem:" + k.code, Title: k.title, Status: k.status, Code: k.code,
		Hint: k.hint, RequestID: requestID}
	if k.detail {
		p.Detail = detail(err, k)
	}
	after = k.retry
	if asked, ok := errors.AsType[interface {
		error
		retryAfter
	}](err); ok && slices.Contains([]string{"partner_error", "backend_busy", "backend_unavailable"}, k.code) {
		after = asked.RetryAfter()
	}
	return p, after
}

// refuse answers with a problem.
func (x *visit) refuse(err error) client.Problem {
	p, after := problem(err, x.id)
	h := x.w.Header()
	if after > 0 {
		h.Set("Retry-After", strconv.Itoa(int((after+time.Second-1)/time.Second)))
	}
	if p.Status == http.StatusForbidden || p.Status == http.StatusRequestEntityTooLarge || p.Status == http.StatusRequestTimeout {
		h.Set("Connection", "close") // what it still sends is not wanted
	}
	x.respond(p.Status, "application/problem+json", encode(p))
	return p
}

// encode is JSON as it travels. Its types always encode.
func encode(v any) []byte {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		panic(err)
	}
	return buf.Bytes()
}
