package api

import (
	"fmt"
	"sync"
)

// mostCalls is how many calls are under way at a time, with all partners
// together: the rest of the connections are left to those who seal and open.
const mostCalls = mostClients * 3 / 4

// turns bounds the calls under way, and the encrypts that wait for a partner's key
// like them. A call takes as long as the partner does, and one partner that hangs
// must not take the turns of the others.
type turns struct {
	each int // with one partner

	mu   sync.Mutex
	all  int
	with map[string]int
}

func newTurns(each int) *turns { return &turns{each: each, with: map[string]int{}} }

// take takes a turn. It may be given back more than once.
func (t *turns) take(partner string) (giveBack func(), err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.with[partner] >= t.each:
		return nil, fmt.Errorf("%w: %d with %s", errCallsFull, t.each, partner)
	case t.all >= mostCalls:
		return nil, fmt.Errorf("%w: %d with all partners", errCallsFull, mostCalls)
	}
	t.all++
	t.with[partner]++
	return sync.OnceFunc(func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.all--
		t.with[partner]--
	}), nil
}

// count is how many calls are under way with a partner.
func (t *turns) count(partner string) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.with[partner]
}
