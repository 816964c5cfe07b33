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
		"a leak":                 {[]int{0, 90000, 100000, 110000, 120000, 130000, 140000, 150000, 160000}, 1000},
		"a leak, and more once":  {[]int{0, 90000, 100000, 110000, 120000, 130000, 990000, 1000000, 1010000}, 1000},
		"a heap that fills":      {[]int{0, 90000, 120000, 130000, 135000, 135000, 135000, 135000, 135000}, 0},
		"a heap that rests once": {[]int{0, 90000, 100000, 110000, 120000, 130000, 130000, 150000, 160000}, 0},
		"a heap in disorder":     {[]int{0, 40000, 80000, 40000, 80000, 120000, 80000, 120000, 160000}, 0},
		"a heap that grows once": {[]int{0, 10, 20, 30, 40, 90050, 90060, 90070, 90080}, 0},
		"a page a round":         {[]int{0, 820, 1640, 2460, 3280, 4100, 4920, 5740, 6560}, 0},
		"too little is known":    {[]int{10000, 20000}, 0},
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
