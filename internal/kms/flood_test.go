package kms_test

import (
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"keyd/internal/boundary"
	"keyd/internal/kms"
	"keyd/internal/kms/kmstest"
	"keyd/internal/rotation/backendtest"
)

// onSocket is a backend that speaks to a server on a real socket through the
// client it makes for itself, and how many connections were opened so far.
func onSocket(t testing.TB, s *kmstest.Server, cfg kms.Config) (*kms.Backend, *atomic.Int64) {
	t.Helper()
	opened := &atomic.Int64{}
	listening := httptest.NewUnstartedServer(s)
	listening.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			opened.Add(1)
		}
	}
	listening.Start()
	t.Cleanup(listening.Close)
	cfg.HTTPClient, cfg.Endpoint = nil, listening.URL
	b, err := kms.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return b, opened
}

// Hundreds of requests while KMS is slow: those under way are as many as
// configured, on connections that are used again; the others wait, each in the
// goroutine it came with, or are told to come back.
func TestHundredsInFlightPileNothingUp(t *testing.T) {
	const callers, concurrency, each = 400, 16, 3
	s := kmstest.New(kmstest.Options{})
	cfg := config(t, s)
	cfg.Concurrency = concurrency
	b, opened := onSocket(t, s, cfg)
	g := generate(t, b, spec())
	env := backendtest.Seal(t, rsaOf(t, g.Public), boundary.A256GCM, []byte("x"), nil)
	s.Inject(kmstest.Fault{Op: "Decrypt", Delay: 30 * time.Millisecond, Times: callers * each})
	before := runtime.NumGoroutine()
	most, stop, watched := 0, make(chan struct{}), make(chan struct{})
	go func() {
		defer close(watched)
		for {
			most = max(most, runtime.NumGoroutine())
			select {
			case <-stop:
				return
			case <-time.After(5 * time.Millisecond):
			}
		}
	}()
	var wg sync.WaitGroup
	var served, busy atomic.Int64
	for range callers {
		wg.Go(func() {
			for range each {
				switch _, err := b.Open(t.Context(), g.Handle, env); {
				case err == nil:
					served.Add(1)
				case errors.Is(err, boundary.ErrBusy):
					busy.Add(1)
				default:
					t.Errorf("Open: %v", err)
				}
			}
		})
	}
	wg.Wait()
	close(stop)
	<-watched
	// A connection has two goroutines here and two in the server; a call under
	// way has one that watches for its end.
	if limit := before + callers + 8*concurrency + 50; most > limit {
		t.Errorf("%d goroutines at once for %d callers, want at most %d", most, callers, limit)
	}
	if n := opened.Load(); n > 2*concurrency {
		t.Errorf("%d connections were opened for %d calls at once", n, concurrency)
	}
	if served.Load() == 0 || busy.Load() == 0 || served.Load()+busy.Load() != callers*each {
		t.Errorf("%d were served and %d told to come back", served.Load(), busy.Load())
	}
	s.Heal()
	if _, err := b.Open(t.Context(), g.Handle, env); err != nil {
		t.Errorf("after the flood: %v", err)
	}
	for range 100 { // connections are kept, callers are not
		if runtime.NumGoroutine() <= before+8*concurrency {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Errorf("%d goroutines are left of a flood, before it there were %d", runtime.NumGoroutine(), before)
}

func TestConnectionsAreUsedAgain(t *testing.T) {
	s := kmstest.New(kmstest.Options{})
	b, opened := onSocket(t, s, config(t, s))
	g := generate(t, b, spec())
	env := backendtest.Seal(t, rsaOf(t, g.Public), boundary.A256GCM, []byte("x"), nil)
	for range 300 {
		if _, err := b.Open(t.Context(), g.Handle, env); err != nil {
			t.Fatal(err)
		}
	}
	if n := opened.Load(); n != 1 {
		t.Errorf("one call after the other opened %d connections, want one", n)
	}
	before := opened.Load()
	s.Inject(kmstest.Fault{Op: "Decrypt", Drop: true})
	if _, err := b.Open(t.Context(), g.Handle, env); err != nil || opened.Load() != before+1 {
		t.Errorf("after a cut: %v, %d connections, want one more", err, opened.Load()-before)
	}
}
