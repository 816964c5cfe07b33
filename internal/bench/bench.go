// Package bench holds two ways of doing the same thing against each other: what
// a token can do with nothing around it, and what of that arrives at a caller of
// keyd. The two have their turns in short slices, because machines drift.
package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Side is one of the two. It has so many callers do it at once for a while, and
// says how long each time took, and how much processor time went where.
type Side func(ctx context.Context, callers int, d time.Duration) (Slice, error)

// Slice is what a Side did.
type Slice struct {
	Took []time.Duration
	CPU  map[string]time.Duration // by the process that used it
}

// Run is one comparison.
type Run struct {
	Key      string  `json:"key"`   // what it is made of: "RSA-2048"
	Level    string  `json:"level"` // boundary level
	Sessions int     `json:"sessions"`
	Bare     Figures `json:"bare"`
	Keyd     Figures `json:"keyd"`
	// Ratio is keyd's operations a second to the bare token's, Added how much
	// longer the median takes, in microseconds.
	Ratio float64 `json:"ratio"`
	Added float64 `json:"added_us"`
}

// Figures are those of one side.
type Figures struct {
	Operations int     `json:"operations"`
	PerSecond  float64 `json:"ops_per_s"`
	P50        float64 `json:"p50_us"` // microseconds
	P99        float64 `json:"p99_us"`
	// CPU is the processor time of an operation in microseconds, by process.
	CPU map[string]float64 `json:"cpu_us"`
}

// slice is how long each side runs before the other has its turn.
const slice = 250 * time.Millisecond

// Compare runs both sides for about so long each. A side that does nothing in
// all that time is an error.
func Compare(ctx context.Context, callers int, each time.Duration, bare, keyd Side) (Run, error) {
	r := Run{Sessions: callers}
	var sides [2]tally
	for range max(1, int((each+slice-1)/slice)) {
		for i, side := range []Side{bare, keyd} {
			if err := sides[i].add(ctx, side, callers, min(slice, each)); err != nil {
				return r, err
			}
		}
	}
	r.Bare, r.Keyd = sides[0].figures(), sides[1].figures()
	if r.Bare.Operations == 0 || r.Keyd.Operations == 0 {
		return r, errors.New("not one operation came to its end")
	}
	r.Ratio, r.Added = r.Keyd.PerSecond/r.Bare.PerSecond, r.Keyd.P50-r.Bare.P50
	return r, nil
}

// tally adds up slices.
type tally struct {
	took    []time.Duration
	elapsed time.Duration
	cpu     map[string]time.Duration
}

func (t *tally) add(ctx context.Context, side Side, callers int, d time.Duration) error {
	began := time.Now()
	done, err := side(ctx, callers, d)
	if err != nil {
		return fmt.Errorf("with %d callers: %w", callers, err)
	}
	// What was begun before the end is finished after it, and counts.
	t.elapsed += max(d, min(time.Since(began), d+slices.Max(append(done.Took, 0))))
	t.took = append(t.took, done.Took...)
	if t.cpu == nil {
		t.cpu = map[string]time.Duration{}
	}
	for process, used := range done.CPU {
		t.cpu[process] += used
	}
	return nil
}

func (t *tally) figures() Figures {
	f := Figures{Operations: len(t.took), CPU: map[string]float64{}}
	if f.Operations == 0 {
		return f
	}
	slices.Sort(t.took)
	at := func(share float64) float64 { return micros(t.took[int(share*float64(len(t.took)-1))]) }
	f.PerSecond, f.P50, f.P99 = float64(f.Operations)/t.elapsed.Seconds(), at(0.50), at(0.99)
	for process, used := range t.cpu {
		f.CPU[process] = micros(used) / float64(f.Operations)
	}
	return f
}

func micros(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1000 }
