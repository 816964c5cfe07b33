package partnersim

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/uuid"
)

// genericBase is what the paths of a partner of no name begin with. It is like
// Mastercard, Visa, Method or CyberSource: JWE in one member of a JSON body, or
// as the body; its key in a JWKS, in PEM, or in JSON of its own.
const genericBase = "/generic"

func (s *Sim) generic() []endpoint {
	at := s.genericAt
	return []endpoint{
		{EndpointGenericToken, "POST " + genericBase + "/oauth/token", s.genericToken},
		{EndpointGenericJWKS, "GET " + genericBase + "/jwks.json", s.genericJWKS},
		{EndpointGenericPEM, "GET " + genericBase + "/key.pem", s.genericPEM},
		{EndpointGenericKey, "GET " + genericBase + "/v1/key", at(s.genericKey)},
		{EndpointGenericEcho, "POST " + genericBase + "/v1/echo", at(s.genericEcho)},
		{EndpointGenericDirect, "POST " + genericBase + "/v1/direct", at(s.genericDirect)},
		{EndpointGenericFields, "POST " + genericBase + "/v1/fields", at(s.genericFields)},
	}
}

// genericError is an error in the commonest shape.
func genericError(status int, code, message string) reply {
	body, _ := json.Marshal(map[string]string{"code": code, "message": message}) // strings always encode
	return reply{status: status, body: body, refusal: message}
}

func genericUnauthorized(string) reply {
	return genericError(http.StatusUnauthorized, "unauthorized", "the token is missing or not valid")
}

// What the partner of no name takes in Authorization, for Options.GenericAuth.
const (
	AuthToken  = "token"  // an access token
	AuthBasic  = "basic"  // the client's id and secret (RFC 7617)
	AuthSecret = "secret" // the client's secret, as a bearer token
)

// genericAt serves who has the authority that the options ask for.
func (s *Sim) genericAt(serve func(*call) reply) func(*call) reply {
	withToken := s.authorizedAt(Generic, serve)
	return func(c *call) reply {
		id, secret, _ := c.BasicAuth()
		switch {
		case s.opt.GenericAPIKey != "" && !same(c.Header.Get(s.opt.GenericAPIKey), s.opt.ClientSecret),
			s.opt.GenericAuth == AuthBasic && (!same(id, s.opt.ClientID) || !same(secret, s.opt.ClientSecret)),
			s.opt.GenericAuth == AuthSecret && !same(bearer(c.Header), s.opt.ClientSecret):
			return genericUnauthorized("")
		case s.opt.GenericAuth == AuthToken:
			return withToken(c)
		}
		return serve(c)
	}
}

func (s *Sim) genericToken(c *call) reply {
	form, err := url.ParseQuery(string(c.body))
	id, secret, basic := c.BasicAuth()
	if !basic {
		id, secret = form.Get("client_id"), form.Get("client_secret")
	}
	switch {
	case err != nil || form.Get("grant_type") != "client_credentials":
		return oauthError(http.StatusBadRequest, "unsupported_grant_type", "grant_type must be client_credentials")
	case !same(id, s.opt.ClientID) || !same(secret, s.opt.ClientSecret):
		return oauthError(http.StatusUnauthorized, "invalid_client", "the client is not known")
	}
	token, _ := s.grant(c, Generic, newToken(TokenUUID), time.Hour)
	return s.answer(http.StatusOK, map[string]any{"access_token": token, "token_type": "Bearer", "expires_in": 3600})
}

// genericJWKS shows a key for signatures before the one to encrypt to.
func (s *Sim) genericJWKS(*call) reply {
	key := s.newest(Generic)
	return s.answer(http.StatusOK, jose.JSONWebKeySet{Keys: []jose.JSONWebKey{
		{Key: s.signer().Public(), KeyID: "signs", Use: "sig"},
		{Key: key.private.Public(), KeyID: key.id, Use: "enc", Algorithm: s.opt.GenericAlg},
	}})
}

func (s *Sim) genericPEM(*call) reply {
	key := s.newest(Generic)
	return reply{status: http.StatusOK, kind: "application/x-pem-file", body: []byte(writeKey(key.private.Public(), KeyPEM))}
}

func (s *Sim) genericKey(*call) reply {
	key := s.newest(Generic)
	return s.answer(http.StatusOK, map[string]any{"data": map[string]string{"publicKey": spki(key.private.Public()), "keyId": key.id}})
}

// openGeneric opens a JWE and holds it to what the documents of such partners
// ask for.
func (s *Sim) openGeneric(c *call, jwe string) (opened, reply) {
	o, err := s.open(Generic, jwe, jose.KeyAlgorithm(s.opt.GenericAlg), jose.ContentEncryption(s.opt.GenericEnc))
	switch {
	case err != nil:
	case o.header.KID != o.key.id:
		err = errors.New("the JOSE header names another key, or none")
	case s.opt.GenericKeyHeader != "" && c.Header.Get(s.opt.GenericKeyHeader) != o.key.id:
		err = fmt.Errorf("the header %s names another key, or none", s.opt.GenericKeyHeader)
	}
	if err != nil {
		rep := genericError(http.StatusBadRequest, "decryption_failed", "the payload cannot be decrypted")
		rep.refusal = err.Error()
		return opened{}, rep
	}
	return o, reply{}
}

// body takes the JWE out of a request.
func (s *Sim) genericBody(c *call) (opened, reply) {
	if s.opt.GenericMember == "" {
		return s.openGeneric(c, string(c.body))
	}
	var in map[string]string
	if !hasType(c.Header, plainJSON) || json.Unmarshal(c.body, &in) != nil || len(in) != 1 {
		return opened{}, genericError(http.StatusBadRequest, "bad_request", "the body must be "+s.opt.GenericMember+" alone")
	}
	return s.openGeneric(c, in[s.opt.GenericMember])
}

// frame puts a reply where requests are.
func (s *Sim) genericFrame() func(string) any {
	if s.opt.GenericMember == "" {
		return nil
	}
	return func(jwe string) any { return map[string]string{s.opt.GenericMember: jwe} }
}

// genericEcho answers with the plaintext: sealed to the client's key if it has
// registered one.
func (s *Sim) genericEcho(c *call) reply {
	o, rep := s.genericBody(c)
	if rep.status != 0 {
		return rep
	}
	c.note(func(e *Request) { e.Effect, e.Opened = true, map[string]string{"body": digest(o.plaintext)} })
	s.mu.Lock()
	key := s.clientKeys
	s.mu.Unlock()
	v := map[string]any{"echo": json.RawMessage(o.plaintext)}
	switch public := key.Key.(type) {
	case nil:
		return s.answer(http.StatusOK, v)
	case *ecdsa.PublicKey:
		return s.sealed(&sealing{alg: jose.ECDH_ES_A256KW, key: public, kid: key.KeyID, enc: jose.A256GCM, frame: s.genericFrame()}, v)
	}
	return s.sealed(&sealing{alg: jose.RSA_OAEP_256, key: key.Key, kid: key.KeyID, enc: jose.A256GCM, frame: s.genericFrame()}, v)
}

// genericDirect answers under the request's own content key.
func (s *Sim) genericDirect(c *call) reply {
	o, rep := s.genericBody(c)
	switch {
	case rep.status != 0:
		return rep
	case o.content == nil:
		return genericError(http.StatusBadRequest, "bad_request", "there is no content key to answer under")
	}
	to := underSame(o)
	to.enc, to.frame = jose.ContentEncryption(s.opt.GenericEnc), s.genericFrame()
	return s.sealed(to, map[string]any{"echo": json.RawMessage(o.plaintext)})
}

// genericFields wants one value sealed.
func (s *Sim) genericFields(c *call) reply {
	var in struct {
		Secret string `json:"secret"`
	}
	if !hasType(c.Header, plainJSON) || json.Unmarshal(c.body, &in) != nil {
		return genericError(http.StatusBadRequest, "bad_request", "the body is not JSON")
	}
	o, rep := s.openGeneric(c, in.Secret)
	if rep.status != 0 {
		return rep
	}
	c.note(func(e *Request) { e.Effect, e.Opened = true, map[string]string{"secret": digest(o.plaintext)} })
	return s.answer(http.StatusOK, map[string]string{"id": uuid.NewString()})
}

// RegisterClientKey registers the key that the partner of no name seals its
// replies to. Nil is none.
func (s *Sim) RegisterClientKey(public crypto.PublicKey, kid string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clientKeys = jose.JSONWebKey{Key: public, KeyID: kid}
}

// postClientKey does so over the control wire.
func (s *Sim) postClientKey(r *http.Request) (int, any, error) {
	var in struct {
		KID string `json:"kid"`
		PEM string `json:"pem"`
	}
	if err := decode(r, &in); err != nil {
		return http.StatusBadRequest, nil, err
	}
	key, err := readPEM(in.PEM)
	if err != nil {
		return http.StatusBadRequest, nil, err
	}
	s.RegisterClientKey(key, in.KID)
	return http.StatusNoContent, nil, nil
}

// readPEM reads a public key given over the control wire.
func readPEM(text string) (crypto.PublicKey, error) {
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return nil, errors.New("pem is none")
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("reading pem: %w", err)
	}
	return key, nil
}
