package audit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
)

// Config says where a log is.
type Config struct {
	Path     string       // the log; made with mode 0600 if there is none
	HeadPath string       // where its head is remembered; default HeadPath(Path). May be on another disk
	Logger   *slog.Logger // for what the log cannot say itself: that it failed

	wrap func(file) file // tests stand between the log and the disk
}

func (c Config) check() error {
	var errs []error
	if c.Path == "" {
		errs = append(errs, errors.New("audit: no Path"))
	}
	if c.Logger == nil {
		errs = append(errs, errors.New("audit: no Logger"))
	}
	return errors.Join(errs...)
}

// Log is an open audit log. It is safe for concurrent use.
type Log struct {
	requests chan *request
	closing  chan struct{}
	done     chan struct{} // closed when the writer has ended
	close    sync.Once
	closeErr error // valid after done
	synced   atomic.Pointer[Head]
}

// Open verifies the whole log, cuts off a last line that a crash tore, and goes
// on at its end. A log that is not an unbroken chain, or that ends before the
// remembered head, is refused with a *BrokenError (ErrBroken). If the head file
// alone is missing, the log opens and says so in an entry of its own
// (audit.recovered), as it does about a torn line.
func Open(cfg Config) (*Log, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	w, recovered, err := start(cfg)
	if err != nil {
		return nil, fmt.Errorf("opening the audit log %s: %w", cfg.Path, err)
	}
	l := &Log{requests: make(chan *request), closing: make(chan struct{}), done: make(chan struct{})}
	w.publish = func(h Head) { l.synced.Store(&h) }
	w.publish(w.head)
	go func() {
		defer close(l.done)
		l.closeErr = w.run(l.requests, l.closing)
	}()
	if len(recovered) > 0 {
		e := Entry{Phase: PhaseEvent, Action: "audit.recovered", Actor: System, Result: ResultOK, Detail: recovered}
		if _, err := l.Append(context.Background(), e); err != nil {
			return nil, fmt.Errorf("opening the audit log %s: %w", cfg.Path, errors.Join(err, l.Close()))
		}
		cfg.Logger.Warn("the audit log was recovered", "path", cfg.Path, "detail", recovered)
	}
	return l, nil
}

// start opens, locks and verifies the file. recovered holds what had to be put
// right.
func start(cfg Config) (w *writer, recovered map[string]string, err error) {
	path, err := filepath.Abs(cfg.Path)
	if err != nil {
		return nil, nil, err
	}
	headPath := cfg.HeadPath
	if headPath == "" {
		headPath = HeadPath(path)
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close())
		}
	}()
	if err := claim(f); err != nil {
		return nil, nil, err
	}
	c, recovered, err := recoverChain(f, headPath)
	if err != nil {
		return nil, nil, err
	}
	// What was read may have been in memory only; the next entry builds on it.
	if err := f.Sync(); err != nil {
		return nil, nil, fmt.Errorf("syncing what stands in it: %w", err)
	}
	if err := syncDir(filepath.Dir(path)); err != nil {
		return nil, nil, err
	}
	if err := writeHead(headPath, c.head); err != nil {
		return nil, nil, err
	}
	w = &writer{path: path, headPath: headPath, logger: cfg.Logger, file: f,
		size: c.end, head: c.head, synced: c.head, remembered: c.head}
	if cfg.wrap != nil {
		w.file = cfg.wrap(f)
	}
	return w, recovered, nil
}

// claim makes this process the only writer of a file that only its owner may
// write. The lock ends with the process.
func claim(f *os.File) error {
	err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return ErrLocked
	}
	if err != nil {
		return fmt.Errorf("locking: %w", err)
	}
	info, err := f.Stat()
	switch {
	case err != nil:
		return err
	case !info.Mode().IsRegular():
		return errors.New("not a regular file")
	case info.Mode().Perm()&0o022 != 0:
		return fmt.Errorf("its mode %04o lets others write to it; want 0600", info.Mode().Perm())
	}
	return nil
}

// recoverChain verifies the log and cuts off a torn last line.
func recoverChain(f *os.File, headPath string) (*chain, map[string]string, error) {
	head, remembered, err := readHead(headPath)
	if err != nil {
		return nil, nil, err
	}
	var want *Head
	if remembered {
		want = &head
	}
	c := newChain(want)
	if err := c.read(f); err != nil {
		return nil, nil, err
	}
	if err := c.reached(); err != nil {
		return nil, nil, err
	}
	recovered := map[string]string{}
	if !remembered && c.line > 0 {
		recovered["head"] = "missing"
	}
	if c.torn > 0 {
		if err := f.Truncate(c.end); err != nil {
			return nil, nil, fmt.Errorf("cutting off a torn line: %w", err)
		}
		recovered["torn_bytes"] = strconv.FormatInt(c.torn, 10)
	}
	return c, recovered, nil
}

// Append writes an entry and returns when it is on the disk. The Head it
// returns is the entry's own. Entries of several callers share one write and
// one fsync. If ctx ends while Append waits, the entry may still be written.
func (l *Log) Append(ctx context.Context, e Entry) (Head, error) {
	return l.submit(ctx, e, true)
}

// Record writes an entry and returns when the kernel has it: it survives a
// crash of the daemon, and one of the machine after the fsync that follows
// within a second. If ctx ends while Record waits, the entry may still be
// written.
func (l *Log) Record(ctx context.Context, e Entry) error {
	_, err := l.submit(ctx, e, false)
	return err
}

func (l *Log) submit(ctx context.Context, e Entry, durable bool) (Head, error) {
	if err := ctx.Err(); err != nil {
		return Head{}, fmt.Errorf("auditing %s: %w", e.Action, err)
	}
	body, err := encode(e)
	if err != nil {
		return Head{}, err
	}
	r := &request{body: body, durable: durable, done: make(chan error, 1)}
	select {
	case l.requests <- r:
	case <-l.done:
		return Head{}, fmt.Errorf("auditing %s: %w", e.Action, ErrClosed)
	case <-ctx.Done():
		return Head{}, fmt.Errorf("auditing %s: %w", e.Action, ctx.Err())
	}
	select {
	case err := <-r.done:
		if err != nil {
			return Head{}, fmt.Errorf("auditing %s: %w", e.Action, err)
		}
		return r.head, nil
	case <-ctx.Done():
		return Head{}, fmt.Errorf("auditing %s (it may have been written): %w", e.Action, ctx.Err())
	}
}

// Head is the last entry known to be on the disk: one that may be remembered
// elsewhere and held against the log later.
func (l *Log) Head() Head { return *l.synced.Load() }

// Close writes out what is left, remembers the head and gives up the lock. It
// returns the failure of a log that has failed.
func (l *Log) Close() error {
	l.close.Do(func() { close(l.closing) })
	<-l.done
	return l.closeErr
}

// file is what the writer does with the log once it is open.
type file interface {
	io.Writer
	Sync() error
	Stat() (os.FileInfo, error)
	Close() error
}
