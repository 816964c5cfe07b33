package main

import (
	"fmt"
	"log/slog"
	"net/http"
	"reflect"
	"slices"
	"strings"

	"keyd/internal/boundary"
	"keyd/internal/partner"
	"keyd/internal/registry"
)

// partnerConfig is a counterparty. A setting that is for partners of some types
// says so in its tag, and is refused for others.
type partnerConfig struct {
	// Type is wise, wise-card, jackhenry, powens, venly or jwe.
	Type string `yaml:"type"`
	// URL is the partner's API, such as https://api.wise-sandbox.com.
	URL string `yaml:"url"`
	// Proxy is an http, https or socks5 URL, or "environment"; empty is none.
	Proxy string `yaml:"proxy"`
	// Timeout bounds one call.
	Timeout registry.Duration `yaml:"timeout"`
	TLS     tlsConfig         `yaml:"tls"`
	// Pin lists fingerprints ("sha256:" and the hex SHA-256 of the DER
	// SubjectPublicKeyInfo): nothing is sealed to a key of the partner's that is
	// not among them. Empty takes the key that it shows.
	Pin []string `yaml:"pin"`
	// Allow is which business requests keyd call sends. Empty is none.
	Allow []allowConfig `yaml:"allow"`
	// Forward names headers that a caller may set on them beside those the
	// partner documents.
	Forward []string `yaml:"forward"`
	// AnswerHeaders names headers of the answers that reach the caller beside the
	// usual ones and those that begin with X-.
	AnswerHeaders []string `yaml:"answer_headers"`
	// StaleStatus are the statuses that may mean that a request was sealed to an
	// old key; empty is what is known of the partner.
	StaleStatus []int `yaml:"stale_status"`

	// Authorization of those requests: caller (the bearer token that the caller
	// brings), service (a token that keyd asks for) or, for type jwe, basic
	// (client_id and client_secret), bearer (client_secret is the token) or none.
	Authorization string    `yaml:"authorization" for:"wise jackhenry powens venly jwe"`
	ClientID      string    `yaml:"client_id" for:"wise jackhenry powens venly jwe"`
	ClientSecret  secretRef `yaml:"client_secret" for:"wise powens venly jwe"`
	// TokenURL is where the token of authorization: service comes from.
	TokenURL string   `yaml:"token_url" for:"jackhenry venly jwe"`
	Scopes   []string `yaml:"scopes" for:"jackhenry powens jwe"`
	// SecretIn says how the client secret is sent: basic or form.
	SecretIn string `yaml:"secret_in" for:"jwe"`
	// Audience of the client assertion; empty is the token URL.
	Audience string `yaml:"audience" for:"jackhenry"`
	// AssertionKey says how the partner gets the public half of the key with
	// algorithm PS256: by-hand (keyd keys confirm) or fetched (it reads our JWKS).
	AssertionKey string `yaml:"assertion_key" for:"jackhenry"`

	// ResponseKID says where a request names the key that the answer is to be
	// sealed to: jose (the JOSE header's kid), header:NAME, or none.
	ResponseKID string `yaml:"response_kid" for:"wise"`
	// OnDuplicate says what a 409 to an upload we may have made before means:
	// fail (an operator looks at it) or accept.
	OnDuplicate string `yaml:"on_duplicate" for:"wise"`
	// Encs are the content encryptions accepted in answers, Algs the algs.
	Encs []string `yaml:"encs" for:"wise jackhenry jwe"`
	Algs []string `yaml:"algs" for:"jwe"`
	// Kidless says what is done with an answer without a kid: refuse it, open it
	// under the active version, or under any-open, the newest first. ForeignKID
	// says whether one with a kid that is none of ours is such (ignore) or refused.
	Kidless    string `yaml:"kidless" for:"wise jackhenry jwe"`
	ForeignKID string `yaml:"foreign_kid" for:"wise jackhenry jwe"`
	// SealEnc and SealAlg are the content encryption and the alg of requests.
	SealEnc string `yaml:"seal_enc" for:"wise jwe"`
	SealAlg string `yaml:"seal_alg" for:"jwe"`
	// Direct are the paths whose answers come under the request's own content
	// key, DirectMaybe those of which the partner's pages say both.
	Direct      []string `yaml:"direct" for:"wise jwe"`
	DirectMaybe []string `yaml:"direct_maybe" for:"wise"`
	// Replies of Wise's card data host are sealed, clear or either. KeyVersion
	// sends the version of its key instead of 1.
	Replies    string `yaml:"replies" for:"wise-card"`
	KeyVersion bool   `yaml:"key_version" for:"wise-card"`
	// Prefix and KeyPath are where Card Management begins, and where its key is.
	Prefix  string `yaml:"prefix" for:"jackhenry"`
	KeyPath string `yaml:"key_path" for:"jackhenry"`
	// KeyForm is how our public key is written into a body: spki, point,
	// base64-pem, jwk or base64-jwk.
	KeyForm string `yaml:"key_form" for:"jackhenry jwe"`
	// Fields says which values of which requests are sealed, and where our public
	// key goes.
	Fields []fieldsConfig `yaml:"fields" for:"jackhenry powens jwe"`
	// KeyAuthorization of asking for the key: open or service.
	KeyAuthorization string `yaml:"key_authorization" for:"powens"`
	// KeyID is the key to use where the partner shows several.
	KeyID string `yaml:"key_id" for:"powens venly"`
	// StaleCodes are codes of errors that may mean the same as StaleStatus.
	StaleCodes []string `yaml:"stale_codes" for:"powens jwe"`
	// Hash is how the hash of a body is written: base64 or hex. Body is what an
	// envelope that is a body holds: object or string.
	Hash string `yaml:"hash" for:"venly"`
	Body string `yaml:"body" for:"venly"`

	// The rest is for a partner that the config alone describes. Key is where its
	// public key comes from.
	Key keySourceConfig `yaml:"key" for:"jwe"`
	// Form is what is sealed of a request: body, member or fields.
	Form string `yaml:"form" for:"jwe"`
	// RequestMember and ReplyMember are where the envelope stands, with member.
	RequestMember string `yaml:"request_member" for:"jwe"`
	ReplyMember   string `yaml:"reply_member" for:"jwe"`
	// KID is whose key the kid of a request names: theirs, ours or none.
	KID string `yaml:"kid" for:"jwe"`
	// OurKey is how it gets ours: none, by-hand, fetched or in-body.
	OurKey string `yaml:"our_key" for:"jwe"`
	// JOSE are further members of the JOSE header, with {kid} and {key_id} as in
	// headers; URLHeader adds url, IssuedAt iat in seconds or milliseconds.
	JOSE      map[string]string `yaml:"jose" for:"jwe"`
	URLHeader bool              `yaml:"url_header" for:"jwe"`
	IssuedAt  string            `yaml:"issued_at" for:"jwe"`
	// ContentType, Accept and Headers of requests. SecretHeaders are headers whose
	// values are secret, such as an API key.
	ContentType   string               `yaml:"content_type" for:"jwe"`
	Accept        string               `yaml:"accept" for:"jwe"`
	Headers       map[string]string    `yaml:"headers" for:"jwe"`
	SecretHeaders map[string]secretRef `yaml:"secret_headers" for:"jwe"`
}

// allowConfig is a set of business requests that may leave. A path that ends in
// "/" stands for all below it, a segment "*" for any one.
type allowConfig struct {
	Methods []string `yaml:"methods"`
	Paths   []string `yaml:"paths"`
}

type fieldsConfig struct {
	Paths []string `yaml:"paths"`
	// Seal are JSON pointers of values, PublicKey that of the member for our key.
	Seal      []string `yaml:"seal"`
	PublicKey string   `yaml:"public_key"`
}

type keySourceConfig struct {
	URL  string `yaml:"url"`
	File string `yaml:"file"`
	// Authorization: open, service, basic, bearer or caller.
	Authorization string `yaml:"authorization"`
	// KeyID picks a key of a set, or names one that has no name; sha256 names it
	// by its fingerprint. Choose: only or first.
	KeyID  string `yaml:"key_id"`
	Choose string `yaml:"choose"`
	// Member and IDMember are where the key and its id stand in a JSON answer.
	Member   string `yaml:"member"`
	IDMember string `yaml:"id_member"`
}

func (c *partnerConfig) answerHeaders() []string {
	var names []string
	for _, name := range c.AnswerHeaders {
		names = append(names, http.CanonicalHeaderKey(name))
	}
	return names
}

// partnerTypes are those that the config knows.
var partnerTypes = []string{partner.TypeWise, partner.TypeWiseCard, partner.TypeJackHenry, partner.TypePowens, partner.TypeVenly, partner.TypeJWE}

// uses are the algorithms of the keys that a partner can have; nil if its config
// does not work at all.
func (c partnerConfig) uses(name string) []string {
	r, err := newRemote(name, c, dealings{log: slog.New(slog.DiscardHandler), signer: noSigner})
	if err != nil {
		return nil
	}
	uses := []string{}
	for _, alg := range r.Profile().ReplyAlgs {
		if use := boundary.KeyAlgorithm(alg); !slices.Contains(uses, use) {
			uses = append(uses, use)
		}
	}
	if c.Type == partner.TypeJackHenry && c.Authorization != partner.AuthCaller {
		uses = append(uses, boundary.PS256)
	}
	return uses
}

// strange are settings that were made and are for partners of another type.
func (c *partnerConfig) strange() []string {
	var found []string
	v := reflect.ValueOf(c).Elem()
	for i := range v.NumField() {
		f := v.Type().Field(i)
		types := strings.Fields(f.Tag.Get("for"))
		if len(types) > 0 && !slices.Contains(types, c.Type) && !v.Field(i).IsZero() {
			found = append(found, fmt.Sprintf("%s is for partners of type %s", f.Tag.Get("yaml"), strings.Join(types, ", ")))
		}
	}
	return found
}
