package api

import (
	"context"
	"crypto"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"keyd/client"
	"keyd/internal/boundary"
	"keyd/internal/jwe"
)

// Partner is what the API knows of a counterparty. The config gives it.
type Partner struct {
	Name string
	Type string // "wise"

	// Form is what is sealed of a request.
	Form Form
	// Own makes its envelopes, with FormOwn.
	Own Enveloper
	// Seal and SealEnc are alg and enc of envelopes to it, but for FormOwn.
	Seal    jwe.SealAlg
	SealEnc string
	// KID is whose key the kid in the JOSE header of a request names.
	KID KIDOf
	// URLInJOSE: the JOSE header of a request carries its path as url.
	URLInJOSE bool
	// JOSE are further members of that header: in their values {kid} stands for
	// that of our active version, {key_id} for the partner's. IssuedIn is the unit of
	// its iat (time.Second or time.Millisecond); 0 is none.
	JOSE     map[string]string
	IssuedIn time.Duration

	// Algs and Encs are accepted in envelopes from it; none: it seals nothing to
	// us.
	Algs, Encs []string
	// Kidless is what is done with an envelope without a kid; ForeignKID takes
	// one whose kid is none of ours for such.
	Kidless    Kidless
	ForeignKID bool
	// Direct: there are endpoints whose reply comes under the content key of its
	// request.
	Direct bool
	// KeyInBody: our public key travels in the body of a request, a standing one
	// or one that is made for its reply.
	KeyInBody bool
	// Pins are the fingerprints of the keys that are sealed to; none is any.
	Pins []string
	// AnswerHeaders are headers of its answers that callers may see, beside the
	// usual ones, in canonical form.
	AnswerHeaders []string
	// Calls are the requests that the config allows, for callers to look at; Remote
	// holds them to it.
	Calls []client.Allowed
	// CallersKey: the partner shows its key to a caller's own token only.
	CallersKey bool

	Remote Remote
}

// Form is what is sealed of a request.
type Form string

// What can be sealed of a request.
const (
	FormBody   Form = "body"   // all of it: the envelope is the body
	FormMember Form = "member" // all of it: the envelope stands in a frame
	FormFields Form = "fields" // values in a JSON body, each by itself
	FormOwn    Form = "own"    // the partner has its own kind of envelope, in the body or in a header
)

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
	// and without one, when kid is our active version and keyID the partner's name
	// for the key that it is sealed to.
	Headers(kid, keyID string) http.Header
	GetHeaders(kid string) http.Header
	// Endpoint says what is special about one of its endpoints.
	Endpoint(method, path string) Endpoint
	// Frame makes the body of a request of the envelope it carries, with
	// FormMember. version is that of the partner's key.
	Frame(envelope []byte, version int) ([]byte, error)
	// PublicKey writes a public key of ours as JSON, as the partner wants it in a
	// body, with KeyInBody. kid is "" for one that was made for a reply.
	PublicKey(public crypto.PublicKey, kid string) (json.RawMessage, error)
	// Allows reports whether the config allows a request, before anything is done
	// for it: nil, ErrCallNotAllowed or ErrCallRequest.
	Allows(method, path string) error
	// Do sends a request, if the config allows it. An error is that it was not
	// sent (ErrCallNotAllowed, ErrCallRequest, ErrCallCredentials) or not answered.
	Do(ctx context.Context, r Request) (*Response, error)
}

var (
	// ErrCallNotAllowed: the config does not allow the call. Nothing was sent.
	ErrCallNotAllowed = errors.New("the call is not allowed by the config")
	// ErrCallCredentials: keyd's own credentials at the partner do not work, or
	// cannot be read. Nothing was sent.
	ErrCallCredentials = errors.New("keyd's own credentials for the partner do not work")
	// ErrCallRequest: the request cannot be sent as it is. Nothing was sent.
	ErrCallRequest = errors.New("not a request that can be sent")
)

// Endpoint is what is special about an endpoint of a partner.
type Endpoint struct {
	// Direct: its reply may come under the content key of the request.
	Direct bool
	// Header is what a request there needs besides.
	Header http.Header
	// Seal are JSON pointers of values that are to be sealed, with FormFields.
	Seal []string
	// PublicKey is where our public key goes, with KeyInBody; "" is nowhere.
	PublicKey string
	// Envelope is InBody or InHeader, with FormOwn.
	Envelope string
}

// hasExchanges reports whether a request to it can begin an exchange.
func (p *Partner) hasExchanges() bool { return p.Direct || p.KeyInBody }

func (p *Partner) check() error {
	var problems []error
	wrong := func(is bool, format string, args ...any) {
		if is {
			problems = append(problems, fmt.Errorf("api: partner %q: %s", p.Name, fmt.Sprintf(format, args...)))
		}
	}
	wrong(p.Name == "", "no name given")
	wrong(p.Remote == nil, "no remote given")
	wrong(!slices.Contains([]Form{FormBody, FormMember, FormFields, FormOwn}, p.Form), "a form of %q", p.Form)
	wrong((p.Form == FormOwn) != (p.Own != nil), "an envelope of its own and a form of %q", p.Form)
	if p.Form != FormOwn {
		_, known := boundary.ContentOf(p.SealEnc)
		wrong(!slices.Contains(jwe.SealAlgs, p.Seal) || !known, "alg %q and enc %q are none to seal with", p.Seal, p.SealEnc)
	}
	wrong(p.KID != KIDOurs && p.KID != KIDTheirs && p.KID != KIDNone, "a kid of %q, want ours, theirs or none", p.KID)
	wrong(!slices.Contains([]Kidless{"", KidlessRefuse, KidlessActive, KidlessAny}, p.Kidless), "kidless %q, want refuse, active or any-open", p.Kidless)
	wrong(len(p.Algs) > 0 && len(p.Encs) == 0, "algs without encs")
	for _, alg := range p.Algs {
		wrong(boundary.KeyAlgorithm(alg) == "", "alg %q is none that is opened", alg)
	}
	for _, enc := range p.Encs {
		_, known := boundary.ContentOf(enc)
		wrong(!known, "content encryption %q is not known", enc)
	}
	return errors.Join(problems...)
}
