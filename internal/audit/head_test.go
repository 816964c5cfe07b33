package audit_test

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"keyd/internal/audit"
)

// remembered is the head in the head file.
func remembered(t *testing.T, cfg audit.Config) audit.Head {
	t.Helper()
	report, err := audit.Verify(cfg.Path, nil)
	if err != nil || report.Remembered == nil {
		t.Fatalf("%+v %v", report, err)
	}
	return *report.Remembered
}

// messages are what a logger said.
type messages struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (m *messages) Write(b []byte) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.text.Write(b)
}

func (m *messages) String() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.text.String()
}

// In pairs: the head was not written, and it was but nobody could be sure.
func TestHeadThatCannotBeWrittenStopsNothing(t *testing.T) {
	for name, happened := range map[string]bool{"failed": false, "failed but happened": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				said, broken, tried := &messages{}, atomic.Bool{}, atomic.Int32{}
				broken.Store(true)
				cfg := config(t)
				cfg.Logger = slog.New(slog.NewTextHandler(said, nil))
				l := open(t, cfg.Remembering(func(real func() error) error {
					tried.Add(1)
					switch {
					case broken.Load() && happened:
						return errors.Join(real(), errDisk)
					case broken.Load():
						return errDisk
					}
					return real()
				}))
				empty := l.Head()
				if err := l.HeadErr(); err != nil {
					t.Errorf("before the first write: %v", err)
				}
				for i := range 5 {
					appendAll(t, l, event(i))
					time.Sleep(2 * time.Second)
					synctest.Wait()
					if err := l.HeadErr(); !errors.Is(err, errDisk) || !strings.Contains(err.Error(), "0 being remembered") {
						t.Errorf("HeadErr: %v", err)
					}
				}
				if n := strings.Count(said.String(), "level=WARN"); n != 1 || tried.Load() < 5 || tried.Load() > 10 {
					t.Errorf("%d warnings of %d attempts in ten seconds:\n%s", n, tried.Load(), said)
				}
				if got := remembered(t, cfg); happened && got != l.Head() || !happened && got != empty {
					t.Errorf("the head file holds %v", got)
				}
				broken.Store(false)
				time.Sleep(time.Second)
				synctest.Wait()
				if err := l.HeadErr(); err != nil || remembered(t, cfg) != l.Head() {
					t.Errorf("a second after the disk was well: %v", err)
				}
				if n := strings.Count(said.String(), "remembered again"); n != 1 {
					t.Errorf("the end was told %d times", n)
				}
				before := tried.Load()
				time.Sleep(time.Hour)
				if n := tried.Load() - before; n > 0 {
					t.Errorf("a head that did not change was written %d times", n)
				}
				shut(t, l)
			})
		})
	}
}

func TestCloseTellsThatTheHeadCouldNotBeWritten(t *testing.T) {
	for name, happened := range map[string]bool{"failed": false, "failed but happened": true} {
		t.Run(name, func(t *testing.T) {
			cfg := config(t)
			l := open(t, cfg.Remembering(func(real func() error) error {
				if happened {
					return errors.Join(real(), errDisk)
				}
				return errDisk
			}))
			last := appendAll(t, l, event(1), event(2))[1]
			if err := l.Close(); !errors.Is(err, errDisk) || errors.Is(err, audit.ErrFailed) {
				t.Errorf("Close: %v", err)
			}
			l = open(t, cfg) // the head lags or not: the log is whole
			if l.Head() != last || l.HeadErr() != nil {
				t.Errorf("opened at %v, want %v; %v", l.Head(), last, l.HeadErr())
			}
			shut(t, l)
		})
	}
}

func TestCloseTriesTheHeadOnceMore(t *testing.T) {
	cfg := config(t)
	synctest.Test(t, func(t *testing.T) {
		var broken atomic.Bool
		broken.Store(true)
		l := open(t, cfg.Remembering(func(real func() error) error {
			if broken.Load() {
				return errDisk
			}
			return real()
		}))
		appendAll(t, l, event(1))
		time.Sleep(1500 * time.Millisecond)
		synctest.Wait()
		broken.Store(false)
		shut(t, l)
		if l.HeadErr() != nil || remembered(t, cfg) != l.Head() {
			t.Errorf("got %v", l.HeadErr())
		}
	})
}

// A head that cannot be written must not hide that the log itself was changed.
func TestChangedFileIsFinalWhileTheHeadLags(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := config(t)
		l := open(t, cfg.Remembering(func(func() error) error { return errDisk }))
		appendAll(t, l, event(1))
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if err := os.Truncate(cfg.Path, 0); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		if err := l.Record(t.Context(), event(2)); !errors.Is(err, audit.ErrFailed) {
			t.Errorf("Record: %v", err)
		}
		if err := l.Close(); !errors.Is(err, audit.ErrFailed) || !errors.Is(err, errDisk) {
			t.Errorf("Close: %v", err)
		}
	})
}

func TestHeadFolderMayComeAndGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := config(t)
		folder := t.TempDir() + "/heads"
		cfg.HeadPath = folder + "/head"
		for range 2 {
			if err := os.Mkdir(folder, 0o700); err != nil {
				t.Fatal(err)
			}
			l := open(t, cfg)
			if err := os.RemoveAll(folder); err != nil {
				t.Fatal(err)
			}
			appendAll(t, l, event(1))
			time.Sleep(2 * time.Second)
			appendAll(t, l, event(2))
			if err := l.HeadErr(); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("got %v", err)
			}
			if err := l.Close(); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("Close: %v", err)
			}
		}
	})
}

// The real thing: a flood of connections takes every file descriptor. A process
// of its own, since the limit holds for all of it.
func TestLogGoesOnWithoutAFileDescriptor(t *testing.T) {
	const variable = "KEYD_TEST_AUDIT_FLOODED"
	cfg := config(t)
	if path := os.Getenv(variable); path != "" {
		cfg.Path = path
		flooded(t, cfg)
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestLogGoesOnWithoutAFileDescriptor$", "-test.v")
	cmd.Env = append(os.Environ(), variable+"="+cfg.Path)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if report, err := audit.Verify(cfg.Path, nil); err != nil || report.Entries < 2 || *report.Remembered != report.Head {
		t.Errorf("%+v %v", report, err)
	}
}

func flooded(t *testing.T, cfg audit.Config) {
	var old syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	l := open(t, cfg)
	entriesUntil := func(reached func() bool) {
		for !reached() {
			if _, err := l.Append(t.Context(), event(1)); err != nil {
				t.Fatal(err)
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Max: old.Max}); err != nil {
		t.Fatal(err)
	}
	entriesUntil(func() bool { return l.HeadErr() != nil })
	if err := l.HeadErr(); !errors.Is(err, syscall.EMFILE) {
		t.Errorf("got %v", err)
	}
	appendAll(t, l, event(2))
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	entriesUntil(func() bool { return l.HeadErr() == nil })
	shut(t, l)
}
