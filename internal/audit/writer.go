package audit

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
)

// flushAfter is how long a recorded entry, and the remembered head, may lag.
const flushAfter = time.Second

// maxBatch bounds what one write takes, and so what a crash can tear.
const maxBatch = maxTorn - maxLine

// request is one entry on its way to the writer.
type request struct {
	body    []byte
	durable bool       // answer after the fsync
	head    Head       // the entry's own; set before the answer
	done    chan error // gets one answer, never blocks
}

// writer writes a log. Mostly that is a goroutine of its own, which takes
// together what several callers want written; who wants one entry written and no
// fsync, while nobody else writes, does it without waking anybody.
type writer struct {
	mu             sync.Mutex // guards everything below but wake
	closed         bool
	pending        bool          // run knows that something is to be settled
	wake           chan struct{} // tells it
	path, headPath string
	logger         *slog.Logger
	file           file
	size           int64
	head           Head // last entry written
	synced         Head // last entry on the disk
	remembered     Head // in the head file
	remember       func(path string, head Head) error
	headErr        error // why remembered lags; tried again
	publish        func(published)
	failed         error // ErrFailed with its cause; final
	batch          []*request
	buf            []byte
}

// published is what a writer lets others see.
type published struct {
	synced  Head
	headErr error
}

// run serves requests until closing and returns what Close returns.
func (w *writer) run(requests <-chan *request, closing <-chan struct{}) error {
	var due <-chan time.Time
	for {
		select {
		case r := <-requests:
			w.serve(r, requests)
		case <-w.wake:
		case <-due:
			due = nil
			w.flush()
		case <-closing:
			return w.end()
		}
		if due == nil && w.unsettled() {
			due = time.After(flushAfter)
		}
	}
}

func (w *writer) serve(first *request, requests <-chan *request) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.gather(first, requests)
	w.commit()
}

func (w *writer) flush() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.settle()
}

func (w *writer) end() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	w.settle()
	return errors.Join(w.failed, w.headErr, w.file.Close())
}

// unsettled reports whether the disk, or the remembered head, lags.
func (w *writer) unsettled() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pending = w.failed == nil && w.remembered != w.head
	return w.pending
}

// try writes one entry if nobody else is writing.
func (w *writer) try(body []byte) (done bool, err error) {
	if !w.mu.TryLock() {
		return false, nil
	}
	defer w.mu.Unlock()
	if w.closed {
		return false, nil
	}
	w.batch = append(w.batch[:0], &request{body: body})
	w.write()
	clear(w.batch)
	if !w.pending && w.failed == nil {
		w.pending = true
		select {
		case w.wake <- struct{}{}:
		default: // it has been told, and has not looked yet
		}
	}
	return true, w.failed
}

// gather takes every request that is waiting, up to a batch.
func (w *writer) gather(first *request, requests <-chan *request) {
	w.batch = append(w.batch[:0], first)
	size := len(first.body)
	for size < maxBatch-maxLine {
		select {
		case r := <-requests:
			w.batch = append(w.batch, r)
			size += len(r.body) + maxPrefix + suffixLen
		default:
			return
		}
	}
}

// commit writes the batch with one write and at most one fsync, and answers
// everybody in it.
func (w *writer) commit() {
	w.write()
	durable := false
	for _, r := range w.batch {
		if durable = durable || r.durable; !r.durable {
			r.done <- w.failed
		}
	}
	if durable {
		w.sync()
	}
	for _, r := range w.batch {
		if r.durable {
			r.done <- w.failed
		}
	}
	clear(w.batch)
}

func (w *writer) write() {
	if w.failed != nil {
		return
	}
	if err := w.untouched(); err != nil {
		w.fail(err)
		return
	}
	now, head := time.Now(), w.head
	w.buf = w.buf[:0]
	for _, r := range w.batch {
		w.buf, head = appendLine(w.buf, head, now, r.body)
		r.head = head
	}
	if _, err := w.file.Write(w.buf); err != nil {
		w.fail(fmt.Errorf("writing: %w", err))
		return
	}
	w.head = head
	w.size += int64(len(w.buf))
}

func (w *writer) sync() {
	if w.failed != nil || w.synced == w.head {
		return
	}
	if err := w.file.Sync(); err != nil {
		w.fail(fmt.Errorf("syncing: %w", err))
		return
	}
	w.synced = w.head
	w.publish(published{w.synced, w.headErr})
}

// settle brings everything onto the disk and then remembers the head. A head
// that cannot be written lags, which it may: the log itself is on the disk.
func (w *writer) settle() {
	w.sync()
	if w.failed != nil || w.remembered == w.synced {
		return
	}
	if err := w.untouched(); err != nil {
		w.fail(err)
		return
	}
	before := w.headErr
	w.headErr = w.remember(w.headPath, w.synced)
	switch {
	case w.headErr != nil && before == nil:
		w.logger.Warn("the head of the audit log cannot be remembered, which is tried again every second",
			"path", w.headPath, "err", w.headErr)
	case w.headErr == nil && before != nil:
		w.logger.Info("the head of the audit log is remembered again", "path", w.headPath)
	}
	if w.headErr == nil {
		w.remembered = w.synced
	} else {
		w.headErr = fmt.Errorf("remembering entry %d as the head, %d being remembered: %w", w.synced.Seq, w.remembered.Seq, w.headErr)
	}
	w.publish(published{w.synced, w.headErr})
}

// untouched reports whether the file is still there and as long as this writer
// made it: not rotated, removed, truncated or written to by someone else.
func (w *writer) untouched() error {
	named, err := os.Stat(w.path)
	if err != nil {
		return fmt.Errorf("looking for the log: %w", err)
	}
	open, err := w.file.Stat()
	switch {
	case err != nil:
		return fmt.Errorf("looking at the log: %w", err)
	case !os.SameFile(named, open):
		return fmt.Errorf("another file stands at %s", w.path)
	case open.Size() != w.size:
		return fmt.Errorf("it has %d bytes where keyd wrote %d: someone else changed it", open.Size(), w.size)
	}
	return nil
}

func (w *writer) fail(cause error) {
	w.failed = fmt.Errorf("%w: %w", ErrFailed, cause)
	w.logger.Error("the audit log has failed: everything that must be audited is refused until keyd restarts",
		"path", w.path, "err", cause)
}
