package exchange

import (
	"context"
	"errors"
	"fmt"

	"keyd/internal/boundary"
	"keyd/internal/jwe"
)

// Open opens the reply of an exchange, which is then over: an envelope or, where
// values of a reply are sealed each by itself, several, all of them or none. A
// reply that is refused in plain sight, or for which the backend has no time
// now, leaves the exchange open; so do the first few that do not open.
func (t *Table) Open(ctx context.Context, owner Owner, id string, max int, compacts ...[]byte) ([]*boundary.Opened, error) {
	e, err := t.find(owner, id)
	if err != nil {
		return nil, err
	}
	select {
	case <-e.turn:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	opened, err := t.openOnce(ctx, e, max, compacts)
	e.turn <- struct{}{}
	return opened, err
}

// openOnce has the turn.
func (t *Table) openOnce(ctx context.Context, e *entry, max int, compacts [][]byte) ([]*boundary.Opened, error) {
	if !t.isOpen(e) {
		return nil, ErrUnknown // somebody else's turn was its last
	}
	all, err := openAll(ctx, e.secret, max, compacts)
	switch {
	case err == nil:
		if !t.take(e) { // its time ran out meanwhile
			wipe(all)
			return nil, ErrUnknown
		}
		t.forget(ctx, e, Answered)
		return all, nil
	case errors.Is(err, boundary.ErrNoKey):
		if t.take(e) {
			t.forget(ctx, e, Lost)
		}
		return nil, fmt.Errorf("%w: the backend no longer has its key", ErrLost)
	case errors.Is(err, boundary.ErrOpen):
		if e.tries++; e.tries >= mostTries && t.take(e) {
			t.forget(ctx, e, Spent)
		}
	}
	return nil, err
}

func openAll(ctx context.Context, s secret, max int, compacts [][]byte) ([]*boundary.Opened, error) {
	if len(compacts) == 0 {
		return nil, fmt.Errorf("%w: no envelope", jwe.ErrMalformed)
	}
	all := make([]*boundary.Opened, 0, len(compacts))
	for _, compact := range compacts {
		opened, err := s.open(ctx, compact, max)
		if err != nil {
			wipe(all)
			return nil, err
		}
		all = append(all, opened)
	}
	return all, nil
}

func wipe(all []*boundary.Opened) {
	for _, opened := range all {
		clear(opened.Plaintext)
	}
}
