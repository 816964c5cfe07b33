package partner

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"slices"
)

var (
	// wiseDirect are the endpoints whose replies Wise's guide documents as
	// sealed under the request's own content key.
	wiseDirect = []string{
		"/v1/user/pin",
		"/v1/one-time-token/pin/verify",
		"/v1/user/partner-device-fingerprints",
		"/v1/one-time-token/partner-device-fingerprint/verify",
		"/v1/auth/jose/playground/jwe-direct-encryption",
	}
	// wiseDirectMaybe are PIN and device fingerprint endpoints of the second
	// version: the guide counts all such among the direct ones, their own pages
	// say "JOSE encrypted" and show a reply in clear besides.
	wiseDirectMaybe = []string{
		"/v2/profiles/*/pin", "/v2/profiles/*/pin/",
		"/v2/profiles/*/device-fingerprints", "/v2/profiles/*/device-fingerprints/",
	}
	// wiseReserved are the paths that are keyd's own: tokens, and the keys
	// Wise seals to.
	wiseReserved = []string{"/oauth", "/v1/auth/jose/request"}
	// wiseForward are request headers that Wise documents for callers.
	wiseForward = []string{"X-External-Correlation-Id", "X-Idempotence-Uuid", "X-2FA-Approval", "One-Time-Token", "Accept-Language"}
)

// Profile says how requests to Wise are sealed and its answers opened.
func (w *Wise) Profile() Profile {
	p := Profile{Type: TypeWise, Form: FormBody, SealAlg: joseAlgorithm, SealEnc: w.cfg.SealEnc, KID: KIDNone, URLHeader: true,
		ReplyAlgs: []string{joseAlgorithm}, ReplyEncs: slices.Clone(w.cfg.ReplyEncs), OurKey: OurKeyUploaded, Playground: true}
	if w.NamesKIDInJOSE() {
		p.KID = KIDOurs
	}
	return p
}

// Endpoint says what is special about one of Wise's endpoints. A request without
// a body has no content key that its reply could come under.
func (w *Wise) Endpoint(method, path string) Endpoint {
	e := Endpoint{Direct: DirectNever, Header: http.Header{}}
	switch {
	case method == http.MethodGet || method == http.MethodDelete:
		return e
	case matchesAny(w.cfg.Direct, path):
		e.Direct = DirectAlways
	case matchesAny(w.cfg.DirectMaybe, path):
		e.Direct = DirectMaybe
	default:
		return e
	}
	// Required on the PIN endpoints, sent in all samples of their kind.
	e.Header.Set("Content-Encoding", "identity")
	return e
}

// Frame makes the body of a request of the envelope that it carries.
func (w *Wise) Frame(envelope []byte, _ int) ([]byte, error) { return envelope, nil }

// Do sends a business request and says what came back. A request with a body
// that is not sealed is refused.
func (w *Wise) Do(ctx context.Context, req Request) (*Response, error) {
	if len(req.Body) > 0 && !isCompact(req.Body) {
		return nil, w.refuse("%w: the body is not a compact JWE", ErrRequest)
	}
	own := w.GetHeaders(req.KID)
	if len(req.Body) > 0 {
		own = w.Headers(req.KID)
	}
	return w.do(ctx, req, w.Endpoint(req.Method, req.Path), own, w.read)
}

// read tells Wise's answers apart: what it seals is of a type of its own, what is
// empty is not sealed, and errors are plain JSON.
func (w *Wise) read(req Request, a *answer) (*Response, error) {
	res := newResponse(a)
	switch {
	case a.media == joseType && res.Kind == KindPlain:
		if res.Envelope = bytes.TrimSpace(a.body); !isCompact(res.Envelope) {
			return nil, fmt.Errorf("%w: not a compact JWE", ErrAnswer)
		}
		res.Kind = KindSealed
	// Everything that is wrong with an envelope is this one error, and so is
	// an outage.
	case w.cfg.stale(req, a, http.StatusInternalServerError):
		res.Kind = KindStale
	}
	return res, nil
}

// isCompact reports whether b is in the form of a compact JWE (RFC 7516 §7.1).
func isCompact(b []byte) bool {
	return bytes.Count(b, []byte(".")) == 4 && !bytes.ContainsFunc(b, func(r rune) bool {
		return r != '.' && !isBase64URL(r)
	})
}

func isBase64URL(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_'
}
