package partner

import (
	"cmp"
	"context"
	"crypto"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/google/uuid"
)

const (
	algECDHES = "ECDH-ES" // RFC 7518 §4.6
	// DefaultJackHenryTokenURL is Jack Henry Identity's.
	DefaultJackHenryTokenURL = "https://login.jackhenry.com/a/oidc-provider/api/v0/token" //nolint:gosec // G101: a URL
	// DefaultJackHenryPrefix is where Card Management begins, below the host.
	DefaultJackHenryPrefix = "/api/card-mgmt/v1"
	requestIDHeader        = "X-Request-Id"
)

// JackHenryConfig is one client of Jack Henry's Card Management API.
type JackHenryConfig struct {
	Connection
	// Prefix of the API's paths below the base URL, DefaultJackHenryPrefix when
	// empty.
	Prefix string
	// KeyPath is where the public key is fetched, "/encryption-utils/public-key/pem"
	// below Prefix when empty: a second such endpoint exists, and its path is
	// not documented.
	KeyPath string
	// Authorization of business requests and of fetching the key: AuthService
	// (the default: a token of Jack Henry Identity's) or AuthCaller. Which
	// tokens Card Management takes is not documented.
	Authorization string
	// ClientID and the settings down to Scopes are for AuthService.
	ClientID string
	// Signer is our active key for client assertions.
	Signer Signer
	// TokenURL is the token endpoint, DefaultJackHenryTokenURL when empty.
	TokenURL string
	// Audience of the assertion, TokenURL when empty.
	Audience string
	// Scopes asked for, openid when empty.
	Scopes []string
	// KeyForm is how our public key is written into requests: KeySPKI (the
	// default), KeyPoint, KeyBase64PEM, KeyJWK or KeyBase64JWK. "ECDH public key
	// in base64 format" is all that is documented.
	KeyForm string
	// Fields says which values of which requests are sealed. Nil is what is
	// documented.
	Fields []FieldRule
	// ReplyEncs are the content encryptions taken in replies, A256GCM when
	// empty. What replies are sealed with is not documented.
	ReplyEncs []string
}

func (c *JackHenryConfig) check() (wrong complaints) {
	c.Authorization = cmp.Or(c.Authorization, AuthService)
	c.Prefix = cmp.Or(c.Prefix, DefaultJackHenryPrefix)
	c.KeyPath = cmp.Or(c.KeyPath, c.Prefix+"/encryption-utils/public-key/pem")
	c.TokenURL = cmp.Or(c.TokenURL, DefaultJackHenryTokenURL)
	c.Audience = cmp.Or(c.Audience, c.TokenURL)
	c.KeyForm = cmp.Or(c.KeyForm, KeySPKI)
	if len(c.Scopes) == 0 {
		c.Scopes = []string{"openid"}
	}
	if len(c.ReplyEncs) == 0 {
		c.ReplyEncs = []string{"A256GCM"}
	}
	if c.Fields == nil {
		c.Fields = jackHenryFields(c.Prefix)
	}
	wrong.add(!slices.Contains(keyForms, c.KeyForm), "key form %q: want one of %v", c.KeyForm, keyForms)
	wrong.add(checkPath(c.Prefix) != nil || checkPath(c.KeyPath) != nil, "prefix %q, key path %q: want paths", c.Prefix, c.KeyPath)
	for _, r := range c.Fields {
		r.check(&wrong)
	}
	switch c.Authorization {
	case AuthService:
		wrong.add(c.ClientID == "", "client ID: missing")
		wrong.add(c.Signer == nil, "a key that signs client assertions: missing")
		_, err := checkBase(c.TokenURL)
		wrong.add(err != nil, "token URL: %w", err)
	case AuthCaller:
		wrong.add(c.ClientID != "" || c.Signer != nil, "a client ID or a signing key without authorization: service")
	default:
		wrong.add(true, "authorization %q: want %s or %s", c.Authorization, AuthService, AuthCaller)
	}
	return wrong
}

// jackHenryFields is what is documented of the fields.
func jackHenryFields(prefix string) []FieldRule {
	pan := []string{"/encryptedPrimaryAccountNumber"}
	return []FieldRule{
		{Paths: []string{prefix + "/*/card-credentials/search-by-pan"}, Seal: pan, PublicKey: "/publicKey"},
		// The search by card token: its path is not documented.
		{Paths: []string{prefix + "/*/card-credentials/"}, PublicKey: "/publicKey"},
		{Paths: []string{prefix + "/*/tokenization/card-tokens"}, Seal: pan},
	}
}

// jackHenryForward are request headers documented for callers.
var jackHenryForward = []string{requestIDHeader, "X-Correlation-ID", "X-BusinessCorrelationId", "X-WorkflowCorrelationId"}

// JackHenry speaks to Card Management. It is safe for concurrent use.
type JackHenry struct {
	cfg      JackHenryConfig
	exchange *exchange
	tokens   *tokenSource // nil with AuthCaller
	*gate
}

// NewJackHenry checks the config and returns a client. It makes no call.
func NewJackHenry(cfg JackHenryConfig) (*JackHenry, error) {
	wrong := cfg.check()
	x, err := cfg.open(wrong)
	if err != nil {
		return nil, err
	}
	j := &JackHenry{cfg: cfg, exchange: x}
	if cfg.Authorization == AuthService {
		a := assertion{clientID: cfg.ClientID, audience: cfg.Audience, scopes: cfg.Scopes, signer: cfg.Signer}
		j.tokens = &tokenSource{exchange: x.at(cfg.TokenURL), ask: a.ask, form: tokenForm{untyped: true, early: 30 * time.Second}, logger: cfg.Logger}
	}
	j.gate = &gate{exchange: x, tokens: j.tokens, auth: cfg.Authorization, allow: cfg.Allow,
		forward: canonical(jackHenryForward, cfg.Forward)}
	return j, nil
}

// Profile says how requests are sealed and replies opened.
func (j *JackHenry) Profile() Profile {
	return Profile{Type: TypeJackHenry, Form: FormFields, SealAlg: algECDHES, SealEnc: "A256GCM", KID: KIDTheirs,
		ReplyAlgs: []string{algECDHES}, ReplyEncs: slices.Clone(j.cfg.ReplyEncs), OurKey: OurKeyInBody,
		CallersKey: j.cfg.Authorization == AuthCaller}
}

// Endpoint says what is special about an endpoint.
func (j *JackHenry) Endpoint(_, path string) Endpoint {
	e := Endpoint{Direct: DirectNever, Header: http.Header{}}
	fieldsOf(j.cfg.Fields, path, &e)
	return e
}

// Headers are those of a request with a body, but for Authorization and
// X-Request-ID, which is a new UUID in each request.
func (j *JackHenry) Headers(string) http.Header {
	h := j.GetHeaders("")
	h.Set("Content-Type", jsonType)
	return h
}

// GetHeaders are those of a request without a body.
func (j *JackHenry) GetHeaders(string) http.Header {
	return http.Header{"Accept": {jsonType + ", " + problemType}, "Accept-Encoding": {"identity"}}
}

// PublicKey writes a public key of ours, standing or made for one request, as
// the JSON value that goes where Endpoint.PublicKey points.
func (j *JackHenry) PublicKey(public crypto.PublicKey, kid string) (json.RawMessage, error) {
	return encodeOurKey(public, kid, j.cfg.KeyForm)
}

// Announce has nobody to tell: our key travels in each request.
func (j *JackHenry) Announce(context.Context, string, crypto.PublicKey, time.Time, time.Time) error {
	return nil
}

// FetchKey fetches the EC key that values are sealed to.
func (j *JackHenry) FetchKey(ctx context.Context) (id string, version int, algorithm string, public crypto.PublicKey, err error) {
	if j.tokens == nil {
		return "", 0, "", nil, j.exchange.failed(call{op: opKey}, &answer{}, ErrNeedsCaller)
	}
	c := j.keyCall(&id, &public)
	if err := j.tokens.authorized(ctx, j.exchange, c); err != nil {
		return "", 0, "", nil, err
	}
	return id, 0, algECDHES, public, nil
}

// FetchKeyAs does the same with the bearer token of a caller, where the config
// says that requests carry theirs.
func (j *JackHenry) FetchKeyAs(ctx context.Context, authorization string) (id string, version int, algorithm string, public crypto.PublicKey, err error) {
	c := j.keyCall(&id, &public)
	if _, err := j.authorize(ctx, &c, authorization); err != nil {
		return "", 0, "", nil, err
	}
	if err := j.exchange.do(ctx, c); err != nil {
		return "", 0, "", nil, err
	}
	return id, 0, algECDHES, public, nil
}

func (j *JackHenry) keyCall(id *string, public *crypto.PublicKey) call {
	header := j.GetHeaders("")
	header.Set(requestIDHeader, uuid.NewString())
	return call{op: opKey, method: http.MethodGet, path: j.cfg.KeyPath, header: header, want: []int{http.StatusOK},
		read: func(a *answer) (err error) {
			*id, *public, err = readJackHenryKey(a.body)
			return err
		}}
}

// readJackHenryKey reads {"publicKey":"...","keyId":"..."}. "Base64-encoded
// PEM-formatted" may mean base64 of PEM or what is inside of PEM; PEM itself
// does no harm.
func readJackHenryKey(body []byte) (id string, public crypto.PublicKey, err error) {
	var k struct {
		PublicKey string `json:"publicKey"`
		KeyID     string `json:"keyId"`
	}
	if err := decodeJSON(body, &k); err != nil {
		return "", nil, err
	}
	if !isKID(k.KeyID) {
		return "", nil, fmt.Errorf("%w: a keyId that cannot name a key", ErrAnswer)
	}
	key, err := asEC(parseKeyText(k.PublicKey))
	if err != nil {
		return "", nil, fmt.Errorf("%w: publicKey: %w", ErrAnswer, err)
	}
	return k.KeyID, key, nil
}

// Frame is the body itself: values in it are sealed, not the whole of it.
func (j *JackHenry) Frame(body []byte, _ int) ([]byte, error) { return body, nil }

// Do sends a business request and says what came back. Sealed values of the
// answer are for whoever knows where they stand.
func (j *JackHenry) Do(ctx context.Context, req Request) (*Response, error) {
	to := j.Endpoint(req.Method, req.Path)
	own := j.GetHeaders("")
	if len(req.Body) > 0 {
		own = j.Headers("")
		if err := checkFields(req.Body, to); err != nil {
			return nil, j.refuse("%w", err)
		}
	}
	id := cmp.Or(headerOf(req.Header, requestIDHeader), uuid.NewString())
	to.Header.Set(requestIDHeader, id)
	res, err := j.do(ctx, req, to, own, j.cfg.readStale(http.StatusBadRequest, http.StatusInternalServerError))
	if err == nil && res.Header.Get(requestIDHeader) == "" {
		res.Header.Set(requestIDHeader, id) // for the caller, to whom it may be new
	}
	return res, err
}
