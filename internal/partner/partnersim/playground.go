package partnersim

import (
	"encoding/json"
	"net/http"
	"unicode/utf8"
)

// exchange is a JWE call up to its effect: the plaintext of the request (none
// for a GET) and the key its reply goes to. A reply without a status is no
// objection.
func (s *Sim) exchange(c *call) (plaintext []byte, key Upload, rep reply) {
	if rep = joseCall(c); rep.status != 0 {
		return nil, key, rep
	}
	var header joseHeader
	var err error
	if c.Method == http.MethodPost {
		if header, plaintext, err = s.openRequest(c); err != nil {
			return nil, key, unexpected(err.Error())
		}
	}
	if key, err = s.replyKey(c, header); err != nil {
		return nil, key, unexpected(err.Error())
	}
	return plaintext, key, reply{}
}

type echo struct {
	Message string `json:"message"`
	Method  string `json:"method"`
}

const echoPrefix = "jose-playground-response-"

// probe is GET /v1/auth/jose/playground/jwe.
func (s *Sim) probe(c *call) reply {
	_, key, rep := s.exchange(c)
	if rep.status != 0 {
		return rep
	}
	return s.sealed(key, echo{echoPrefix, c.Method})
}

// playground is POST /v1/auth/jose/playground/jwe.
func (s *Sim) playground(c *call) reply {
	plaintext, key, rep := s.exchange(c)
	if rep.status != 0 {
		return rep
	}
	var in struct {
		Message *string `json:"message"`
	}
	switch err := json.Unmarshal(plaintext, &in); {
	case err != nil:
		return invalid(http.StatusBadRequest, "BAD_REQUEST", "", "the plaintext is not a JSON object")
	case in.Message == nil:
		return missing("message")
	case utf8.RuneCountInString(*in.Message) > 100:
		return invalid(http.StatusBadRequest, "Size", "message", "size must be between 0 and 100")
	}
	return s.sealed(key, echo{echoPrefix + *in.Message, c.Method})
}
