package partner

import "net/http"

// The types of partner, for Profile.Type and for keyd's config.
const (
	TypeWise      = "wise"
	TypeWiseCard  = "wise-card"
	TypeJackHenry = "jackhenry"
	TypePowens    = "powens"
	TypeVenly     = "venly"
	TypeJWE       = "jwe" // described by the config alone
)

// What a partner wants sealed, for Profile.Form.
const (
	// FormBody: the whole body of a request is one compact JWE.
	FormBody = "body"
	// FormMember: the body is a JSON object that Frame puts the one compact JWE
	// into.
	FormMember = "member"
	// FormFields: the body is a JSON object some of whose values are each
	// replaced by a compact JWE of their own.
	FormFields = "fields"
	// FormVenly: Venly's own envelope, which is not JOSE; package partner makes
	// it.
	FormVenly = "venly"
)

// Whose key the kid in the JOSE header of a request names, for Profile.KID.
const (
	KIDOurs   = "ours"   // the key its reply is to be sealed to (Wise)
	KIDTheirs = "theirs" // the key it is sealed to (RFC 7516 §4.1.6)
	KIDNone   = "none"   // there is none
)

// How our public key gets to a partner, for Profile.OurKey.
const (
	OurKeyUploaded = "uploaded" // Announce
	OurKeyInBody   = "in-body"  // in the body of each request
	OurKeyFetched  = "fetched"  // the partner fetches our JWKS
	OurKeyByHand   = "by-hand"  // a person tells it
	OurKeyNone     = "none"     // no reply is sealed to a key of ours
)

// Whether a reply is sealed under its request's own content key (alg "dir"),
// for Endpoint.Direct.
const (
	DirectNever  = "never"
	DirectAlways = "always"
	DirectMaybe  = "maybe" // the partner's documents say both
)

// Where an endpoint takes Venly's envelope, for Endpoint.Envelope.
const (
	EnvelopeBody   = "body"   // SealBody
	EnvelopeHeader = "header" // SealHeader
)

// Profile is what sealing to and opening from a partner needs to know.
type Profile struct {
	// Type is one of the Type constants.
	Type string
	// Form is one of the Form constants.
	Form string
	// SealAlg is the JOSE alg of requests and decides which key they are
	// sealed to: RSA-OAEP-256, RSA1_5, ECDH-ES, ECDH-ES+A128KW, ECDH-ES+A256KW;
	// "" with FormVenly.
	SealAlg string
	// SealEnc is the content encryption of requests.
	SealEnc string
	// KID is one of the KID constants.
	KID string
	// URLHeader: the JOSE header of a request carries its path as url.
	URLHeader bool
	// JOSE are further members of the JOSE header of requests, with {kid} and
	// {key_id} in their values as in headers.
	JOSE map[string]string
	// IssuedAt: that header has iat, in IssuedSeconds or IssuedMilliseconds; ""
	// is none.
	IssuedAt string
	// ReplyAlgs and ReplyEncs are what is accepted in envelopes from the
	// partner. None: replies are in clear. RSA1_5 is never among them, and
	// "dir" stands for itself in Endpoint.Direct alone.
	ReplyAlgs, ReplyEncs []string
	// OurKey is one of the OurKey constants.
	OurKey string
	// CallersKey: the partner's key is shown to a caller's token only, so it is
	// FetchKeyAs that fetches it.
	CallersKey bool
	// Playground: Playground asks for an answer sealed to us.
	Playground bool
}

// Endpoint is what is documented, or set, of one of a partner's endpoints.
type Endpoint struct {
	// Direct is one of the Direct constants.
	Direct string
	// Header is what a request needs beside Headers or GetHeaders.
	Header http.Header
	// Needs are the headers that a caller must bring.
	Needs []string
	// Seal are JSON pointers (RFC 6901) of the values that are sealed, with
	// FormFields, as far as they are documented or set. A caller may name more.
	Seal []string
	// PublicKey is the JSON pointer of the member that our public key goes to,
	// with OurKeyInBody; "" where none does.
	PublicKey string
	// Envelope is one of the Envelope constants, with FormVenly.
	Envelope string
}
