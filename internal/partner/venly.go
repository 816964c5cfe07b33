package partner

import (
	"cmp"
	"context"
	"crypto"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

const (
	venlyKeyPath = "/api/security"
	// DefaultVenlyTokenURL is Venly's Keycloak in production.
	DefaultVenlyTokenURL = "https://login.venly.io/auth/realms/Arkane/protocol/openid-connect/token" //nolint:gosec // G101: a URL
	// venlyMethodHeader carries an envelope; venlyClearHeader the same in clear,
	// which is what the envelope is there to replace.
	venlyMethodHeader = "Encrypted-Signing-Method"
	venlyClearHeader  = "Signing-Method"
)

// How the hash of a body is written in an envelope: Venly's sample code has it
// in base64, its guide in hex.
const (
	HashBase64 = "base64"
	HashHex    = "hex"
)

// What an envelope that is a body holds: the JSON object, or, as a demo page of
// Venly's does it, the JSON string of its text.
const (
	BodyObject = "object"
	BodyString = "string"
)

// VenlyConfig is one client of Venly's wallet API. Its base URL is the host, such
// as https://api-wallet.venly.io; paths begin with /api.
type VenlyConfig struct {
	Connection
	// Authorization of business requests: AuthService (the default) or
	// AuthCaller.
	Authorization string
	// ClientID, ClientSecret and TokenURL (DefaultVenlyTokenURL when empty) are
	// for AuthService.
	ClientID     string
	ClientSecret func() ([]byte, error)
	TokenURL     string
	// KeyID names the key to use; the first of those shown when empty.
	KeyID string
	// Hash is HashBase64 (the default) or HashHex.
	Hash string
	// Body is BodyObject (the default) or BodyString.
	Body string
}

func (c *VenlyConfig) check() (wrong complaints) {
	c.Authorization = cmp.Or(c.Authorization, AuthService)
	c.TokenURL = cmp.Or(c.TokenURL, DefaultVenlyTokenURL)
	c.Hash = cmp.Or(c.Hash, HashBase64)
	c.Body = cmp.Or(c.Body, BodyObject)
	wrong.add(!slices.Contains([]string{HashBase64, HashHex}, c.Hash), "hash %q: want %s or %s", c.Hash, HashBase64, HashHex)
	wrong.add(!slices.Contains([]string{BodyObject, BodyString}, c.Body), "body %q: want %s or %s", c.Body, BodyObject, BodyString)
	for _, name := range c.Forward {
		wrong.add(http.CanonicalHeaderKey(name) == venlyClearHeader, "forward: %s would send PINs in clear", venlyClearHeader)
	}
	switch c.Authorization {
	case AuthService:
		wrong.add(c.ClientID == "" || c.ClientSecret == nil, "client ID or client secret: missing")
		_, err := checkBase(c.TokenURL)
		wrong.add(err != nil, "token URL: %w", err)
	case AuthCaller:
	default:
		wrong.add(true, "authorization %q: want %s or %s", c.Authorization, AuthService, AuthCaller)
	}
	return wrong
}

// Venly speaks to Venly's wallet API. It is safe for concurrent use.
type Venly struct {
	cfg      VenlyConfig
	exchange *exchange
	*gate
}

// NewVenly checks the config and returns a client. It makes no call.
func NewVenly(cfg VenlyConfig) (*Venly, error) {
	wrong := cfg.check()
	x, err := cfg.open(wrong)
	if err != nil {
		return nil, err
	}
	secret := clientSecret{id: cfg.ClientID, secret: cfg.ClientSecret, in: SecretInForm}
	// Six minutes in the samples, five or thirty elsewhere: expires_in counts.
	tokens := &tokenSource{exchange: x.at(cfg.TokenURL), ask: secret.ask, form: tokenForm{early: 30 * time.Second}, logger: cfg.Logger}
	return &Venly{cfg: cfg, exchange: x, gate: &gate{exchange: x, tokens: tokens, auth: cfg.Authorization, allow: cfg.Allow,
		forward: canonical([]string{venlyMethodHeader}, cfg.Forward)}}, nil
}

// Profile says how requests are sealed. Replies are in clear.
func (v *Venly) Profile() Profile {
	return Profile{Type: TypeVenly, Form: FormVenly, KID: KIDTheirs, OurKey: OurKeyNone}
}

// Endpoint says whether an endpoint takes its envelope as the body or in a
// header.
func (v *Venly) Endpoint(method, path string) Endpoint {
	e := Endpoint{Direct: DirectNever, Header: http.Header{}, Envelope: EnvelopeHeader}
	for _, body := range []Allow{
		{[]string{http.MethodPost}, []string{"/api/users", "/api/users/*/signing-methods"}},
		{[]string{http.MethodPut}, []string{"/api/users/*/signing-methods/*"}},
	} {
		if body.includes(method, path) {
			e.Envelope = EnvelopeBody
		}
	}
	return e
}

// Headers are those of a request with a body, but for Authorization and, with
// EnvelopeHeader, what SealHeader makes.
func (v *Venly) Headers(string) http.Header {
	h := v.GetHeaders("")
	h.Set("Content-Type", jsonType)
	return h
}

// GetHeaders are those of a request without a body.
func (v *Venly) GetHeaders(string) http.Header {
	return http.Header{"Accept": {jsonType}, "Accept-Encoding": {"identity"}}
}

// FetchKey fetches the RSA key that envelopes are sealed to. Anybody may.
func (v *Venly) FetchKey(ctx context.Context) (id string, version int, algorithm string, public crypto.PublicKey, err error) {
	err = v.exchange.do(ctx, call{op: opKey, method: http.MethodGet, path: venlyKeyPath, header: v.GetHeaders(""), want: []int{http.StatusOK},
		read: func(a *answer) (err error) {
			id, public, err = v.readKey(a.body)
			return err
		}})
	if err != nil {
		return "", 0, "", nil, err
	}
	return id, 0, joseAlgorithm, public, nil
}

// readKey reads the list of keys. Venly's printed sample has a comma too many
// and is no JSON; an answer like it is refused, for what else is wrong with it
// nobody could say.
func (v *Venly) readKey(body []byte) (id string, public crypto.PublicKey, err error) {
	var list struct {
		Success bool `json:"success"`
		Result  struct {
			Keys []struct {
				ID        string `json:"id"`
				PublicKey string `json:"publicKey"`
				Algorithm string `json:"encryptionAlgorithm"`
			} `json:"encryptionKeys"`
		} `json:"result"`
	}
	if err := decodeJSON(body, &list); err != nil {
		return "", nil, err
	}
	if !list.Success {
		return "", nil, fmt.Errorf("%w: it does not say success", ErrAnswer)
	}
	for _, k := range list.Result.Keys {
		if v.cfg.KeyID != "" && k.ID != v.cfg.KeyID || k.Algorithm != "RSAES_OAEP_SHA_256" {
			continue
		}
		if !isKID(k.ID) {
			return "", nil, fmt.Errorf("%w: an id that cannot name a key", ErrAnswer)
		}
		key, err := parseSPKI(k.PublicKey)
		if err != nil {
			return "", nil, fmt.Errorf("%w: publicKey: %w", ErrAnswer, err)
		}
		return k.ID, key, nil
	}
	return "", nil, fmt.Errorf("%w: no key for RSAES_OAEP_SHA_256 that is wanted among %d", ErrAnswer, len(list.Result.Keys))
}

// Frame is the body itself: SealBody has made it, or it is in clear.
func (v *Venly) Frame(body []byte, _ int) ([]byte, error) { return body, nil }

// Do sends a business request and says what came back. A request that has the
// value of a signing method in clear is refused.
func (v *Venly) Do(ctx context.Context, req Request) (*Response, error) {
	own := v.GetHeaders("")
	if len(req.Body) > 0 {
		own = v.Headers("")
		if err := checkVenlyBody(req.Path, req.Body); err != nil {
			return nil, v.refuse("%w", err)
		}
	}
	return v.do(ctx, req, v.Endpoint(req.Method, req.Path), own, v.cfg.readStale(http.StatusBadRequest, http.StatusInternalServerError))
}

// checkVenlyBody looks for PINs in the places that the API has for them.
func checkVenlyBody(path string, body []byte) error {
	members, err := readObject(body)
	if err != nil {
		return err
	}
	pointers := []string{"/pincode", "/signingMethod/value"}
	if _, sealed := at(members, "/encryption/key/encryptedValue"); !sealed && strings.Contains(path, "/signing-methods") {
		pointers = append(pointers, "/value")
	}
	for _, p := range pointers {
		if _, clear := at(members, p); clear {
			return fmt.Errorf("%w: the body has %s in clear: seal it", ErrRequest, p)
		}
	}
	return nil
}
