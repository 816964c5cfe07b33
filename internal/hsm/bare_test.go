package hsm_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"keyd/internal/boundary"
)

// TestBareDoesTheTokensPartAndNothingElse: on the token itself and through the
// pipe.
func TestBareDoesTheTokensPartAndNothingElse(t *testing.T) {
	cfg := softHSM(t)
	cfg.Sessions = 2
	inside := open(t, cfg)
	piped := openInWorker(t, cfg)
	g := generate(t, inside)
	if _, err := piped.Public(t.Context(), g.Handle); err != nil { // which makes it known there
		t.Fatal(err)
	}
	env := seal(t, g)
	env.Tag = make([]byte, len(env.Tag)) // which the token never sees
	for name, token := range map[string]interface {
		Bare(ctx context.Context, handle string, env *boundary.Envelope, sessions int, d time.Duration) ([]time.Duration, error)
	}{"inside": inside, "piped": piped} {
		took, err := token.Bare(t.Context(), g.Handle, env, 2, 500*time.Millisecond)
		if err != nil || len(took) < 2 {
			t.Fatalf("%s: %d times, %v", name, len(took), err)
		}
		for _, d := range took {
			if d <= 0 {
				t.Fatalf("%s: one took %s", name, d)
			}
		}
		if took, err := token.Bare(t.Context(), g.Handle, env, 2, 0); err != nil || len(took) != 2 {
			t.Errorf("%s, for no time: %d times, %v, want once in each session", name, len(took), err)
		}
		if _, err := token.Bare(t.Context(), g.Handle+"x", env, 1, time.Millisecond); !errors.Is(err, boundary.ErrNoKey) {
			t.Errorf("%s: a key that is none: %v", name, err)
		}
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := token.Bare(gone, g.Handle, env, 1, time.Minute); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: nobody waits: %v", name, err)
		}
	}
}
