package registry

import (
	"sync"
	"time"
)

const (
	// touchEvery is how exact LastOpenAt is: a version under load is written
	// once in this time, not once for each envelope.
	touchEvery = time.Minute
	// touchDelay is how long marks are held back, so that several versions
	// share a commit.
	touchDelay = time.Second
)

// touches are marks that wait to be written.
type touches struct {
	mu      sync.Mutex // guards what follows; taken after Registry.mu where both are
	at      map[string]time.Time
	pending bool // a flush is on its way
}

// TouchOpened notes that a version opened an envelope. It never waits for the
// disk: the mark is written within a second or so, and at most once a minute
// for each version. A mark lost in a crash or a failed commit is followed by
// the next one.
func (r *Registry) TouchOpened(kid string, at time.Time) {
	ix := r.index.Load()
	if ix == nil {
		return
	}
	if v, ok := ix.versions[kid]; !ok || at.Sub(v.LastOpenAt) < touchEvery {
		return
	}
	t := &r.touches
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.at == nil {
		t.at = map[string]time.Time{}
	}
	if at.After(t.at[kid]) {
		t.at[kid] = at.UTC()
	}
	if !t.pending {
		t.pending = true
		time.AfterFunc(touchDelay, func() { _ = r.flush() })
	}
}

// flush writes the marks that wait.
func (r *Registry) flush() error {
	if r.touches.wake(r.index.Load()) == 0 {
		return nil
	}
	_, err := r.update(func(d *draft) error {
		for kid, at := range r.touches.take() {
			if v, ok := d.versions[kid]; ok && at.After(v.LastOpenAt) {
				touched := v.clone()
				touched.LastOpenAt = at
				if err := d.putVersion(touched); err != nil {
					return err
				}
			}
		}
		return nil
	})
	return err
}

// wake ends the wait of the marks and says how many there are to write. One
// that was noted while the last flush was committing is no longer due.
func (t *touches) wake(ix *index) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.pending = false
	if ix == nil {
		return len(t.at)
	}
	for kid, at := range t.at {
		if v, ok := ix.versions[kid]; !ok || at.Sub(v.LastOpenAt) < touchEvery {
			delete(t.at, kid)
		}
	}
	return len(t.at)
}

// take empties it. It is called inside the transaction, so that Close finds
// either the marks still waiting or their transaction under way.
func (t *touches) take() map[string]time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	at := t.at
	t.at = nil
	return at
}
