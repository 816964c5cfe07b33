package bench

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
)

// Table prints the runs as figures.
func Table(w io.Writer, runs []Run) {
	tw := tabwriter.NewWriter(w, 0, 4, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(tw, "key\tlevel\tsessions\tbare/s\tkeyd/s\tratio\tbare p50\tkeyd p50\tadded\tbare p99\tkeyd p99\t")
	for _, r := range runs {
		fmt.Fprintf(tw, "%s\t%s\t%d\t%.0f\t%.0f\t%.0f %%\t%s\t%s\t%s\t%s\t%s\t\n", r.Key, r.Level, r.Sessions,
			r.Bare.PerSecond, r.Keyd.PerSecond, 100*r.Ratio, span(r.Bare.P50), span(r.Keyd.P50), span(r.Added), span(r.Bare.P99), span(r.Keyd.P99))
	}
	_ = tw.Flush() // w keeps its errors
}

// span is a time in microseconds as a person reads it.
func span(micros float64) string {
	if micros >= 10_000 || micros <= -10_000 {
		return fmt.Sprintf("%.1f ms", micros/1000)
	}
	return fmt.Sprintf("%.0f µs", micros)
}

// CPU prints where the processor time of an operation goes.
func CPU(w io.Writer, runs []Run) {
	tw := tabwriter.NewWriter(w, 0, 4, 2, ' ', tabwriter.AlignRight)
	var processes []string
	for _, r := range runs {
		processes = slices.AppendSeq(processes, maps.Keys(r.Keyd.CPU))
	}
	slices.Sort(processes)
	processes = slices.Compact(processes)
	fmt.Fprintf(tw, "key\tlevel\tsessions\tbare\t%s\t\n", strings.Join(processes, "\t"))
	for _, r := range runs {
		var bare float64
		for _, used := range r.Bare.CPU {
			bare += used
		}
		fmt.Fprintf(tw, "%s\t%s\t%d\t%s\t", r.Key, r.Level, r.Sessions, span(bare))
		for _, process := range processes {
			fmt.Fprintf(tw, "%s\t", span(r.Keyd.CPU[process]))
		}
		fmt.Fprintln(tw)
	}
	_ = tw.Flush()
}

const barWidth = 40

// Bars draws the operations a second of each run, the longest bar as wide as
// barWidth.
func Bars(w io.Writer, runs []Run) {
	most := 0.0
	for _, r := range runs {
		most = max(most, r.Bare.PerSecond, r.Keyd.PerSecond)
	}
	if most == 0 {
		return
	}
	last := ""
	for _, r := range runs {
		if name := r.Key + ", " + r.Level; name != last {
			fmt.Fprintf(w, "%s: operations a second, by sessions\n", name)
			last = name
		}
		fmt.Fprintf(w, "%5d  bare %s %.0f\n", r.Sessions, bar(r.Bare.PerSecond/most, '░'), r.Bare.PerSecond)
		fmt.Fprintf(w, "       keyd %s %.0f\n", bar(r.Keyd.PerSecond/most, '█'), r.Keyd.PerSecond)
	}
}

// bar is never nothing: what is slow is there too.
func bar(share float64, mark rune) string {
	return strings.Repeat(string(mark), max(1, int(share*barWidth+0.5)))
}
