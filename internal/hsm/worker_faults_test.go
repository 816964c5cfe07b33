package hsm_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/pkcs11"

	"keyd/internal/boundary"
	"keyd/internal/hsm"
	"keyd/internal/hsm/worker"
)

// workerPIDs are the workers of this process.
func workerPIDs(t testing.TB) []int {
	t.Helper()
	tasks, err := filepath.Glob("/proc/self/task/*/children")
	must(t, err)
	var pids []int
	for _, task := range tasks {
		raw, _ := os.ReadFile(task) // the thread may have ended
		for field := range strings.FieldsSeq(string(raw)) {
			if line, _ := os.ReadFile("/proc/" + field + "/cmdline"); strings.Contains(string(line), "hsm-worker") {
				pid, err := strconv.Atoi(field)
				must(t, err)
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

func killWorkers(t testing.TB) {
	t.Helper()
	for _, pid := range workerPIDs(t) {
		must(t, syscall.Kill(pid, syscall.SIGKILL))
	}
}

// backWithin waits for an envelope to open, and says how long that took.
func backWithin(t *testing.T, token *worker.Token, g boundary.Generated) time.Duration {
	t.Helper()
	began := time.Now()
	env := seal(t, g)
	var err error
	for time.Since(began) < time.Minute {
		var got *boundary.Opened
		if got, err = token.Open(t.Context(), g.Handle, env); err == nil && string(got.Plaintext) == "plaintext" {
			return time.Since(began)
		}
		if errors.Is(err, boundary.ErrNoKey) || errors.Is(err, boundary.ErrOpen) {
			t.Fatalf("Open: %v: a wrong answer", err)
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatalf("not back within a minute: %v", err)
	return 0
}

func generated(t testing.TB, token *worker.Token) boundary.Generated {
	t.Helper()
	g, err := token.Generate(t.Context(), newSpec())
	must(t, err)
	return g
}

// opener opens one envelope again and again.
func opener(t testing.TB, token *worker.Token, g boundary.Generated) func(context.Context) (*boundary.Opened, error) {
	env := seal(t, g)
	return func(ctx context.Context) (*boundary.Opened, error) { return token.Open(ctx, g.Handle, env) }
}

func TestWorkerKilledUnderLoadCostsNoAnswer(t *testing.T) {
	cfg := softHSM(t)
	f := withFaults(t, &cfg)
	token := openInWorker(t, cfg)
	g := generated(t, token)
	f.forget()
	stop := load(t, opener(t, token, g), 8, boundary.ErrUnavailable, boundary.ErrBusy)
	const kills = 5
	for range kills {
		time.Sleep(50 * time.Millisecond)
		killWorkers(t)
		t.Logf("serving again after %s", backWithin(t, token, g))
	}
	if n := stop(); n == 0 {
		t.Error("nothing was opened")
	}
	// A worker that was killed before it logged in does not count.
	if n := f.calls("C_Login"); n < 1 || n > kills {
		t.Errorf("%d logins for %d workers", n, kills)
	}
	if len(workerPIDs(t)) != 1 {
		t.Errorf("the workers are %v, want one", workerPIDs(t))
	}
}

func TestModuleThatCrashesOrHangsIsReplaced(t *testing.T) {
	for fault, said := range map[string]string{"C_Decrypt segv": "exit status 2", "C_DecryptInit crash": "signal: killed", "C_Decrypt hang": "has not come back"} {
		t.Run(fault, func(t *testing.T) {
			cfg := softHSM(t)
			f := withFaults(t, &cfg)
			if said == "has not come back" {
				cfg.CallTimeout = time.Second
			}
			token := openInWorker(t, cfg)
			g := generated(t, token)
			first := workerPIDs(t)
			f.fail(fault)
			stop := load(t, opener(t, token, g), 4, boundary.ErrUnavailable, boundary.ErrBusy)
			eventually(t, "the worker to be replaced", func() bool { pids := workerPIDs(t); return len(pids) == 1 && pids[0] != first[0] })
			f.heal()
			t.Logf("serving again after %s", backWithin(t, token, g))
			stop()
			if end := token.Health(t.Context()).Process.LastEnd; !strings.Contains(end, said) {
				t.Errorf("the last worker is said to have ended so: %q, want %q", end, said)
			}
			// The daemon, which is this process, is still here. So are its keys.
			if all, err := token.List(t.Context()); err != nil || len(all) != 1 {
				t.Errorf("List = %d keys, %v", len(all), err)
			}
		})
	}
}

// A process that is stopped answers nothing and does not end.
func TestWorkerThatIsStoppedIsReplaced(t *testing.T) {
	cfg := softHSM(t)
	cfg.CallTimeout, cfg.SessionWait = 500*time.Millisecond, 500*time.Millisecond
	token := openInWorker(t, cfg)
	g := generated(t, token)
	pids := workerPIDs(t)
	must(t, syscall.Kill(pids[0], syscall.SIGSTOP))
	eventually(t, "the process to be stopped", func() bool {
		raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pids[0]))
		return err == nil && strings.Contains(string(raw), ") T ")
	})
	t.Logf("serving again after %s", backWithin(t, token, g))
	if now := workerPIDs(t); len(now) != 1 || now[0] == pids[0] {
		t.Errorf("the workers are %v, before it was %v", now, pids)
	}
}

func TestOperationsThatChangeThingsAreNotRepeatedBehindTheCallersBack(t *testing.T) {
	cfg := softHSM(t)
	f := withFaults(t, &cfg)
	token := openInWorker(t, cfg)
	g := generated(t, token)
	spec := newSpec()
	f.forget()
	f.fail("C_GenerateKeyPair hang")
	made := make(chan error, 1)
	go func() {
		_, err := token.Generate(t.Context(), spec)
		made <- err
	}()
	eventually(t, "the generation to be in the module", func() bool { return f.calls("C_GenerateKeyPair") == 1 })
	f.heal()
	killWorkers(t)
	// It may have come back before that.
	if err := <-made; err != nil && !errors.Is(err, boundary.ErrUnavailable) {
		t.Errorf("Generate: %v, want boundary.ErrUnavailable", err)
	}
	backWithin(t, token, g)
	must(t, token.Discard(t.Context(), spec))
	if all, err := token.List(t.Context()); err != nil || len(all) != 1 {
		t.Errorf("List = %d keys, %v, want one", len(all), err)
	}
}

// The folder of the token is moved away and comes back, as when a file system
// is unmounted or a network HSM is not to be reached.
func TestTokenThatVanishesUnderLoadAndReturns(t *testing.T) {
	cfg := softHSM(t)
	f := withFaults(t, &cfg)
	token := openInWorker(t, cfg)
	g := generated(t, token)
	tokens := filepath.Join(filepath.Dir(os.Getenv("SOFTHSM2_CONF")), "tokens")
	stop := load(t, opener(t, token, g), 4, boundary.ErrUnavailable, boundary.ErrBusy)
	time.Sleep(50 * time.Millisecond)
	must(t, os.Rename(tokens, tokens+".away"))
	eventually(t, "health to notice", func() bool { return token.Health(t.Context()).Err != "" })
	f.forget()
	time.Sleep(3 * time.Second)
	h := token.Health(t.Context())
	if h.Err == "" || h.Device["label"] != cfg.TokenLabel {
		t.Errorf("Health without the token: %+v", h)
	}
	_, err := token.Open(t.Context(), g.Handle, seal(t, g))
	if after, ok := errors.AsType[interface {
		error
		RetryAfter() time.Duration
	}](err); !ok || after.RetryAfter() <= 0 || after.RetryAfter() > 10*time.Second {
		t.Errorf("Open without the token: %v, want when to try again", err)
	}
	if n := f.calls("C_Login"); n != 0 {
		t.Errorf("%d logins to a token that is not there", n)
	}
	must(t, os.Rename(tokens+".away", tokens))
	t.Logf("serving again %s after the token's return", backWithin(t, token, g))
	if stop() == 0 {
		t.Error("nothing was opened")
	}
	if n := f.calls("C_Login"); n != 1 {
		t.Errorf("%d logins for the return, want 1", n)
	}
	foundWell(t, token)
}

func TestTokenWithFewerSessionsThanBeforeIsBusyNotGone(t *testing.T) {
	cfg := softHSM(t)
	f := withFaults(t, &cfg)
	cfg.Sessions = 2
	token := openInWorker(t, cfg)
	g := generated(t, token)
	// Management needs a session for its turn, and there is none left.
	f.fail("sessions 3")
	if _, err := token.List(t.Context()); !errors.Is(err, boundary.ErrBusy) {
		t.Errorf("List: %v, want boundary.ErrBusy", err)
	}
	backWithin(t, token, g)
	f.heal()
	if _, err := token.List(t.Context()); err != nil {
		t.Errorf("List: %v", err)
	}
	if n := len(workerPIDs(t)); n != 1 {
		t.Errorf("%d workers", n)
	}
}

func TestKeyDestroyedByAnotherProcessIsNoKey(t *testing.T) {
	for name, make := range map[string]func(testing.TB) hsm.Config{"SoftHSM": softHSM, "NSS": nss} {
		t.Run(name, func(t *testing.T) {
			cfg := make(t)
			token := openInWorker(t, cfg)
			gone := generated(t, token)
			outside(t, cfg, func(ctx *pkcs11.Ctx, s pkcs11.SessionHandle) { destroyAll(t, ctx, s) })
			kept := generated(t, token)
			for range 2 {
				if _, err := token.Open(t.Context(), gone.Handle, seal(t, gone)); !errors.Is(err, boundary.ErrNoKey) {
					t.Errorf("Open: %v, want boundary.ErrNoKey", err)
				}
			}
			backWithin(t, token, kept)
			foundWell(t, token)
		})
	}
}
