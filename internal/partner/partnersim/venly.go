package partnersim

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/google/uuid"
)

// venlyBase is what the paths of the pretended Venly begin with.
const venlyBase = "/venly"

// How the hash of a request's body is written, for Options.VenlyHash: Venly's
// guide shows one, its sample code sends the other.
const (
	HashBase64 = "base64"
	HashHex    = "hex"
)

func (s *Sim) venly() []endpoint {
	at := func(serve func(*call) reply) func(*call) reply { return s.authorizedAt(Venly, serve) }
	return []endpoint{
		{EndpointVenlyToken, "POST " + venlyBase + "/auth/realms/Arkane/protocol/openid-connect/token", s.venlyToken},
		{EndpointVenlyKeys, "GET " + venlyBase + "/api/security", s.venlyKeys},
		{EndpointTransaction, "POST " + venlyBase + "/api/transactions", at(s.transaction)},
		{EndpointUserCreate, "POST " + venlyBase + "/api/users", at(s.venlyBody)},
		{EndpointMethodCreate, "POST " + venlyBase + "/api/users/{user}/signing-methods", at(s.venlyMethod)},
		{EndpointMethodUpdate, "PUT " + venlyBase + "/api/users/{user}/signing-methods/{id}", at(s.venlyMethod)},
	}
}

// venlyError is an error of Venly's; its shape is a guess.
func venlyError(status int, code, message string) reply {
	body, _ := json.Marshal(map[string]any{ // strings always encode
		"success": false, "errors": []map[string]string{{"code": code, "traceCode": uuid.NewString(), "message": message}},
	})
	return reply{status: status, body: body, refusal: message}
}

func venlyUnauthorized(string) reply {
	return venlyError(http.StatusUnauthorized, "authorization.failure", "the token is missing or not valid")
}

// venlyToken is Keycloak's token endpoint: the secret in the form.
func (s *Sim) venlyToken(c *call) reply {
	form, err := url.ParseQuery(string(c.body))
	switch {
	case err != nil || !hasType(c.Header, "application/x-www-form-urlencoded") || form.Get("grant_type") != "client_credentials":
		return oauthError(http.StatusBadRequest, "invalid_request", "Missing form parameter: grant_type")
	case !same(form.Get("client_id"), s.opt.ClientID) || !same(form.Get("client_secret"), s.opt.ClientSecret):
		return oauthError(http.StatusUnauthorized, "invalid_client", "Invalid client or Invalid client credentials")
	}
	token, _ := s.grant(c, Venly, newToken(TokenJWT), s.opt.VenlyTokenLifetime)
	return s.answer(http.StatusOK, map[string]any{"access_token": token, "token_type": "Bearer",
		"expires_in": int(s.opt.VenlyTokenLifetime / time.Second), "refresh_expires_in": 0})
}

// venlyKeys is GET /api/security, which asks for no token. The newest key is
// the first.
func (s *Sim) venlyKeys(*call) reply {
	type key struct {
		ID        string `json:"id"`
		Keyspec   string `json:"keyspec"`
		PublicKey string `json:"publicKey"`
		Algorithm string `json:"encryptionAlgorithm"`
	}
	keys := []key{}
	for _, k := range s.openers(Venly) {
		keys = append(keys, key{k.id, "RSA_2048", spki(k.private.Public()), "RSAES_OAEP_SHA_256"})
	}
	return s.venlyAnswer(map[string]any{"encryptionKeys": keys})
}

func (s *Sim) venlyAnswer(result any) reply {
	return s.answer(http.StatusOK, map[string]any{"success": true, "result": result})
}

// signingMethod is the plaintext of the header form.
type signingMethod struct {
	ID             string `json:"id"`
	Value          string `json:"value"`
	IdempotencyKey string `json:"idempotencyKey"`
	Signature      struct {
		Type  string `json:"type"`
		Value string `json:"value"`
	} `json:"signature"`
}

// transaction is POST /api/transactions, authorised by the header form.
func (s *Sim) transaction(c *call) reply {
	method, err := s.allowedBy(c)
	if err != nil {
		return venlyRefusal("signing-method.invalid", "the signing method cannot be used", err)
	}
	c.note(func(e *Request) { e.Effect, e.Opened = true, map[string]string{"value": digest([]byte(method.Value))} })
	return s.venlyAnswer(map[string]string{"transactionHash": "0x" + digest(c.body)})
}

// venlyRefusal is a 400 that does not say why; the log does.
func venlyRefusal(code, message string, reason error) reply {
	rep := venlyError(http.StatusBadRequest, code, message)
	rep.refusal = reason.Error()
	return rep
}

// allowedBy opens the signing method in a request's header and holds it against
// the request.
func (s *Sim) allowedBy(c *call) (method signingMethod, err error) {
	raw, err := base64.StdEncoding.DecodeString(c.Header.Get("Encrypted-Signing-Method"))
	if err != nil || len(raw) == 0 {
		return method, errors.New("Encrypted-Signing-Method is missing or not base64")
	}
	plaintext, err := s.openVenly(raw)
	if err == nil {
		err = json.Unmarshal(plaintext, &method)
	}
	if err == nil {
		err = s.checkMethod(c, method)
	}
	return method, err
}

// venlyMethod makes or changes a signing method, whose body may be an envelope.
// A method that the user has allows it, but for the first.
func (s *Sim) venlyMethod(c *call) reply {
	user := c.PathValue("user")
	s.mu.Lock()
	first := c.Method == http.MethodPost && !s.hasMethod[user]
	s.mu.Unlock()
	if !first {
		if _, err := s.allowedBy(c); err != nil {
			return venlyRefusal("signing-method.invalid", "the signing method cannot be used", err)
		}
	}
	rep := s.venlyBody(c)
	if rep.status == http.StatusOK {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.hasMethod[user] = true
	}
	return rep
}

// checkMethod holds a signing method against the request it came with.
func (s *Sim) checkMethod(c *call, method signingMethod) error {
	sum := sha256.Sum256(c.body) // of the exact bytes
	want := base64.StdEncoding.EncodeToString(sum[:])
	if s.opt.VenlyHash == HashHex {
		want = hex.EncodeToString(sum[:])
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case method.ID == "" || method.Value == "":
		return errors.New("id or value is missing")
	case uuid.Validate(method.IdempotencyKey) != nil:
		return errors.New("idempotencyKey is not a UUID")
	case s.idempotency[method.IdempotencyKey]:
		return errors.New("idempotencyKey has been used before")
	case method.Signature.Type != "sha256" || method.Signature.Value != want:
		return errors.New("the signature is not that of the body")
	}
	s.idempotency[method.IdempotencyKey] = true
	return nil
}

// venlyBody is the endpoints whose whole body may be an envelope.
func (s *Sim) venlyBody(c *call) reply {
	plaintext, err := s.openVenly(c.body)
	var in map[string]any
	if err == nil && json.Unmarshal(plaintext, &in) != nil {
		err = errors.New("the plaintext is not a JSON object")
	}
	if err != nil {
		return venlyRefusal("encryption.invalid", "the body cannot be decrypted", err)
	}
	c.note(func(e *Request) { e.Effect, e.Opened = true, map[string]string{"body": digest(plaintext)} })
	return s.venlyAnswer(map[string]any{"id": uuid.NewString(), "reference": in["reference"]})
}

// openVenly opens Venly's envelope with the key that it names.
func (s *Sim) openVenly(raw []byte) ([]byte, error) {
	var env struct {
		Encryption struct {
			Type string `json:"type"`
			Key  struct {
				EncryptedValue  string `json:"encryptedValue"`
				EncryptionKeyID string `json:"encryptionKeyId"`
			} `json:"key"`
			IV string `json:"iv"`
		} `json:"encryption"`
		Value string `json:"value"`
	}
	if err := json.Unmarshal(raw, &env); err != nil {
		return nil, fmt.Errorf("reading the envelope: %w", err)
	}
	wrapped, err1 := base64.StdEncoding.DecodeString(env.Encryption.Key.EncryptedValue)
	iv, err2 := base64.StdEncoding.DecodeString(env.Encryption.IV)
	sealed, err3 := base64.StdEncoding.DecodeString(env.Value)
	switch err := errors.Join(err1, err2, err3); {
	case err != nil:
		return nil, fmt.Errorf("reading the envelope's base64: %w", err)
	case env.Encryption.Type != "AES/GCM/NoPadding":
		return nil, fmt.Errorf("the envelope is of type %q", env.Encryption.Type)
	case len(iv) != 12:
		return nil, fmt.Errorf("an IV of %d bytes", len(iv))
	}
	for _, key := range s.openers(Venly) {
		if key.id != env.Encryption.Key.EncryptionKeyID {
			continue
		}
		content, err := rsa.DecryptOAEP(sha256.New(), nil, key.private.(*rsa.PrivateKey), wrapped, nil)
		if err != nil || len(content) != 32 {
			return nil, errors.New("the key does not unwrap a content key of 32 bytes")
		}
		block, err := aes.NewCipher(content)
		if err != nil {
			return nil, err
		}
		gcm, err := cipher.NewGCM(block)
		if err != nil {
			return nil, err
		}
		return gcm.Open(nil, iv, sealed, nil)
	}
	return nil, fmt.Errorf("no key %q in use", env.Encryption.Key.EncryptionKeyID)
}
