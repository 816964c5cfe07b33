package partner

import (
	"bytes"
	"net/http"
	"slices"
	"strings"
	"time"
)

// Kinds of Response, for Response.Kind.
const (
	// KindSealed: Envelope is a compact JWE.
	KindSealed = "sealed"
	// KindEmpty: there is no body, and so nothing to open.
	KindEmpty = "empty"
	// KindPlain: Body is the partner's own words and not sealed as a whole.
	KindPlain = "plain"
	// KindStale: an error that may mean that the request was sealed to a key
	// the partner no longer uses. Fetch its key once; if it is another one, seal
	// and send once more. With the same key the error is what it looks like, and
	// the request may have had its effect: do not repeat it.
	KindStale = "stale"
	// KindLimited: 429; RetryAfter is how long to wait, 0 if it does not say.
	KindLimited = "limited"
)

// Response is a partner's answer to a business request, whatever its status.
type Response struct {
	Status int
	// Header is what concerns the caller: not how the message travelled, no
	// cookies.
	Header http.Header
	Body   []byte
	// Kind is one of the Kind constants.
	Kind string
	// Envelope is the compact JWE that Body is or holds, with KindSealed.
	Envelope []byte
	// RetryAfter is how long the partner asks us to wait, with KindLimited and
	// with 503.
	RetryAfter time.Duration
}

// newResponse is an answer of the kind that can be told without knowing the
// partner: empty, limited or plain.
func newResponse(a *answer) *Response {
	res := &Response{Status: a.status, Header: a.header, Body: a.body, Kind: KindPlain}
	if a.status == http.StatusTooManyRequests || a.status >= 500 {
		res.RetryAfter = parseRetryAfter(a.header, time.Now())
	}
	switch {
	case a.status == http.StatusTooManyRequests:
		res.Kind = KindLimited
	case len(bytes.TrimSpace(a.body)) == 0:
		res.Kind = KindEmpty
	}
	return res
}

// shortestShown is the length of secrets that are looked for in answers: what is
// shorter stands in them by chance.
const shortestShown = 6

// finish takes out of a response what is not for the caller: headers about the
// connection, and secrets of keyd's own, which servers have been seen to repeat
// in their errors.
func (r *Response) finish(own []string) *Response {
	header := http.Header{}
	for name, values := range r.Header {
		if !ofConnection(name, r.Header) {
			header[name] = slices.Clone(values)
		}
	}
	for _, secret := range own {
		if len(secret) < shortestShown {
			continue
		}
		if bytes.Contains(r.Body, []byte(secret)) { // or it would be copied, and is the caller's to wipe
			r.Body = bytes.ReplaceAll(r.Body, []byte(secret), []byte("[redacted]"))
		}
		for name, values := range header {
			for i, v := range values {
				header[name][i] = strings.ReplaceAll(v, secret, "[redacted]")
			}
		}
	}
	r.Header = header
	return r
}

// ofConnection reports whether a header of an answer is about the connection
// it came on (RFC 9110 §7.6.1), or would bind a browser to the partner's site.
func ofConnection(name string, all http.Header) bool {
	switch name {
	case "Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authentication-Info", "Proxy-Connection", "Te", "Trailer",
		"Transfer-Encoding", "Upgrade", "Content-Length", "Content-Encoding", "Set-Cookie", "Set-Cookie2", "Alt-Svc",
		"Strict-Transport-Security", "Clear-Site-Data", "Public-Key-Pins":
		return true
	}
	for _, line := range all.Values("Connection") {
		for named := range strings.SplitSeq(line, ",") {
			if http.CanonicalHeaderKey(strings.TrimSpace(named)) == name {
				return true
			}
		}
	}
	return false
}
