package hsm

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"keyd/internal/boundary"
)

// Bare has the token do its part of opening an envelope again and again, from so
// many sessions at once, for a while and in each of them at least once, and returns
// how long each time took. There is nothing around the calls into the module: it is
// what Open is held against.
func (t *Token) Bare(ctx context.Context, handle string, env *boundary.Envelope, sessions int, d time.Duration) ([]time.Duration, error) {
	k, w, err := t.chosen(handle, env)
	if err != nil {
		return nil, fmt.Errorf("measuring the token: %w", err)
	}
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		all  []time.Duration
		errs []error
	)
	end := time.Now().Add(d)
	for range sessions {
		wg.Go(func() {
			mine, err := run(ctx, t, t.pool, "bare", func(u *use) ([]time.Duration, error) {
				var mine []time.Duration
				for start := time.Now(); (len(mine) == 0 || start.Before(end)) && ctx.Err() == nil; start = time.Now() {
					a, err := w.ask(t, u, k, env)
					if err != nil {
						return mine, err
					}
					clear(a.block)
					mine = append(mine, time.Since(start))
				}
				return mine, nil
			}, nil)
			mu.Lock()
			defer mu.Unlock()
			all, errs = append(all, mine...), append(errs, err)
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("measuring the token: %w", err)
	}
	return all, nil
}
