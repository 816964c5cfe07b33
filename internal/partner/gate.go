package partner

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// opCall is what an *Error's Op calls a business request.
const opCall = "call"

// Whose authority a business request has, for the setting of a partner.
const (
	AuthCaller  = "caller"  // the bearer token that the caller brings
	AuthService = "service" // the access token keyd holds
	AuthBasic   = "basic"   // a user and a password of keyd's (RFC 7617)
	AuthBearer  = "bearer"  // a bearer token of keyd's that does not end
	AuthNone    = "none"    // no token
)

var (
	// ErrRequest: a business request that cannot be sent as it is. Nothing was
	// sent.
	ErrRequest = errors.New("not a request keyd sends")
	// ErrNotAllowed: the config does not allow the business request. Nothing
	// was sent.
	ErrNotAllowed = errors.New("not allowed by the config")
)

// Request is a business request that a caller wants made, sealed as the
// partner wants it.
type Request struct {
	// Method is GET, POST, PUT, PATCH or DELETE.
	Method string
	// Path is below the partner's base URL, such as /v1/cases. A host cannot be
	// named.
	Path  string
	Query url.Values
	// Header is what the caller wants sent beside what the partner needs, which
	// Do sets by itself.
	Header http.Header
	// Body is what the partner is to get: sealed, and framed where it wants a
	// frame. None with GET.
	Body []byte
	// KID is our active key's, for partners whose requests name it; KeyID is that
	// of the partner's key that the request is sealed to.
	KID, KeyID string
	// Authorization is the caller's own, "Bearer TOKEN", or "".
	Authorization string
}

// gate lets business requests out: to the partner's host alone, the allowed
// ones alone, with nothing in them that could make them other requests.
type gate struct {
	exchange *exchange
	allow    []Allow
	reserved []string // prefixes of paths that are keyd's own business
	forward  []string // headers a caller may set, in canonical form
	auth     string   // one of the Auth constants
	tokens   *tokenSource
	standing standing
}

// do sends a request to an endpoint with the partner's own headers and says what
// came back. read decides what an answer is.
func (g *gate) do(ctx context.Context, req Request, to Endpoint, own http.Header,
	read func(Request, *answer) (*Response, error)) (*Response, error) {
	if err := g.Allows(req.Method, req.Path); err != nil {
		return nil, err
	}
	header, err := g.admit(req, to, own)
	if err != nil {
		return nil, g.refuse("%w", err)
	}
	c := call{op: opCall, method: req.Method, path: req.Path, query: req.Query, header: header, body: req.Body, quiet: true, most: g.exchange.most}
	if err := g.standing.put(&c); err != nil {
		return nil, g.refuse("%w", err)
	}
	for repeated := false; ; repeated = true {
		token, err := g.authorize(ctx, &c, req.Authorization)
		if err != nil {
			return nil, err
		}
		var res *Response
		c.read = func(a *answer) (err error) {
			res, err = read(req, a)
			return err
		}
		if err := g.exchange.do(ctx, c); err != nil {
			return nil, err
		}
		if res.Status != http.StatusUnauthorized || g.auth != AuthService || repeated {
			return res.finish(append(c.own, token)), nil
		}
		g.tokens.drop(token)
	}
}

// refuse says why a request is not sent.
func (g *gate) refuse(format string, args ...any) error {
	return g.exchange.failed(call{op: opCall}, &answer{}, fmt.Errorf(format, args...))
}

// Allows reports why a request may not be made, before anything is sealed for it
// or asked of the partner: an ErrRequest or an ErrNotAllowed. Do asks again.
func (g *gate) Allows(method, path string) error {
	switch err := checkPath(path); {
	case !slices.Contains(methods, method):
		return g.refuse("%w: method %q: want %s", ErrRequest, method, strings.Join(methods, ", "))
	case err != nil:
		return g.refuse("%w: path %q: %w", ErrRequest, path, err)
	case under(g.reserved, path):
		return g.refuse("%w: %s is for keyd itself", ErrNotAllowed, path)
	case !slices.ContainsFunc(g.allow, func(a Allow) bool { return a.includes(method, path) }):
		return g.refuse("%w: %s %s", ErrNotAllowed, method, path)
	}
	return nil
}

// admit checks a request and returns the headers it goes out with.
func (g *gate) admit(req Request, to Endpoint, own http.Header) (http.Header, error) {
	switch {
	case len(req.Query.Encode()) > maxPath:
		return nil, fmt.Errorf("%w: a query longer than %d bytes", ErrRequest, maxPath)
	case req.Method == http.MethodGet && len(req.Body) > 0:
		return nil, fmt.Errorf("%w: a GET with a body", ErrRequest)
	case len(req.Body) > g.exchange.most:
		return nil, fmt.Errorf("%w: a body of more than %d bytes", ErrRequest, g.exchange.most)
	}
	header, err := g.callersHeader(req.Header)
	if err != nil {
		return nil, err
	}
	for _, name := range to.Needs {
		if header.Get(name) == "" {
			return nil, fmt.Errorf("%w: it needs the header %s", ErrRequest, name)
		}
	}
	maps.Copy(header, own)
	maps.Copy(header, to.Header)
	return header, nil
}

// maxHeaders bounds the values of a caller's headers together, in bytes.
const maxHeaders = 8 << 10

// callersHeader takes the headers a caller may set. One it may not set is an
// error: dropping it would leave the caller wondering.
func (g *gate) callersHeader(from http.Header) (http.Header, error) {
	header, total := http.Header{}, 0
	for name, values := range from {
		canonical := http.CanonicalHeaderKey(name)
		if !slices.Contains(g.forward, canonical) {
			return nil, fmt.Errorf("%w: the header %q; forward in the config names more that callers may set", ErrNotAllowed, name)
		}
		for _, v := range values {
			total += len(v)
			if !isPrintable(v) || total > maxHeaders {
				return nil, fmt.Errorf("%w: the value of the header %q is too long, or has characters that do not belong in one", ErrRequest, canonical)
			}
		}
		header[canonical] = slices.Concat(header[canonical], values)
	}
	return header, nil
}

// headerOf is a header that a caller may have spelt in its own way.
func headerOf(h http.Header, canonical string) string {
	for name, values := range h {
		if http.CanonicalHeaderKey(name) == canonical && len(values) > 0 {
			return values[0]
		}
	}
	return ""
}

// authorize puts the right authority on a call and returns keyd's own token,
// where that is it.
func (g *gate) authorize(ctx context.Context, c *call, authorization string) (token string, err error) {
	refuse := func(format string, args ...any) error {
		return g.exchange.failed(call{op: c.op}, &answer{}, fmt.Errorf(format, args...))
	}
	scheme, given, _ := strings.Cut(authorization, " ")
	switch {
	case g.auth != AuthCaller && authorization != "":
		return "", refuse("%w: a bearer token of the caller's own; authorization in the config says %s", ErrNotAllowed, g.auth)
	case g.auth == AuthNone, g.auth == AuthBasic, g.auth == AuthBearer: // standing has put it there
		return "", nil
	case g.auth == AuthService:
		if token, err = g.tokens.get(ctx); err != nil {
			return "", err
		}
		given = token
	case authorization == "":
		return "", refuse("%w: it needs the caller's own bearer token", ErrRequest)
	case !strings.EqualFold(scheme, "Bearer") || !isToken(given):
		return "", refuse("%w: the authorization is not a bearer token", ErrRequest)
	}
	c.header.Set("Authorization", "Bearer "+given)
	c.secrets = []string{given}
	return token, nil
}

// isToken reports whether s can stand in a header as a bearer token.
func isToken(s string) bool {
	return s != "" && len(s) <= maxToken && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' })
}

// forwardable reports whether a config may let callers set a header: none that
// says how the message travels, who asks, which request it really is (a method
// or a path in a header overrules what was checked), or what the body is.
func forwardable(name string) bool {
	if !validHeader(name) {
		return false
	}
	name = strings.ToLower(name)
	for _, prefix := range []string{"proxy-", "sec-", "x-forwarded-", "x-original-", "x-rewrite-", "x-http-method", "x-method-override"} {
		if strings.HasPrefix(name, prefix) {
			return false
		}
	}
	switch name {
	case "cookie", "expect", "keep-alive", "forwarded", "via", "range", "origin", "x-real-ip", "x-host", "http2-settings":
		return false
	}
	return true
}

// canonical is a list of header names in their canonical form.
func canonical(lists ...[]string) []string {
	names := slices.Concat(lists...)
	for i, name := range names {
		names[i] = http.CanonicalHeaderKey(name)
	}
	return names
}
