package partnersim

import (
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"net/http"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/uuid"
)

// Ways the card data host writes its key, for Options.CardKeyForm: how is not
// documented.
const (
	KeyPEM       = "pem"
	KeyBase64PEM = "base64-pem"
	KeySPKI      = "spki"  // base64 of a DER SubjectPublicKeyInfo
	KeyPKCS1     = "pkcs1" // base64 of a DER RSAPublicKey
)

// What the card data host answers with, for Options.CardReply.
const (
	CardSealed = "sealed" // a JWE under the request's own content key, as the guide says
	CardQuoted = "quoted" // the same as a JSON string
	CardFramed = "framed" // the same in the frame of requests
	CardClear  = "clear"  // plain JSON, as the API description says
)

// card is the endpoints of Wise's card data host.
func (s *Sim) card() []endpoint {
	const base = "/twcard-data/v1/"
	return []endpoint{
		{EndpointCardKey, "GET " + base + "clientSideEncryption/fetchEncryptingKey", s.authorized(s.cardKey)},
		{EndpointCardDetails, "POST " + base + "sensitive-card-data/details", s.authorized(s.cardDetails)},
		{EndpointCardPIN, "POST " + base + "sensitive-card-data/pin", s.authorized(s.cardPIN)},
		{EndpointCardPreset, "POST " + base + "sensitive-card-data/preset-pin", s.authorized(s.cardPreset)},
	}
}

// cardKey is GET .../fetchEncryptingKey.
func (s *Sim) cardKey(*call) reply {
	key := s.newest(WiseCard).private.Public().(*rsa.PublicKey)
	form := s.opt.CardKeyForm
	return s.answer(http.StatusOK, map[string]any{"version": 1, "key": writeKey(key, form)})
}

// writeKey writes a public key in one of the forms.
func writeKey(key any, form string) string {
	armoured := func(kind, der string) string {
		raw, _ := base64.StdEncoding.DecodeString(der) // it was encoded just now
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: raw}))
	}
	switch form {
	case KeyPEM:
		return armoured("PUBLIC KEY", spki(key))
	case KeyBase64PEM:
		return base64.StdEncoding.EncodeToString([]byte(armoured("PUBLIC KEY", spki(key))))
	case KeyPKCS1:
		return base64.StdEncoding.EncodeToString(x509.MarshalPKCS1PublicKey(key.(*rsa.PublicKey)))
	}
	return spki(key)
}

// openCard opens the frame of a request that is about the card or order in a
// header.
func (s *Sim) openCard(c *call, about string) (opened, reply) {
	var in struct {
		KeyVersion *int    `json:"keyVersion"`
		Payload    *string `json:"encryptedPayload"`
	}
	switch {
	case !hasType(c.Header, plainJSON):
		return opened{}, unsupported(plainJSON)
	case uuid.Validate(c.Header.Get(about)) != nil:
		return opened{}, missing(about)
	case json.Unmarshal(c.body, &in) != nil:
		return opened{}, invalid(http.StatusBadRequest, "BAD_REQUEST", "", "the body is not JSON")
	case in.KeyVersion == nil || *in.KeyVersion != 1:
		return opened{}, wrong("keyVersion", "must be 1")
	case in.Payload == nil:
		return opened{}, missing("encryptedPayload")
	}
	o, err := s.open(WiseCard, *in.Payload, jose.RSA1_5, jose.A256GCM)
	if err != nil {
		rep := unexpected(err.Error())
		rep.status = s.opt.CardBadKey
		return opened{}, rep
	}
	return o, reply{}
}

// answerCard answers under the content key of the request, or not.
func (s *Sim) answerCard(o opened, v map[string]any) reply {
	v["nonce"] = uuid.NewString()
	if s.opt.CardReply == CardClear {
		return s.answer(http.StatusOK, v)
	}
	to := underSame(o)
	switch s.opt.CardReply {
	case CardQuoted:
		to.frame = func(jwe string) any { return jwe }
	case CardFramed:
		to.frame = func(jwe string) any { return map[string]any{"keyVersion": 1, "encryptedPayload": jwe} }
	}
	return s.sealed(to, v)
}

// cardDetails is POST .../details. Every card is the one of the documents.
func (s *Sim) cardDetails(c *call) reply {
	o, rep := s.openCard(c, "X-Tw-Twcard-Card-Token")
	if rep.status != 0 {
		return rep
	}
	return s.answerCard(o, map[string]any{"cvv2": "111", "pan": "4396910000012345", "expiryDate": "10/31", "cardholderName": "John Smith"})
}

// cardPIN is POST .../pin: the PIN that was set last.
func (s *Sim) cardPIN(c *call) reply {
	o, rep := s.openCard(c, "X-Tw-Twcard-Card-Token")
	if rep.status != 0 {
		return rep
	}
	s.mu.Lock()
	pin := s.pins["card"]
	s.mu.Unlock()
	if pin == "" {
		pin = "1234"
	}
	return s.answerCard(o, map[string]any{"pin": pin})
}

// cardPreset is POST .../preset-pin. What is in the envelope is not documented;
// here it is {"pin":"1234"}. The answer is empty.
func (s *Sim) cardPreset(c *call) reply {
	o, rep := s.openCard(c, "X-Tw-Twcard-Order-Id")
	if rep.status != 0 {
		return rep
	}
	var in struct {
		PIN string `json:"pin"`
	}
	if err := json.Unmarshal(o.plaintext, &in); err != nil || len(in.PIN) != 4 {
		return wrong("pin", "must be four digits")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pins["card"] = in.PIN
	c.entry.Effect = true
	return reply{status: http.StatusOK}
}
