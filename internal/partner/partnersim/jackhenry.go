package partnersim

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/uuid"
)

// jackHenryBase is what the paths of the pretended Jack Henry begin with.
const jackHenryBase = "/jackhenry"

// Forms in which Jack Henry wants a client's public key, for
// Options.JackHenryKeyForm, beside KeySPKI and KeyBase64PEM: "base64" is all
// that is documented.
const (
	KeyPoint     = "point"      // base64 of the uncompressed point
	KeyJWK       = "jwk"        // a JWK
	KeyBase64JWK = "base64-jwk" // base64 of one
)

// The kid in a reply of Jack Henry's, for Options.JackHenryReplyKID. Nothing is
// documented.
const (
	ReplyKIDNone       = "none"
	ReplyKIDThumbprint = "thumbprint" // of the client's key (RFC 7638)
	ReplyKIDJWK        = "jwk"        // the one of a JWK the client sent
)

// jackHenry is Jack Henry's endpoints: Identity's for tokens, and Card
// Management's.
func (s *Sim) jackHenry() []endpoint {
	const cards = jackHenryBase + "/api/card-mgmt/v1/"
	at := func(serve func(*call) reply) func(*call) reply { return s.authorizedAt(JackHenry, serve) }
	return []endpoint{
		{EndpointJackHenryToken, "POST " + jackHenryBase + "/a/oidc-provider/api/v0/token", s.jackHenryToken},
		{EndpointJackHenryKey, "GET " + cards + "encryption-utils/public-key/pem", at(s.jackHenryKey)},
		{EndpointSearchByPAN, "POST " + cards + "{institution}/card-credentials/search-by-pan", at(s.searchByPAN)},
		{EndpointCardToken, "POST " + cards + "{institution}/tokenization/card-tokens", at(s.cardToken)},
		{EndpointValidateCard, "POST " + cards + "{institution}/digital-wallets/validations/encrypted-card-data", at(s.validateCard)},
	}
}

// jackHenryKey is GET .../encryption-utils/public-key/pem.
func (s *Sim) jackHenryKey(*call) reply {
	key := s.newest(JackHenry)
	return s.answer(http.StatusOK, map[string]string{"publicKey": writeKey(key.private.Public(), s.opt.JackHenryPEM), "keyId": key.id})
}

func badCard(message string) reply { return problemDetails(http.StatusBadRequest, "", message) }

// openJackHenry opens a JWE that a field of a request is, and says in the
// log whether it was well sealed.
func (s *Sim) openJackHenry(jwe string) ([]byte, reply) {
	o, err := s.open(JackHenry, jwe, jose.ECDH_ES, jose.A256GCM)
	if err == nil && o.header.KID != o.key.id {
		err = errors.New("the JOSE header names another key, or none")
	}
	if err != nil {
		rep := badCard("the encrypted data cannot be read")
		rep.refusal = err.Error()
		return nil, rep
	}
	return o.plaintext, reply{}
}

// pan opens the JWE of {"primaryAccountNumber":"..."}; the names of members are
// a guess.
func (s *Sim) pan(jwe *string) (string, reply) {
	if jwe == nil {
		return "", badCard("encryptedPrimaryAccountNumber is required")
	}
	plaintext, rep := s.openJackHenry(*jwe)
	if rep.status != 0 {
		return "", rep
	}
	var in struct {
		PAN string `json:"primaryAccountNumber"`
	}
	if json.Unmarshal(plaintext, &in) != nil || len(in.PAN) < 12 || strings.Trim(in.PAN, "0123456789") != "" {
		return "", badCard("primaryAccountNumber must be 12 to 19 digits")
	}
	return in.PAN, reply{}
}

// searchByPAN is POST .../card-credentials/search-by-pan. The reply is sealed to
// the public key that the request carries.
func (s *Sim) searchByPAN(c *call) reply {
	var in struct {
		PublicKey  json.RawMessage `json:"publicKey"`
		PAN        *string         `json:"encryptedPrimaryAccountNumber"`
		Expiration map[string]any  `json:"expiration"`
	}
	switch {
	case !hasType(c.Header, plainJSON):
		return problemDetails(http.StatusUnsupportedMediaType, "", "Content-Type must be "+plainJSON)
	case json.Unmarshal(c.body, &in) != nil:
		return badCard("the body is not the JSON of a search")
	case in.PublicKey == nil || in.Expiration == nil:
		return badCard("publicKey and expiration are required")
	}
	key, kid, err := s.clientKey(in.PublicKey)
	if err != nil {
		rep := badCard("publicKey cannot be read")
		rep.refusal = err.Error()
		return rep
	}
	pan, rep := s.pan(in.PAN)
	if rep.status != 0 {
		return rep
	}
	credentials := map[string]any{}
	for name, value := range map[string]string{"includeDisplayExpiration": "10/31", "includePrimaryAccountNumber": pan, "includeCardVerificationCode": "111"} {
		if c.URL.Query().Get(name) == "true" {
			credentials[strings.ToLower(name[7:8])+name[8:]] = value
		}
	}
	rep = s.sealed(&sealing{alg: jose.ECDH_ES, key: key, kid: kid, enc: jose.A256GCM,
		frame: func(jwe string) any { return map[string]string{"encryptedCardCredentials": jwe} }}, credentials)
	rep.header = c.roundTrip()
	return rep
}

// roundTrip is the headers that come back from a request.
func (c *call) roundTrip() http.Header {
	h := http.Header{}
	if id := c.Header.Get("X-Request-ID"); id != "" {
		h.Set("X-Request-ID", id)
		h.Set("X-Correlation-ID", id)
	}
	return h
}

// clientKey reads the client's public key in the form that is wanted, and the
// kid for the reply.
func (s *Sim) clientKey(value json.RawMessage) (*ecdsa.PublicKey, string, error) {
	var text string
	var raw []byte
	err := json.Unmarshal(value, &text)
	if s.opt.JackHenryKeyForm == KeyJWK {
		raw, err = value, nil
	} else if err == nil {
		raw, err = base64.StdEncoding.Strict().DecodeString(text)
	}
	if err != nil {
		return nil, "", err
	}
	var key any
	kid := ""
	switch s.opt.JackHenryKeyForm {
	case KeyJWK, KeyBase64JWK:
		var jwk jose.JSONWebKey
		err = jwk.UnmarshalJSON(raw)
		key, kid = jwk.Key, jwk.KeyID
	case KeyPoint:
		key, err = ecdsa.ParseUncompressedPublicKey(elliptic.P256(), raw)
	case KeyBase64PEM:
		block, rest := pem.Decode(raw)
		if block == nil || len(rest) > 0 || block.Type != "PUBLIC KEY" {
			return nil, "", errors.New("not a PEM block of a public key")
		}
		raw = block.Bytes
		fallthrough
	default:
		key, err = x509.ParsePKIXPublicKey(raw)
	}
	if err != nil {
		return nil, "", err
	}
	public, ok := key.(*ecdsa.PublicKey)
	if !ok {
		return nil, "", fmt.Errorf("a key of type %T", key)
	}
	kid, err = replyKID(s.opt.JackHenryReplyKID, public, kid)
	return public, kid, err
}

func replyKID(how string, key *ecdsa.PublicKey, sent string) (string, error) {
	switch how {
	case ReplyKIDThumbprint:
		sum, err := (&jose.JSONWebKey{Key: key}).Thumbprint(crypto.SHA256)
		return base64.RawURLEncoding.EncodeToString(sum), err
	case ReplyKIDJWK:
		return sent, nil
	}
	return "", nil
}

// cardToken is POST .../tokenization/card-tokens: the answer is in clear.
func (s *Sim) cardToken(c *call) reply {
	var in struct {
		PAN *string `json:"encryptedPrimaryAccountNumber"`
	}
	if json.Unmarshal(c.body, &in) != nil {
		return badCard("the body is not JSON")
	}
	if _, rep := s.pan(in.PAN); rep.status != 0 {
		return rep
	}
	c.note(func(e *Request) { e.Effect = true })
	rep := s.answer(http.StatusOK, map[string]string{"cardToken": uuid.NewString()})
	rep.header = c.roundTrip()
	return rep
}

// validateCard is POST .../validations/encrypted-card-data: X-Request-ID is
// required. Which member holds the JWE is not documented; any may.
func (s *Sim) validateCard(c *call) reply {
	var in map[string]any
	switch {
	case uuid.Validate(c.Header.Get("X-Request-ID")) != nil:
		return badCard("X-Request-ID must be a UUID")
	case json.Unmarshal(c.body, &in) != nil:
		return badCard("the body is not JSON")
	}
	sealed := 0
	for _, value := range in {
		jwe, ok := value.(string)
		if !ok || strings.Count(jwe, ".") != 4 {
			continue
		}
		if _, rep := s.openJackHenry(jwe); rep.status != 0 {
			return rep
		}
		sealed++
	}
	if sealed == 0 {
		return badCard("there is no encrypted card data")
	}
	return reply{status: http.StatusOK, header: c.roundTrip()}
}
