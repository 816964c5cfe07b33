package hsm_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"keyd/internal/boundary"
)

// load opens envelopes from several callers until stop, and returns how many
// were opened. Whatever is not right, or not what may happen, fails the test.
func load(t *testing.T, open func(context.Context) (*boundary.Opened, error), callers int, may ...error) (stop func() int64) {
	t.Helper()
	var opened atomic.Int64
	var wg sync.WaitGroup
	end := make(chan struct{})
	for range callers {
		wg.Go(func() {
			for {
				select {
				case <-end:
					return
				case <-t.Context().Done(): // the test has failed
					return
				default:
				}
				got, err := open(t.Context())
				switch {
				case err == nil && string(got.Plaintext) == "plaintext":
					opened.Add(1)
				case err == nil:
					t.Errorf("opened to %q", got.Plaintext)
				default:
					for _, m := range may {
						if errors.Is(err, m) && !errors.Is(err, boundary.ErrOpen) && !errors.Is(err, boundary.ErrNoKey) {
							err = nil
							time.Sleep(time.Millisecond) // it says so at once
							break
						}
					}
					if err != nil {
						t.Errorf("Open: %v", err)
					}
				}
			}
		})
	}
	return func() int64 { close(end); wg.Wait(); return opened.Load() }
}
