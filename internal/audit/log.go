package audit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
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
	// Progress is called about once a second while Open verifies the log, with
	// the bytes verified so far and those there are, so that whoever waits for
	// Open can be told to wait longer. Nil if nobody does.
	Progress func(done, total int64)

	// Tests stand between the log, or its head, and the disk.
	wrap     func(file) file
	remember func(path string, head Head) error
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
	writer   *writer
	requests chan *request
	closing  chan struct{}
	done     chan struct{} // closed when the writer has ended
	close    sync.Once
	closeErr error // valid after done
	state    atomic.Pointer[published]
	open     []Entry // at Open
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
	l := &Log{writer: w, requests: make(chan *request), closing: make(chan struct{}), done: make(chan struct{}), open: recovered.open}
	w.publish = func(p published) { l.state.Store(&p) }
	w.publish(published{synced: w.head})
	go func() {
		defer close(l.done)
		l.closeErr = w.run(l.requests, l.closing)
	}()
	if len(recovered.detail) > 0 {
		e := Entry{Phase: PhaseEvent, Action: "audit.recovered", Actor: System, Result: ResultOK, Detail: recovered.detail}
		if _, err := l.Append(context.Background(), e); err != nil {
			return nil, fmt.Errorf("opening the audit log %s: %w", cfg.Path, errors.Join(err, l.Close()))
		}
		cfg.Logger.Warn("the audit log was recovered", "path", cfg.Path, "detail", recovered.detail)
	}
	return l, nil
}

// recovery is what Open found of a daemon before this one.
type recovery struct {
	detail map[string]string // what had to be put right, for the log
	open   []Entry           // intents without an outcome
}

// start opens, locks and verifies the file.
func start(cfg Config) (_ *writer, _ recovery, err error) {
	path, err := filepath.Abs(cfg.Path)
	if err != nil {
		return nil, recovery{}, err
	}
	if cfg.HeadPath == "" {
		cfg.HeadPath = HeadPath(path)
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return nil, recovery{}, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close())
		}
	}()
	if err := claim(f); err != nil {
		return nil, recovery{}, err
	}
	disk := file(f)
	if cfg.wrap != nil {
		disk = cfg.wrap(f)
	}
	c, recovered, err := recoverChain(disk, cfg)
	if err != nil {
		return nil, recovery{}, err
	}
	// What was read may have been in memory only; the next entry builds on it.
	if err := f.Sync(); err != nil {
		return nil, recovery{}, fmt.Errorf("syncing what stands in it: %w", err)
	}
	if err := syncDir(filepath.Dir(path)); err != nil {
		return nil, recovery{}, err
	}
	if err := writeHead(cfg.HeadPath, c.head); err != nil {
		return nil, recovery{}, err
	}
	w := &writer{wake: make(chan struct{}, 1), path: path, headPath: cfg.HeadPath, logger: cfg.Logger, file: disk, remember: writeHead,
		size: c.end, head: c.head, synced: c.head, remembered: c.head}
	if cfg.remember != nil {
		w.remember = cfg.remember
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
func recoverChain(f file, cfg Config) (*chain, recovery, error) {
	head, remembered, err := readHead(cfg.HeadPath)
	if err != nil {
		return nil, recovery{}, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, recovery{}, err
	}
	var want *Head
	if remembered {
		want = &head
	}
	c := newChain(want)
	if err := c.read(watch(f, info.Size(), cfg.Progress)); err != nil {
		return nil, recovery{}, err
	}
	if err := c.reached(); err != nil {
		return nil, recovery{}, err
	}
	detail := map[string]string{}
	if !remembered && c.line > 0 {
		detail["head"] = "missing"
	}
	if c.torn > 0 {
		if err := f.Truncate(c.end); err != nil {
			return nil, recovery{}, fmt.Errorf("cutting off a torn line: %w", err)
		}
		detail["torn_bytes"] = strconv.FormatInt(c.torn, 10)
	}
	return c, recovery{detail: detail, open: c.intents.oldestFirst()}, nil
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
	if !durable {
		if done, err := l.writer.try(body); done {
			return Head{}, failure(e, err)
		}
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
		return r.head, failure(e, err)
	case <-ctx.Done():
		return Head{}, fmt.Errorf("auditing %s (it may have been written): %w", e.Action, ctx.Err())
	}
}

// failure says which entry it was that could not be written, if it was not.
func failure(e Entry, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("auditing %s: %w", e.Action, err)
}

// Head is the last entry known to be on the disk: one that may be remembered
// elsewhere and held against the log later.
func (l *Log) Head() Head { return l.state.Load().synced }

// HeadErr is nil if the head file could be written when that was last tried. As
// long as it is not, the log goes on, but only a head kept elsewhere would show
// that it was cut off after the entry in the head file.
func (l *Log) HeadErr() error { return l.state.Load().headErr }

// Unsettled returns the intents that had no outcome when the log was opened,
// oldest first: what the end of the daemon before this one interrupted. What
// has become of them since does not change it.
func (l *Log) Unsettled() []Entry { return slices.Clone(l.open) }

// Close writes out what is left, remembers the head and gives up the lock. It
// returns the failure of a log that has failed, and why the head could not be
// remembered.
func (l *Log) Close() error {
	l.close.Do(func() { close(l.closing) })
	<-l.done
	return l.closeErr
}

// file is what is done with the log once it is locked.
type file interface {
	io.ReadWriteCloser
	Stat() (os.FileInfo, error)
	Sync() error
	Truncate(size int64) error
}
