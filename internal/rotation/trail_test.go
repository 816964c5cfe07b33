package rotation_test

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"keyd/internal/audit"
)

// trail is an audit log in memory.
type trail struct {
	power *power

	mu      sync.Mutex
	entries []audit.Entry
	broken  bool
}

func (tr *trail) Append(_ context.Context, e audit.Entry) (audit.Head, error) {
	err := tr.power.do("audit", func() error {
		tr.mu.Lock()
		defer tr.mu.Unlock()
		if tr.broken {
			return audit.ErrFailed
		}
		e.Seq, e.At = uint64(len(tr.entries)+1), time.Now()
		tr.entries = append(tr.entries, e)
		return nil
	})
	if err != nil {
		return audit.Head{}, err
	}
	return audit.Head{Seq: e.Seq}, nil
}

func (tr *trail) Head() audit.Head {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	return audit.Head{Seq: uint64(len(tr.entries))}
}

func (tr *trail) tail(context.Context) ([]audit.Entry, error) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	return slices.Clone(tr.entries), nil
}

func (tr *trail) all() []audit.Entry {
	entries, _ := tr.tail(context.Background())
	return entries
}

// fail makes the log refuse everything, or work again.
func (tr *trail) fail(broken bool) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.broken = broken
}

// outcomes counts the outcomes of an action.
func (w *world) outcomes(action, result, code string) (n int) {
	for _, e := range w.trail.all() {
		if e.Phase == audit.PhaseOutcome && e.Action == action && e.Result == result && e.Code == code {
			n++
		}
	}
	return n
}

func contains(err error, part string) bool { return strings.Contains(err.Error(), part) }

func (tr *trail) read(_ context.Context, after uint64, limit int) ([]audit.Entry, error) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	var page []audit.Entry
	for _, e := range tr.entries {
		if e.Seq > after && len(page) < limit {
			page = append(page, e)
		}
	}
	return page, nil
}
