package api_test

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"keyd/internal/api"
	"keyd/internal/boundary"
	"keyd/internal/registry"
)

// healthy asks for /healthz and leaves the connection open.
func healthy(t *testing.T, conn net.Conn, within time.Duration) error {
	t.Helper()
	check(t, conn.SetReadDeadline(time.Now().Add(within)))
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	_, err = io.Copy(io.Discard, res.Body)
	return err
}

func TestAFloodOnMonitoringDoesNotStopDecrypts(t *testing.T) {
	r := newRig(t)
	var flood []net.Conn
	for range 200 {
		conn, err := net.Dial("tcp", r.server.Addr().String())
		check(t, err)
		defer conn.Close()
		_, err = io.WriteString(conn, "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
		check(t, err)
		flood = append(flood, conn)
	}
	for i, conn := range flood[:64] {
		if err := healthy(t, conn, time.Minute); err != nil {
			t.Fatalf("connection %d has no answer: %v", i, err)
		}
	}
	if err := healthy(t, flood[64], 200*time.Millisecond); err == nil {
		t.Error("a connection above the limit was answered")
	}
	r.decrypt(r.seal(r.active, []byte("x"), nil)).wants(t, 200, "")
	for _, conn := range flood[:64] {
		check(t, conn.Close())
	}
	if err := healthy(t, flood[64], time.Minute); err != nil {
		t.Errorf("it is not served when there is room again: %v", err)
	}
}

func TestAFloodOfBadEnvelopesDoesNotFillTheDisk(t *testing.T) {
	r := newRig(t)
	before := len(r.entries())
	began := time.Now()
	unknown := r.seal(r.active, nil, map[string]any{"alg": boundary.RSAOAEP256, "enc": enc, "kid": strings.Repeat("\u0001", 600)})
	for range 50 {
		r.decrypt("garbage").wants(t, 400, "malformed_envelope")
		r.decrypt(unknown).wants(t, 404, "unknown_kid")
		r.decrypt(strings.Repeat("x", 64<<10+1)).wants(t, 413, "too_large")
		r.send(r.client, "POST", "/v1/partners/wise/decrypt?x=1", "x").wants(t, 400, "bad_request")
		r.send(r.client, "POST", "/v1/partners/nobody/decrypt", "x").wants(t, 404, "not_found")
	}
	// Of each of five kinds three in a second, and one for all the others.
	most := 5 * (3 + 1) * (2 + int(time.Since(began).Seconds()))
	if n := len(r.entries()) - before; n > most {
		t.Errorf("250 refusals in %s made %d entries, want %d at most", time.Since(began), n, most)
	}
	r.holds("decrypt", 250)
	if strings.Contains(r.scrape(), "nobody") {
		t.Error("a metric has a name of the caller's choosing")
	}
	if got := r.scrape(); !strings.Contains(got, `keyd_opens_total{cause="request",key="",partner="wise",result="failed"} 100`) ||
		!strings.Contains(got, `keyd_opens_total{cause="request",key="",partner="",result="failed"} 50`) {
		t.Errorf("got\n%s", only(got, "keyd_opens_total{"))
	}
	for _, e := range r.entries() {
		if strings.Contains(e.KID, "\x01") || len(e.KID) > 70 || e.Partner == "nobody" {
			t.Errorf("the audit log has %+v", e)
		}
	}
}

// What used the private key has an entry each, however many there are.
func TestWhatReachedTheTokenIsRecordedOneByOne(t *testing.T) {
	r := newRig(t)
	good := r.seal(r.active, []byte("x"), nil)
	bad := good[:len(good)-22] + strings.Repeat("A", 22)
	before := len(r.entries())
	for range 20 {
		r.decrypt(good).wants(t, 200, "")
		r.decrypt(bad).wants(t, 422, "open_failed")
	}
	if n := len(r.entries()) - before; n != 40 {
		t.Errorf("got %d entries, want 40", n)
	}
}

func TestShutdownWritesWhatWasHeldBack(t *testing.T) {
	r := newRig(t)
	for range 30 {
		r.decrypt("garbage").wants(t, 400, "malformed_envelope")
		r.send(r.admin, "POST", "/v1/versions/none/destroy", "").wants(t, 404, "not_found")
	}
	check(t, r.server.Shutdown(t.Context()))
	if opens, closes := r.refused("decrypt"), r.refused("key.close"); opens != 30 || closes != 30 {
		t.Errorf("the entries stand for %d and %d refusals, want 30 of each", opens, closes)
	}
}

// waiting is a backend that opens, and answers when it is told to.
type waiting struct {
	api.Backend
	entered, answer chan struct{}
	opened          *boundary.Opened
}

func (w *waiting) Open(ctx context.Context, handle string, env *boundary.Envelope) (*boundary.Opened, error) {
	opened, err := w.Backend.Open(ctx, handle, env)
	w.opened = opened
	close(w.entered)
	<-w.answer
	return opened, err
}

func TestNothingComesOutUnderAVersionThatIsCompromisedMeanwhile(t *testing.T) {
	backend := &waiting{entered: make(chan struct{}), answer: make(chan struct{})}
	r := newRig(t, func(s *setup) { backend.Backend, s.backend = s.backend, backend })
	envelope := r.seal(r.active, []byte("secret"), nil)
	done := make(chan answer, 1)
	go func() { done <- r.decrypt(envelope) }()
	<-backend.entered
	_, err := r.reg.Move([]registry.Move{{KID: r.active.KID, To: registry.Compromised}}, "test", "test", 1, time.Now())
	check(t, err)
	close(backend.answer)
	a := <-done
	a.wants(t, 410, "key_compromised")
	if strings.Contains(string(backend.opened.Plaintext), "secret") {
		t.Error("the plaintext was not wiped")
	}
	entries := r.entries()
	if last := entries[len(entries)-1]; last.Result != "failed" || last.Code != "key_compromised" {
		t.Errorf("the audit log has %+v", last)
	}
}

func TestTheUserDatabaseIsAskedOnceAtATime(t *testing.T) {
	var mu sync.Mutex
	asked, answers := 0, make(chan string)
	of := api.Remembered(func(int) string {
		mu.Lock()
		asked++
		mu.Unlock()
		return <-answers
	})
	got := make(chan string, 50)
	for range 50 {
		go func() { got <- of(1) }()
	}
	answers <- "first"
	for range 50 {
		if name := <-got; name != "first" {
			t.Errorf("got %q", name)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if asked != 1 {
		t.Errorf("50 callers at the same time asked %d times", asked)
	}
}
