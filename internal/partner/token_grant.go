package partner

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
)

// grant is one request for an access token.
type grant struct {
	path    string
	header  http.Header
	body    []byte
	secrets []string // everything in it that no error may show
	// credentials tell one set from another, so that a refusal holds for these
	// alone.
	credentials [sha256.Size]byte
}

// Where a client shows its secret (RFC 6749 §2.3.1).
const (
	SecretInBasic = "basic" // in an Authorization header
	SecretInForm  = "form"  // in the form, beside the grant
	secretInJSON  = "json"  // in a body that is JSON, which is Powens' own
)

// clientSecret is the client credentials grant of a client that has a secret.
type clientSecret struct {
	id     string
	secret func() ([]byte, error)
	path   string
	in     string // one of the constants above
	scopes []string
}

// ask makes the request. It and what is compared with its answer hold the
// secret as Go strings, which cannot be wiped; they are dropped with the call.
func (s clientSecret) ask(context.Context) (grant, error) {
	secret, err := s.secret()
	defer clear(secret)
	if err != nil {
		return grant{}, fmt.Errorf("%w: reading the client secret: %w", ErrCredentials, err)
	}
	if len(secret) == 0 {
		return grant{}, fmt.Errorf("%w: reading the client secret: it is empty", ErrCredentials)
	}
	encoded := url.QueryEscape(string(secret)) // RFC 6749 §2.3.1: both halves are form-encoded first
	basic := base64.StdEncoding.EncodeToString([]byte(url.QueryEscape(s.id) + ":" + encoded))
	g := grant{path: s.path, header: http.Header{"Accept": {jsonType}},
		secrets: []string{basic, encoded, string(secret)}, credentials: sha256.Sum256([]byte(basic))}
	if s.in == secretInJSON {
		return g.inJSON(s, string(secret))
	}
	form := url.Values{"grant_type": {"client_credentials"}}
	if len(s.scopes) > 0 {
		form.Set("scope", strings.Join(s.scopes, " "))
	}
	if s.in == SecretInForm {
		form.Set("client_id", s.id)
		form.Set("client_secret", string(secret))
	} else {
		g.header.Set("Authorization", "Basic "+basic)
	}
	g.header.Set("Content-Type", formType)
	g.body = []byte(form.Encode())
	return g, nil
}

// inJSON words the grant as a JSON object, which writes some characters of the
// secret in its own way.
func (g grant) inJSON(s clientSecret, secret string) (grant, error) {
	quoted, err := json.Marshal(secret)
	if err != nil {
		return grant{}, err
	}
	g.secrets = append(g.secrets, string(quoted[1:len(quoted)-1]))
	g.header.Set("Content-Type", jsonType)
	body := map[string]any{"grant_type": "client_credentials", "client_id": s.id, "client_secret": json.RawMessage(quoted)}
	if len(s.scopes) > 0 {
		body["scope"] = s.scopes
	}
	g.body, err = json.Marshal(body)
	return g, err
}
