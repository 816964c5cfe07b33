package rotation

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"keyd/internal/registry"
)

const (
	// maxRetryAfter bounds what a partner can make us wait for.
	maxRetryAfter = 24 * time.Hour
	// maxLastError bounds what is kept of an error's text.
	maxLastError = 500
)

// delay is how long to wait after the nth failed try: full jitter, so that
// daemons that failed together do not come back together, with a floor, so that
// the jitter cannot make a loop of it.
func (p RetryPolicy) delay(n int, err error) time.Duration {
	ceiling := p.Max
	if shift := min(n, 32); p.Base <= p.Max>>shift {
		ceiling = p.Base << shift
	}
	wait := max(rand.N(ceiling)+1, p.Base/4) //nolint:gosec // G404: jitter is no secret
	if after, ok := errors.AsType[interface {
		error
		RetryAfter() time.Duration
	}](err); ok {
		wait = max(wait, min(after.RetryAfter(), maxRetryAfter))
	}
	return wait
}

// failed records a failed try, so that a restart does not begin to count anew.
// What the registry cannot record holds up the key in memory.
func (e *Engine) failed(ctx context.Context, key registry.Key, s Step, failure error) {
	if ctx.Err() != nil {
		return // the step was interrupted, it did not fail
	}
	e.log.WarnContext(ctx, "a step failed and will be tried again", "key", key.Name, "kid", s.KID, "step", s.Name, "err", failure)
	if s.KID != "" && !errors.Is(failure, ErrAudit) {
		_, err := e.reg.Amend(s.KID, func(v *registry.Version) error {
			tries := 1
			if v.Retry.Step == s.Name {
				tries += v.Retry.Tries
			}
			v.Retry = registry.Retry{Step: s.Name, Tries: tries, Last: brief(failure),
				Next: now().Add(e.cfg.Retry.delay(tries-1, failure))}
			return nil
		})
		if err == nil {
			return
		}
		failure = errors.Join(failure, err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	h := e.holds[key.Name]
	e.holds[key.Name] = hold{tries: h.tries + 1, last: brief(failure),
		until: now().Add(e.cfg.Retry.delay(h.tries, failure))}
}

func (e *Engine) holdOf(key string) (hold, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	h, ok := e.holds[key]
	return h, ok
}

func (e *Engine) release(key string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.holds, key)
}

// brief is an error's text within bounds.
func brief(err error) string {
	text := err.Error()
	if len(text) <= maxLastError {
		return text
	}
	cut := maxLastError
	for cut > 0 && text[cut]&0xC0 == 0x80 { // not inside a UTF-8 sequence
		cut--
	}
	return text[:cut] + "…"
}
