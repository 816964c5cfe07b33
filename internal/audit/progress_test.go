package audit_test

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"keyd/internal/audit"
)

// slow is a disk that takes its time.
type slow struct {
	io.Reader
	pause time.Duration
}

func (s slow) Read(b []byte) (int, error) {
	time.Sleep(s.pause)
	return s.Reader.Read(b[:min(len(b), 10)])
}

func TestProgressIsToldOnceASecond(t *testing.T) {
	for _, c := range []struct {
		name  string
		pause time.Duration // for each 10 of 100 bytes
		want  []int64
	}{
		{"fast", time.Millisecond, nil},
		{"slow", 400 * time.Millisecond, []int64{30, 60, 90}},
		{"very slow", 3 * time.Second, []int64{10, 20, 30, 40, 50, 60, 70, 80, 90, 100}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				text := bytes.Repeat([]byte("x"), 100)
				var told []int64
				r := audit.Watch(slow{bytes.NewReader(text), c.pause}, 100, func(done, total int64) {
					told = append(told, done)
					if total != 100 {
						t.Errorf("%d bytes in all", total)
					}
				})
				got, err := io.ReadAll(r)
				if err != nil || !bytes.Equal(got, text) {
					t.Errorf("read %q, %v", got, err)
				}
				if !slices.Equal(told, c.want) {
					t.Errorf("told %v, want %v", told, c.want)
				}
			})
		})
	}
	if _, err := io.ReadAll(audit.Watch(iotest.ErrReader(errDisk), 1, func(int64, int64) {})); !errors.Is(err, errDisk) {
		t.Errorf("a read that failed: %v", err)
	}
}

func TestOpenTellsHowFarItIs(t *testing.T) {
	cfg, log, _ := written(t, 5)
	synctest.Test(t, func(t *testing.T) {
		size, told := int64(len(log)), [][2]int64{}
		cfg.Progress = func(done, total int64) { told = append(told, [2]int64{done, total}) }
		l := open(t, cfg.Through(func(real audit.File) audit.File { return &faulty{File: real, pause: time.Second} }))
		if want := [][2]int64{{size, size}}; !slices.Equal(told, want) {
			t.Errorf("told %v, want %v", told, want)
		}
		appendAll(t, l, event(6))
		shut(t, l)
	})
}
