package partnersim

import (
	"encoding/json"
	"net/http"
	"strconv"

	"github.com/google/uuid"
)

// wise is Wise's endpoints.
func (s *Sim) wise() []endpoint {
	return []endpoint{
		{EndpointToken, "POST /oauth/token", s.token},
		{EndpointUpload, "POST /v1/auth/jose/request/public-keys", s.authorized(s.upload)},
		{EndpointWiseKey, "GET /v1/auth/jose/response/public-keys", s.authorized(s.wiseKey)},
		{EndpointProbe, "GET /v1/auth/jose/playground/jwe", s.authorized(s.probe)},
		{EndpointPlayground, "POST /v1/auth/jose/playground/jwe", s.authorized(s.playground)},
		{EndpointDirect, "POST /v1/auth/jose/playground/jwe-direct-encryption", s.authorized(s.playgroundDirect)},
		{EndpointCaseCreate, "POST /v1/cases", s.authorized(s.createCase)},
		{EndpointCase, "GET /v1/cases/{id}", s.authorized(s.getCase)},
		{EndpointPIN, "POST /v1/user/pin", s.authorized(s.createPIN("v1", http.StatusNoContent))},
		{EndpointPINVerify, "POST /v1/one-time-token/pin/verify", s.authorized(s.verifyPIN("v1", s.sealed))},
		{EndpointPIN2, "POST /v2/profiles/{id}/pin", s.authorized(s.createPIN("v2", http.StatusOK))},
		{EndpointPIN2Verify, "POST /v2/profiles/{id}/pin/verify", s.authorized(s.verifyPIN("v2", s.inClear))},
	}
}

// inClear is a reply in clear where one is documented to be, though the
// request was sealed.
func (s *Sim) inClear(_ *sealing, v any) reply { return s.answer(http.StatusOK, v) }

// createPIN sets the PIN of the one user a Sim has. Its answer has no body, and
// so is not sealed.
func (s *Sim) createPIN(api string, status int) func(*call) reply {
	return func(c *call) reply {
		pin, _, rep := s.pinOf(c, api)
		if rep.status != 0 {
			return rep
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.pins[api] != "" {
			return invalid(http.StatusConflict, "ALREADY_EXISTS", "pin", "a PIN has been created before")
		}
		s.pins[api] = pin
		c.entry.Effect = true
		return reply{status: status}
	}
}

// verifyPIN clears the PIN challenge of a one-time token.
func (s *Sim) verifyPIN(api string, answer func(*sealing, any) reply) func(*call) reply {
	return func(c *call) reply {
		token := c.Header.Get("One-Time-Token")
		if token == "" {
			return missing("One-Time-Token")
		}
		pin, to, rep := s.pinOf(c, api)
		if rep.status != 0 {
			return rep
		}
		s.mu.Lock()
		right := pin != "" && s.pins[api] == pin
		s.mu.Unlock()
		if !right {
			return invalid(http.StatusBadRequest, "PIN_MISMATCH", "pin", "the PIN is not the right one")
		}
		return answer(to, map[string]any{"oneTimeTokenProperties": map[string]any{
			"oneTimeToken": token, "validity": 3600, "challenges": []any{map[string]any{
				"primaryChallenge": map[string]string{"type": "PIN"}, "passed": true}}}})
	}
}

// pinOf opens a request of {"pin":"1234"}.
func (s *Sim) pinOf(c *call, api string) (string, *sealing, reply) {
	if api == "v2" {
		if _, err := strconv.ParseInt(c.PathValue("id"), 10, 64); err != nil {
			return "", nil, wrong("profileId", "must be a number")
		}
	}
	// Marked as required on the second version, sent in the samples of both.
	if api == "v2" && (c.Header.Get("Content-Encoding") != "identity" || c.Header.Get("Accept-Encoding") != "identity") {
		return "", nil, invalid(http.StatusBadRequest, "BAD_REQUEST", "Content-Encoding", "Content-Encoding and Accept-Encoding must be identity")
	}
	plaintext, to, rep := s.directExchange(c)
	if rep.status != 0 {
		return "", nil, rep
	}
	var in struct {
		PIN string `json:"pin"`
	}
	if err := json.Unmarshal(plaintext, &in); err != nil || len(in.PIN) != 4 {
		return "", nil, wrong("pin", "must be four digits")
	}
	return in.PIN, to, reply{}
}

// NewUserToken is an access token of a user's at a partner, as a payment backend
// has one from the partner's other grants. It is good until ExpireTokens.
func (s *Sim) NewUserToken(p Partner) string {
	token := "user-" + uuid.NewString()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tokens[token] = access{p, s.now().AddDate(1, 0, 0)}
	return token
}
