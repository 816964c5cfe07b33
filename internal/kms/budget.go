package kms

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// Budget is how many requests a second keyd allows itself, by what they are
// for. KMS counts them for the whole account and Region, so what keyd takes
// others do not get, and past a quota everybody is throttled. Each default is
// 80 % of what AWS documents for the operation of the family that may be asked
// for least ("Request quotas" in the KMS developer guide).
type Budget struct {
	RSA    float64 // Decrypt and Sign with RSA keys; quota 1,000, default 800
	ECC    float64 // DeriveSharedSecret; quota 1,000, default 800
	Look   float64 // DescribeKey, GetPublicKey, ListResourceTags; quota 2,000, default 1,600
	List   float64 // ListKeys, ListAliases; quota 500, default 400
	Change float64 // making, naming, disabling and deleting keys; quota 5, default 4
}

// family is a kind of request, with a budget of its own.
type family int

const (
	withRSA family = iota
	withECC
	looking
	listing
	changing
)

// patience is how long a request waits for its turn before it is refused with
// a time to come back. Somebody waits for the answer of an envelope or a
// signature; all else may wait for as long as a call may take.
func (f family) patience(call time.Duration) time.Duration {
	if f == withRSA || f == withECC {
		return min(patience, call)
	}
	return call
}

const patience = 500 * time.Millisecond

// rates gives each family's place in the budget, and its default.
func (b *Budget) rates() map[family]struct {
	rate  *float64
	usual float64
} {
	type entry = struct {
		rate  *float64
		usual float64
	}
	return map[family]entry{withRSA: {&b.RSA, 800}, withECC: {&b.ECC, 800}, looking: {&b.Look, 1600},
		listing: {&b.List, 400}, changing: {&b.Change, 4}}
}

func (b *Budget) complete() error {
	for _, e := range b.rates() {
		if !(*e.rate >= 0 && *e.rate <= 1e6) { // a NaN is neither
			return fmt.Errorf("budget of %v requests a second: want 0 (the default) to 1000000", *e.rate)
		}
		*e.rate = orDefault(*e.rate, e.usual)
	}
	return nil
}

func (b *Budget) limiters() map[family]*limiter {
	all := map[family]*limiter{}
	for f, e := range b.rates() {
		all[f] = newLimiter(*e.rate)
	}
	return all
}

// limiter is a token bucket. Below zero, its tokens are those who wait. Burst
// and rate together are one and a quarter of the rate: with the defaults, what
// AWS allows in any one second.
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
