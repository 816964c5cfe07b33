package partner_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"keyd/internal/partner"
)

func TestRedirectsAreNotFollowed(t *testing.T) {
	var elsewhere atomic.Int64
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { elsewhere.Add(1) }))
	defer other.Close()
	s := httptest.NewServer(routes{
		askAnnounce: func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, other.URL, http.StatusTemporaryRedirect)
		},
		askKey: func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, other.URL, http.StatusFound) },
	})
	defer s.Close()
	w, _ := dial(t, s.URL)
	wantError(t, announce(t, w), "announce", 307, "a redirect, which keyd does not follow")
	wantError(t, fetchKey(t, w), "key", 302, "a redirect")
	if elsewhere.Load() != 0 {
		t.Error("a redirect was followed")
	}
}

// What the wire can do to an answer, each way with a real connection.
func TestBrokenAnswersOnARealConnection(t *testing.T) {
	raw := func(text string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			c, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				panic(err)
			}
			_, _ = io.WriteString(c, text)
			_ = c.Close()
		}
	}
	for name, tc := range map[string]struct {
		answer    string
		status    int
		says      string
		temporary bool
	}{
		"closed, nothing said": {"", 0, "EOF", true},
		"cut in the head":      {"HTTP/1.1 201 Cre", 0, "EOF", true},
		"cut in the body":      {"HTTP/1.1 201 Created\r\nContent-Length: 500\r\n\r\n{\"keyId\":", 201, "unexpected EOF", true},
		"cut in a chunk":       {"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n50\r\n{\"keyId\":", 201, "unexpected EOF", true},
		"refusal, cut":         {"HTTP/1.1 409 Conflict\r\nContent-Length: 500\r\n\r\n{\"message\":", 409, "already has this key", false},
		"not HTTP":             {"SSH-2.0-OpenSSH\r\n\r\n", 0, "malformed HTTP", true},
		"head without end":     {"HTTP/1.1 201 Created\r\nX: " + strings.Repeat("x", 1<<18) + "\r\n\r\n", 0, "header", true},
		"body without end":     {"HTTP/1.1 201 Created\r\n\r\n" + strings.Repeat(" ", 1<<20+10), 201, "more than", false},
	} {
		t.Run(name, func(t *testing.T) {
			s := httptest.NewServer(routes{askAnnounce: raw(tc.answer)})
			defer s.Close()
			w, _ := dial(t, s.URL)
			if e := callError(t, announce(t, w), "announce", tc.status, tc.says); e.Temporary() != tc.temporary {
				t.Errorf("got temporary %v for %v", e.Temporary(), e)
			}
		})
	}
}

func TestSlowAnswersAreNotWaitedFor(t *testing.T) {
	for name, head := range map[string]bool{"no head": false, "no end": true} {
		t.Run(name, func(t *testing.T) {
			stop := make(chan struct{})
			s := httptest.NewServer(routes{askAnnounce: func(w http.ResponseWriter, _ *http.Request) {
				if head {
					w.WriteHeader(http.StatusCreated)
					_ = http.NewResponseController(w).Flush()
				}
				<-stop
			}})
			defer s.Close()
			defer close(stop)
			w, _ := dial(t, s.URL, func(c *partner.WiseConfig) { c.Timeout = 200 * time.Millisecond })
			err := announce(t, w)
			e, ok := errors.AsType[*partner.Error](err)
			if !ok || !errors.Is(e, context.DeadlineExceeded) || !e.Temporary() || !strings.Contains(e.Error(), "no answer within 200ms") {
				t.Errorf("got %v", err)
			}
		})
	}
}

// A peer that switches protocols would have its connection read for ever: the
// context does not end that.
func TestAnAnswerThatIsAnotherProtocolIsNoAnswer(t *testing.T) {
	stop := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		c, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(err)
		}
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
		<-stop
		_ = c.Close()
	}))
	defer s.Close()
	defer close(stop)
	w, _ := dial(t, s.URL, cases)
	done := make(chan error, 1)
	go func() {
		_, err := w.Do(t.Context(), caseRequest())
		done <- err
	}()
	select {
	case err := <-done:
		if !errors.Is(err, partner.ErrAnswer) {
			t.Errorf("got %v", err)
		}
	case <-time.After(time.Minute):
		t.Error("still reading")
	}
}
