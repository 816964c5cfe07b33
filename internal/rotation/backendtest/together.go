package backendtest

import (
	"context"
	"crypto/rsa"
	"errors"
	"sync"
	"testing"

	"keyd/internal/boundary"
)

func (s suite) cancelled(t *testing.T) {
	b := s.open(t)
	sp := spec(s.opts.Bits[0])
	g, pub := generate(t, b, sp)
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := b.Open(gone, g.Handle, Seal(t, pub, s.opts.Encs[0], []byte("x"), nil)); !errors.Is(err, context.Canceled) {
		t.Errorf("Open: %v, want context.Canceled", err)
	}
	never := spec(s.opts.Bits[0])
	discardAfter(t, b, never)
	if _, err := b.Generate(gone, never); !errors.Is(err, context.Canceled) {
		t.Errorf("Generate: %v, want context.Canceled", err)
	}
	if found := standing(t, b, never.KID); len(found) != 0 {
		t.Errorf("Generate left %+v", found)
	}
	if _, err := b.Destroy(gone, g.Handle); !errors.Is(err, context.Canceled) {
		t.Errorf("Destroy: %v, want context.Canceled", err)
	}
	if _, err := b.Public(t.Context(), g.Handle); err != nil {
		t.Errorf("the key is gone or the backend is stuck: %v", err)
	}
}

func (s suite) concurrent(t *testing.T) {
	b := s.open(t)
	type pair struct {
		handle string
		public *rsa.PublicKey
	}
	var pairs []pair
	for range 3 {
		g, pub := generate(t, b, spec(s.opts.Bits[0]))
		pairs = append(pairs, pair{g.Handle, pub})
	}
	var wg sync.WaitGroup
	for i := range 24 {
		wg.Go(func() {
			for j := range 4 {
				p := pairs[(i+j)%len(pairs)]
				want := random(64)
				env := Seal(t, p.public, s.opts.Encs[(i+j)%len(s.opts.Encs)], want, nil)
				if i%3 == 0 {
					env.Tag[0] ^= 1
					if _, err := b.Open(t.Context(), p.handle, env); !errors.Is(err, boundary.ErrOpen) {
						t.Errorf("a bad envelope among others: %v, want boundary.ErrOpen", err)
					}
					continue
				}
				got, err := b.Open(t.Context(), p.handle, env)
				if err != nil || string(got.Plaintext) != string(want) {
					t.Errorf("a good envelope among others: %v, %v", got, err)
				}
			}
		})
	}
	wg.Wait()
}

func (s suite) churn(t *testing.T) {
	b := s.open(t)
	kept, pub := generate(t, b, spec(s.opts.Bits[0]))
	var wg sync.WaitGroup
	for range 3 {
		sp := spec(s.opts.Bits[0])
		discardAfter(t, b, sp)
		wg.Go(func() {
			g, err := b.Generate(t.Context(), sp)
			if err != nil {
				t.Errorf("Generate: %v", err)
				return
			}
			if _, err := b.Destroy(t.Context(), g.Handle); err != nil {
				t.Errorf("Destroy: %v", err)
			}
		})
	}
	for range 4 {
		wg.Go(func() {
			for range 8 {
				env := Seal(t, pub, s.opts.Encs[0], []byte("x"), nil)
				if _, err := b.Open(t.Context(), kept.Handle, env); err != nil {
					t.Errorf("Open meanwhile: %v", err)
				}
			}
		})
	}
	wg.Wait()
}
