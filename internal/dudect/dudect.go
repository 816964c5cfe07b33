// Package dudect looks for a difference in time between classes of input, after
// Reparaz, Balasch and Verbauwhede, "Dude, is my code constant time?" (2017): the
// classes are measured interleaved in random order, the slowest measurements are
// cropped, since they are the machine's and not the code's, and Welch's t-test
// says whether two classes have the same mean. It is for tests.
//
// |t| under 4.5 is what two equal classes give (a chance of 7 in a million for
// one test). It grows with the square root of the number of measurements if they
// differ, however little.
package dudect

import (
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"time"
	"unsafe"
)

// Class is a kind of input, under its name.
type Class struct {
	Name string
	// Make makes one more input of this kind. All inputs of all classes are of
	// one length.
	Make func() []byte
}

// Found is what was measured.
type Found struct {
	Names []string
	// T is the t value of each pair of classes with the largest magnitude over
	// every crop. It is positive where the first takes longer.
	T [][]float64
	// Mean is the mean time of each class, without the slowest tenth, and N how
	// often it was measured.
	Mean []time.Duration
	N    []int
}

// inputsEach is how many inputs of each class there are at most, so that no
// predictor of the processor's learns them.
const inputsEach = 4096

// Measure runs f about n times on inputs of each class, whichever is drawn, and
// compares the classes with each other. The input given to f always lies at the
// same place.
func Measure(classes []Class, n int, f func(input []byte)) Found {
	inputs := mix(classes, min(max(n, 1), inputsEach))
	work := make([]byte, len(inputs[0].bytes))
	draw := rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64())) // #nosec G404 -- which class comes next
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // between batches instead
	took := make([][]float64, len(classes))
	const batch = 1 << 14
	total := n * len(classes)
	for done := -warmUp(total); done < total; done++ {
		if done%batch == 0 {
			runtime.GC()
		}
		in := inputs[draw.IntN(len(inputs))]
		copy(work, in.bytes)
		start := time.Now()
		f(work)
		d := time.Since(start)
		if done >= 0 {
			took[in.class] = append(took[in.class], float64(d))
		}
	}
	return compare(classes, took)
}

func warmUp(total int) int { return min(total/10, 20_000) }

// input is one of a class, by its number.
type input struct {
	class int
	bytes []byte
}

// line is what a processor reads from memory at a time.
const line = 64

// mix makes the inputs, in one piece of memory and in random order, each from
// the beginning of a line on. Where an input lies shows in the time of what comes
// after its copy: were every second one in the middle of a line, and those all
// of the same classes, these would differ.
func mix(classes []Class, each int) []input {
	var inputs []input
	for class, c := range classes {
		for range each {
			inputs = append(inputs, input{class, c.Make()})
			if size := len(inputs[0].bytes); len(inputs[len(inputs)-1].bytes) != size {
				panic(fmt.Sprintf("dudect: an input of %s has %d bytes, others %d", c.Name, len(inputs[len(inputs)-1].bytes), size))
			}
		}
	}
	rand.Shuffle(len(inputs), func(i, j int) { inputs[i], inputs[j] = inputs[j], inputs[i] }) // #nosec G404 -- which lies where
	size := len(inputs[0].bytes)
	stride := (size + line - 1) / line * line
	slab := make([]byte, stride*len(inputs)+line)
	slab = slab[-uintptr(unsafe.Pointer(&slab[0]))%line:] // #nosec G103 -- its address alone
	for i, in := range inputs {
		at := slab[i*stride:][:size:size]
		copy(at, in.bytes)
		inputs[i].bytes = at
	}
	return inputs
}

// sums are a class's measurements in order, with the sums of all up to each and
// of their squares.
type sums struct{ sorted, sum, squares []float64 }

func summed(took []float64, shift float64) sums {
	slices.Sort(took)
	s := sums{took, make([]float64, len(took)+1), make([]float64, len(took)+1)}
	for i, x := range took {
		x -= shift // near 0, so that the squares lose nothing
		s.sum[i+1], s.squares[i+1] = s.sum[i]+x, s.squares[i]+x*x
	}
	return s
}

// below are the number, mean and variance of the measurements up to a limit.
func (s sums) below(limit float64) (n, mean, variance float64) {
	i, _ := slices.BinarySearch(s.sorted, math.Nextafter(limit, math.Inf(1)))
	if i < 2 {
		return float64(i), 0, 0
	}
	n = float64(i)
	mean = s.sum[i] / n
	return n, mean, max(0, (s.squares[i]-n*mean*mean)/(n-1))
}

// crops is how many limits are tried, besides none.
const crops = 100

// compare holds every pair of classes against each other. The limits are those
// of dudect: the quantiles 1-0.5^(10·i/crops) of all measurements together.
func compare(classes []Class, took [][]float64) Found {
	var all []float64
	for _, t := range took {
		all = append(all, t...)
	}
	slices.Sort(all)
	median := all[len(all)/2]
	found := Found{}
	each := make([]sums, len(classes))
	for i, c := range classes {
		each[i] = summed(took[i], median)
		_, mean, _ := each[i].below(all[len(all)*9/10])
		found.Names, found.N = append(found.Names, c.Name), append(found.N, len(took[i]))
		found.Mean = append(found.Mean, time.Duration(mean+median))
		found.T = append(found.T, make([]float64, len(classes)))
	}
	limits := []float64{math.Inf(1)}
	for i := range crops {
		limits = append(limits, all[int(float64(len(all)-1)*(1-math.Pow(0.5, 10*float64(i+1)/crops)))])
	}
	for a := range classes {
		for b := range a {
			for _, limit := range limits {
				if t := welch(each[a], each[b], limit); math.Abs(t) > math.Abs(found.T[a][b]) {
					found.T[a][b], found.T[b][a] = t, -t
				}
			}
		}
	}
	return found
}

// welch is Welch's t: the difference of two means over its standard error.
func welch(a, b sums, limit float64) float64 {
	n1, m1, v1 := a.below(limit)
	n2, m2, v2 := b.below(limit)
	if n1 < 100 || n2 < 100 || v1+v2 == 0 { // too few to say anything
		return 0
	}
	return (m1 - m2) / math.Sqrt(v1/n1+v2/n2)
}

// Worst is the pair that differs most, and its t.
func (f Found) Worst() (first, second string, t float64) {
	for a := range f.Names {
		for b := range a {
			if math.Abs(f.T[a][b]) >= math.Abs(t) {
				first, second, t = f.Names[a], f.Names[b], f.T[a][b]
			}
		}
	}
	return first, second, t
}

// String is a table for people: each class's mean, and t of each pair.
func (f Found) String() string {
	var b strings.Builder
	width := 0
	for _, name := range f.Names {
		width = max(width, len(name))
	}
	fmt.Fprintf(&b, "%-*s  %9s  %9s", width+3, "class", "measured", "mean")
	for i := range f.Names {
		fmt.Fprintf(&b, "  %6d", i+1)
	}
	for i, name := range f.Names {
		fmt.Fprintf(&b, "\n%d  %-*s  %9d  %9s", i+1, width, name, f.N[i], f.Mean[i])
		for j := range i {
			fmt.Fprintf(&b, "  %6.2f", f.T[i][j])
		}
	}
	return b.String()
}
