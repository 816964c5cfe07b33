package worker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"keyd/internal/boundary"
)

// generateApart has a process of its own make a key, so that nothing else waits
// for that where a module has one call at a time: a generation takes seconds.
// Then the worker that serves must see the key: it is what opens with it.
func (t *Token) generateApart(ctx context.Context, spec []byte) (g boundary.Generated, err error) {
	select {
	case t.making <- struct{}{}: // one key at a time, as in the worker
		defer func() { <-t.making }()
	case <-ctx.Done():
		return boundary.Generated{}, fmt.Errorf("waiting for another key to be made: %w: %w", boundary.ErrBusy, ctx.Err())
	}
	// The PIN is shown to no token that does not serve.
	if _, err := t.ready(ctx); err != nil {
		return boundary.Generated{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, t.limit(opGenerate))
	defer cancel()
	defer context.AfterFunc(t.closing, cancel)()
	cfg := t.cfg.Config
	cfg.Sessions, cfg.ForKeys = 1, true
	w, _, err := t.begin(ctx, cfg)
	if err != nil {
		return boundary.Generated{}, fmt.Errorf("opening the token in a process that makes a key: %w", err)
	}
	defer func() {
		if left := w.farewell(); left != nil {
			t.log.Warn("the process that made a key did not end well", "worker", w.pid, "err", left)
		}
		w.kill()
	}()
	t.log.Info("a process of its own makes a key", "worker", w.pid)
	began := time.Now()
	if g, err = read(readGenerated)(w.peer.call(ctx, opGenerate, document(spec))); errors.Is(err, errLost) {
		t.tell(observation{op: opGenerate.String(), inToken: time.Since(began), err: err})
	}
	if err != nil {
		return boundary.Generated{}, fmt.Errorf("%s: %w", opGenerate, err)
	}
	if err := t.sees(ctx, g); err != nil {
		return boundary.Generated{}, errors.Join(err, w.discard(spec))
	}
	return g, nil
}

// discard destroys a key that nobody will know of.
func (w *worker) discard(spec []byte) error {
	ctx, cancel := context.WithTimeout(context.Background(), closeLimit)
	defer cancel()
	_, err := w.peer.call(ctx, opDiscard, document(spec))
	return err
}

// sees has the worker that serves look for a key which another process has made.
func (t *Token) sees(ctx context.Context, g boundary.Generated) error {
	_, err := t.Find(ctx, g.Handle)
	if errors.Is(err, boundary.ErrNoKey) {
		return fmt.Errorf("the library does not show a process the keys that another one has made since: set separate_key_generation to false: %w: %w",
			boundary.ErrUnsupported, err)
	}
	if err != nil {
		return fmt.Errorf("looking for the key that another process has made: %w", err)
	}
	return nil
}
