package main

import (
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"keyd/internal/boundary"
)

// soakEnvelopes is how many good envelopes a soak opens, and as many bad ones.
// `make soak` sets it to a million; make test only sees that it can be done.
func soakEnvelopes(tb testing.TB) int64 {
	value := os.Getenv("KEYD_SOAK")
	if value == "" {
		return 1500
	}
	n, err := strconv.ParseInt(value, 10, 64)
	if err != nil || n < 100 {
		tb.Fatalf("KEYD_SOAK is %q, want a number of at least 100", value)
	}
	return n
}

// residentKiB is how much memory a process has.
func residentKiB(tb testing.TB, pid int) int {
	tb.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		tb.Fatal(err)
	}
	var size, pages int
	if _, err := fmt.Sscan(string(raw), &size, &pages); err != nil {
		tb.Fatal(err)
	}
	return pages * os.Getpagesize() / 1024
}

// leakKiB is how far a library that leaks may grow until its process is replaced
// (package worker), and a little more.
const leakKiB = 300 << 10

// settling is how many envelopes it takes until the heaps of both processes are
// as large as they are let become (heap.go).
const settling = 2000

// TestSoakKeepsMemoryFlat opens good and bad envelopes for a long time, and
// holds what both processes have at the end against what they had after a tenth
// of it: within 10 %, which at a million is about a byte an envelope. SoftHSM
// loses 240 bytes over each that takes an agreement; there its process is replaced
// now and then, and nobody notices.
func TestSoakKeepsMemoryFlat(t *testing.T) {
	total := soakEnvelopes(t)
	for _, name := range []string{"SoftHSM", "NSS", "SoftHSM-ECDH", "NSS-ECDH", "p11-kit"} {
		if only := os.Getenv("KEYD_SOAK_TOKEN"); only != "" && only != name {
			continue
		}
		t.Run(name, func(t *testing.T) {
			var r memoryRig
			memoryTokens[name](&r, t)
			soak(t, &r, total)
		})
	}
}

func soak(t *testing.T, r *memoryRig, total int64) {
	var kinds [3]string
	for i, size := range []int{100, 1024, 16 << 10} {
		kinds[i] = r.seal(t, i, boundary.A256GCM, size).compact
	}
	bad := []string{tampered(kinds[1], 1), tampered(kinds[0], 3), tampered(kinds[2], 4)} // ECDH-ES has no part 1
	worker := r.workers(t)[0]
	r.send(t, settling, kinds[:], http.StatusOK)
	var first [2]int
	sized := func() [2]int {
		var pids []int
		waitFor(t, func() bool { pids = r.workers(t); return len(pids) == 1 })
		return [2]int{residentKiB(t, r.process.Pid), residentKiB(t, pids[0])}
	}
	for tenth := range 10 {
		began := time.Now()
		r.send(t, total/10, kinds[:], http.StatusOK)
		r.send(t, total/10, bad, http.StatusUnprocessableEntity)
		now := sized()
		t.Logf("%d %% of %d good and as many bad: daemon %d KiB, worker %d KiB; %.0f a second",
			(tenth+1)*10, total, now[0], now[1], float64(total/10*2)/time.Since(began).Seconds())
		if tenth == 0 {
			first = now
		}
		if tenth < 9 {
			continue
		}
		for i, process := range []string{"daemon", "worker"} {
			most := first[i] + first[i]/10
			if process == "worker" && r.leaks {
				most = first[i] + leakKiB
			}
			if now[i] > most {
				t.Errorf("the %s grew from %d to %d KiB", process, first[i], now[i])
			}
		}
	}
	if pids := r.workers(t); len(pids) != 1 || pids[0] != worker && !r.leaks {
		t.Errorf("the worker was %d and is %v", worker, pids)
	}
}

// TestALibraryThatLeaksIsReplacedAndNobodyNotices: each envelope is answered.
func TestALibraryThatLeaksIsReplacedAndNobodyNotices(t *testing.T) {
	module, env, fail := faultyModule(t)
	var r memoryRig
	r.start(t, ", "+env, "module: "+softHSMModule, "module: "+module, "token_label: keyd\n", "token_label: keyd\n    session_wait: 60s\n")
	r.reaches(boundary.Raw, boundary.Raw)
	r.generated(t)
	envelopes := []string{r.seal(t, 0, boundary.A256GCM, 1024).compact}
	worker := r.workers(t)[0]
	fail("lose 2000000")
	replaced := func() bool { pids := r.workers(t); return len(pids) == 1 && pids[0] != worker }
	for sent := 0; !replaced(); sent += 50 {
		if sent >= 5000 {
			t.Fatalf("after %d envelopes the library's process is still %d", sent, worker)
		}
		r.send(t, 50, envelopes, http.StatusOK)
	}
	fail("")
	r.send(t, 50, envelopes, http.StatusOK)
}

// tampered changes one part of a compact serialization.
func tampered(compact string, part int) string {
	parts := strings.Split(compact, ".")
	b := []byte(parts[part])
	if b[7]++; b[7] == 'Z'+1 || b[7] == 'z'+1 || b[7] == '9'+1 || b[7] == '.' || b[7] == '`' {
		b[7] = 'A'
	}
	parts[part] = string(b)
	return strings.Join(parts, ".")
}

// send posts envelopes from four callers, who want one status.
func (r *memoryRig) send(t *testing.T, n int64, envelopes []string, want int) {
	t.Helper()
	var sent atomic.Int64
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			transport := r.transport()
			defer transport.CloseIdleConnections()
			for i := sent.Add(1); i <= n && !t.Failed(); i = sent.Add(1) {
				if status, _, _ := r.open(t, transport, envelopes[i%int64(len(envelopes))]); status != want {
					t.Errorf("status %d, want %d", status, want)
				}
			}
		})
	}
	wg.Wait()
}
