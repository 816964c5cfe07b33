package audit_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"keyd/internal/audit"
)

func TestConcurrentEntriesMakeOneChain(t *testing.T) {
	const callers, each = 8, 60
	cfg := config(t)
	l := open(t, cfg)
	var wg sync.WaitGroup
	for caller := range callers {
		wg.Go(func() {
			for i := range each {
				e := event(i)
				e.Key = strconv.Itoa(caller)
				var err error
				if i%3 == 0 {
					_, err = l.Append(t.Context(), e)
				} else {
					err = l.Record(t.Context(), e)
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	shut(t, l)
	report, err := audit.Verify(cfg.Path, nil)
	if err != nil || report.Entries != callers*each || report.Remembered.Seq != callers*each {
		t.Fatalf("got %+v %v", report, err)
	}
	entries, err := audit.Read(cfg.Path, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	next := map[string]int{}
	for _, e := range entries {
		if e.Detail["n"] != strconv.Itoa(next[e.Key]) {
			t.Fatalf("caller %s: entry %s where %d was next", e.Key, e.Detail["n"], next[e.Key])
		}
		next[e.Key]++
	}
}

func TestWaitersShareOneFsync(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const waiters = 50
		cfg := config(t)
		l, f := faulted(t, cfg)
		proceed := make(chan struct{}, waiters)
		f.sync = func(real func() error) error { <-proceed; return real() }
		var wg sync.WaitGroup
		submit := func(n int) {
			wg.Go(func() {
				if _, err := l.Append(t.Context(), event(n)); err != nil {
					t.Error(err)
				}
			})
			synctest.Wait()
		}
		for i := range 1 + waiters {
			submit(i)
		}
		close(proceed)
		wg.Wait()
		if w, s := f.writes.Load(), f.syncs.Load(); w != 2 || s != 2 {
			t.Errorf("%d writes and %d fsyncs for 1 and then %d entries, want 2 and 2", w, s, waiters)
		}
	})
}

func TestRecordReturnsBeforeTheFsyncOfItsBatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, f := faulted(t, config(t))
		proceed := make(chan struct{})
		f.sync = func(real func() error) error { <-proceed; return real() }
		go func() { _, _ = l.Append(t.Context(), event(1)) }()
		synctest.Wait() // in the first fsync
		appended, recorded := make(chan error, 1), make(chan error, 1)
		go func() { _, err := l.Append(t.Context(), event(2)); appended <- err }()
		go func() { recorded <- l.Record(t.Context(), event(3)) }()
		synctest.Wait()
		proceed <- struct{}{} // both are in the second batch now, whose fsync hangs
		synctest.Wait()
		select {
		case err := <-recorded:
			if err != nil {
				t.Error(err)
			}
		default:
			t.Error("Record waits for the fsync")
		}
		select {
		case err := <-appended:
			t.Errorf("Append did not wait for the fsync: %v", err)
		default:
		}
		close(proceed)
		if err := <-appended; err != nil {
			t.Error(err)
		}
	})
}

func TestRecordedEntriesAreSyncedWithinASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := config(t)
		l, f := faulted(t, cfg)
		empty := l.Head()
		for i := range 3 {
			if err := l.Record(t.Context(), event(i)); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Second - time.Nanosecond)
		synctest.Wait()
		if n := f.syncs.Load(); n != 0 || l.Head() != empty {
			t.Errorf("%d fsyncs before the second was over, head %v", n, l.Head())
		}
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		if n := f.syncs.Load(); n != 1 || l.Head().Seq != 3 {
			t.Errorf("%d fsyncs after a second, head %v", n, l.Head())
		}
		if report, err := audit.Verify(cfg.Path, nil); err != nil || *report.Remembered != l.Head() {
			t.Errorf("the remembered head: %+v %v", report, err)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if n := f.syncs.Load(); n != 1 {
			t.Errorf("%d fsyncs of a log at rest", n)
		}
	})
}

func TestHeadIsRememberedAtMostOnceASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := config(t)
		l := open(t, cfg)
		seen, last := 0, contents(t, audit.HeadPath(cfg.Path))
		for i := range 100 {
			appendAll(t, l, event(i))
			if now := contents(t, audit.HeadPath(cfg.Path)); !bytes.Equal(now, last) {
				seen, last = seen+1, now
			}
			time.Sleep(30 * time.Millisecond)
			synctest.Wait()
		}
		if seen < 2 || seen > 3 {
			t.Errorf("remembered %d times in 3 seconds", seen)
		}
	})
}

func TestWaitingEndsWithTheContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := config(t)
		l, f := faulted(t, cfg)
		proceed := make(chan struct{})
		f.sync = func(real func() error) error { <-proceed; return real() }
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		taken, waiting := make(chan error, 1), make(chan error, 1)
		go func() { _, err := l.Append(ctx, event(1)); taken <- err }()
		synctest.Wait()
		go func() { _, err := l.Append(ctx, event(2)); waiting <- err }()
		if err := <-taken; !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("an entry in the fsync: %v", err)
		}
		if err := <-waiting; !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("an entry in the queue: %v", err)
		}
		close(proceed)
		if _, err := l.Append(ctx, event(3)); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("after the deadline: %v", err)
		}
		shut(t, l)
		if report, err := audit.Verify(cfg.Path, nil); err != nil || report.Entries != 1 {
			t.Errorf("want the one entry that the writer had taken: %+v %v", report, err)
		}
	})
}

func TestCloseLosesNothingItAcknowledged(t *testing.T) {
	cfg := config(t)
	l := open(t, cfg)
	var wg sync.WaitGroup
	var mu sync.Mutex
	acknowledged := map[string]bool{}
	for caller := range 6 {
		wg.Go(func() {
			for i := 0; ; i++ {
				e := event(i)
				e.Key = fmt.Sprintf("%d/%d", caller, i)
				err := l.Record(t.Context(), e)
				if errors.Is(err, audit.ErrClosed) {
					return
				}
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				acknowledged[e.Key] = true
				mu.Unlock()
			}
		})
	}
	time.Sleep(20 * time.Millisecond)
	shut(t, l)
	wg.Wait()
	shut(t, l) // twice is once
	entries, err := audit.Read(cfg.Path, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		delete(acknowledged, e.Key)
	}
	if len(acknowledged) > 0 {
		t.Errorf("%d acknowledged entries are not in the log", len(acknowledged))
	}
	if report, err := audit.Verify(cfg.Path, nil); err != nil || *report.Remembered != report.Head {
		t.Errorf("got %+v %v", report, err)
	}
}

// A burst must not make a batch that is more than a crash may leave.
func TestBatchesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, f := faulted(t, config(t))
		proceed := make(chan struct{})
		f.sync = func(real func() error) error { <-proceed; return real() }
		longest := 0
		f.write = func(b []byte, real io.Writer) (int, error) {
			longest = max(longest, len(b))
			return real.Write(b)
		}
		large := event(0)
		for i := range 7 {
			large.Detail[strconv.Itoa(i)] = string(bytes.Repeat([]byte("x"), audit.MaxValue))
		}
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() {
				if _, err := l.Append(t.Context(), large); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		close(proceed)
		wg.Wait()
		shut(t, l)
		if longest > audit.MaxTorn || longest < audit.MaxTorn/2 {
			t.Errorf("the longest write had %d bytes, a crash is expected to leave at most %d", longest, audit.MaxTorn)
		}
	})
}

// TestWhoWritesAloneWritesWithoutWaiting: a recorded entry that meets nobody
// else is written by its caller, and is synced within a second all the same.
func TestWhoWritesAloneWritesWithoutWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := config(t)
		l, f := faulted(t, cfg)
		for i := range 5 {
			if err := l.Record(t.Context(), event(i)); err != nil {
				t.Fatal(err)
			}
			if n := f.writes.Load(); n != int32(i+1) {
				t.Fatalf("%d writes after %d entries", n, i+1)
			}
			if s := f.syncs.Load(); s != 0 {
				t.Fatalf("%d fsyncs at once", s)
			}
		}
		for round := range 3 { // each burst has its own fsync, a second later
			time.Sleep(1100 * time.Millisecond)
			synctest.Wait()
			if s := f.syncs.Load(); s != int32(round+1) || l.Head().Seq != uint64(5+round) {
				t.Fatalf("round %d: %d fsyncs, head %d", round, s, l.Head().Seq)
			}
			if err := l.Record(t.Context(), event(0)); err != nil {
				t.Fatal(err)
			}
		}
	})
}
