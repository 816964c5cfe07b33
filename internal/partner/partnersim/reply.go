package partnersim

import (
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/google/uuid"
)

const (
	plainJSON = "application/json"
	joseJSON  = "application/jose+json"
)

// reply is an answer before it is sealed and sent.
type reply struct {
	status   int
	kind     string // Content-Type; application/json if empty
	header   http.Header
	body     []byte
	seal     *sealing // how the body is to be sealed; nil: it is not
	sealedTo string   // the kid it was sealed under
	refusal  string   // the true reason of an error, for the log only
}

// answer is a reply with v as plain JSON.
func (s *Sim) answer(status int, v any) reply {
	body, err := json.Marshal(v)
	if err != nil {
		return unexpected("encoding the reply: " + err.Error())
	}
	if s.opt.ExtraFields && len(body) > 2 && body[0] == '{' {
		body = append([]byte(`{"addedWithoutNotice":{"by":["wise"]},`), body[1:]...)
	}
	return reply{status: status, body: body}
}

// sealed is a reply with v as a JWE.
func (s *Sim) sealed(to *sealing, v any) reply {
	rep := s.answer(http.StatusOK, v)
	if rep.status == http.StatusOK {
		rep.seal = to
	}
	return rep
}

// unexpected is what Wise answers to any trouble with encryption, and to a
// real failure: the two cannot be told apart.
func unexpected(refusal string) reply {
	return reply{
		status:  http.StatusInternalServerError,
		body:    fmt.Appendf(nil, `{"message":"An unexpected error occurred","request_id":%q}`, uuid.NewString()),
		refusal: refusal,
	}
}

// oauthError is an error in the key/value shape of the documents.
func oauthError(status int, name, description string) reply {
	body, _ := json.Marshal(struct { // two strings always encode
		Error       string `json:"error"`
		Description string `json:"error_description"`
	}{name, description})
	return reply{status: status, body: body, refusal: name}
}

// unauthorized refuses a token. The documents show error_description holding
// what looks like the token itself; so it does here, and a client that logs an
// error's text is found out.
func unauthorized(token string) reply {
	if token == "" {
		return oauthError(http.StatusUnauthorized, "unauthorized", "Full authentication is required to access this resource")
	}
	return oauthError(http.StatusUnauthorized, "invalid_token", token)
}

// invalid is an error in the array shape of the documents.
func invalid(status int, code, path, message string) reply {
	type item struct {
		Code      string   `json:"code"`
		Message   string   `json:"message"`
		Path      string   `json:"path,omitempty"`
		Arguments []string `json:"arguments"`
	}
	it := item{code, message, path, []string{}}
	if path != "" {
		it.Arguments = append(it.Arguments, path)
	}
	body, _ := json.Marshal(map[string][]item{"errors": {it}}) // strings always encode
	return reply{status: status, body: body, refusal: message}
}

func missing(field string) reply {
	return invalid(http.StatusBadRequest, "NotNull", field, "must not be null")
}

func wrong(field, message string) reply {
	return invalid(http.StatusUnprocessableEntity, "NOT_VALID", field, message)
}

func notFound(message string) reply {
	return invalid(http.StatusNotFound, "NOT_FOUND", "", message)
}
