package kms

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// Budget is how many requests a second keyd allows itself. KMS counts them for
// the whole account and Region, so what keyd takes others do not get; past the
// quota everybody is throttled.
type Budget struct {
	Decrypt float64 // 0 is 800; AWS's quota is 1,000 for RSA keys
	Read    float64 // looking at keys, aliases and tags; 0 is 100
	Change  float64 // making, naming and deleting keys; 0 is 4; AWS's smallest such quota is 5
}

// family is a kind of request, with a budget of its own.
type family int

const (
	decrypting family = iota
	reading
	changing
)

func (b *Budget) complete() error {
	for _, rate := range []float64{b.Decrypt, b.Read, b.Change} {
		if !(rate >= 0 && rate <= 1e6) { // a NaN is neither
			return fmt.Errorf("budget of %v requests a second: want 0 (the default) to 1000000", rate)
		}
	}
	b.Decrypt, b.Read, b.Change = orDefault(b.Decrypt, 800), orDefault(b.Read, 100), orDefault(b.Change, 4)
	return nil
}

func (b *Budget) limiters() map[family]*limiter {
	return map[family]*limiter{decrypting: newLimiter(b.Decrypt), reading: newLimiter(b.Read), changing: newLimiter(b.Change)}
}

// limiter is a token bucket. Below zero, its tokens are those who wait.
type limiter struct {
	rate, burst float64 // tokens a second, and at most

	mu     sync.Mutex
	tokens float64
	at     time.Time // when tokens was right
}

func newLimiter(rate float64) *limiter {
	burst := max(1, rate/4)
	return &limiter{rate: rate, burst: burst, tokens: burst}
}

// take takes a token and says how long to wait for it, unless that is longer
// than patience.
func (l *limiter) take(now time.Time, patience time.Duration) (wait time.Duration, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.at.IsZero() {
		l.tokens = min(l.burst, l.tokens+now.Sub(l.at).Seconds()*l.rate)
	}
	l.at = now
	wait = max(0, time.Duration((1-l.tokens)/l.rate*float64(time.Second)))
	if wait > patience {
		return wait, false
	}
	l.tokens--
	return wait, true
}

// turn waits for a token. Whoever would still wait when ctx or patience ends
// is told at once, and when to come back.
func (l *limiter) turn(ctx context.Context, patience time.Duration) error {
	if deadline, set := ctx.Deadline(); set {
		patience = min(patience, time.Until(deadline))
	}
	wait, ok := l.take(time.Now(), patience)
	if !ok {
		return throttled{after: wait, cause: errBudget}
	}
	if wait == 0 {
		return nil
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
