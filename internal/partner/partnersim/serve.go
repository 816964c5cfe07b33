package partnersim

import (
	"cmp"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// maxBody bounds what a call may send. Wise's limit is not documented.
const maxBody = 4 << 20

// endpoint is one row of the route table: how a call is told apart and what
// makes its answer.
type endpoint struct {
	name    Endpoint
	pattern string
	serve   func(*call) reply
}

func (s *Sim) routes() {
	s.mux = http.NewServeMux()
	for partner, endpoints := range map[Partner][]endpoint{Wise: s.wise(), WiseCard: s.card(), JackHenry: s.jackHenry(),
		Powens: s.powens(), Venly: s.venly(), Generic: s.generic()} {
		if len(s.opt.Partners) > 0 && !slices.Contains(s.opt.Partners, partner) {
			continue
		}
		for _, ep := range endpoints {
			s.mux.HandleFunc(ep.pattern, func(w http.ResponseWriter, r *http.Request) { s.handle(ep, w, r) })
		}
	}
	// Anything else is answered as Wise answers, and is logged: a client that
	// calls a path nobody documented should be found out.
	s.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		s.handle(endpoint{serve: func(*call) reply { return notFound("no such path") }}, w, r)
	})
	s.control()
}

// ServeHTTP answers as Wise, and the control paths under /sim/.
func (s *Sim) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

// call is one request on its way through.
type call struct {
	*http.Request
	sim   *Sim
	voice voice
	body  []byte
	entry *Request // shared with the log: change it through note
}

// note changes the call's log entry.
func (c *call) note(change func(*Request)) {
	c.sim.mu.Lock()
	defer c.sim.mu.Unlock()
	change(c.entry)
}

// handle takes a call through arrival, fault, effect, fault, answer.
func (s *Sim) handle(ep endpoint, w http.ResponseWriter, r *http.Request) {
	c := s.arrive(ep.name, r)
	c.voice = voiceOf(r.URL.Path)
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	c.body = body
	if err != nil {
		s.send(w, c, invalid(http.StatusRequestEntityTooLarge, "BAD_REQUEST", "", "the body cannot be read"), Fault{})
		return
	}
	f, struck := s.strike(ep.name)
	if struck {
		c.note(func(e *Request) { e.Fault = f.Kind })
	}
	if struck && !f.After {
		if rep, stop := s.interrupt(c, f); stop {
			s.send(w, c, rep, f)
			return
		}
	}
	rep := ep.serve(c)
	if struck && f.After {
		if late, stop := s.interrupt(c, f); stop {
			rep = late
		}
	}
	s.send(w, c, rep, f)
}

// interrupt lets a fault stand in the way of c. It reports whether the call
// ends with the reply it returns; a Close ends it without one.
func (s *Sim) interrupt(c *call, f Fault) (rep reply, stop bool) {
	switch f.Kind {
	case Error:
		return c.voice.refuse(f.Status, "ERROR", http.StatusText(f.Status)), true
	case RateLimit:
		rep = reply{status: http.StatusTooManyRequests, body: []byte(`{}`), header: http.Header{}}
		rep.header.Set("Retry-After", strconv.Itoa(int(f.RetryAfter/time.Second)))
		rep.header.Set("X-Rate-Limited-By", "wise-public-api")
		return rep, true
	case ExpiredToken:
		token := bearer(c.Header)
		s.mu.Lock()
		delete(s.tokens, token)
		s.mu.Unlock()
		return c.voice.unauthorized(token), true
	case Delay:
		time.Sleep(f.Delay)
	case Hang:
		s.hang()
	case Close:
		c.note(func(e *Request) { e.Done = true })
		panic(http.ErrAbortHandler) // net/http's way to close a connection without a word
	}
	return reply{}, false
}

// authorized lets serve see only calls that carry a token of Wise's in force.
// The documents ask for one on all of these endpoints.
func (s *Sim) authorized(serve func(*call) reply) func(*call) reply {
	return s.authorizedAt(Wise, serve)
}

func (s *Sim) authorizedAt(p Partner, serve func(*call) reply) func(*call) reply {
	return func(c *call) reply {
		token := bearer(c.Header)
		s.mu.Lock()
		granted, ok := s.tokens[token]
		now := s.now()
		s.mu.Unlock()
		if !ok || granted.at != p || !now.Before(granted.end) {
			return c.voice.unauthorized(token)
		}
		return serve(c)
	}
}

// bearer returns the access token of a request (RFC 6750 §2.1).
func bearer(h http.Header) string {
	scheme, token, _ := strings.Cut(h.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return ""
	}
	return token
}

// send answers c with rep, as the fault f would have it.
func (s *Sim) send(w http.ResponseWriter, c *call, rep reply, f Fault) {
	rep, err := s.finish(rep, f)
	if err != nil {
		rep = unexpected("sealing the reply: " + err.Error())
	}
	if rep.status >= 300 {
		f = Fault{} // an error is left alone
	}
	switch f.Kind {
	case Empty:
		rep.body, rep.sealedTo = nil, ""
	case Garbage:
		rep.body, rep.sealedTo = []byte("<!doctype html>\x00\xff\xfe<title>gateway</title>"), ""
	case Truncated:
		rep.body = rep.body[:len(rep.body)/2]
	}
	c.note(func(e *Request) {
		e.Status, e.ReplyKID, e.Refusal, e.Done = rep.status, rep.sealedTo, rep.refusal, true
	})
	header := w.Header()
	maps.Copy(header, rep.header)
	if len(rep.body) > 0 {
		header.Set("Content-Type", cmp.Or(rep.kind, plainJSON))
	}
	header.Set("Content-Length", strconv.Itoa(len(rep.body)))
	header.Set("X-Trace-Id", c.entry.TraceID)
	if id := c.Header.Get("X-External-Correlation-Id"); id != "" && len(id) <= 36 {
		header.Set("X-External-Correlation-Id", id)
	}
	w.WriteHeader(rep.status)
	if f.Kind != Cut {
		_, _ = w.Write(rep.body) // a client that has left gets nothing; the log has it
		return
	}
	_, _ = w.Write(rep.body[:len(rep.body)/2])
	_ = http.NewResponseController(w).Flush() // or nothing at all would arrive
	panic(http.ErrAbortHandler)
}
