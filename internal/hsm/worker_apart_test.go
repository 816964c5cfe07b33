package hsm_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/pkcs11"

	"keyd/internal/boundary"
	"keyd/internal/hsm"
	"keyd/internal/hsm/worker"
)

// blind does not see the keys that another process has made since it was started.
type blind struct{ worker.Backend }

func (blind) Find(context.Context, string) (boundary.Found, error) {
	return boundary.Found{}, boundary.ErrNoKey
}

// apart is the config of a token whose keys another process makes.
func apart(cfg hsm.Config) worker.Config {
	c := inWorker(cfg)
	c.SeparateKeyGeneration = true
	return c
}

// makingKey is a generation that is in the module, in a process of its own.
type makingKey struct {
	token *worker.Token
	first int // the worker that serves
	spec  boundary.Spec
	made  chan error
}

// makeKey returns when the module is about to make the key, where it hangs.
func makeKey(t *testing.T, ctx context.Context, token *worker.Token, f *faulty) *makingKey {
	t.Helper()
	f.forget()
	generated(t, token) // how many throw-away keys there are before it
	n := f.calls("C_GenerateKeyPair")
	if n < 2 {
		t.Fatalf("%d keys were made, want throw-away keys too", n)
	}
	m := &makingKey{token: token, spec: newSpec(), made: make(chan error, 1)}
	eventually(t, "the other process to be gone", func() bool { return len(workerPIDs(t)) == 1 })
	m.first = workerPIDs(t)[0]
	f.forget()
	f.fail(fmt.Sprintf("C_GenerateKeyPair only %d hang", n))
	go func() {
		_, err := token.Generate(ctx, m.spec)
		m.made <- err
	}()
	eventually(t, "the generation to be in the module", func() bool { return f.calls("C_GenerateKeyPair") == n })
	return m
}

// others are the workers that do not serve.
func (m *makingKey) others(t *testing.T) []int {
	t.Helper()
	return slices.DeleteFunc(workerPIDs(t), func(pid int) bool { return pid == m.first })
}

// left holds what is left when the generation is over against what should be: the
// worker that serves, and of the key so many.
func (m *makingKey) left(t *testing.T, keys int) {
	t.Helper()
	if pids := workerPIDs(t); len(pids) != 1 || pids[0] != m.first {
		t.Errorf("the workers are %v, want %d alone", pids, m.first)
	}
	all, err := m.token.List(t.Context())
	must(t, err)
	n := 0
	for _, found := range all {
		if found.KID == m.spec.KID {
			n++
		}
	}
	if n != keys {
		t.Errorf("%d keys of that name are in the token, want %d", n, keys)
	}
}

func TestKeysThatAnotherProcessMakesFulfilTheContract(t *testing.T) {
	cfg := softHSM(t)
	workerContract(t, cfg, openWorker(t, apart(cfg)))
}

// p11-kit has one call at a time for each process: with RSA-4096 nothing would be
// opened for a second or ten.
func TestDecryptsBehindP11KitDoNotWaitForAKeyThatAnotherProcessMakes(t *testing.T) {
	cfg, _ := p11kit(t)
	var began, ended time.Time // of the generation alone, without the start of its process
	cfg.Observe = func(op string, _, inToken time.Duration, _ error) {
		if op == "generate" {
			ended = time.Now()
			began = ended.Add(-inToken)
		}
	}
	token := openWorker(t, apart(cfg))
	g := generated(t, token)
	first := workerPIDs(t)
	one := opener(t, token, g)
	spec := newSpec()
	spec.Bits = 4096
	made := make(chan error, 1)
	go func() {
		_, err := token.Generate(t.Context(), spec)
		made <- err
	}()
	type span struct{ began, ended time.Time }
	var opened []span
	for making := true; making; {
		select {
		case err := <-made:
			must(t, err)
			making = false
		default:
			s := span{began: time.Now()}
			if got, err := one(t.Context()); err != nil || string(got.Plaintext) != "plaintext" {
				t.Fatalf("Open = %+v, %v", got, err)
			}
			s.ended = time.Now()
			opened = append(opened, s)
		}
	}
	took, meanwhile := ended.Sub(began), 0
	for _, s := range opened {
		// In the middle the module makes the key; before and after it looks for keys.
		if s.began.After(began.Add(took/4)) && s.ended.Before(ended.Add(-took/4)) {
			meanwhile++
		}
	}
	t.Logf("%d envelopes opened in half of the %s that the key took", meanwhile, took.Round(time.Millisecond))
	if meanwhile < 5 {
		t.Error("they waited for it")
	}
	if now := workerPIDs(t); !slices.Equal(now, first) {
		t.Errorf("the workers were %v and are %v", first, now)
	}
}

// What is begun and not finished is for keyd's journal, as it is where the worker
// that serves makes the keys.
func TestProcessThatMakesAKeyAndDiesCostsNothingElse(t *testing.T) {
	cfg := softHSM(t)
	f := withFaults(t, &cfg)
	token := openWorker(t, apart(cfg))
	m := makeKey(t, t.Context(), token, f)
	for _, pid := range m.others(t) {
		must(t, syscall.Kill(pid, syscall.SIGKILL))
	}
	if err := <-m.made; !errors.Is(err, boundary.ErrUnavailable) {
		t.Errorf("Generate: %v, want boundary.ErrUnavailable", err)
	}
	m.left(t, 0)
	f.heal()
	_, err := token.Generate(t.Context(), m.spec)
	must(t, err)
	m.left(t, 1)
}

func TestKeyThatNobodyWaitsForIsNotKeptByTheProcessThatMakesIt(t *testing.T) {
	cfg := softHSM(t)
	f := withFaults(t, &cfg)
	token := openWorker(t, apart(cfg))
	ctx, cancel := context.WithCancel(t.Context())
	m := makeKey(t, ctx, token, f)
	cancel()
	f.heal() // and it is made
	if err := <-m.made; !errors.Is(err, context.Canceled) {
		t.Errorf("Generate: %v, want context.Canceled", err)
	}
	m.left(t, 0)
}

func TestCloseEndsAProcessThatMakesAKey(t *testing.T) {
	cfg := softHSM(t)
	f := withFaults(t, &cfg)
	token, err := worker.Open(t.Context(), apart(cfg))
	must(t, err)
	m := makeKey(t, t.Context(), token, f)
	must(t, token.Close())
	if pids := workerPIDs(t); len(pids) != 0 {
		t.Errorf("workers are left: %v", pids)
	}
	if err := <-m.made; err == nil {
		t.Error("Generate: no error")
	}
	f.forget()
	if _, err := token.Generate(t.Context(), m.spec); !errors.Is(err, boundary.ErrUnavailable) {
		t.Errorf("Generate with a closed token: %v, want boundary.ErrUnavailable", err)
	}
	if f.calls("C_Initialize") != 0 {
		t.Error("a closed token starts a process")
	}
}

func TestKeyThatTheWorkerDoesNotSeeIsDestroyedAndTheSettingNamed(t *testing.T) {
	cfg := softHSM(t)
	c := apart(cfg)
	c.Command[2] = "hsm-worker-blind"
	token := openWorker(t, c)
	_, err := token.Generate(t.Context(), newSpec())
	if !errors.Is(err, boundary.ErrUnsupported) || !strings.Contains(err.Error(), "separate_key_generation") {
		t.Errorf("Generate: %v, want boundary.ErrUnsupported and the setting", err)
	}
	if all, err := token.List(t.Context()); err != nil || len(all) != 0 {
		t.Errorf("List = %+v, %v, want nothing", all, err)
	}
}

// The process that is to make a key logs in anew. A PIN that is not good any more
// costs one try, and nobody who opens envelopes notices.
func TestPINThatIsRefusedToTheProcessThatMakesAKeyIsShownOnce(t *testing.T) {
	cfg := softHSM(t)
	f := withFaults(t, &cfg)
	path, old := pinInFile(t, &cfg)
	token := openWorker(t, apart(cfg))
	g := generated(t, token)
	outside(t, cfg, func(ctx *pkcs11.Ctx, s pkcs11.SessionHandle) { must(t, ctx.SetPIN(s, string(old), "another PIN")) })
	f.forget()
	for range 3 {
		if _, err := token.Generate(t.Context(), newSpec()); !errors.Is(err, hsm.ErrPINRefused) {
			t.Errorf("Generate: %v, want hsm.ErrPINRefused", err)
		}
	}
	if n := f.calls("C_Login"); n != 1 {
		t.Errorf("the token was shown the old PIN %d times, want once", n)
	}
	if got, err := opener(t, token, g)(t.Context()); err != nil || string(got.Plaintext) != "plaintext" {
		t.Errorf("Open = %+v, %v", got, err)
	}
	must(t, os.WriteFile(path, []byte("another PIN"), 0o600))
	generated(t, token)
}
