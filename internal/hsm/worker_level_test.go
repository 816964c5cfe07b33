package hsm_test

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"keyd/internal/boundary"
	"keyd/internal/hsm"
)

// A token that seals does so in every worker: none opens anything at less while it
// comes up, and what the last one held is not held by the next.
func TestEveryWorkerOpensAtTheTokensLevel(t *testing.T) {
	for name, c := range map[string]struct {
		make  func(testing.TB) hsm.Config
		level boundary.Level
	}{
		"SoftHSM": {softHSM, boundary.Raw},
		"NSS":     {nss, boundary.Sealed},
		"NSS, where unwrap is asked for": {func(t testing.TB) hsm.Config {
			cfg := nss(t)
			cfg.OnlyLevel = boundary.Unwrap
			return cfg
		}, boundary.Unwrap},
	} {
		t.Run(name, func(t *testing.T) {
			token := openInWorker(t, c.make(t))
			g := generated(t, token)
			env := seal(t, g)
			stop := load(t, func(ctx context.Context) (*boundary.Opened, error) {
				got, err := token.Open(ctx, g.Handle, env)
				if err == nil && got.Level != c.level {
					t.Errorf("opened at %s, want %s", got.Level, c.level)
				}
				return got, err
			}, 4, boundary.ErrUnavailable, boundary.ErrBusy)
			cek := bytes.Repeat([]byte{7}, 32)
			direct := gcmEnvelope(t, cek, nil)
			direct.Alg = boundary.Direct
			for range 2 {
				ref, err := token.Hold(t.Context(), boundary.A256GCM, cek)
				must(t, err)
				if got, err := token.OpenHeld(t.Context(), ref, direct); err != nil || string(got.Plaintext) != "from outside" || got.Level != boundary.Sealed {
					t.Fatalf("OpenHeld = %+v, %v, want it at sealed", got, err)
				}
				killWorkers(t)
				t.Logf("serving again after %s", backWithin(t, token, g))
				if _, err := token.OpenHeld(t.Context(), ref, direct); !errors.Is(err, boundary.ErrNoKey) {
					t.Errorf("OpenHeld in the next worker: %v, want boundary.ErrNoKey", err)
				}
				must(t, token.Release(t.Context(), ref))
			}
			if stop() == 0 {
				t.Error("nothing was opened")
			}
		})
	}
}

// What comes back may be another device, or another version of its module. Below
// the backend's floor it does nothing, and says why; at it, it serves again without
// anybody's doing.
func TestTokenThatComesBackBelowTheFloorServesWhenItReachesItAgain(t *testing.T) {
	cfg := nss(t)
	cfg.MinBoundary = boundary.Sealed
	f := withFaults(t, &cfg)
	token := openInWorker(t, cfg)
	g := generated(t, token)
	f.fail("mechanism 0x1087") // no GCM in the token
	killWorkers(t)
	eventually(t, "it to be below the floor", func() bool {
		return strings.Contains(token.Health(t.Context()).Err, "wants sealed or better")
	})
	_, err := token.Open(t.Context(), g.Handle, seal(t, g))
	if after, ok := errors.AsType[interface {
		error
		RetryAfter() time.Duration
	}](err); !errors.Is(err, boundary.ErrUnavailable) || !ok || after.RetryAfter() <= 0 {
		t.Errorf("Open below the floor: %v, want boundary.ErrUnavailable and when to ask again", err)
	}
	if h := token.Health(t.Context()); h.Floor != boundary.Sealed || h.Process.State == "ready" {
		t.Errorf("Health below the floor: %+v", h)
	}
	f.heal()
	t.Logf("serving again %s after it did all that it did before", backWithin(t, token, g))
	if got, err := token.Open(t.Context(), g.Handle, seal(t, g)); err != nil || got.Level != boundary.Sealed {
		t.Errorf("Open = %+v, %v, want level sealed", got, err)
	}
}

// A device that takes the PIN, or would, and then fails is one that is gone: it is
// logged in to now and then, and serves soon after it is well.
func TestDeviceThatFailsAroundItsLoginServesSoonAfterItIsWell(t *testing.T) {
	for _, fault := range []string{"C_Login 0x30", "C_GenerateKeyPair 0x30"} { // CKR_DEVICE_ERROR
		t.Run(fault, func(t *testing.T) {
			cfg := softHSM(t)
			f := withFaults(t, &cfg)
			token := openInWorker(t, cfg)
			g := generated(t, token)
			f.forget()
			f.fail(fault)
			killWorkers(t)
			eventually(t, "a few tries", func() bool { return f.calls("C_Login") >= 4 })
			if next := token.Health(t.Context()).Process.Next; time.Until(next) > 2*time.Second {
				t.Errorf("the next try is in %s", time.Until(next))
			}
			f.heal()
			t.Logf("serving again %s after it is well", backWithin(t, token, g))
		})
	}
}

// What changes nothing is asked again of the next worker, and nobody notices.
func TestOpeningThatIsLostWithItsWorkerIsAskedOfTheNext(t *testing.T) {
	cfg := softHSM(t)
	cfg.SessionWait = time.Minute
	f := withFaults(t, &cfg)
	token := openInWorker(t, cfg)
	g := generated(t, token)
	f.forget()
	f.fail("C_Decrypt hang")
	opened := make(chan error, 3)
	for range cap(opened) {
		go func() {
			got, err := token.Open(t.Context(), g.Handle, seal(t, g))
			if err == nil && string(got.Plaintext) != "plaintext" {
				err = errors.New("it opened to something else")
			}
			opened <- err
		}()
	}
	eventually(t, "them to be in the module", func() bool { return f.calls("C_Decrypt") == cap(opened) })
	killWorkers(t)
	f.heal()
	for range cap(opened) {
		if err := <-opened; err != nil {
			t.Errorf("Open: %v", err)
		}
	}
}

func TestDecryptsInAWorkerDoNotWaitForKeyGeneration(t *testing.T) {
	cfg := softHSM(t)
	f := withFaults(t, &cfg)
	cfg.Sessions = 1
	token := openInWorker(t, cfg)
	g := generated(t, token)
	f.forget()
	f.fail("C_GenerateKeyPair hang")
	made := make(chan error, 1)
	go func() {
		_, err := token.Generate(t.Context(), newSpec())
		made <- err
	}()
	eventually(t, "the generation to be in the module", func() bool { return f.calls("C_GenerateKeyPair") == 1 })
	for range 20 {
		if got, err := token.Open(t.Context(), g.Handle, seal(t, g)); err != nil || string(got.Plaintext) != "plaintext" {
			t.Errorf("Open = %+v, %v", got, err)
		}
	}
	foundWell(t, token)
	f.heal()
	must(t, <-made)
}

// A module that leaks does not take the machine with it: its process is replaced,
// and what it was doing has 2 s to be finished.
func TestWorkerWhoseModuleLeaksIsReplaced(t *testing.T) {
	cfg := softHSM(t)
	f := withFaults(t, &cfg)
	token := openInWorker(t, cfg)
	g := generated(t, token)
	first := workerPIDs(t)
	stop := load(t, opener(t, token, g), 4, boundary.ErrUnavailable, boundary.ErrBusy)
	f.fail("lose 4000000")
	eventually(t, "the worker to be replaced", func() bool {
		pids := workerPIDs(t)
		return len(pids) == 1 && pids[0] != first[0]
	})
	f.heal()
	t.Logf("serving again after %s", backWithin(t, token, g))
	if stop() == 0 {
		t.Error("nothing was opened")
	}
	if end := token.Health(t.Context()).Process.LastEnd; !strings.Contains(end, "grown too large, by ") {
		t.Errorf("the last worker is said to have ended so: %q", end)
	}
}
