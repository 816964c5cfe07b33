package partnersim

import (
	"crypto"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// assertionKeys are where Jack Henry finds the public key that a client's
// assertions verify with: a key that was registered, or a document fetched for
// each assertion, so that the client can rotate.
type assertionKeys struct {
	fixed jose.JSONWebKeySet
	fetch func() (jose.JSONWebKeySet, error)
	seen  map[string]bool // jti of assertions taken before
}

// RegisterAssertionKey registers a public key under a kid, "" for none, in place
// of what was registered.
func (s *Sim) RegisterAssertionKey(public crypto.PublicKey, kid string) {
	s.register(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: public, KeyID: kid}}}, nil)
}

// RegisterJWKS registers a way to fetch the client's keys.
func (s *Sim) RegisterJWKS(fetch func() ([]byte, error)) {
	s.register(jose.JSONWebKeySet{}, func() (set jose.JSONWebKeySet, err error) {
		raw, err := fetch()
		if err == nil {
			err = json.Unmarshal(raw, &set)
		}
		return set, err
	})
}

func (s *Sim) register(fixed jose.JSONWebKeySet, fetch func() (jose.JSONWebKeySet, error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.assertions.fixed, s.assertions.fetch = fixed, fetch
}

// fetchJWKS fetches a client's document as Jack Henry would.
func fetchJWKS(address string) ([]byte, error) {
	client := http.Client{Timeout: 5 * time.Second}
	res, err := client.Get(address)
	if err != nil {
		return nil, err
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("HTTP %d from the JWKS URL", res.StatusCode)
	}
	return io.ReadAll(io.LimitReader(res.Body, maxBody))
}

// jackHenryToken is POST .../token with a signed client assertion.
func (s *Sim) jackHenryToken(c *call) reply {
	if !hasType(c.Header, "application/x-www-form-urlencoded") {
		return oauthError(http.StatusBadRequest, "invalid_request", "the request is not a form")
	}
	form, err := url.ParseQuery(string(c.body))
	switch {
	case err != nil || form.Get("grant_type") != "client_credentials":
		return oauthError(http.StatusBadRequest, "unsupported_grant_type", "grant_type must be client_credentials")
	case form.Get("client_assertion_type") != "urn:ietf:params:oauth:client-assertion-type:jwt-bearer":
		return oauthError(http.StatusBadRequest, "invalid_request", "client_assertion_type must be that of a JWT")
	case form.Get("scope") == "":
		return oauthError(http.StatusBadRequest, "invalid_scope", "scope is required")
	}
	if err := s.checkAssertion(c, form.Get("client_assertion")); err != nil {
		rep := oauthError(http.StatusUnauthorized, "invalid_client", "client authentication failed")
		rep.refusal = err.Error()
		return rep
	}
	token, _ := s.grant(c, JackHenry, newToken(TokenJWT), s.opt.JackHenryTokenLifetime)
	return s.answer(http.StatusOK, map[string]any{"access_token": token, "token_type": "Bearer",
		"expires_in": int(s.opt.JackHenryTokenLifetime / time.Second), "scope": form.Get("scope")})
}

// checkAssertion verifies a client assertion (RFC 7523 §3).
func (s *Sim) checkAssertion(c *call, compact string) error {
	jws, err := jose.ParseSignedCompact(compact, []jose.SignatureAlgorithm{jose.PS256})
	if err != nil {
		return fmt.Errorf("parsing the assertion: %w", err)
	}
	payload, err := s.verify(jws)
	if err != nil {
		return err
	}
	var claims struct {
		JTI, Aud, Sub, Iss string
		Exp                int64 // seconds; milliseconds are a date far ahead
	}
	if err := json.Unmarshal(payload, &claims); err != nil {
		return fmt.Errorf("reading the claims: %w", err)
	}
	audience, err := url.Parse(claims.Aud)
	s.mu.Lock()
	defer s.mu.Unlock()
	now, exp := s.now(), time.Unix(claims.Exp, 0)
	switch {
	case err != nil || audience.Host != c.Host || audience.Path != c.URL.Path:
		return fmt.Errorf("aud is %q, not this endpoint", claims.Aud)
	case claims.Iss != s.opt.JackHenryClientID || claims.Sub != claims.Iss:
		return errors.New("iss or sub is not the client")
	case !now.Before(exp):
		return errors.New("the assertion has expired")
	case exp.After(now.Add(5 * time.Minute)):
		return fmt.Errorf("exp is %s ahead: more than five minutes", exp.Sub(now).Round(time.Minute))
	case claims.JTI == "" || s.assertions.seen[claims.JTI]:
		return errors.New("jti is missing, or has been used before")
	}
	s.assertions.seen[claims.JTI] = true
	return nil
}

// verify finds the key that the assertion names.
func (s *Sim) verify(jws *jose.JSONWebSignature) ([]byte, error) {
	s.mu.Lock()
	set, fetch := s.assertions.fixed, s.assertions.fetch
	s.mu.Unlock()
	if fetch != nil {
		var err error
		if set, err = fetch(); err != nil {
			return nil, fmt.Errorf("fetching the client's keys: %w", err)
		}
	}
	kid := jws.Signatures[0].Protected.KeyID
	for _, key := range set.Keys {
		if key.KeyID != "" && key.KeyID != kid || key.Use != "" && key.Use != "sig" {
			continue
		}
		if payload, err := jws.Verify(key.Key); err == nil {
			return payload, nil
		}
	}
	return nil, errors.New("no registered key verifies the assertion")
}

// postAssertionKeys registers a client's keys over the control wire.
func (s *Sim) postAssertionKeys(r *http.Request) (int, any, error) {
	var in struct {
		KID     string `json:"kid"`
		PEM     string `json:"pem"`
		JWKSURL string `json:"jwks_url"`
	}
	err := decode(r, &in)
	switch {
	case err != nil:
		return http.StatusBadRequest, nil, err
	case (in.PEM == "") == (in.JWKSURL == ""):
		return http.StatusBadRequest, nil, errors.New("want pem (and kid) or jwks_url")
	case in.JWKSURL != "":
		s.RegisterJWKS(func() ([]byte, error) { return fetchJWKS(in.JWKSURL) })
		return http.StatusNoContent, nil, nil
	}
	key, err := readPEM(in.PEM)
	if err != nil {
		return http.StatusBadRequest, nil, err
	}
	s.RegisterAssertionKey(key, in.KID)
	return http.StatusNoContent, nil, nil
}
