package audit_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"keyd/internal/audit"
)

// faulty is a file whose writes and syncs can be replaced, and are counted.
type faulty struct {
	audit.File
	write         func(b []byte, real io.Writer) (int, error)
	sync          func(real func() error) error
	truncate      func(real func() error) error
	pause         time.Duration // before each read
	writes, syncs atomic.Int32
}

func (f *faulty) Write(b []byte) (int, error) {
	f.writes.Add(1)
	if f.write != nil {
		return f.write(b, f.File)
	}
	return f.File.Write(b)
}

func (f *faulty) Sync() error {
	f.syncs.Add(1)
	if f.sync != nil {
		return f.sync(f.File.Sync)
	}
	return f.File.Sync()
}

func (f *faulty) Truncate(size int64) error {
	real := func() error { return f.File.Truncate(size) }
	if f.truncate != nil {
		return f.truncate(real)
	}
	return real()
}

func (f *faulty) Read(b []byte) (int, error) {
	time.Sleep(f.pause)
	return f.File.Read(b)
}

// faulted opens a log through a faulty file.
func faulted(t testing.TB, cfg audit.Config) (*audit.Log, *faulty) {
	t.Helper()
	f := &faulty{}
	return open(t, cfg.Through(func(real audit.File) audit.File { f.File = real; return f })), f
}

var errDisk = errors.New("the disk is on fire")

// Each fault comes in pairs: it failed, and it failed but happened.
func TestLogFailsClosed(t *testing.T) {
	for _, c := range []struct {
		name     string
		fail     func(*faulty)
		survives int  // entries in the log after reopening, of one good and one failed
		torn     bool // and a recovery
	}{
		{"write failed", func(f *faulty) { f.write = func([]byte, io.Writer) (int, error) { return 0, errDisk } }, 1, false},
		{"write failed half way", func(f *faulty) {
			f.write = func(b []byte, w io.Writer) (int, error) { n, _ := w.Write(b[:len(b)/2]); return n, errDisk }
		}, 1, true},
		{"write failed but happened", func(f *faulty) {
			f.write = func(b []byte, w io.Writer) (int, error) { n, _ := w.Write(b); return n, errDisk }
		}, 2, false},
		{"sync failed", func(f *faulty) { f.sync = func(func() error) error { return errDisk } }, 2, false},
		{"sync failed but happened", func(f *faulty) { f.sync = func(real func() error) error { return errors.Join(real(), errDisk) } }, 2, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := config(t)
			l, f := faulted(t, cfg)
			good := appendAll(t, l, event(1))[0]
			c.fail(f)
			if _, err := l.Append(t.Context(), event(2)); !errors.Is(err, audit.ErrFailed) || !errors.Is(err, errDisk) {
				t.Fatalf("got %v", err)
			}
			f.write, f.sync = nil, nil // the disk is well again, what it holds is unknown
			writes, syncs := f.writes.Load(), f.syncs.Load()
			if _, err := l.Append(t.Context(), event(3)); !errors.Is(err, audit.ErrFailed) {
				t.Errorf("Append: %v", err)
			}
			if err := l.Record(t.Context(), event(3)); !errors.Is(err, audit.ErrFailed) {
				t.Errorf("Record: %v", err)
			}
			if l.Head() != good {
				t.Errorf("the head is %v, want the last entry known to be on the disk, %v", l.Head(), good)
			}
			if err := l.Close(); !errors.Is(err, audit.ErrFailed) {
				t.Errorf("Close: %v", err)
			}
			if f.writes.Load() != writes || f.syncs.Load() != syncs {
				t.Error("a failed log touched its file")
			}
			shut(t, open(t, cfg))
			report, err := audit.Verify(cfg.Path, &good)
			if err != nil {
				t.Fatal(err)
			}
			want := c.survives
			if c.torn {
				want++
			}
			if int(report.Entries) != want {
				t.Errorf("%d entries after reopening, want %d", report.Entries, want)
			}
		})
	}
}

func TestEverybodyInAFailedBatchIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, f := faulted(t, config(t))
		proceed := make(chan struct{})
		f.sync = func(real func() error) error { <-proceed; return real() }
		first := make(chan error, 1)
		go func() { _, err := l.Append(t.Context(), event(0)); first <- err }()
		synctest.Wait()
		f.write = func([]byte, io.Writer) (int, error) { return 0, errDisk }
		rest := make(chan error, 20)
		for i := range 10 {
			go func() { _, err := l.Append(t.Context(), event(i)); rest <- err }()
			go func() { rest <- l.Record(t.Context(), event(i)) }()
		}
		synctest.Wait()
		close(proceed)
		if err := <-first; err != nil {
			t.Error(err)
		}
		for range 20 {
			if err := <-rest; !errors.Is(err, audit.ErrFailed) {
				t.Errorf("got %v", err)
			}
		}
		if f.writes.Load() != 2 {
			t.Errorf("%d writes, want 2: the group must share one", f.writes.Load())
		}
	})
}

// A recorded entry is acknowledged before its fsync: when that fails, the next
// entry must be refused.
func TestFailedFlushOfARecordedEntryClosesTheLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, f := faulted(t, config(t))
		f.sync = func(func() error) error { return errDisk }
		if err := l.Record(t.Context(), event(1)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		if err := l.Record(t.Context(), event(2)); !errors.Is(err, audit.ErrFailed) || !errors.Is(err, errDisk) {
			t.Errorf("got %v", err)
		}
	})
}

func TestFullDisk(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { _ = full.Close() })
	l, f := faulted(t, config(t))
	appendAll(t, l, event(1))
	f.write = func(b []byte, _ io.Writer) (int, error) { return full.Write(b) }
	if _, err := l.Append(t.Context(), event(2)); !errors.Is(err, audit.ErrFailed) || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("got %v", err)
	}
}

// The real thing: the kernel takes part of a line and refuses the rest. A
// process of its own, since the limit holds for all of it.
func TestKernelCutsAWriteShort(t *testing.T) {
	const variable, limit = "KEYD_TEST_AUDIT_LIMITED", 1500
	cfg := config(t)
	if path := os.Getenv(variable); path != "" {
		cfg.Path = path
		var old syscall.Rlimit
		if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &old); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: limit, Max: old.Max}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { // the test binary has files of its own to write
			if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &old); err != nil {
				t.Error(err)
			}
		})
		l := open(t, cfg)
		for i := range 10 {
			if _, err := l.Append(t.Context(), event(i)); err != nil {
				if !errors.Is(err, audit.ErrFailed) || !errors.Is(err, syscall.EFBIG) {
					t.Errorf("got %v", err)
				}
				return
			}
		}
		t.Fatal("the limit was never reached")
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestKernelCutsAWriteShort$", "-test.v")
	cmd.Env = append(os.Environ(), variable+"="+cfg.Path)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	log := contents(t, cfg.Path)
	whole := bytes.LastIndexByte(log, '\n') + 1
	if len(log) != limit || whole == limit {
		t.Fatalf("%d bytes, %d in whole lines: want a line torn at %d", len(log), whole, limit)
	}
	shut(t, open(t, cfg))
	if _, err := audit.Verify(cfg.Path, nil); err != nil {
		t.Error(err)
	}
	if got := contents(t, cfg.Path); !bytes.HasPrefix(got, log[:whole]) || !strings.Contains(string(got[whole:]), "audit.recovered") {
		t.Errorf("after reopening:\n%s", got)
	}
}

func TestFileChangedByOthersClosesTheLog(t *testing.T) {
	for _, c := range []struct {
		name string
		do   func(path string) error
	}{
		{"renamed", func(path string) error { return os.Rename(path, path+".1") }},
		{"removed", os.Remove},
		{"replaced by a copy", func(path string) error {
			b, err := os.ReadFile(path)
			return errors.Join(err, os.Rename(path, path+".1"), os.WriteFile(path, b, 0o600))
		}},
		{"copied and truncated", func(path string) error { return os.Truncate(path, 0) }},
		{"truncated by a byte", func(path string) error {
			info, err := os.Stat(path)
			return errors.Join(err, os.Truncate(path, info.Size()-1))
		}},
		{"written to", func(path string) error {
			f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			_, err = f.WriteString("{}\n")
			return errors.Join(err, f.Close())
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := config(t)
			l := open(t, cfg)
			appendAll(t, l, event(1))
			if err := c.do(cfg.Path); err != nil {
				t.Fatal(err)
			}
			if _, err := l.Append(t.Context(), event(2)); !errors.Is(err, audit.ErrFailed) {
				t.Errorf("Append: %v", err)
			}
		})
		t.Run(c.name+" before the head is remembered", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cfg := config(t)
				l := open(t, cfg)
				if err := errors.Join(l.Record(t.Context(), event(1)), c.do(cfg.Path)); err != nil {
					t.Fatal(err)
				}
				before := contents(t, audit.HeadPath(cfg.Path))
				time.Sleep(2 * time.Second)
				if err := l.Close(); !errors.Is(err, audit.ErrFailed) {
					t.Errorf("Close: %v", err)
				}
				if !bytes.Equal(before, contents(t, audit.HeadPath(cfg.Path))) {
					t.Error("the head of a changed log was remembered")
				}
			})
		})
	}
}

// A recovery that cannot be written down did not happen: Open fails, lets go of
// the lock, and the next one starts over.
func TestOpenFailsWhenItsRecoveryCannotBeWritten(t *testing.T) {
	cfg, log, _ := written(t, 2)
	if err := os.Remove(audit.HeadPath(cfg.Path)); err != nil {
		t.Fatal(err)
	}
	broken := cfg.Through(func(real audit.File) audit.File {
		return &faulty{File: real, write: func([]byte, io.Writer) (int, error) { return 0, errDisk }}
	})
	if _, err := audit.Open(broken); !errors.Is(err, audit.ErrFailed) || !errors.Is(err, errDisk) {
		t.Fatalf("got %v", err)
	}
	if !bytes.Equal(contents(t, cfg.Path), log) {
		t.Error("the log was changed")
	}
	shut(t, open(t, cfg))
}
