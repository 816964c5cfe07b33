package api

import (
	"sync"
	"time"
)

const (
	// remember is how long an answer of the user database is taken as known: a
	// connection may live for days, and whoever is taken out of a group must
	// not stay in it that long.
	remember = 10 * time.Second
	// renew is when one that is used is asked for again, ahead of time, so that
	// nobody waits for it.
	renew = remember / 2
	// lookupWithin is how long a caller waits for an answer. Without one it has
	// no name and no groups.
	lookupWithin = 3 * time.Second
	// maxAccounts bounds how many users are remembered.
	maxAccounts = 1024
)

// remembered has answers about users. It asks about each once at a time.
type remembered[V any] struct {
	ask func(uid int) V

	mu    sync.Mutex
	known map[int]*remembrance[V]
}

type remembrance[V any] struct {
	value  V
	at     time.Time     // when it was asked for; zero: never
	asking chan struct{} // closed with the answer; nil if none is on its way
}

func newRemembered[V any](ask func(uid int) V) *remembered[V] {
	return &remembered[V]{ask: ask, known: map[int]*remembrance[V]{}}
}

// of returns what is known of a user, or what there is to know.
func (r *remembered[V]) of(uid int) V {
	r.mu.Lock()
	a, ok := r.known[uid]
	if !ok {
		if len(r.known) >= maxAccounts {
			clear(r.known)
		}
		a = &remembrance[V]{}
		r.known[uid] = a
	}
	age := time.Since(a.at)
	if age >= renew && a.asking == nil {
		a.asking = make(chan struct{})
		go r.renew(a, uid)
	}
	value, asking := a.value, a.asking
	r.mu.Unlock()
	if age < remember {
		return value
	}
	select {
	case <-asking:
		r.mu.Lock()
		defer r.mu.Unlock()
		return a.value
	case <-time.After(lookupWithin):
		var none V
		return none
	}
}

func (r *remembered[V]) renew(a *remembrance[V], uid int) {
	at := time.Now()
	value := r.ask(uid)
	r.mu.Lock()
	defer r.mu.Unlock()
	a.value, a.at = value, at
	close(a.asking)
	a.asking = nil
}
