package api

import (
	"errors"
	"fmt"
	"net/http"

	"keyd/internal/boundary"
	"keyd/internal/jwe"
)

// Partner is what the API knows of a counterparty. The config gives it.
type Partner struct {
	Name string
	Type string // "wise"

	// Seal and SealEnc are alg and enc of envelopes to it.
	Seal    jwe.SealAlg
	SealEnc string
	// KID is whose key the kid in the JOSE header of a request names.
	KID KIDOf

	// Algs and Encs are accepted in envelopes from it; none: it seals nothing to
	// us.
	Algs, Encs []string
	// Direct: there are endpoints whose reply comes under the content key of its
	// request.
	Direct bool

	Remote Remote
}

// KIDOf is whose key a kid names.
type KIDOf string

// Whose key the kid in the JOSE header of a request can name.
const (
	KIDOurs   KIDOf = "ours"   // the version of ours that the reply is to be sealed to
	KIDTheirs KIDOf = "theirs" // the key that it is sealed to (RFC 7516 §4.1.6)
	KIDNone   KIDOf = "none"
)

// Remote is what keyd knows how to say to a partner.
type Remote interface {
	// Headers and GetHeaders are what a request must carry, with a sealed body
	// and without one, when kid is our active version.
	Headers(kid string) http.Header
	GetHeaders(kid string) http.Header
	// Endpoint says what is special about one of its endpoints.
	Endpoint(method, path string) Endpoint
}

// Endpoint is what is special about an endpoint of a partner.
type Endpoint struct {
	// Direct: its reply may come under the content key of the request.
	Direct bool
	// Header is what a request there needs besides.
	Header http.Header
}

// hasExchanges reports whether a request to it can begin an exchange.
func (p *Partner) hasExchanges() bool { return p.Direct }

func (p *Partner) check() error {
	var problems []error
	wrong := func(is bool, format string, args ...any) {
		if is {
			problems = append(problems, fmt.Errorf("api: partner %q: %s", p.Name, fmt.Sprintf(format, args...)))
		}
	}
	wrong(p.Name == "", "no name given")
	wrong(p.Remote == nil, "no remote given")
	wrong(p.KID != KIDOurs && p.KID != KIDTheirs && p.KID != KIDNone, "a kid of %q, want ours, theirs or none", p.KID)
	wrong((len(p.Algs) == 0) != (len(p.Encs) == 0), "algs without encs, or the reverse")
	for _, alg := range p.Algs {
		wrong(boundary.KeyAlgorithm(alg) == "", "alg %q is none that is opened", alg)
	}
	for _, enc := range append([]string{p.SealEnc}, p.Encs...) {
		_, known := boundary.ContentOf(enc)
		wrong(!known, "content encryption %q is not known", enc)
	}
	return errors.Join(problems...)
}
