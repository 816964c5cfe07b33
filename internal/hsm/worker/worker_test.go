package worker_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"keyd/internal/boundary"
	"keyd/internal/hsm"
	"keyd/internal/hsm/worker"
)

func TestAnswersFindWhoAskedWhateverTheirOrder(t *testing.T) {
	eachWay(t, answersFindWhoAskedWhateverTheirOrder)
}

func answersFindWhoAskedWhateverTheirOrder(t *testing.T, lines int) {
	e := &echo{hold: make(chan struct{})}
	p := served(t, e, lines)
	slow := make(chan error, 1)
	go func() {
		_, err := p.Open(t.Context(), "hold", envelope("slow"))
		slow <- err
	}()
	var wg sync.WaitGroup
	for caller := range 20 {
		wg.Go(func() {
			for n := range 50 {
				want := fmt.Sprintf("%d of %d", n, caller)
				// Some do not fit into what either side reads at once.
				want += strings.Repeat("x", (n%3)*20_000)
				got, err := p.Open(t.Context(), "k", envelope(want))
				if err != nil || string(got.Plaintext) != want || got.Level != boundary.Raw || got.InToken != time.Millisecond {
					t.Errorf("Open = %.60v, %v, want %.40q", got, err, want)
				}
			}
		})
	}
	wg.Wait()
	select {
	case err := <-slow:
		t.Fatalf("the slow one came back before its time: %v", err)
	default:
	}
	close(e.hold)
	if err := <-slow; err != nil {
		t.Error(err)
	}
	if n := p.Observed.Load(); n != 1001 {
		t.Errorf("%d operations were observed, want 1001", n)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, plaintext := range e.given {
		if len(bytes.Trim(plaintext, "\x00")) != 0 {
			t.Fatal("a plaintext is still in the worker after it was sent")
		}
	}
}

func TestWhoGoesIsNotWaitedFor(t *testing.T) { eachWay(t, whoGoesIsNotWaitedFor) }

func whoGoesIsNotWaitedFor(t *testing.T, lines int) {
	e := &echo{hold: make(chan struct{}), held: make(chan struct{}, 2)}
	p := served(t, e, lines)
	asks := func(ctx context.Context, cancel context.CancelFunc, want error) {
		t.Helper()
		defer cancel()
		if _, err := p.Open(ctx, "hold", envelope("x")); !errors.Is(err, want) {
			t.Errorf("Open: %v, want %v", err, want)
		}
	}
	gone, leave := context.WithCancel(t.Context())
	go func() {
		<-e.held // that nobody waits goes by the pipe, and could overtake the call on its line
		leave()
	}()
	asks(gone, leave, context.Canceled)
	late, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	asks(late, cancel, context.DeadlineExceeded)
	for range 6000 {
		e.mu.Lock()
		n := e.cancelled
		e.mu.Unlock()
		if n == 2 {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Error("the worker was not told that nobody waits")
}

func TestErrorsKeepTheirMeaningAndTheirText(t *testing.T) {
	all := []error{
		boundary.ErrNoKey, boundary.ErrAmbiguous, boundary.ErrBusy, boundary.ErrUnavailable, boundary.ErrUnsupported, boundary.ErrBelowFloor,
		hsm.ErrPINRefused, hsm.ErrPINLocked, context.Canceled, context.DeadlineExceeded,
	}
	for i, want := range all {
		got, whole := worker.RoundTrip(fmt.Errorf("doing it: %w", want))
		if !whole || got.Error() != "doing it: "+want.Error() {
			t.Errorf("%v became %v (whole: %t)", want, got, whole)
		}
		for j, other := range all {
			if errors.Is(got, other) != (i == j) {
				t.Errorf("%v became %v", want, other)
			}
		}
	}
	for _, refused := range []error{boundary.ErrOpen, fmt.Errorf("because of a padding: %w", boundary.ErrOpen)} {
		if got, whole := worker.RoundTrip(refused); !errors.Is(got, boundary.ErrOpen) || got.Error() != boundary.ErrOpen.Error() || !whole {
			t.Errorf("an envelope that does not open became %v", got)
		}
	}
	both := errors.Join(boundary.ErrBusy, context.DeadlineExceeded)
	if got, _ := worker.RoundTrip(both); !errors.Is(got, boundary.ErrBusy) || !errors.Is(got, context.DeadlineExceeded) {
		t.Errorf("two at once became %v", got)
	}
	long := errors.New(strings.Repeat("ä", 10_000) + "\xff")
	if got, whole := worker.RoundTrip(long); !whole || len(got.Error()) > 9000 || len(got.Error()) < 8000 {
		t.Errorf("a long text became one of %d bytes (whole: %t)", len(got.Error()), whole)
	}
}

func TestRefusalsArriveAsTheyAre(t *testing.T) { eachWay(t, refusalsArriveAsTheyAre) }

func refusalsArriveAsTheyAre(t *testing.T, lines int) {
	p := served(t, &echo{}, lines)
	for handle, want := range map[string]error{"none": boundary.ErrNoKey, "bad": boundary.ErrOpen, "panic": boundary.ErrUnavailable} {
		if got, err := p.Open(t.Context(), handle, envelope("x")); !errors.Is(err, want) {
			t.Errorf("%s: Open = %v, %v, want %v", handle, got, err, want)
		}
	}
	if _, err := p.Open(t.Context(), "k", envelope("x")); err != nil {
		t.Errorf("after a panic: %v", err)
	}
	select {
	case <-p.Broken:
	case <-time.After(time.Minute):
		t.Error("the worker did not ask to be replaced after a panic")
	}
	if n := len(p.Broken); n != 0 {
		t.Errorf("the worker asked %d times more to be replaced", n)
	}
}

func TestOnlySoManyWaitForTheWorker(t *testing.T) { eachWay(t, onlySoManyWaitForTheWorker) }

func onlySoManyWaitForTheWorker(t *testing.T, lines int) {
	e := &echo{hold: make(chan struct{})}
	p := served(t, e, lines)
	var wg sync.WaitGroup
	errs := make(chan error, 150)
	for range 150 {
		wg.Go(func() {
			_, err := p.Open(t.Context(), "hold", envelope("x"))
			errs <- err
		})
	}
	refused := 0
	for range 50 { // those that do not wait
		if err := <-errs; errors.Is(err, boundary.ErrBusy) {
			refused++
		}
	}
	if refused != 50 {
		t.Errorf("%d were refused, want 50", refused)
	}
	if err := p.Overdue(time.Hour); err != nil {
		t.Errorf("nothing is overdue yet: %v", err)
	}
	time.Sleep(time.Millisecond)
	if err := p.Overdue(time.Millisecond); !errors.Is(err, boundary.ErrUnavailable) {
		t.Errorf("Overdue: %v, want boundary.ErrUnavailable", err)
	}
	close(e.hold)
	wg.Wait()
}

func TestEveryCallIsAnsweredWhenThePipeEnds(t *testing.T) {
	ours, theirs := net.Pipe()
	p := worker.NewPeer(ours, nil, 10, nil)
	go p.Read(ours)
	go func() {
		_, _ = theirs.Read(make([]byte, 10)) // part of a frame, and then no more
		_ = theirs.Close()
	}()
	for range 3 {
		if _, err := p.Open(t.Context(), "k", envelope("x")); !errors.Is(err, boundary.ErrUnavailable) {
			t.Errorf("Open: %v, want boundary.ErrUnavailable", err)
		}
	}
}

func TestTheModuleSeesOnlyTheVariablesThatModulesRead(t *testing.T) {
	got := worker.Environment([]string{
		"HOME=/var/lib/keyd", "SOFTHSM2_CONF=/etc/x", "TPM2_PKCS11_STORE=/s", "THE_PIN=1234", "AWS_SECRET_ACCESS_KEY=x",
		"CREDENTIALS_DIRECTORY=/c", "NOTIFY_SOCKET=/n", "SOFTHSM2_CONFIG=no", "LD_PRELOAD=/evil.so", "PATH=/bin",
	}, []string{"VENDOR=1"})
	want := "GOTRACEBACK=none GODEBUG=asyncpreemptoff=1,gcshrinkstackoff=1 HOME=/var/lib/keyd SOFTHSM2_CONF=/etc/x TPM2_PKCS11_STORE=/s VENDOR=1"
	if strings.Join(got, " ") != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestTheVariablesThatPassAreInTheManual(t *testing.T) {
	manual, err := os.ReadFile("../../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range worker.Passing {
		if !strings.Contains(strings.ReplaceAll(string(manual), "\\", ""), name) {
			t.Errorf("docs/operations.md does not name %s", name)
		}
	}
}

func TestPausesGrowToALimit(t *testing.T) {
	for _, tc := range []struct {
		failures int
		slow     bool
		want     time.Duration
	}{{0, true, 0}, {1, true, 50 * time.Millisecond}, {3, false, 200 * time.Millisecond}, {50, false, 2 * time.Second}, {50, true, 30 * time.Second}, {1 << 40, true, 30 * time.Second}} {
		if got := worker.Pause(tc.failures, tc.slow); got != tc.want {
			t.Errorf("after %d failures (slow: %t): %s, want %s", tc.failures, tc.slow, got, tc.want)
		}
	}
}

// A device that is gone is asked for again soon. A PIN is not shown again soon, and
// what only a person can put right is not tried all the time.
func TestWhatOnlyAPersonCanPutRightIsTriedSlowly(t *testing.T) {
	said := func(err error) error { e, _ := worker.RoundTrip(err); return e }
	for name, tc := range map[string]struct {
		login bool
		err   error
		slow  bool
	}{
		"no token there":                     {false, said(boundary.ErrUnavailable), false},
		"a module that dies when it loads":   {false, worker.ErrLost, false},
		"a device that fails at the login":   {true, said(fmt.Errorf("C_Login: %w", boundary.ErrUnavailable)), false},
		"too few sessions":                   {true, said(boundary.ErrBusy), false},
		"a refused PIN":                      {true, said(fmt.Errorf("%w: %w", boundary.ErrUnavailable, hsm.ErrPINRefused)), true},
		"a module that dies at the login":    {true, fmt.Errorf("%w: %w", worker.ErrLost, boundary.ErrUnavailable), true},
		"one that does not answer":           {true, context.DeadlineExceeded, true},
		"a token that does less than it did": {true, said(boundary.ErrUnsupported), true},
	} {
		if got := worker.IsSlow(tc.login, tc.err); got != tc.slow {
			t.Errorf("%s: slow is %t, want %t", name, got, tc.slow)
		}
	}
}

type closer struct{ *strings.Reader }

func (closer) Close() error { return nil }

func TestTheWorkersLogBecomesTheDaemons(t *testing.T) {
	var out bytes.Buffer
	log := slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelInfo}))
	worker.Relay(closer{strings.NewReader(`{"time":"x","level":"WARN","msg":"from the worker","backend":"hsm","n":1}
{"time":"x","level":"DEBUG","msg":"not wanted"}
{"level":"none","msg":"odd"}
` + strings.Repeat("y", 100_000) + `
SIGSEGV: segmentation violation
`)}, log)
	text := out.String()
	for _, want := range []string{`level=WARN msg="from the worker" n=1`, "odd", "SIGSEGV", strings.Repeat("y", 8000)} {
		if !strings.Contains(text, want) {
			t.Errorf("no %.40q in %.2000s", want, text)
		}
	}
	if strings.Contains(text, "not wanted") || len(text) > 20_000 {
		t.Errorf("%d bytes: %.500s", len(text), text)
	}
	out.Reset()
	worker.Relay(closer{strings.NewReader(strings.Repeat("again and again\n", 100_000))}, log)
	if n := strings.Count(out.String(), "again"); n > 500 || !strings.Contains(out.String(), "more than is logged") {
		t.Errorf("%d lines of a module that does not stop were logged", n)
	}
}
