package hsm_test

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"keyd/internal/boundary"
)

// BenchmarkPipe is what it costs to have the module in another process: the same
// operations on one token through the pipe and without it, in turn and in one
// run, because machines drift. "refused" never reaches the token, so it is the
// pipe alone.
func BenchmarkPipe(b *testing.B) {
	cfg := softHSM(b)
	cfg.Sessions, cfg.Logger = 8, slog.New(slog.DiscardHandler)
	inside := open(b, cfg)
	piped := openInWorker(b, cfg)
	g := generate(b, inside)
	if _, err := piped.Public(b.Context(), g.Handle); err != nil { // which makes it known there
		b.Fatal(err)
	}
	env := seal(b, g)
	env.Ciphertext = append(make([]byte, 1024), env.Ciphertext...) // not what was sealed, but as long as what is
	type opener interface {
		Open(context.Context, string, *boundary.Envelope) (*boundary.Opened, error)
	}
	for name, c := range map[string]struct {
		handle string
		want   error
	}{"refused": {handle: g.Handle + "x", want: boundary.ErrNoKey}, "opened": {handle: g.Handle, want: boundary.ErrOpen}} {
		for _, callers := range []int{1, 4} {
			b.Run(name+"/callers="+strconv.Itoa(callers), func(b *testing.B) {
				once := func(o opener) func() error {
					return func() error {
						if _, err := o.Open(b.Context(), c.handle, env); !errors.Is(err, c.want) {
							return err
						}
						return nil
					}
				}
				var direct, through []time.Duration
				for b.Loop() {
					direct = append(direct, timed(b, callers, once(inside))...)
					through = append(through, timed(b, callers, once(piped))...)
				}
				report := func(name string, at float64) {
					d, p := quantile(direct, at), quantile(through, at)
					b.ReportMetric(float64((p-d).Nanoseconds())/1000, "added-µs-"+name)
				}
				report("p10", 0.1)
				report("p50", 0.5)
				report("p99", 0.99)
				b.ReportMetric(float64(len(through))/float64(len(direct)), "ratio")
				b.ReportMetric(0, "ns/op") // a slice, which says nothing
			})
		}
	}
}

// timed runs f from every caller at once for a while, and returns how long each
// time took.
func timed(b *testing.B, callers int, f func() error) []time.Duration {
	var wg sync.WaitGroup
	var mu sync.Mutex
	var all []time.Duration
	end := time.Now().Add(300 * time.Millisecond)
	for range callers {
		wg.Go(func() {
			var mine []time.Duration
			for began := time.Now(); began.Before(end); began = time.Now() {
				if err := f(); err != nil {
					b.Error(err)
					return
				}
				mine = append(mine, time.Since(began))
			}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, mine...)
		})
	}
	wg.Wait()
	return all
}

func quantile(all []time.Duration, at float64) time.Duration {
	sorted := slices.Sorted(slices.Values(all))
	return sorted[int(float64(len(sorted)-1)*at)]
}
