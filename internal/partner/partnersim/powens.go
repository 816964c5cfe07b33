package partnersim

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/uuid"
)

// powensBase is what the paths of the pretended Powens begin with.
const powensBase = "/powens/2.0"

// How Powens shows its key, for Options.PowensKeys: "a JWK" is all that is
// documented.
const (
	KeysSingle = "single"
	KeysSet    = "set"
)

func (s *Sim) powens() []endpoint {
	at := func(serve func(*call) reply) func(*call) reply { return s.authorizedAt(Powens, serve) }
	return []endpoint{
		{EndpointPowensToken, "POST " + powensBase + "/auth/token", s.powensToken},
		{EndpointPowensKey, "GET " + powensBase + "/publickey", s.powensKey},
		{EndpointConnect, "POST " + powensBase + "/users/me/connections", at(s.connect)},
		{EndpointReconnect, "POST " + powensBase + "/users/me/connections/{id}", at(s.connect)},
	}
}

// powensError is an error of Powens'.
func powensError(status int, code, message string) reply {
	body, _ := json.Marshal(map[string]string{ // strings always encode
		"code": code, "description": message, "message": message, "request_id": uuid.NewString(),
	})
	return reply{status: status, body: body, refusal: message}
}

func powensUnauthorized(string) reply {
	return powensError(http.StatusUnauthorized, "unauthorized", "the token is missing or not valid")
}

// powensToken is POST /auth/token: JSON, and an answer without expires_in.
func (s *Sim) powensToken(c *call) reply {
	var in struct {
		GrantType    string   `json:"grant_type"`
		ClientID     string   `json:"client_id"`
		ClientSecret string   `json:"client_secret"`
		Scope        []string `json:"scope"`
	}
	switch {
	case !hasType(c.Header, plainJSON) || json.Unmarshal(c.body, &in) != nil:
		return powensError(http.StatusBadRequest, "invalidValue", "the body is not JSON")
	case in.GrantType != "client_credentials":
		return powensError(http.StatusBadRequest, "invalidValue", "grant_type must be client_credentials")
	case !same(in.ClientID, s.opt.ClientID) || !same(in.ClientSecret, s.opt.ClientSecret):
		return powensError(http.StatusUnauthorized, "invalid_client", "the client is not known")
	}
	token, _ := s.grant(c, Powens, newToken(TokenJWT), 30*time.Minute)
	return s.answer(http.StatusOK, map[string]any{"token": token, "scope": in.Scope})
}

// powensKey is GET /publickey.
func (s *Sim) powensKey(*call) reply {
	key := s.newest(Powens)
	one := jose.JSONWebKey{Key: key.private.Public(), KeyID: key.id, Use: "enc", Algorithm: string(jose.RSA_OAEP_256)}
	if s.opt.PowensKeys == KeysSet {
		return s.answer(http.StatusOK, jose.JSONWebKeySet{Keys: []jose.JSONWebKey{one}})
	}
	return s.answer(http.StatusOK, one)
}

// connect is POST /users/me/connections: the values that are envelopes are
// opened, and login and password have to be.
func (s *Sim) connect(c *call) reply {
	var in map[string]any
	if !hasType(c.Header, plainJSON) || json.Unmarshal(c.body, &in) != nil {
		return powensError(http.StatusBadRequest, "invalidValue", "the body is not JSON")
	}
	for _, name := range []string{"login", "password"} {
		if value, _ := in[name].(string); strings.Count(value, ".") != 4 {
			return powensError(http.StatusBadRequest, "config", name+" must be encrypted")
		}
	}
	digests := map[string]string{}
	for name, value := range in {
		jwe, ok := value.(string)
		if !ok || strings.Count(jwe, ".") != 4 {
			continue
		}
		o, err := s.open(Powens, jwe, jose.RSA_OAEP_256, jose.A256GCM)
		if err == nil && o.header.KID != o.key.id {
			err = fmt.Errorf("the JOSE header names the key %q", o.header.KID)
		}
		if err != nil {
			rep := powensError(http.StatusBadRequest, "keymanager", "the value cannot be decrypted")
			rep.refusal = err.Error()
			return rep
		}
		digests[name] = digest(o.plaintext)
	}
	c.note(func(e *Request) { e.Effect, e.Opened = true, digests })
	return s.answer(http.StatusOK, map[string]any{"id": 17, "id_user": 4, "id_connector": in["id_connector"], "state": nil})
}

// digest is what the log has of a value that was opened.
func digest(plaintext []byte) string {
	sum := sha256.Sum256(plaintext)
	return hex.EncodeToString(sum[:])
}
