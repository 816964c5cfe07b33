package partner

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
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
	signer   Signer
}

// Signer gives the key that client assertions are signed with now: its kid, and
// what signs under it with PS256 (RFC 7518 §3.5).
type Signer func(ctx context.Context) (kid string, sign func(input []byte) (signature []byte, err error), err error)

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

// make signs an assertion.
func (a assertion) make(ctx context.Context, now time.Time) (assertion, kid string, err error) {
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
	kid, sign, err := a.signer(ctx)
	if err != nil {
		return "", "", err
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.PS256, Key: signingKey{kid, sign}}, (&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		return "", "", err
	}
	signed, err := signer.Sign(claims)
	if err != nil {
		return "", "", err
	}
	assertion, err = signed.CompactSerialize()
	return assertion, kid, err
}

// signingKey is a key in a backend as go-jose uses one.
type signingKey struct {
	kid  string
	sign func(input []byte) (signature []byte, err error)
}

func (k signingKey) Public() *jose.JSONWebKey        { return &jose.JSONWebKey{KeyID: k.kid} }
func (k signingKey) Algs() []jose.SignatureAlgorithm { return []jose.SignatureAlgorithm{jose.PS256} }

func (k signingKey) SignPayload(input []byte, _ jose.SignatureAlgorithm) ([]byte, error) {
	signature, err := k.sign(input)
	if err == nil && len(signature) == 0 {
		err = errors.New("nothing was signed")
	}
	return signature, err
}
