package partnersim

import (
	"encoding/json"
	"net/http"
	"unicode/utf8"
)

// exchange is a JWE call up to its effect: the plaintext of the request (none
// for a GET) and how its reply is sealed. A reply without a status is no
// objection.
func (s *Sim) exchange(c *call) (plaintext []byte, to *sealing, rep reply) {
	if rep = joseCall(c); rep.status != 0 {
		return nil, nil, rep
	}
	var o opened
	var err error
	if c.Method == http.MethodPost {
		if o, err = s.openRequest(c); err != nil {
			return nil, nil, unexpected(err.Error())
		}
	}
	key, err := s.replyKey(c, o.header)
	if err != nil {
		return nil, nil, unexpected(err.Error())
	}
	return o.plaintext, toClient(key), reply{}
}

// directExchange is the same for the endpoints of direct encryption: their
// replies are sealed under the content key of the request, to nobody's key.
func (s *Sim) directExchange(c *call) (plaintext []byte, to *sealing, rep reply) {
	if rep = joseCall(c); rep.status != 0 {
		return nil, nil, rep
	}
	o, err := s.openRequest(c)
	if err != nil {
		return nil, nil, unexpected(err.Error())
	}
	return o.plaintext, underSame(o), reply{}
}

type echo struct {
	Message string `json:"message"`
	Method  string `json:"method"`
}

const echoPrefix = "jose-playground-response-"

// probe is GET /v1/auth/jose/playground/jwe.
func (s *Sim) probe(c *call) reply {
	_, to, rep := s.exchange(c)
	if rep.status != 0 {
		return rep
	}
	return s.sealed(to, echo{echoPrefix, c.Method})
}

// playground is POST /v1/auth/jose/playground/jwe.
func (s *Sim) playground(c *call) reply { return s.echo(c, s.exchange) }

// playgroundDirect is POST /v1/auth/jose/playground/jwe-direct-encryption.
func (s *Sim) playgroundDirect(c *call) reply { return s.echo(c, s.directExchange) }

func (s *Sim) echo(c *call, exchange func(*call) ([]byte, *sealing, reply)) reply {
	plaintext, to, rep := exchange(c)
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
	return s.sealed(to, echo{echoPrefix + *in.Message, c.Method})
}
