package partnersim

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"maps"
	mathrand "math/rand/v2"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/google/uuid"
)

// token is POST /oauth/token.
func (s *Sim) token(c *call) reply {
	id, secret, ok := c.BasicAuth()
	if !ok || !same(id, s.opt.ClientID) || !same(secret, s.opt.ClientSecret) {
		return oauthError(http.StatusUnauthorized, "invalid_grant", "Invalid user credentials.")
	}
	if !hasType(c.Header, "application/x-www-form-urlencoded") {
		return unsupported("application/x-www-form-urlencoded")
	}
	form, err := url.ParseQuery(string(c.body))
	switch grant := form.Get("grant_type"); {
	case err != nil || grant == "":
		return oauthError(http.StatusBadRequest, "invalid_request", "Missing grant type")
	case grant != "client_credentials":
		return oauthError(http.StatusBadRequest, "unsupported_grant_type", "Unsupported grant type")
	}
	token, end := s.grant(c, Wise, newToken(s.opt.TokenFormat), s.opt.TokenLifetime)
	rep := s.answer(http.StatusOK, map[string]any{
		"access_token": token,
		"token_type":   "bearer",
		"expires_in":   int(s.opt.TokenLifetime / time.Second),
		"expires_at":   end.Format("2006-01-02T15:04:05.000Z"),
		"scope":        "transfers",
	})
	rep.header = http.Header{"Cache-Control": {"no-store"}} // RFC 6749 §5.1
	return rep
}

// same compares a credential in constant time: the habit costs nothing.
func same(got, want string) bool { return subtle.ConstantTimeCompare([]byte(got), []byte(want)) == 1 }

// access is what a token stands for.
type access struct {
	at  Partner
	end time.Time
}

// grant puts a token in force at a partner.
func (s *Sim) grant(c *call, p Partner, token string, life time.Duration) (string, time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	maps.DeleteFunc(s.tokens, func(_ string, a access) bool { return !now.Before(a.end) })
	s.tokens[token] = access{p, now.Add(life)}
	c.entry.Effect = true
	return token, now.Add(life)
}

// newToken makes an access token: opaque to the client, random to everybody.
func newToken(format string) string {
	if format == TokenUUID || format == TokenEither && mathrand.IntN(2) == 0 {
		return uuid.NewString()
	}
	part := func(n int) string {
		b := make([]byte, n)
		_, _ = rand.Read(b) // never fails (crypto/rand)
		return base64.RawURLEncoding.EncodeToString(b)
	}
	header := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"RSA-OAEP-256","enc":"A256GCM","cty":"JWT","typ":"at+jwt"}`))
	return strings.Join([]string{header, part(256), part(12), part(2048 + mathrand.IntN(2048)), part(16)}, ".")
}

// hasType reports whether the request's body is of the given media type.
func hasType(h http.Header, want string) bool {
	got, _, err := mime.ParseMediaType(h.Get("Content-Type"))
	return err == nil && got == want
}

func unsupported(want string) reply {
	return invalid(http.StatusUnsupportedMediaType, "BAD_REQUEST", "Content-Type", "Content-Type must be "+want)
}
