package registry_test

import (
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"keyd/internal/registry"
)

// counted counts commits.
type counted struct {
	registry.Engine
	commits atomic.Int64
}

func (c *counted) Update(f func(registry.Tx) error) error {
	c.commits.Add(1)
	return c.Engine.Update(f)
}

func TestTouchesShareACommitAndAreCoarse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engine := &counted{Engine: newMemory()}
		r := open(t, engine)
		must(t, r.PutKey(newKey(keyID)))
		bring(t, r, "a", registry.Draining)
		bring(t, r, "b", registry.Active)
		before := engine.commits.Load()
		start := time.Now()
		for time.Since(start) < 3*time.Minute { // under load
			r.TouchOpened("a", time.Now())
			r.TouchOpened("b", time.Now())
			r.TouchOpened("nobody", time.Now())
			time.Sleep(100 * time.Millisecond)
		}
		time.Sleep(2 * time.Second)
		if got := engine.commits.Load() - before; got < 3 || got > 4 {
			t.Errorf("got %d commits in 3 minutes, want one a minute", got)
		}
		for _, kid := range []string{"a", "b"} {
			v, err := r.Version(kid)
			must(t, err)
			if age := time.Since(v.LastOpenAt); age > time.Minute+10*time.Second {
				t.Errorf("%s: last opened %s ago, want about a minute", kid, age)
			}
		}
		consistent(t, r, engine)
	})
}

func TestTouchNeverGoesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := checked(t)
		bring(t, r, "kid", registry.Active)
		now := time.Now()
		r.TouchOpened("kid", now)
		r.TouchOpened("kid", now.Add(-time.Hour))
		time.Sleep(2 * time.Second)
		r.TouchOpened("kid", now.Add(-2*time.Hour))
		time.Sleep(2 * time.Second)
		if v, _ := r.Version("kid"); !v.LastOpenAt.Equal(now) {
			t.Errorf("got %v, want %v", v.LastOpenAt, now)
		}
	})
}

func TestTouchThatComesLateDoesNotGoBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engine := &faulty{Engine: newMemory()}
		r := open(t, engine)
		must(t, r.PutKey(newKey(keyID)))
		bring(t, r, "kid", registry.Active)
		now := time.Now()
		engine.set(func(f *faulty) { f.during = func() { r.TouchOpened("kid", now.Add(-time.Second)) } })
		r.TouchOpened("kid", now)
		time.Sleep(3 * time.Second)
		if v, _ := r.Version("kid"); !v.LastOpenAt.Equal(now) {
			t.Errorf("got %v, want %v", v.LastOpenAt, now)
		}
	})
}

func TestCloseWritesTouches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engine := newMemory()
		r := open(t, engine)
		must(t, r.PutKey(newKey(keyID)))
		bring(t, r, "kid", registry.Active)
		now := time.Now()
		r.TouchOpened("kid", now)
		must(t, r.Close())
		v, err := open(t, engine).Version("kid")
		must(t, err)
		if !v.LastOpenAt.Equal(now) {
			t.Errorf("got %v, want %v", v.LastOpenAt, now)
		}
		r.TouchOpened("kid", now.Add(time.Hour)) // of no effect
		time.Sleep(2 * time.Second)
	})
}

func TestLostTouchIsMadeUpForByTheNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engine := &faulty{Engine: newMemory()}
		r := open(t, engine)
		must(t, r.PutKey(newKey(keyID)))
		bring(t, r, "kid", registry.Active)
		for range 3 {
			engine.set(func(f *faulty) { f.before = errors.New("full") })
			r.TouchOpened("kid", time.Now())
			time.Sleep(2 * time.Second)
		}
		r.TouchOpened("kid", time.Now())
		time.Sleep(2 * time.Second)
		v, err := r.Version("kid")
		must(t, err)
		if age := time.Since(v.LastOpenAt); age != 2*time.Second {
			t.Errorf("last opened %s ago, want 2s", age)
		}
		consistent(t, r, engine)
	})
}
