package partnersim

import (
	"encoding/json"
	"net/http"
	"strconv"
)

// partnerCase is the business object of the sealed endpoints: a support case
// between a partner and Wise.
type partnerCase struct {
	ID         int64  `json:"id"`
	Status     string `json:"status"`
	Type       string `json:"type"`
	ExternalID string `json:"externalId,omitempty"`
	CreatedAt  string `json:"createdAt"`
	UpdatedAt  string `json:"updatedAt"`
}

// createCase is POST /v1/cases. Every answer that is not an error follows a
// case created; a repeated request creates another one.
func (s *Sim) createCase(c *call) reply {
	plaintext, to, rep := s.exchange(c)
	if rep.status != 0 {
		return rep
	}
	var in struct {
		Type       string `json:"type"`
		Subject    string `json:"subject"`
		ExternalID string `json:"externalId"`
	}
	switch err := json.Unmarshal(plaintext, &in); {
	case err != nil:
		return invalid(http.StatusBadRequest, "BAD_REQUEST", "", "the plaintext is not the JSON of a case")
	case in.Type == "":
		return missing("type")
	case in.Type != "GENERAL_ENQUIRY":
		return wrong("type", "must be GENERAL_ENQUIRY")
	case in.Subject == "":
		return missing("subject")
	}
	s.mu.Lock()
	at := s.now().Format("2006-01-02T15:04:05.000")
	created := partnerCase{int64(len(s.cases)) + 123456789, "OPEN", in.Type, in.ExternalID, at, at}
	s.cases[created.ID] = created
	c.entry.Effect = true
	s.mu.Unlock()
	return s.sealed(to, created)
}

// getCase is GET /v1/cases/{id}: nothing sealed in the request, a sealed reply.
func (s *Sim) getCase(c *call) reply {
	_, to, rep := s.exchange(c)
	if rep.status != 0 {
		return rep
	}
	id, err := strconv.ParseInt(c.PathValue("id"), 10, 64)
	if err != nil {
		return wrong("caseId", "must be a number")
	}
	s.mu.Lock()
	found, ok := s.cases[id]
	s.mu.Unlock()
	if !ok {
		return notFound("no such case")
	}
	return s.sealed(to, found)
}
