package bench_test

import (
	"context"
	"errors"
	"math"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"keyd/internal/bench"
)

// steady takes as long each time.
func steady(takes time.Duration) bench.Side {
	return func(_ context.Context, callers int, d time.Duration) (bench.Slice, error) {
		time.Sleep(d)
		var s bench.Slice
		for range callers * int(d/takes) {
			s.Took = append(s.Took, takes)
		}
		s.CPU = map[string]time.Duration{"token": time.Duration(len(s.Took)) * takes / 2}
		return s, nil
	}
}

func TestCompareCountsBothSidesAlike(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		r, err := bench.Compare(t.Context(), 4, 2*time.Second, steady(time.Millisecond), steady(1250*time.Microsecond))
		if err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took != 4*time.Second {
			t.Errorf("it took %s for 2 s of each side", took)
		}
		near := func(name string, got, want float64) {
			t.Helper()
			if math.Abs(got-want) > want/100 {
				t.Errorf("%s is %v, want %v", name, got, want)
			}
		}
		near("bare", r.Bare.PerSecond, 4000)
		near("keyd", r.Keyd.PerSecond, 3200)
		near("the ratio", r.Ratio, 0.8)
		near("the median", r.Keyd.P50, 1250)
		near("what is added", r.Added, 250)
		near("the processor's part", r.Bare.CPU["token"], 500)
		if r.Sessions != 4 || r.Bare.Operations != 8000 {
			t.Errorf("got %+v", r)
		}
	})
}

func TestASideThatFailsOrDoesNothingIsSaid(t *testing.T) {
	broken := errors.New("the token is gone")
	fails := func(context.Context, int, time.Duration) (bench.Slice, error) { return bench.Slice{}, broken }
	idle := func(context.Context, int, time.Duration) (bench.Slice, error) { return bench.Slice{}, nil }
	good := func(context.Context, int, time.Duration) (bench.Slice, error) {
		return bench.Slice{Took: []time.Duration{1}}, nil
	}
	if _, err := bench.Compare(t.Context(), 1, time.Millisecond, good, fails); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
	for _, sides := range [][2]bench.Side{{idle, good}, {good, idle}} {
		if _, err := bench.Compare(t.Context(), 1, time.Millisecond, sides[0], sides[1]); err == nil {
			t.Error("a side that does nothing is compared")
		}
	}
}

func TestWhatAPersonSees(t *testing.T) {
	runs := []bench.Run{
		{Key: "RSA-2048", Level: "raw", Sessions: 1, Ratio: 0.9, Added: 52, Bare: bench.Figures{PerSecond: 2000, P50: 470, P99: 700, CPU: map[string]float64{"token": 505}},
			Keyd: bench.Figures{PerSecond: 1800, P50: 522, P99: 12_000, CPU: map[string]float64{"token": 520, "keyd": 90, "caller": 40}}},
		{Key: "RSA-2048", Level: "raw", Sessions: 8, Bare: bench.Figures{PerSecond: 4000}, Keyd: bench.Figures{PerSecond: 1}},
	}
	var out strings.Builder
	bench.Table(&out, runs)
	bench.CPU(&out, runs)
	bench.Bars(&out, runs)
	for _, want := range []string{"90 %", "52 µs", "12.0 ms", "RSA-2048, raw: operations a second",
		"    1  bare " + strings.Repeat("░", 20) + " 2000", "       keyd " + strings.Repeat("█", 18) + " 1800",
		"    8  bare " + strings.Repeat("░", 40) + " 4000", "keyd █ 1\n", "505 µs", "40 µs", "RSA-2048    raw         1  505 µs"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("there is no %q in\n%s", want, out.String())
		}
	}
	if n := strings.Count(out.String(), "operations a second"); n != 1 {
		t.Errorf("the same key is headed %d times", n)
	}
	bench.Bars(&out, nil)
}
