package conformance

import (
	"testing"
	"time"
)

// Heaps go up in steps and sometimes down; a leak goes up each time.
func TestGrowthThatGoesOnIsALeak(t *testing.T) {
	for name, c := range map[string]struct {
		sizes []int
		want  int
	}{
		"a leak":                   {[]int{0, 9000, 10000, 11000, 12000, 13000, 14000, 15000, 16000}, 100},
		"a heap that fills":        {[]int{0, 9000, 12000, 13000, 13500, 13500, 13500, 13500, 13500}, 0},
		"a heap that rests once":   {[]int{0, 9000, 10000, 11000, 12000, 13000, 13000, 15000, 16000}, 0},
		"a heap in disorder":       {[]int{0, 4000, 8000, 4000, 8000, 12000, 8000, 12000, 16000}, 0},
		"a growth of single bytes": {[]int{0, 10, 20, 30, 40, 50, 60, 70, 80}, 0},
		"too little is known":      {[]int{1000, 2000}, 0},
	} {
		if got := growth(c.sizes, 10); got != c.want {
			t.Errorf("%s: %d bytes each, want %d", name, got, c.want)
		}
	}
}

// What grows is looked at again; what does not, and what is slow, is left.
func TestMemoryIsMeasuredUntilItSettles(t *testing.T) {
	rising := func(n int) []int {
		var sizes []int
		for i := range n + 1 {
			sizes = append(sizes, i*10000)
		}
		return sizes
	}
	for name, c := range map[string]struct {
		sizes []int
		took  time.Duration
		want  bool
	}{
		"too early":                     {rising(7), time.Hour, false},
		"flat":                          {make([]int, 9), 0, true},
		"it rises":                      {rising(8), time.Second, false},
		"it rises, and has taken long":  {rising(8), time.Minute, true},
		"it rises and rises and rises":  {rising(40), time.Second, true},
		"it has risen, and is flat now": {append(rising(20), 200000), time.Second, true},
	} {
		if got := settled(c.sizes, 10, c.took); got != c.want {
			t.Errorf("%s: settled is %t, want %t", name, got, c.want)
		}
	}
}

// A decrypt that shares the processor with a key generation takes longer than
// one alone, and much less than the generation.
func TestDecryptsThatWaitAreToldFromSlowOnes(t *testing.T) {
	const ms = time.Millisecond
	m := making{key: "RSA-4096", took: 2 * time.Second}
	for name, c := range map[string]struct {
		idle, busy []time.Duration
		want       Verdict
	}{
		"as fast as ever":      {[]time.Duration{ms, ms, ms}, []time.Duration{ms, 2 * ms, ms}, Pass},
		"slower for a while":   {[]time.Duration{ms, ms, ms}, []time.Duration{ms, 400 * ms, 30 * ms}, Pass},
		"one waits for it":     {[]time.Duration{ms, ms, ms}, []time.Duration{ms, 1900 * ms}, Quirk},
		"a slow token as ever": {[]time.Duration{1100 * ms, 1100 * ms, 1100 * ms}, []time.Duration{1200 * ms}, Pass},
	} {
		if got := m.held(c.idle, c.busy); got.Verdict != c.want {
			t.Errorf("%s: %s (%s), want %s", name, got.Verdict, got.Seen, c.want)
		}
	}
}
