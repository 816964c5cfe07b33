package rotation

import (
	"context"
	"sync"
	"time"

	"keyd/internal/registry"
)

const (
	// lookAgain is the longest that Run sleeps: timers stand still while a
	// virtual machine is suspended, and clocks are set.
	lookAgain = time.Hour
	// stepsPerPass bounds one pass, so that no defect can make a busy loop.
	stepsPerPass = 100
)

// Run settles what a crash left unfinished, and then moves every key on until
// ctx ends. Keys are worked on independently; one key never twice at a time.
//
// When ctx ends, steps that are under way may finish for Config.StopWithin, and
// are interrupted then; an interrupted step is taken again at the next start.
func (e *Engine) Run(ctx context.Context) error {
	steps, interrupt := context.WithCancel(context.WithoutCancel(ctx))
	defer interrupt()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(e.cfg.StopWithin, interrupt) })()
	if err := e.settle(ctx); err != nil {
		// It is narrative only; the registry is the truth. If the audit log is
		// out of order, every intent will be refused.
		e.log.ErrorContext(ctx, "unfinished operations could not be settled in the audit log", "err", err)
	}
	clock := e.newClock()
	defer clock.stop()
	r := runner{engine: e, keys: map[string]*progress{}, ended: make(chan passEnd)}
	defer r.wait()
	e.Wake()
	for {
		timer := time.NewTimer(r.sleep())
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-e.wake:
			clock.follow(e.reg.Keys())
			r.wakeAll(e.reg.Keys())
		case end := <-r.ended:
			r.end(end)
		case <-timer.C:
		}
		timer.Stop()
		r.start(ctx, steps)
	}
}

// runner is Run's own state: which keys are being worked on, and when the
// others are to be looked at.
type runner struct {
	engine *Engine
	keys   map[string]*progress
	ended  chan passEnd
}

type progress struct {
	running bool
	again   bool      // woken: look at it as soon as it is not running
	at      time.Time // look at it then
}

// passEnd is how a pass over a key reports when it is to be looked at again.
type passEnd struct {
	key string
	at  time.Time
}

func (r *runner) wakeAll(keys []registry.Key) {
	for _, key := range keys {
		if r.keys[key.Name] == nil {
			r.keys[key.Name] = &progress{}
		}
		r.keys[key.Name].again = true
	}
}

// start begins a pass over every key that is to be looked at now.
func (r *runner) start(ctx, steps context.Context) {
	for name, p := range r.keys {
		if p.running || !p.again && p.at.After(now()) {
			continue
		}
		p.running, p.again = true, false
		go func() { r.ended <- passEnd{name, r.engine.pass(ctx, steps, name)} }()
	}
}

func (r *runner) end(end passEnd) {
	r.keys[end.key].running, r.keys[end.key].at = false, end.at
}

// sleep is how long until the first key is to be looked at.
func (r *runner) sleep() time.Duration {
	wait := lookAgain
	for _, p := range r.keys {
		if !p.running {
			wait = min(wait, time.Until(p.at))
		}
	}
	return max(wait, 0)
}

// wait returns when no pass runs any more.
func (r *runner) wait() {
	for _, p := range r.keys {
		for p.running {
			r.end(<-r.ended)
		}
	}
}

// Reconcile makes one pass over every key and returns when all have ended.
func (e *Engine) Reconcile(ctx context.Context) {
	var wg sync.WaitGroup
	for _, key := range e.reg.Keys() {
		wg.Go(func() { e.pass(ctx, ctx, key.Name) })
	}
	wg.Wait()
}

// pass takes every step of a key that can be taken now, and returns when the
// key is to be looked at again. It begins no step once ctx has ended; steps is
// the context of those it has begun.
func (e *Engine) pass(ctx, steps context.Context, name string) time.Time {
	unlock, err := e.lock(ctx, name)
	if err != nil {
		return now()
	}
	defer unlock()
	for range stepsPerPass {
		key, err := e.reg.Key(name)
		if err != nil {
			e.log.ErrorContext(ctx, "reading a key", "key", name, "err", err)
			return now().Add(e.cfg.Retry.Max)
		}
		step, at := e.pick(key)
		if step.Name == StepNone || ctx.Err() != nil {
			return at
		}
		if err := e.safely(func() error { return e.take(steps, key, step) }); err != nil {
			e.failed(steps, key, step, err)
			continue
		}
		e.release(name)
		e.log.InfoContext(ctx, "took a step", "key", name, "kid", step.KID, "step", step.Name, "reason", step.Reason)
	}
	return now().Add(e.cfg.Retry.Base)
}

// pick returns the step to take now, or none and when to look again.
func (e *Engine) pick(key registry.Key) (Step, time.Time) {
	at := now()
	if h, ok := e.holdOf(key.Name); ok && h.until.After(at) {
		return Step{Name: StepNone}, h.until
	}
	again := at.Add(lookAgain)
	for _, s := range plan(at, key, e.reg.Versions(key.Name), e.facts(key)) {
		if s.ready(at) {
			return s, at
		}
		if !s.At.IsZero() && s.At.Before(again) {
			again = s.At
		}
	}
	return Step{Name: StepNone}, again
}

// lock keeps two passes from one key, and too many from the machine.
func (e *Engine) lock(ctx context.Context, name string) (unlock func(), err error) {
	e.mu.Lock()
	held := e.locks[name]
	if held == nil {
		held = make(chan struct{}, 1)
		e.locks[name] = held
	}
	e.mu.Unlock()
	select {
	case held <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	select {
	case e.slots <- struct{}{}:
	case <-ctx.Done():
		<-held
		return nil, ctx.Err()
	}
	return func() { <-e.slots; <-held }, nil
}
