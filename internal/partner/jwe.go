package partner

import (
	"cmp"
	"context"
	"crypto"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
)

// JWEConfig is one client of a partner that the config alone describes: how it
// wants requests sealed, where its key is, what its replies are.
type JWEConfig struct {
	Connection
	// Key is where the partner's public key comes from.
	Key KeySource

	// Form is FormBody (the default), FormMember or FormFields.
	Form string
	// SealAlg is RSA-OAEP-256 (the default), ECDH-ES, ECDH-ES+A128KW or
	// ECDH-ES+A256KW; SealEnc is A256GCM when empty.
	SealAlg, SealEnc string
	// KID is KIDTheirs (the default), KIDOurs or KIDNone.
	KID string
	// URLHeader puts the path of a request into its JOSE header as url, JOSE adds
	// these members to it (with {kid} and {key_id} as in Header), and IssuedAt adds
	// iat in IssuedSeconds or IssuedMilliseconds.
	URLHeader bool
	JOSE      map[string]string
	IssuedAt  string

	// ReplyAlgs and ReplyEncs are what is accepted in replies. None: replies
	// are in clear.
	ReplyAlgs, ReplyEncs []string
	// Direct are the paths (as in Allow) whose replies come under the request's
	// own content key.
	Direct []string
	// OurKey is OurKeyNone (the default), OurKeyByHand, OurKeyFetched or
	// OurKeyInBody; with the last, KeyForm is how it is written there.
	OurKey, KeyForm string

	// RequestMember is the JSON pointer of the member that holds a sealed
	// request, with FormMember, such as /encData. ReplyMember is that of a reply;
	// RequestMember when empty.
	RequestMember, ReplyMember string
	// Fields says which values are sealed, with FormFields.
	Fields []FieldRule

	// ContentType and Accept of requests: application/jose with FormBody when
	// empty, application/json otherwise.
	ContentType, Accept string
	// Header are further headers of each request. In their values {kid} stands
	// for our active key's, {key_id} for the partner's, {uuid} for a new UUID.
	Header map[string]string
	// SecretHeader are headers whose values are secret, an API key for one. They
	// go to the host of the base URL alone.
	SecretHeader map[string]func() ([]byte, error)

	// Authorization of business requests: AuthCaller (the default), AuthService,
	// AuthBasic, AuthBearer or AuthNone.
	Authorization string
	// ClientID and ClientSecret are user and password for AuthBasic; the secret
	// alone is the token for AuthBearer.
	ClientID     string
	ClientSecret func() ([]byte, error)
	// The rest of the client credentials grant, for AuthService. SecretIn is
	// SecretInBasic (the default) or SecretInForm.
	TokenURL, SecretIn string
	Scopes             []string
	// StaleCodes are codes in error bodies that may mean that a request was
	// sealed to an old key.
	StaleCodes []string
}

// What iat in a JOSE header counts.
const (
	IssuedSeconds      = "seconds"
	IssuedMilliseconds = "milliseconds"
)

func (c *JWEConfig) setDefaults() {
	c.Form = cmp.Or(c.Form, FormBody)
	c.SealAlg = cmp.Or(c.SealAlg, joseAlgorithm)
	c.SealEnc = cmp.Or(c.SealEnc, "A256GCM")
	c.KID = cmp.Or(c.KID, KIDTheirs)
	c.OurKey = cmp.Or(c.OurKey, OurKeyNone)
	c.KeyForm = cmp.Or(c.KeyForm, KeySPKI)
	c.ReplyMember = cmp.Or(c.ReplyMember, c.RequestMember)
	media := jsonType
	if c.Form == FormBody {
		media = "application/jose" // RFC 7516 §13
	}
	c.ContentType, c.Accept = cmp.Or(c.ContentType, media), cmp.Or(c.Accept, media)
	c.Authorization = cmp.Or(c.Authorization, AuthCaller)
	c.SecretIn = cmp.Or(c.SecretIn, SecretInBasic)
	c.Key.setDefaults()
}

func (c *JWEConfig) check() (wrong complaints) {
	oneOf := func(what, got string, want ...string) {
		wrong.add(!slices.Contains(want, got), "%s %q: want %s", what, got, strings.Join(want, ", "))
	}
	oneOf("form", c.Form, FormBody, FormMember, FormFields)
	oneOf("seal alg", c.SealAlg, joseAlgorithm, algECDHES, algECDHES+"+A128KW", algECDHES+"+A256KW")
	oneOf("kid", c.KID, KIDTheirs, KIDOurs, KIDNone)
	oneOf("issued at", c.IssuedAt, "", IssuedSeconds, IssuedMilliseconds)
	oneOf("our key", c.OurKey, OurKeyNone, OurKeyByHand, OurKeyFetched, OurKeyInBody)
	oneOf("key form", c.KeyForm, keyForms...)
	oneOf("authorization", c.Authorization, AuthCaller, AuthService, AuthBasic, AuthBearer, AuthNone)
	oneOf("secret in", c.SecretIn, SecretInBasic, SecretInForm)
	for _, alg := range c.ReplyAlgs {
		oneOf("reply alg", alg, joseAlgorithm, algECDHES, algECDHES+"+A128KW", algECDHES+"+A256KW")
	}
	wrong.add(len(c.ReplyAlgs) > 0 && len(c.ReplyEncs) == 0, "reply encs: missing beside reply algs")
	wrong.add(c.OurKey == OurKeyNone && len(c.ReplyAlgs) > 0, "replies are sealed to a key of ours, and our key is %s", OurKeyNone)
	wrong.add((c.Form == FormMember) != (c.RequestMember != ""), "request member: want one with form %s, and with that alone", FormMember)
	for _, p := range []string{c.RequestMember, c.ReplyMember} {
		wrong.add(p != "" && (!strings.HasPrefix(p, "/") || strings.Contains(p, "~")), "member %q: want a JSON pointer of plain names", p)
	}
	wrong.add(len(c.Fields) > 0 && c.Form != FormFields, "fields: want form %s", FormFields)
	for _, r := range c.Fields {
		r.check(&wrong)
	}
	for _, p := range c.Direct {
		wrong.check(checkPattern(p))
	}
	c.checkHeaders(&wrong)
	for name := range c.JOSE {
		wrong.add(slices.Contains([]string{"", "alg", "enc", "kid", "zip", "crit", "epk", "apu", "apv", "iat", "url"}, name), "jose %q: keyd sets it by itself, or never", name)
	}
	c.checkAuthority(&wrong)
	c.Key.check(&wrong, c.BaseURL)
	return wrong
}

func (c *JWEConfig) checkHeaders(wrong *complaints) {
	set := canonical(c.Forward)
	for name, value := range c.Header {
		wrong.add(!forwardable(name) || !isPrintable(value), "header %q: not one to set, or not with this value", name)
		set = append(set, http.CanonicalHeaderKey(name))
	}
	for name := range c.SecretHeader {
		wrong.add(!forwardable(name), "secret header %q: not one to set", name)
		wrong.add(slices.Contains(set, http.CanonicalHeaderKey(name)), "secret header %q: set or forwarded too", name)
		set = append(set, http.CanonicalHeaderKey(name))
	}
}

func (c *JWEConfig) checkAuthority(wrong *complaints) {
	with := func(auth string) bool { return c.Authorization == auth || c.Key.Authorization == auth }
	if with(AuthService) {
		_, err := checkBase(c.TokenURL)
		wrong.add(err != nil, "token URL: %w", err)
	}
	named := with(AuthService) || with(AuthBasic)
	wrong.add(named && c.ClientID == "" || (named || with(AuthBearer)) && c.ClientSecret == nil, "client ID or client secret: missing")
	wrong.add(with(AuthBasic) && (strings.Contains(c.ClientID, ":") || !isPrintable(c.ClientID)), "client ID %q: not a user's name for authorization %s", c.ClientID, AuthBasic)
}

// JWE speaks to a partner that its config describes. It is safe for concurrent
// use.
type JWE struct {
	cfg      JWEConfig
	exchange *exchange
	tokens   *tokenSource
	*gate
}

// NewJWE checks the config and returns a client. It makes no call.
func NewJWE(cfg JWEConfig) (*JWE, error) {
	cfg.setDefaults()
	wrong := cfg.check()
	x, err := cfg.open(wrong)
	if err != nil {
		return nil, err
	}
	secret := clientSecret{id: cfg.ClientID, secret: cfg.ClientSecret, in: cfg.SecretIn, scopes: cfg.Scopes}
	tokens := &tokenSource{exchange: x.at(cfg.TokenURL), ask: secret.ask, form: tokenForm{early: 30 * time.Second}, logger: cfg.Logger}
	return &JWE{cfg: cfg, exchange: x, tokens: tokens, gate: &gate{exchange: x, tokens: tokens, auth: cfg.Authorization, allow: cfg.Allow,
		reserved: cfg.reserved(x.base), forward: canonical(cfg.Forward), standing: cfg.standing(cfg.Authorization)}}, nil
}

// reserved are the paths below a base URL that are keyd's own: where it gets its
// token.
func (c *JWEConfig) reserved(base string) []string {
	if path, below := strings.CutPrefix(c.TokenURL, base+"/"); below {
		return []string{"/" + path}
	}
	return nil
}

// standing is keyd's own authority of one kind.
func (c *JWEConfig) standing(auth string) standing {
	return standing{auth: auth, id: c.ClientID, secret: c.ClientSecret, headers: c.SecretHeader}
}

// Profile says how requests are sealed and replies opened.
func (j *JWE) Profile() Profile {
	c := &j.cfg
	return Profile{Type: TypeJWE, Form: c.Form, SealAlg: c.SealAlg, SealEnc: c.SealEnc, KID: c.KID, URLHeader: c.URLHeader,
		JOSE: c.JOSE, IssuedAt: c.IssuedAt, ReplyAlgs: slices.Clone(c.ReplyAlgs), ReplyEncs: slices.Clone(c.ReplyEncs),
		OurKey: c.OurKey, CallersKey: c.Key.Authorization == AuthCaller}
}

// Endpoint says what is special about an endpoint.
func (j *JWE) Endpoint(_, path string) Endpoint {
	e := Endpoint{Direct: DirectNever, Header: http.Header{}}
	if matchesAny(j.cfg.Direct, path) {
		e.Direct = DirectAlways
	}
	fieldsOf(j.cfg.Fields, path, &e)
	return e
}

// Headers are those of a request with a body, but for Authorization and those
// that name the partner's key: see HeadersTo.
func (j *JWE) Headers(kid string) http.Header { return j.HeadersTo(kid, "") }

// HeadersTo are those of a request sealed to the partner's key with the given
// id.
func (j *JWE) HeadersTo(kid, keyID string) http.Header {
	h := j.getHeaders(kid, keyID)
	h.Set("Content-Type", j.cfg.ContentType)
	return h
}

// GetHeaders are those of a request without a body.
func (j *JWE) GetHeaders(kid string) http.Header { return j.getHeaders(kid, "") }

// getHeaders leaves out a header that would name nothing.
func (j *JWE) getHeaders(kid, keyID string) http.Header {
	h := http.Header{"Accept": {j.cfg.Accept}, "Accept-Encoding": {"identity"}}
	names := strings.NewReplacer("{kid}", kid, "{key_id}", keyID, "{uuid}", uuid.NewString())
	for name, value := range j.cfg.Header {
		if kid == "" && strings.Contains(value, "{kid}") || keyID == "" && strings.Contains(value, "{key_id}") {
			continue
		}
		h.Set(name, names.Replace(value))
	}
	return h
}

// PublicKey writes a public key of ours as the JSON value that goes where
// Endpoint.PublicKey points, with OurKeyInBody.
func (j *JWE) PublicKey(public crypto.PublicKey, kid string) (json.RawMessage, error) {
	return encodeOurKey(public, kid, j.cfg.KeyForm)
}

// Announce has nobody to tell: our key is fetched, or travels in requests.
// Where a person tells the partner, it is not to be called.
func (j *JWE) Announce(context.Context, string, crypto.PublicKey, time.Time, time.Time) error {
	return nil
}
