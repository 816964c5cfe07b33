package worker_test

import (
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"keyd/internal/hsm"
	"keyd/internal/hsm/worker"
)

// TestTheNextWorkerIsTriedWhenItWasSaidToBe: at once, and then, for as long as
// nothing is there, every 2 s, as docs/operations.md says. So a token that is back
// is found within 2 s and the time that it takes to open it.
func TestTheNextWorkerIsTriedWhenItWasSaidToBe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		token := worker.NewToken(worker.Config{Command: []string{"/nowhere", "keyd"}, Config: hsm.Config{
			Name: "none", Sessions: 1, SessionWait: 5 * time.Second, CallTimeout: 30 * time.Second, Logger: slog.New(slog.DiscardHandler),
		}})
		go token.Replace()
		t.Cleanup(func() {
			if err := token.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
		})
		var longest time.Duration
		time.Sleep(50 * time.Millisecond)
		for try := range 30 {
			synctest.Wait()
			p := token.Health(t.Context()).Process
			pause := time.Until(p.Next)
			if p.State != "down" || !p.Since.Equal(time.Now()) || pause <= 0 || pause > 2*time.Second {
				t.Fatalf("after %d pauses: %s since %s ago, and the next try is in %s", try+1, p.State, time.Since(p.Since), pause)
			}
			longest = max(longest, pause)
			time.Sleep(pause)
		}
		if longest != 2*time.Second {
			t.Errorf("the longest pause was %s, want 2 s", longest)
		}
	})
}
