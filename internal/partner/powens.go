package partner

import (
	"cmp"
	"context"
	"crypto"
	"fmt"
	"net/http"
	"slices"
	"time"
)

const (
	powensKeyPath   = "/publickey"
	powensTokenPath = "/auth/token" //nolint:gosec // G101: a path
	// powensTokenLife: the answer does not say it, the documentation does.
	powensTokenLife = 30 * time.Minute
)

// KeyOpen: a partner shows its key to anybody. The other settings for how the
// key is asked for are AuthService and AuthCaller.
const KeyOpen = "open"

// PowensConfig is one client of Powens' API. Its base URL ends in the version,
// such as https://demo.biapi.pro/2.0.
type PowensConfig struct {
	Connection
	// Authorization of business requests: AuthCaller (the default: a user's
	// token) or AuthService.
	Authorization string
	// KeyAuthorization of fetching the key: KeyOpen (the default; the guide
	// names none) or AuthService.
	KeyAuthorization string
	// ClientID, ClientSecret and Scopes are for AuthService.
	ClientID     string
	ClientSecret func() ([]byte, error)
	Scopes       []string
	// KeyID names the key to use where Powens shows several. Whether it ever
	// does is not documented.
	KeyID string
	// StaleCodes are the error codes that may mean a request was sealed to an
	// old key: keymanager when nil, which is an inference from its name.
	StaleCodes []string
	// Fields says which values of which requests must be sealed. They are those
	// of each connector, so none are known here.
	Fields []FieldRule
}

func (c *PowensConfig) check() (wrong complaints) {
	c.Authorization = cmp.Or(c.Authorization, AuthCaller)
	c.KeyAuthorization = cmp.Or(c.KeyAuthorization, KeyOpen)
	if c.StaleCodes == nil {
		c.StaleCodes = []string{"keymanager"}
	}
	wrong.add(!slices.Contains([]string{AuthCaller, AuthService}, c.Authorization), "authorization %q: want %s or %s", c.Authorization, AuthCaller, AuthService)
	wrong.add(!slices.Contains([]string{KeyOpen, AuthService}, c.KeyAuthorization), "key authorization %q: want %s or %s", c.KeyAuthorization, KeyOpen, AuthService)
	wrong.add(c.needsToken() && (c.ClientID == "" || c.ClientSecret == nil), "client ID or client secret: missing, and %s needs them", AuthService)
	for _, r := range c.Fields {
		r.check(&wrong)
	}
	return wrong
}

func (c *PowensConfig) needsToken() bool {
	return c.Authorization == AuthService || c.KeyAuthorization == AuthService
}

// Powens speaks to Powens. It is safe for concurrent use.
type Powens struct {
	cfg      PowensConfig
	exchange *exchange
	tokens   *tokenSource
	*gate
}

// NewPowens checks the config and returns a client. It makes no call.
func NewPowens(cfg PowensConfig) (*Powens, error) {
	wrong := cfg.check()
	x, err := cfg.open(wrong)
	if err != nil {
		return nil, err
	}
	secret := clientSecret{id: cfg.ClientID, secret: cfg.ClientSecret, path: powensTokenPath, in: secretInJSON, scopes: cfg.Scopes}
	tokens := &tokenSource{exchange: x, ask: secret.ask, form: tokenForm{member: "token", untyped: true, unstated: powensTokenLife}, logger: cfg.Logger}
	return &Powens{cfg: cfg, exchange: x, tokens: tokens, gate: &gate{exchange: x, tokens: tokens, auth: cfg.Authorization, allow: cfg.Allow,
		reserved: []string{"/auth"}, forward: canonical([]string{"Accept-Language"}, cfg.Forward)}}, nil
}

// Profile says how requests are sealed. Replies are in clear.
func (p *Powens) Profile() Profile {
	return Profile{Type: TypePowens, Form: FormFields, SealAlg: joseAlgorithm, SealEnc: "A256GCM", KID: KIDTheirs, OurKey: OurKeyNone}
}

// Endpoint says what is special about an endpoint.
func (p *Powens) Endpoint(_, path string) Endpoint {
	e := Endpoint{Direct: DirectNever, Header: http.Header{}}
	fieldsOf(p.cfg.Fields, path, &e)
	return e
}

// Headers are those of a request with a body, but for Authorization.
func (p *Powens) Headers(string) http.Header {
	h := p.GetHeaders("")
	h.Set("Content-Type", jsonType)
	return h
}

// GetHeaders are those of a request without a body.
func (p *Powens) GetHeaders(string) http.Header {
	return http.Header{"Accept": {jsonType}, "Accept-Encoding": {"identity"}}
}

// FetchKey fetches the RSA key that values are sealed to. Its kid is the id.
func (p *Powens) FetchKey(ctx context.Context) (id string, version int, algorithm string, public crypto.PublicKey, err error) {
	c := call{op: opKey, method: http.MethodGet, path: powensKeyPath, header: p.GetHeaders(""), want: []int{http.StatusOK},
		read: func(a *answer) (err error) {
			id, public, err = p.readKey(a.body)
			return err
		}}
	if p.cfg.KeyAuthorization == AuthService {
		err = p.tokens.authorized(ctx, p.exchange, c)
	} else {
		err = p.exchange.do(ctx, c)
	}
	if err != nil {
		return "", 0, "", nil, err
	}
	return id, 0, joseAlgorithm, public, nil
}

// readKey reads the answer: a JWK, or a set with one that will do.
func (p *Powens) readKey(body []byte) (id string, public crypto.PublicKey, err error) {
	keys, err := readJWKs(body)
	if err != nil {
		return "", nil, err
	}
	k, err := chooseJWK(keys, p.cfg.KeyID, ChooseOnly)
	if err != nil {
		return "", nil, err
	}
	if !isKID(k.KID) { // it has to go into each envelope's header
		return "", nil, fmt.Errorf("%w: a kid that cannot name a key", ErrAnswer)
	}
	key, err := asRSA(k.public())
	if err != nil {
		return "", nil, fmt.Errorf("%w: %w", ErrAnswer, err)
	}
	return k.KID, key, nil
}

// Frame is the body itself: values in it are sealed, not the whole of it.
func (p *Powens) Frame(body []byte, _ int) ([]byte, error) { return body, nil }

// Do sends a business request and says what came back.
func (p *Powens) Do(ctx context.Context, req Request) (*Response, error) {
	to := p.Endpoint(req.Method, req.Path)
	own := p.GetHeaders("")
	if len(req.Body) > 0 {
		own = p.Headers("")
		if err := checkFields(req.Body, to); err != nil {
			return nil, p.refuse("%w", err)
		}
	}
	return p.do(ctx, req, to, own, p.read)
}

// read tells answers apart by the code of an error: {code, description, message,
// request_id}.
func (p *Powens) read(req Request, a *answer) (*Response, error) {
	res := newResponse(a)
	coded := a.status >= 400 && len(req.Body) > 0 && slices.Contains(p.cfg.StaleCodes, readFault(a.body).code)
	if res.Kind != KindLimited && (coded || p.cfg.stale(req, a)) {
		res.Kind = KindStale
	}
	return res, nil
}
