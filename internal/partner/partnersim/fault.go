package partnersim

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"
)

// Kind says what goes wrong.
type Kind string

// Faults that stand in the way of a call, before its effect or (Fault.After)
// between its effect and its answer.
const (
	Error     Kind = "error"      // a plain JSON error with Fault.Status
	Close     Kind = "close"      // the connection is closed, no answer
	RateLimit Kind = "rate-limit" // 429 with Retry-After and X-Rate-Limited-By
	Delay     Kind = "delay"      // goes on after Fault.Delay, even if the client has left
	Hang      Kind = "hang"       // goes on after Sim.Release, even if the client has left
	// ExpiredToken answers 401 and forgets the token, as if it had just run out.
	// Never after the effect, never where no token is asked for.
	ExpiredToken Kind = "expired-token"
)

// Faults of the answer: the call succeeds, its effect stands. An answer that
// is an error anyway is left alone.
const (
	Empty     Kind = "empty"     // 200 without a body
	Garbage   Kind = "garbage"   // neither JSON nor JOSE
	Truncated Kind = "truncated" // the first half of the body, as if it were all
	Cut       Kind = "cut"       // the first half of the body, then the connection is closed
)

// Faults of a sealed answer.
const (
	PlainJSON   Kind = "plain-json"   // the plaintext, as application/json
	WrongKID    Kind = "wrong-kid"    // sealed to the right key under a kid nobody uploaded
	WrongKey    Kind = "wrong-key"    // the right kid, sealed to a key nobody holds
	BadTag      Kind = "bad-tag"      // one bit of the authentication tag is flipped
	StrayTail   Kind = "stray-tail"   // two characters too many, as in Wise's published samples
	DirectReply Kind = "direct-reply" // alg "dir" where RSA was asked for: a downgrade
)

// Fault is what goes wrong with the next calls of an endpoint.
type Fault struct {
	Endpoint Endpoint
	Kind     Kind
	// After makes a fault that stands in the way strike when the effect has
	// happened: the client sees the same failure and cannot tell.
	After bool
	// Times is how many calls it strikes. Zero: one. Negative: until cleared.
	Times int
	// Status is the status of an Error. Zero: 500.
	Status int
	// Delay is how long a Delay holds a call.
	Delay time.Duration
	// RetryAfter is what a RateLimit asks for, in whole seconds. Zero: 5 s.
	RetryAfter time.Duration
}

// strikes reports whether f applies to a call of endpoint e.
func (f Fault) strikes(e Endpoint) bool {
	switch {
	case f.Endpoint != Any && f.Endpoint != e:
		return false
	case f.Kind == ExpiredToken:
		return !endpoints[e].open
	case f.ofSealed():
		return e.sealed()
	}
	return true
}

func (f Fault) inTheWay() bool {
	return slices.Contains([]Kind{Error, Close, RateLimit, Delay, Hang, ExpiredToken}, f.Kind)
}

func (f Fault) ofAnswer() bool {
	return slices.Contains([]Kind{Empty, Garbage, Truncated, Cut}, f.Kind)
}

func (f Fault) ofSealed() bool {
	return slices.Contains([]Kind{PlainJSON, WrongKID, WrongKey, BadTag, StrayTail, DirectReply}, f.Kind)
}

func (f Fault) validate() error {
	var errs []error
	refuse := func(when bool, format string, args ...any) {
		if when {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	refuse(!f.Endpoint.known(), "there is no endpoint %q", f.Endpoint)
	refuse(!f.inTheWay() && !f.ofAnswer() && !f.ofSealed(), "there is no kind %q", f.Kind)
	refuse(f.Endpoint.known() && f.Endpoint != Any && !f.strikes(f.Endpoint), "%q cannot happen at %q", f.Kind, f.Endpoint)
	refuse(f.After && (!f.inTheWay() || f.Kind == ExpiredToken), "%q has no before and after", f.Kind)
	refuse(f.Status != 0 && f.Kind != Error, "a status belongs to %q only", Error)
	refuse(f.Status != 0 && (f.Status < 400 || f.Status > 599), "status %d is no error", f.Status)
	refuse((f.Kind == Delay) != (f.Delay > 0), "%q has a delay above zero, and nothing else has", Delay)
	refuse(f.RetryAfter != 0 && f.Kind != RateLimit, "retry-after belongs to %q only", RateLimit)
	refuse(f.RetryAfter < 0 || f.RetryAfter%time.Second != 0, "retry-after %s is not whole seconds", f.RetryAfter)
	if len(errs) > 0 {
		return fmt.Errorf("arming a fault: %w", errors.Join(errs...))
	}
	return nil
}

// Fail arms a fault. Faults that strike the same endpoint wait for each other,
// first come first served; one call is struck by one fault at most.
func (s *Sim) Fail(f Fault) error {
	if err := f.validate(); err != nil {
		return err
	}
	set(&f.Times, 1)
	if f.Kind == Error {
		set(&f.Status, http.StatusInternalServerError)
	}
	if f.Kind == RateLimit {
		set(&f.RetryAfter, 5*time.Second)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = append(s.faults, &f)
	return nil
}

// Faults returns what is still armed; Times is what is left of each.
func (s *Sim) Faults() []Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	left := make([]Fault, 0, len(s.faults))
	for _, f := range s.faults {
		left = append(left, *f)
	}
	return left
}

// ClearFaults disarms every fault and releases the calls that hang.
func (s *Sim) ClearFaults() {
	s.mu.Lock()
	s.faults = nil
	s.mu.Unlock()
	s.Release()
}

// Release lets the calls that hang go on: what a Hang kept back happens now.
func (s *Sim) Release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.release)
	s.release = make(chan struct{})
	s.hung = 0
}

// Hung returns how many calls hang right now.
func (s *Sim) Hung() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.hung
}

// strike takes the fault, if any, that a call of e meets.
func (s *Sim) strike(e Endpoint) (Fault, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.IndexFunc(s.faults, func(f *Fault) bool { return f.strikes(e) })
	if i < 0 {
		return Fault{}, false
	}
	f := s.faults[i]
	struck := *f
	if f.Times > 0 {
		f.Times--
	}
	if f.Times == 0 {
		s.faults = slices.Delete(s.faults, i, i+1)
	}
	return struck, true
}

// hang blocks until Release. A client that goes away does not end it: what a
// server has taken in happens whether or not somebody waits for the answer.
func (s *Sim) hang() {
	s.mu.Lock()
	release := s.release
	s.hung++
	s.mu.Unlock()
	<-release
}
