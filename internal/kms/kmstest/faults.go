package kmstest

import (
	"context"
	"errors"
	"slices"
	"time"
)

// Fault makes coming requests fail. Faults come in pairs: with After unset the
// request does nothing; with After set it does its work and the answer is lost.
type Fault struct {
	Op    string // "CreateKey"; "" is any
	After bool
	// Code is answered in place of the true answer: "KMSInternalException".
	Code string
	// Drop cuts the connection in place of any answer.
	Drop bool
	// Delay comes before everything else. Without Code and Drop the request is
	// merely slow.
	Delay time.Duration
	Times int // how many requests; 0 is one
}

// errDropped says that the connection is to be cut.
var errDropped = errors.New("connection dropped")

// Inject adds a fault.
func (s *Server) Inject(f Fault) {
	f.Times = max(f.Times, 1)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = append(s.faults, &f)
}

// Heal takes back every fault that has not happened yet, and every denial.
func (s *Server) Heal() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = nil
	clear(s.denied)
	clear(s.grants)
}

// Deny answers AccessDeniedException to the operations from now on.
func (s *Server) Deny(operations ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, name := range operations {
		s.denied[name] = true
	}
}

// Calls counts the requests for an operation so far, refused ones too.
func (s *Server) Calls(operation string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls[operation]
}

// faulty runs an operation with the fault, denial or quota that awaits it.
func (s *Server) faulty(ctx context.Context, name string, do func() (any, error)) (any, error) {
	fault, err := s.admit(name)
	if fault != nil && fault.Delay > 0 {
		timer := time.NewTimer(fault.Delay)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return nil, errDropped
		}
	}
	if err != nil {
		return nil, err
	}
	if fault == nil {
		return do()
	}
	if !fault.After {
		if err := fault.answer(); err != nil {
			return nil, err
		}
	}
	answer, err := do()
	if lost := fault.answer(); lost != nil {
		return nil, lost
	}
	return answer, err
}

func (f *Fault) answer() error {
	switch {
	case f.Drop:
		return errDropped
	case f.Code != "":
		return refuse(f.Code, "a fault that a test asked for")
	}
	return nil
}

// admit counts a request and uses up one turn of the first fault for it.
func (s *Server) admit(name string) (*Fault, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls[name]++
	if s.denied[name] {
		return nil, s.accessDenied(name)
	}
	if err := s.within(name); err != nil {
		return nil, err
	}
	for i, f := range s.faults {
		if f.Op != "" && f.Op != name {
			continue
		}
		if f.Times--; f.Times == 0 {
			s.faults = slices.Delete(s.faults, i, i+1)
		}
		return f, nil
	}
	return nil, nil
}

// Quotas are AWS's defaults for the operations pretended here ("Request quotas"
// in the developer guide); a CreateKey has nothing to do with a CreateAlias.
var Quotas = map[string]int{
	"RSA": 1000, "ECC": 1000, "CancelKeyDeletion": 5, "CreateAlias": 5, "CreateKey": 5, "DeleteAlias": 15, "DescribeKey": 2000,
	"DisableKey": 5, "EnableKey": 5, "GetPublicKey": 2000, "ListAliases": 500, "ListKeys": 500, "ListResourceTags": 2000,
	"ScheduleKeyDeletion": 15, "TagResource": 10, "UpdateAlias": 5,
}

// within counts a request against a quota.
func (s *Server) within(name string) error {
	if quota, limited := s.opts.Quotas[name]; limited && !s.meter(name).take(time.Now(), quota) {
		s.throttled++
		return refuse("ThrottlingException", "You have exceeded the rate at which you may call KMS. Reduce the frequency of your calls.")
	}
	return nil
}

// Throttled counts the requests that were past a quota.
func (s *Server) Throttled() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.throttled
}

// meter counts the requests of one second.
type meter struct {
	second int64
	used   int
}

func (s *Server) meter(name string) *meter {
	if s.meters[name] == nil {
		s.meters[name] = &meter{}
	}
	return s.meters[name]
}

func (m *meter) take(now time.Time, quota int) bool {
	if second := now.Unix(); second != m.second {
		m.second, m.used = second, 0
	}
	m.used++
	return m.used <= quota
}
