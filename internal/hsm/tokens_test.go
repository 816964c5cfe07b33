//go:build tokens

package hsm_test

import (
	"context"
	"encoding/hex"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/miekg/pkcs11"

	"keyd/internal/boundary"
	"keyd/internal/hsm"
	"keyd/internal/hsm/worker"
	"keyd/internal/rotation"
	"keyd/internal/rotation/backendtest"
	"keyd/softhsm/softhsmtest"
)

// other is a token that one of the scripts in softhsm/ makes.
func other(t testing.TB, kind string) hsm.Config {
	t.Helper()
	token := softhsmtest.Other(t, kind)
	cfg := config(t, token.Module, token.Label, token.PIN)
	cfg.Reserved = token.InitArgs
	return cfg
}

// A module of these can be used by one process, or serves one token, so its tests
// are in one function, and the token in one process.
func TestOpenCryptokiFulfilsTheContract(t *testing.T) {
	cfg := other(t, "opencryptoki")
	token := open(t, cfg)
	if got := token.Health(t.Context()).Levels; got[boundary.RSAOAEP256] != boundary.Unwrap || got[boundary.ECDHES] != "" {
		t.Errorf("it works at %v", got)
	}
	backendtest.Run(t, func(*testing.T) rotation.Backend { return token }, backendtest.Options{
		Without: []string{boundary.ECDHES},
		Plant: func(t *testing.T, _ rotation.Backend, label, id string) {
			raw, err := hex.DecodeString(id)
			must(t, err)
			outside(t, cfg, func(ctx *pkcs11.Ctx, s pkcs11.SessionHandle) { plant(t, ctx, s, string(raw), label, true) })
		},
	})
}

// A TPM's keys sign or do not, as it likes, and one that has refused an envelope
// is in use until the module is loaded anew: in a worker that happens.
func TestTPMFulfilsTheContract(t *testing.T) {
	cfg := other(t, "tpm2")
	token := patient{openInWorker(t, cfg)}
	if got := token.Health(t.Context()).Levels; got[boundary.RSAOAEP256] != boundary.Unwrap || len(got) != 1 {
		t.Errorf("it works at %v", got)
	}
	// What another process makes, it sees when it is loaded anew: nothing is planted.
	backendtest.Run(t, func(*testing.T) rotation.Backend { return token },
		backendtest.Options{Bits: []int{2048}, Without: []string{boundary.ECDHES, boundary.PS256}})
}

// patient tries again to destroy, as the engine does.
type patient struct{ *worker.Token }

func again[T any](ctx context.Context, f func() (T, error)) (T, error) {
	for n := 0; ; n++ {
		v, err := f()
		if !errors.Is(err, boundary.ErrUnavailable) || ctx.Err() != nil || n == 600 {
			return v, err
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func (p patient) Destroy(ctx context.Context, handle string) (bool, error) {
	return again(ctx, func() (bool, error) { return p.Token.Destroy(ctx, handle) })
}

func (p patient) Discard(ctx context.Context, spec boundary.Spec) error {
	_, err := again(ctx, func() (struct{}, error) { return struct{}{}, p.Token.Discard(ctx, spec) })
	return err
}

// What another process makes is no use to the one that serves.
func TestTPMWithKeysOfAnotherProcessSaysSoAndKeepsNone(t *testing.T) {
	cfg := other(t, "tpm2")
	token := openWorker(t, apart(cfg))
	if _, err := token.Generate(t.Context(), newSpec()); !errors.Is(err, boundary.ErrUnsupported) || !strings.Contains(err.Error(), "separate_key_generation") {
		t.Errorf("Generate: %v, want boundary.ErrUnsupported and the setting", err)
	}
	killWorkers(t) // the next one sees what there is
	all, err := again(t.Context(), func() ([]boundary.Found, error) { return token.List(t.Context()) })
	if err != nil || len(all) != 0 {
		t.Errorf("List = %+v, %v, want nothing", all, err)
	}
}
