package api

import (
	"sync"
	"time"
)

// spacing lets something happen at most once in an interval for each name, and
// counts what it held back. The names are those of the config.
type spacing struct {
	every time.Duration

	mu   sync.Mutex
	last map[string]time.Time
}

func newSpacing(every time.Duration) *spacing {
	return &spacing{every: every, last: map[string]time.Time{}}
}

// may reports whether it may happen now; if so, it counts as having happened.
func (s *spacing) may(name string, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if last, ok := s.last[name]; ok && now.Sub(last) < s.every {
		return false
	}
	s.last[name] = now
	return true
}

// refusals spaces the audit entries about callers who may not do what they ask
// for: whoever can connect could otherwise fill the disk with them, and a full
// disk stops keyd.
type refusals struct {
	every time.Duration

	mu   sync.Mutex
	seen map[int]*refusal // by uid
}

type refusal struct {
	last time.Time
	held int // refused since, without an entry of their own
}

func newRefusals(every time.Duration) *refusals {
	return &refusals{every: every, seen: map[int]*refusal{}}
}

// note reports whether a refusal gets an entry, and how many before it did not.
func (r *refusals) note(uid int, now time.Time) (held int, record bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	seen, ok := r.seen[uid]
	if !ok {
		if len(r.seen) >= maxAccounts {
			clear(r.seen)
		}
		r.seen[uid] = &refusal{last: now}
		return 0, true
	}
	if now.Sub(seen.last) < r.every {
		seen.held++
		return 0, false
	}
	held = seen.held
	*seen = refusal{last: now}
	return held, true
}
