package worker_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"keyd/internal/boundary"
	"keyd/internal/hsm/worker"
)

// TestALineIsFreeAgainOnceTheAnswerNobodyWaitsForHasCome: also if the caller
// went while the answer was half there.
func TestALineIsFreeAgainOnceTheAnswerNobodyWaitsForHasCome(t *testing.T) {
	e := &echo{hold: make(chan struct{})}
	p := served(t, e, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := p.Open(ctx, "hold", envelope("late")); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v", err)
	}
	if got, err := p.Open(t.Context(), "k", envelope("by the pipe")); err != nil || string(got.Plaintext) != "by the pipe" {
		t.Errorf("while the line waits: %v, %v", got, err)
	}
	free := func() {
		t.Helper()
		for n := 0; p.FreeLines() == 0; n++ {
			if n > 6000 {
				t.Fatal("the line was not freed")
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	free()
	long := strings.Repeat("y", 1<<20) // more than either side's buffers
	for range 50 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		if got, err := p.Open(ctx, "k", envelope(long)); err == nil && string(got.Plaintext) != long {
			t.Error("an answer of another call")
		}
		cancel()
		if got, err := p.Open(t.Context(), "k", envelope("short")); err != nil || string(got.Plaintext) != "short" {
			t.Fatalf("after one that was given up: %.40v, %v", got, err)
		}
	}
	free()
}

// interrupted gives one byte at a time, with a deadline that passes before each.
type interrupted struct {
	in   io.Reader
	late bool
}

func (r *interrupted) Read(b []byte) (int, error) {
	if r.late = !r.late; r.late {
		return 0, os.ErrDeadlineExceeded
	}
	return r.in.Read(b[:1])
}

func TestADeadlineLosesNothingOfAFrame(t *testing.T) {
	var all []byte
	want := [][]byte{[]byte("one"), {}, bytes.Repeat([]byte("three"), 100)}
	for i, payload := range want {
		all = append(all, worker.Frame(worker.KindResult, uint64(i), payload)...)
	}
	got, err := worker.ReadFrames(&interrupted{in: bytes.NewReader(all)}, len(want))
	if err != nil {
		t.Fatal(err)
	}
	for i := range want {
		if !bytes.Equal(got[i], want[i]) {
			t.Errorf("frame %d is %q", i, got[i])
		}
	}
	if _, err := worker.ReadFrames(&interrupted{in: bytes.NewReader(all[:len(all)-1])}, len(want)); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("cut short: %v", err)
	}
}

// TestWhatIsNoAnswerOnALineEndsTheWorker: it cannot be told what else is wrong.
func TestWhatIsNoAnswerOnALineEndsTheWorker(t *testing.T) {
	for name, answer := range map[string][]byte{
		"of another call":     worker.Frame(worker.KindResult, 99, []byte{0}),
		"of another kind":     worker.Frame(worker.KindHealth, 1, []byte{0}),
		"that cannot be read": worker.Frame(worker.KindResult, 1, nil),
		"none":                nil,
	} {
		ours, theirs := socketPair(t)
		line, far := socketPair(t)
		p := worker.NewPeer(ours, []net.Conn{line}, 10, nil)
		go p.Read(ours)
		go func() {
			_, _ = far.Read(make([]byte, 4<<10))
			_, _ = far.Write(answer)
			_ = far.Close()
		}()
		if _, err := p.Open(t.Context(), "k", envelope("x")); !errors.Is(err, boundary.ErrUnavailable) {
			t.Errorf("an answer %s: %v", name, err)
		}
		if _, err := p.Open(t.Context(), "k", envelope("x")); !errors.Is(err, boundary.ErrUnavailable) {
			t.Errorf("after an answer %s: %v", name, err)
		}
		_ = theirs.Close()
	}
}

// TestALineTakesNothingButEnvelopes: whoever sends anything else is not keyd.
func TestALineTakesNothingButEnvelopes(t *testing.T) {
	ours, theirs := socketPair(t)
	line, far := socketPair(t)
	defer ours.Close()
	done := make(chan error, 1)
	go func() {
		done <- worker.Serve(t.Context(), []worker.Conn{theirs, line}, (&echo{}).open, testWriter{t})
	}()
	if _, err := far.Write(worker.Frame(worker.KindHealth, 1, make([]byte, 8))); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err == nil || !strings.Contains(err.Error(), "on a line") {
		t.Errorf("Serve: %v", err)
	}
	_ = far.Close()
}
