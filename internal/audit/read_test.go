package audit_test

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"keyd/internal/audit"
)

// varied makes a log of n entries of very different lengths.
func varied(t testing.TB, n int) audit.Config {
	t.Helper()
	cfg := config(t)
	l := open(t, cfg)
	for i := range n {
		e := event(i + 1)
		if i%7 == 0 {
			for _, k := range []string{"a", "b", "c", "d", "e", "f"} {
				e.Detail[k] = strings.Repeat("x", i*37%audit.MaxValue)
			}
		}
		if err := l.Record(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	shut(t, l)
	return cfg
}

func numbers(entries []audit.Entry) []uint64 {
	var seqs []uint64
	for _, e := range entries {
		seqs = append(seqs, e.Seq)
	}
	return seqs
}

func TestReadFindsEveryEntry(t *testing.T) {
	const n = 700
	cfg := varied(t, n)
	all, err := audit.Read(cfg.Path, 0, 0)
	if err != nil || len(all) != n {
		t.Fatalf("%d entries, %v", len(all), err)
	}
	for after := uint64(0); after <= n+1; after++ {
		got, err := audit.Read(cfg.Path, after, 3)
		if err != nil {
			t.Fatal(err)
		}
		want := numbers(all[min(after, n):min(after+3, n)])
		if !slices.Equal(numbers(got), want) {
			t.Fatalf("after %d: got %v, want %v", after, numbers(got), want)
		}
	}
	for _, k := range []int{-1, 0, 1, 2, 30, n - 1, n, n + 1} {
		got, err := audit.Tail(cfg.Path, k)
		if want := numbers(all[n-min(max(k, 0), n):]); err != nil || !slices.Equal(numbers(got), want) {
			t.Errorf("the last %d: got %d entries, want %d: %v", k, len(got), len(want), err)
		}
	}
}

func TestReadLeavesOutALineThatIsBeingWritten(t *testing.T) {
	cfg, log, _ := written(t, 3)
	for end := len(log) - 1; end > len(log)-300; end-- {
		put(t, cfg.Path, log[:end])
		got, err := audit.Read(cfg.Path, 0, 0)
		last, errTail := audit.Tail(cfg.Path, 1)
		if err != nil || errTail != nil || len(got) != 2 || !slices.Equal(numbers(last), []uint64{2}) {
			t.Fatalf("cut at %d: %v %v, %v %v", end, numbers(got), err, numbers(last), errTail)
		}
	}
}

func TestReadOfNothing(t *testing.T) {
	cfg := config(t)
	open(t, cfg)
	for _, text := range []string{"", "{"} {
		put(t, cfg.Path, []byte(text))
		if got, err := audit.Read(cfg.Path, 0, 0); err != nil || len(got) != 0 {
			t.Errorf("Read: %v %v", got, err)
		}
		if got, err := audit.Tail(cfg.Path, 5); err != nil || len(got) != 0 {
			t.Errorf("Tail: %v %v", got, err)
		}
	}
	none := cfg.Path + ".none"
	_, err1 := audit.Read(none, 0, 0)
	_, err2 := audit.Tail(none, 1)
	for _, err := range []error{err1, err2} {
		if !errors.Is(err, os.ErrNotExist) {
			t.Errorf("a missing log: %v", err)
		}
	}
}

func TestReadSaysThatALineIsNoEntry(t *testing.T) {
	cfg := varied(t, 200)
	log := contents(t, cfg.Path)
	noise := []byte(strings.Repeat("noise\n", len(log)/6))
	long := []byte(strings.Repeat("x", 200_000) + "\n")
	for name, text := range map[string][]byte{"noise": noise, "a long line": long, "noise at the end": append(slices.Clone(log), "noise\n"...)} {
		put(t, cfg.Path, text)
		_, errRead := audit.Read(cfg.Path, 150, 1000)
		if name == "a long line" {
			if errRead == nil {
				t.Errorf("%s: no error", name)
			}
			continue
		}
		if !errors.Is(errRead, audit.ErrBroken) {
			t.Errorf("%s: Read: %v", name, errRead)
		}
		if _, err := audit.Tail(cfg.Path, 1); !errors.Is(err, audit.ErrBroken) {
			t.Errorf("%s: Tail: %v", name, err)
		}
	}
}
