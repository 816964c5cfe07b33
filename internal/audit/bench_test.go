package audit_test

import (
	"bytes"
	"testing"

	"keyd/internal/audit"
)

// thousands makes a log of n entries and returns its size.
func thousands(b *testing.B, n int) (audit.Config, int64) {
	b.Helper()
	cfg := config(b)
	l := open(b, cfg)
	for i := range n {
		if err := l.Record(b.Context(), event(i)); err != nil {
			b.Fatal(err)
		}
	}
	shut(b, l)
	return cfg, int64(len(contents(b, cfg.Path)))
}

// BenchmarkOpen opens, and so verifies, a log of 100,000 entries.
func BenchmarkOpen(b *testing.B) {
	const n = 100_000
	cfg, size := thousands(b, n)
	b.SetBytes(size)
	for b.Loop() {
		shut(b, open(b, cfg))
	}
	b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "entries/s")
}

func BenchmarkVerifyInMemory(b *testing.B) {
	const n = 10_000
	cfg, size := thousands(b, n)
	log := contents(b, cfg.Path)
	b.SetBytes(size)
	for b.Loop() {
		if err := audit.VerifyReader(bytes.NewReader(log)); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "entries/s")
}

func BenchmarkReadAfter(b *testing.B) {
	cfg, _ := thousands(b, 100_000)
	for b.Loop() {
		if got, err := audit.Read(cfg.Path, 77_777, 10); err != nil || len(got) != 10 {
			b.Fatal(got, err)
		}
	}
}

func BenchmarkAppend(b *testing.B) {
	for name, callers := range map[string]int{"1 caller": 0, "16 callers": 8} {
		b.Run(name, func(b *testing.B) {
			l := open(b, config(b))
			e := event(1)
			if callers == 0 {
				for b.Loop() {
					appendAll(b, l, e)
				}
				return
			}
			b.SetParallelism(callers)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if _, err := l.Append(b.Context(), e); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}

func BenchmarkRecord(b *testing.B) {
	l := open(b, config(b))
	e := event(1)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := l.Record(b.Context(), e); err != nil {
				b.Error(err)
				return
			}
		}
	})
}
