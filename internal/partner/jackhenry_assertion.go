package partner

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/google/uuid"
)

// assertionLife is how long a client assertion is good. exp is in seconds (RFC
// 7519 §2); a helper of Jack Henry's own has it in milliseconds.
const assertionLife = time.Minute

// assertion is the client credentials grant of a client that proves itself with
// a signed JWT (RFC 7523 §2.2).
type assertion struct {
	clientID string
	audience string
	scopes   []string
	sign     func(ctx context.Context, input func(kid string) []byte) ([]byte, error)
}

// ask makes the request. What goes wrong here is no refusal of credentials: the
// key is in a backend that may be away.
func (a assertion) ask(ctx context.Context) (grant, error) {
	jwt, kid, err := a.make(ctx, time.Now())
	if err != nil {
		return grant{}, fmt.Errorf("signing the client assertion: %w", err)
	}
	form := url.Values{
		"grant_type":            {"client_credentials"},
		"client_assertion_type": {"urn:ietf:params:oauth:client-assertion-type:jwt-bearer"},
		"client_assertion":      {jwt},
		"scope":                 {strings.Join(a.scopes, " ")},
	}
	return grant{
		header:      http.Header{"Accept": {jsonType}, "Content-Type": {formType}},
		body:        []byte(form.Encode()),
		secrets:     []string{jwt},
		credentials: sha256.Sum256([]byte(a.clientID + "\x00" + kid)),
	}, nil
}

// make signs an assertion (RFC 7515 §7.1).
func (a assertion) make(ctx context.Context, now time.Time) (jwt, kid string, err error) {
	encode := base64.RawURLEncoding.EncodeToString
	claims, err := json.Marshal(struct {
		JTI string `json:"jti"`
		Aud string `json:"aud"`
		Sub string `json:"sub"`
		Iss string `json:"iss"`
		Exp int64  `json:"exp"`
	}{uuid.NewString(), a.audience, a.clientID, a.clientID, now.Add(assertionLife).Unix()})
	if err != nil {
		return "", "", err
	}
	var input string
	signature, err := a.sign(ctx, func(named string) []byte {
		kid = named
		header, _ := json.Marshal(struct { // strings always encode
			Alg string `json:"alg"`
			Typ string `json:"typ"`
			KID string `json:"kid,omitempty"`
		}{"PS256", "JWT", kid})
		input = encode(header) + "." + encode(claims)
		return []byte(input)
	})
	switch {
	case err != nil:
		return "", "", err
	case input == "" || len(signature) == 0:
		return "", "", errors.New("nothing was signed")
	}
	return input + "." + encode(signature), kid, nil
}
