package dudect

import (
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"unsafe"
)

// drawn are n normal measurements around a mean, some of them far too slow.
func drawn(seed uint64, n int, mean, deviation float64) []float64 {
	r := rand.New(rand.NewPCG(seed, seed))
	took := make([]float64, n)
	for i := range took {
		took[i] = mean + deviation*r.NormFloat64()
		if r.IntN(50) == 0 {
			took[i] += 100_000 * r.ExpFloat64()
		}
	}
	return took
}

func TestWhatIsEqualIsFoundEqual(t *testing.T) {
	f := compare([]Class{{Name: "a"}, {Name: "b"}}, [][]float64{drawn(1, 50_000, 5000, 200), drawn(2, 100_000, 5000, 200)})
	if _, _, worst := f.Worst(); math.Abs(worst) > 4.5 {
		t.Errorf("t = %.1f\n%s", worst, f)
	}
}

// TestASmallDifferenceIsFoundUnderOutliers: a thousandth of the mean, under
// outliers of twenty times of it.
func TestASmallDifferenceIsFoundUnderOutliers(t *testing.T) {
	f := compare([]Class{{Name: "quick"}, {Name: "slow"}}, [][]float64{drawn(1, 200_000, 5000, 100), drawn(2, 200_000, 5005, 100)})
	first, second, worst := f.Worst()
	if math.Abs(worst) < 8 {
		t.Errorf("t = %.1f between %s and %s\n%s", worst, first, second, f)
	}
	if f.T[1][0] != -f.T[0][1] || f.T[1][0] < 0 {
		t.Errorf("the slow class does not take longer: %v", f.T)
	}
	if text := f.String(); !strings.Contains(text, "quick") || !strings.Contains(text, "200000") {
		t.Error(text)
	}
}

// TestWelch holds t against one worked out by hand: means 3 and 4, variances
// 2.5 each, five measurements each: t = -1/sqrt(2.5/5+2.5/5) = -1. Twenty times
// over, the variances are 200/99.
func TestWelch(t *testing.T) {
	var a, b []float64
	for range 20 {
		for i := range 5 {
			a, b = append(a, float64(i+1)), append(b, float64(i+2))
		}
	}
	got := welch(summed(a, 3), summed(b, 3), math.Inf(1))
	want := -1 / math.Sqrt(2*(200.0/99)/100)
	if math.Abs(got-want) > 1e-9 {
		t.Errorf("t = %v, want %v", got, want)
	}
}

// TestWhereAnInputLiesSaysNothingOfItsClass: each at the beginning of a line of
// memory, and neighbours of any class. Inputs of 352 bytes in a row once lay in
// the middle of a line in every second class, and t was 4.8 for those.
func TestWhereAnInputLiesSaysNothingOfItsClass(t *testing.T) {
	var classes []Class
	for k := range 4 {
		classes = append(classes, Class{Make: func() []byte { return append(make([]byte, 351), byte(k)) }})
	}
	inputs := mix(classes, 500)
	after := map[[2]int]int{}
	for i, in := range inputs {
		if len(in.bytes) != 352 || int(in.bytes[351]) != in.class {
			t.Fatalf("input %d of class %d ends in %d", i, in.class, in.bytes[351])
		}
		if at := uintptr(unsafe.Pointer(&in.bytes[0])); at%line != 0 {
			t.Fatalf("input %d lies at %#x", i, at)
		}
		if i > 0 {
			after[[2]int{inputs[i-1].class, in.class}]++
		}
	}
	if len(after) != 16 { // one of sixteen never in 2,000 is no chance
		t.Errorf("only these classes follow each other: %v", after)
	}
}

func TestMeasureGivesEveryClassItsTurnAtOnePlace(t *testing.T) {
	var place *byte
	seen := map[byte]int{}
	f := Measure([]Class{
		{"zeros", func() []byte { return []byte{0, 1} }},
		{"ones", func() []byte { return []byte{1, 1} }},
	}, 2000, func(input []byte) {
		if place == nil {
			place = &input[0]
		}
		if place != &input[0] {
			t.Error("the input moved")
		}
		seen[input[0]]++
	})
	if f.N[0]+f.N[1] != 4000 || f.N[0] < 1500 || f.N[1] < 1500 || seen[0] < f.N[0] || seen[1] < f.N[1] {
		t.Errorf("measured %v, called %v", f.N, seen)
	}
}
