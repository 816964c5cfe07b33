package api

import (
	"maps"
	"strconv"
	"sync"
	"time"

	"keyd/internal/audit"
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

const (
	// refusalWindow is how long what was held back waits for its entry.
	refusalWindow = time.Second
	// refusalsEach is how many entries of a kind have their own in a window.
	refusalsEach = 3
)

// refusals spaces the audit entries about what was refused and cost nothing to
// refuse: whoever can connect could otherwise fill the disk with them, and a
// full disk stops keyd. What has no entry of its own is counted, and the count
// recorded when the window is over.
type refusals struct {
	write func(audit.Entry) // of a count

	mu     sync.Mutex
	kinds  map[refusalKind]*refusal
	closed bool
}

// refusalKind is what is spaced: the same from the same user.
type refusalKind struct {
	uid          int
	action, code string
}

type refusal struct {
	written int // entries of their own in this window
	held    int // without one
	last    audit.Entry
	timer   *time.Timer
}

func newRefusals(write func(audit.Entry)) *refusals {
	return &refusals{write: write, kinds: map[refusalKind]*refusal{}}
}

// own reports whether an entry is to be written now. If not, it is counted.
func (r *refusals) own(e audit.Entry) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return true // the listeners are closed too, so there is no flood
	}
	kind := refusalKind{e.Actor.UID, e.Action, e.Code}
	now, ok := r.kinds[kind]
	if !ok {
		now = &refusal{}
		now.timer = time.AfterFunc(refusalWindow, func() { r.over(kind) })
		r.kinds[kind] = now
	}
	if now.written < refusalsEach {
		now.written++
		return true
	}
	now.held++
	now.last = e
	return false
}

// over ends a window. One in which something was held back is followed by
// another, so that who goes on is not heard afresh each time.
func (r *refusals) over(kind refusalKind) {
	r.mu.Lock()
	now, ok := r.kinds[kind]
	if !ok { // flushed
		r.mu.Unlock()
		return
	}
	e, held := now.last, now.held
	if held == 0 {
		delete(r.kinds, kind)
	} else {
		*now = refusal{written: 1, timer: now.timer}
		now.timer.Reset(refusalWindow)
	}
	r.mu.Unlock()
	if held > 0 {
		r.write(standsFor(e, held))
	}
}

// close writes what is held back and holds back nothing more.
func (r *refusals) close() {
	r.mu.Lock()
	kinds := r.kinds
	r.kinds, r.closed = nil, true
	r.mu.Unlock()
	for _, k := range kinds {
		k.timer.Stop()
		if k.held > 0 {
			r.write(standsFor(k.last, k.held))
		}
	}
}

// standsFor is the last of the entries held back, with their number.
func standsFor(e audit.Entry, held int) audit.Entry {
	detail := make(map[string]string, len(e.Detail)+1)
	maps.Copy(detail, e.Detail)
	detail["times"] = strconv.Itoa(held)
	e.Detail = detail
	return e
}
