package partnersim

import (
	"net/http"
	"strings"
	"time"

	"github.com/google/uuid"
)

// maxLog bounds the log of a Sim that runs for days; the oldest half goes first.
const maxLog = 10_000

// Request is one call as Wise saw it. It never holds a token or a secret.
type Request struct {
	At       time.Time   `json:"at"` // by Wise's clock
	TraceID  string      `json:"trace_id"`
	Endpoint Endpoint    `json:"endpoint"` // empty: no such path
	Method   string      `json:"method"`
	Path     string      `json:"path"` // with the query
	Header   http.Header `json:"header"`
	Fault    Kind        `json:"fault,omitempty"`
	// KeyID is the client key the call is about: the one uploaded (or tried),
	// or the one the request names for its reply.
	KeyID string `json:"key_id,omitempty"`
	// Opened are the values that were sealed in the call, each as the SHA-256 of
	// its plaintext in hex.
	Opened map[string]string `json:"opened,omitempty"`
	// Effect says that the call changed something at Wise, whatever it was told.
	Effect bool `json:"effect"`
	// Status is the answer's, zero if there was none.
	Status int `json:"status"`
	// ReplyKID is the kid in the header of a sealed answer.
	ReplyKID string `json:"reply_kid,omitempty"`
	// Refusal is why Wise refused, also where it answers a generic 500.
	Refusal string `json:"refusal,omitempty"`
	// Done is false while the call is still being served.
	Done bool `json:"done"`
}

// arrive puts a call in the log.
func (s *Sim) arrive(name Endpoint, r *http.Request) *call {
	header := r.Header.Clone()
	header.Del("Authorization")
	entry := &Request{
		TraceID:  strings.ReplaceAll(uuid.NewString(), "-", ""),
		Endpoint: name,
		Method:   r.Method,
		Path:     r.URL.RequestURI(),
		Header:   header,
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	entry.At = s.now()
	if len(s.log) == maxLog {
		s.log = append([]*Request(nil), s.log[maxLog/2:]...)
	}
	s.log = append(s.log, entry)
	s.counts[name]++
	return &call{Request: r, sim: s, entry: entry}
}

// Requests returns the calls seen, oldest first, those in progress included.
func (s *Sim) Requests() []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]Request, 0, len(s.log))
	for _, e := range s.log {
		copied := *e
		copied.Header = e.Header.Clone()
		list = append(list, copied)
	}
	return list
}

// Count returns how many calls an endpoint has had. Any counts all.
func (s *Sim) Count(e Endpoint) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e != Any {
		return s.counts[e]
	}
	total := 0
	for _, n := range s.counts {
		total += n
	}
	return total
}
