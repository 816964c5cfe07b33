package hsm_test

import (
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"testing"

	"keyd/internal/boundary"
)

// resident is how much memory the process has, C's and Go's.
func resident(t *testing.T) int {
	t.Helper()
	debug.FreeOSMemory() // what Go holds and does not use is not the point
	raw, err := os.ReadFile("/proc/self/statm")
	must(t, err)
	var size, pages int
	_, err = fmt.Sscan(string(raw), &size, &pages)
	must(t, err)
	return pages * os.Getpagesize()
}

// Anybody who can reach the API can send envelopes that do not open, for as
// long as they like. The garbage collector does not see what C does not free.
func TestBadEnvelopesDoNotMakeTheProcessGrow(t *testing.T) {
	if testing.Short() {
		t.Skip("thousands of bad envelopes")
	}
	if raceDetector {
		t.Skip("the race detector's bookkeeping grows the process; make test measures without it")
	}
	token := open(t, nss(t))
	g := generate(t, token)
	env := seal(t, g)
	env.EncryptedKey[7] ^= 1
	// Heaps grow for a while and then no more; what leaks never stops. Half a
	// modulus for each envelope is half of what a buffer left behind costs.
	const rounds, envelopes, allowed = 8, 1500, 1500 * 128
	for range rounds {
		before := resident(t)
		for range envelopes {
			if _, err := token.Open(t.Context(), g.Handle, env); !errors.Is(err, boundary.ErrOpen) {
				t.Fatalf("Open: %v, want boundary.ErrOpen", err)
			}
		}
		grown := resident(t) - before
		t.Logf("%d bad envelopes: the process grew by %d bytes", envelopes, grown)
		if grown < allowed {
			return
		}
	}
	t.Errorf("the process grows by more than %d bytes for %d bad envelopes, and goes on growing", allowed, envelopes)
}
