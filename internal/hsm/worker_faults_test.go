package hsm_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
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
		t.Logf("serving again after %s", backSoon(t, token, g))
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

// Whether a generation happened that was lost with its worker, or a destruction,
// keyd's journal finds out. A second one in silence would be two things done for
// one that was asked for.
func TestOperationsThatChangeThingsAreNotRepeatedBehindTheCallersBack(t *testing.T) {
	for fault, change := range map[string]func(context.Context, *worker.Token, boundary.Generated) error{
		"C_GenerateKeyPair": func(ctx context.Context, token *worker.Token, _ boundary.Generated) error {
			_, err := token.Generate(ctx, newSpec())
			return err
		},
		"C_DestroyObject": func(ctx context.Context, token *worker.Token, g boundary.Generated) error {
			_, err := token.Destroy(ctx, g.Handle)
			return err
		},
	} {
		t.Run(fault, func(t *testing.T) {
			cfg := softHSM(t)
			f := withFaults(t, &cfg)
			cfg.SessionWait = time.Minute // what would be repeated is there when the next worker is
			token := openInWorker(t, cfg)
			g := generated(t, token)
			first := workerPIDs(t)[0]
			f.forget()
			f.fail(fault + " hang")
			changed := make(chan error, 1)
			go func() { changed <- change(t.Context(), token, g) }()
			eventually(t, "it to be in the module", func() bool { return f.calls(fault) == 1 })
			killWorkers(t)
			eventually(t, "the worker to be gone", func() bool { return !slices.Contains(workerPIDs(t), first) })
			// What the module held back will not be done any more, and whatever is
			// asked of the next worker will.
			f.heal()
			if err := <-changed; !errors.Is(err, boundary.ErrUnavailable) {
				t.Errorf("got %v, want boundary.ErrUnavailable", err)
			}
			backSoon(t, token, g)
			if all, err := token.List(t.Context()); err != nil || len(all) != 1 || all[0].Handle != g.Handle {
				t.Errorf("List = %+v, %v, want the key that was there and no other", all, err)
			}
		})
	}
}

// Whoever waits for the next worker is one of so many; the others are told at once.
// A worker with one session has 64+32 callers at most.
func TestOnlySoManyWaitForTheNextWorker(t *testing.T) {
	const within, above = 96, 30
	cfg := softHSM(t)
	f := withFaults(t, &cfg)
	cfg.Sessions, cfg.SessionWait = 1, time.Minute
	token := openInWorker(t, cfg)
	g := generated(t, token)
	f.forget()
	f.fail("C_Initialize hang")
	killWorkers(t)
	eventually(t, "the next worker to be in the module", func() bool { return f.calls("C_Initialize") == 1 })
	if p := token.Health(t.Context()).Process; p.State != "starting" {
		t.Fatalf("the worker is %s", p.State)
	}
	one := opener(t, token, g)
	opened := make(chan error, within+above)
	for range within + above {
		go func() {
			got, err := one(t.Context())
			if err == nil && string(got.Plaintext) != "plaintext" {
				err = errors.New("it opened to something else")
			}
			opened <- err
		}()
	}
	for range above { // they do not wait
		if err := <-opened; !errors.Is(err, boundary.ErrBusy) {
			t.Fatalf("Open above the limit: %v, want boundary.ErrBusy", err)
		}
	}
	f.heal()
	for range within {
		if err := <-opened; err != nil {
			t.Errorf("Open within the limit: %v", err)
		}
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
	var after time.Duration
	eventually(t, "Open to say when to try again", func() bool {
		_, err := token.Open(t.Context(), g.Handle, seal(t, g))
		if !errors.Is(err, boundary.ErrUnavailable) && !errors.Is(err, boundary.ErrBusy) {
			t.Errorf("Open without the token: %v", err)
		}
		var told bool
		after, told = retryAfter(err)
		return told
	})
	if after <= 0 || after > nextTry {
		t.Errorf("it is to be tried again in %s, want up to %s", after, nextTry)
	}
	if n := f.calls("C_Login"); n != 0 {
		t.Errorf("%d logins to a token that is not there", n)
	}
	must(t, os.Rename(tokens+".away", tokens))
	t.Logf("serving again %s after the token's return", backSoon(t, token, g))
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
