package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"keyd/internal/boundary"
	"keyd/internal/jwe"
	"keyd/internal/residue"
)

// residueOf is what a process has in memory of some secrets.
func residueOf(tb testing.TB, pid int, secrets map[string][]byte) map[string]int {
	tb.Helper()
	found, err := residue.Find(pid, secrets)
	if err != nil {
		tb.Fatal(err)
	}
	return found
}

// sealed is an envelope of which everything is known.
type sealed struct {
	compact        string
	cek, plaintext []byte
	level          boundary.Level // at which it is to be opened
}

// seal seals to the rig's key, with each of its algs in turn.
func (r *memoryRig) seal(tb testing.TB, turn int, enc string, size int) sealed {
	tb.Helper()
	plaintext := make([]byte, size)
	rand.Read(plaintext)
	h := jwe.SealHeader{Alg: r.algs[turn%len(r.algs)], KID: r.kid, Enc: enc}
	compact, cek, err := jwe.SealKeeping(r.public, h, plaintext)
	if err != nil {
		tb.Fatal(err)
	}
	return sealed{compact, cek, plaintext, r.levels[enc]}
}

// open posts an envelope and returns what comes back, and at which level it was
// opened.
func (d *testDaemon) open(tb testing.TB, transport http.RoundTripper, compact string) (status int, body []byte, level string) {
	tb.Helper()
	req, err := http.NewRequestWithContext(tb.Context(), http.MethodPost, "http://keyd/v1/partners/wise/decrypt", strings.NewReader(compact))
	if err != nil {
		tb.Error(err)
		return 0, nil, ""
	}
	res, err := transport.RoundTrip(req)
	if err != nil {
		tb.Error(err)
		return 0, nil, ""
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	if err != nil {
		tb.Error(err)
	}
	return res.StatusCode, raw, res.Header.Get("Keyd-Boundary")
}

func (d *testDaemon) transport() *http.Transport {
	return &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", d.client)
	}}
}

// openAll opens envelopes from three callers, and beside each one that was
// tampered with.
func (d *testDaemon) openAll(tb testing.TB, all []sealed) {
	tb.Helper()
	transport := d.transport()
	defer transport.CloseIdleConnections()
	var wg sync.WaitGroup
	for part := range 3 {
		wg.Go(func() {
			for i := part; i < len(all); i += 3 {
				if status, got, level := d.open(tb, transport, all[i].compact); status != http.StatusOK || !bytes.Equal(got, all[i].plaintext) || level != string(all[i].level) {
					tb.Errorf("status %d, %d bytes, opened at %q, want %s", status, len(got), level, all[i].level)
				}
				bad := []byte(all[i].compact)
				tag := bytes.LastIndexByte(bad, '.') + 1
				bad[tag] = 'A' + (bad[tag]+1)%26
				if status, _, _ := d.open(tb, transport, string(bad)); status != http.StatusUnprocessableEntity {
					tb.Errorf("tampered with: status %d", status)
				}
			}
		})
	}
	wg.Wait()
}

// plantCanary leaves half of a request with the daemon: what is in it must be
// found in its memory, or nothing would be. It is gone when forget returns.
func (d *testDaemon) plantCanary(tb testing.TB, canary []byte) (forget func()) {
	tb.Helper()
	conn, err := new(net.Dialer).DialContext(tb.Context(), "unix", d.client)
	if err != nil {
		tb.Fatal(err)
	}
	if _, err := fmt.Fprintf(conn, "POST /v1/partners/wise/decrypt HTTP/1.1\r\nHost: keyd\r\nContent-Length: %d\r\n\r\n%s", 2*len(canary), canary); err != nil {
		tb.Fatal(err)
	}
	return func() { _ = conn.Close() }
}

// withCanary is what the daemon has in memory of the rig's secrets while the canary is
// there. The daemon gives up half a request after 10 s: a search that comes too late
// for that is made again.
func (r *memoryRig) withCanary(t *testing.T, canary []byte) map[string]int {
	t.Helper()
	for range 5 {
		forget := r.plantCanary(t, canary)
		waitFor(t, func() bool {
			return residueOf(t, r.process.Pid, map[string][]byte{"canary": canary[2976:]})["canary"] > 0
		})
		found := residueOf(t, r.process.Pid, r.secrets)
		forget()
		if found["canary of the daemon"] > 0 {
			return found
		}
	}
	t.Fatal("the daemon's canary was never found in a whole search")
	return nil
}

func waitFor(t *testing.T, done func() bool) {
	t.Helper()
	for end := time.Now().Add(2 * time.Minute); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if done() {
			return
		}
	}
	t.Fatal("waited 2 minutes for nothing")
}

// TestMemoryHoldsNoSecretOnceTheAnswerIsSent looks through everything that the
// daemon and the library's process have in memory. In the daemon there must be
// no content key, no PIN and nothing of a private key at any time, and no
// plaintext once it is sent; in the library's process no content key and no
// plaintext. PIN and private keys may be in the library's process: a software
// token keeps them in its own memory, and one in another process (p11-kit) is
// sent the PIN through the client library's buffers, which are not keyd's to
// wipe.
func TestMemoryHoldsNoSecretOnceTheAnswerIsSent(t *testing.T) {
	for name, token := range memoryTokens {
		t.Run(name, func(t *testing.T) {
			var r memoryRig
			token(&r, t)
			// Before anything else can have taken the place of what was not wiped.
			if residueOf(t, r.process.Pid, map[string][]byte{"pin": r.secrets["pin"]})["pin"] != 0 {
				t.Error("the daemon has the PIN in memory after it has handed it over")
			}
			var all, others []sealed
			for i := range 60 {
				enc := []string{boundary.A256GCM, boundary.A256CBCHS512, boundary.A128CBCHS256}[i%3]
				size := []int{40, 700, 3000, 6000, 40_000, 200_000}[i%6]
				e := r.seal(t, i/3, enc, size)
				all, others = append(all, e), append(others, r.seal(t, i/3, enc, 16))
				// Half of a key is a key for CBC, and what a round key schedule begins with.
				half := len(e.cek) / 2
				r.secrets[fmt.Sprintf("%s key %d", enc, i)] = e.cek[:half]
				r.secrets[fmt.Sprintf("%s key %d, second half", enc, i)] = e.cek[half:]
				for at := 0; at+24 <= size; at += max(size/8, 24) {
					r.secrets[fmt.Sprintf("plaintext %d of %d bytes, at %d", i, size, at)] = e.plaintext[at : at+24]
				}
			}
			canary := make([]byte, 3000)
			rand.Read(canary)
			r.secrets["canary of the daemon"] = canary[len(canary)-24:]
			r.openAll(t, all)
			// A signal can write registers to memory at any time: what is looked for
			// is what stays, so others have had their turn since.
			r.openAll(t, others)
			inDaemon, inWorker := r.withCanary(t, canary), residueOf(t, r.workers(t)[0], r.secrets)
			if inDaemon["canary of the daemon"] == 0 || inWorker["canary of the worker"] == 0 {
				t.Fatal("not even the canaries were found: the search does not work")
			}
			for _, name := range []string{"canary of the daemon", "canary of the worker"} {
				delete(inDaemon, name)
				delete(inWorker, name)
			}
			for name, n := range inDaemon {
				t.Errorf("the daemon has %s in memory, %d times", name, n)
			}
			for name, n := range inWorker {
				if strings.HasPrefix(name, "private key") || name == "pin" {
					t.Logf("the library's process has %s in memory, %d times", name, n)
					continue
				}
				t.Errorf("the library's process has %s in memory, %d times", name, n)
			}
		})
	}
}
