package hsm_test

import (
	"errors"
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/pkcs11"

	"keyd/internal/boundary"
	"keyd/internal/hsm"
)

// BenchmarkOpen holds Token.Open against the bare loop that it is built on, in
// turn and in one run, because machines drift. ratio is what counts.
func BenchmarkOpen(b *testing.B) {
	for _, callers := range []int{1, 2, 4, 8} {
		b.Run("callers="+strconv.Itoa(callers), func(b *testing.B) {
			cfg := softHSM(b)
			cfg.Sessions, cfg.Logger = callers, slog.New(slog.DiscardHandler)
			token := open(b, cfg)
			g := generate(b, token)
			env := seal(b, g)
			bare := newBareLoop(b, cfg, g, callers)
			const slice = 300 * time.Millisecond
			var bareOps, openOps int64
			for b.Loop() {
				bareOps += together(callers, slice, func(n int) error { return bare.once(n, env.EncryptedKey) }, b)
				openOps += together(callers, slice, func(int) error {
					_, err := token.Open(b.Context(), g.Handle, env)
					return err
				}, b)
			}
			seconds := float64(b.N) * slice.Seconds()
			b.ReportMetric(float64(bareOps)/seconds, "bare-ops/s")
			b.ReportMetric(float64(openOps)/seconds, "open-ops/s")
			b.ReportMetric(float64(openOps)/float64(bareOps), "ratio")
			b.ReportMetric(0, "ns/op") // a slice, which says nothing
		})
	}
}

// together runs f from every caller at once for a while and counts.
func together(callers int, d time.Duration, f func(caller int) error, b *testing.B) int64 {
	var ops atomic.Int64
	var wg sync.WaitGroup
	end := time.Now().Add(d)
	for n := range callers {
		wg.Go(func() {
			for time.Now().Before(end) {
				if err := f(n); err != nil {
					b.Error(err)
					return
				}
				ops.Add(1)
			}
		})
	}
	wg.Wait()
	return ops.Load()
}

// bareLoop is CKM_RSA_X_509 with nothing around it.
type bareLoop struct {
	ctx      *pkcs11.Ctx
	key      pkcs11.ObjectHandle
	sessions []pkcs11.SessionHandle
}

func newBareLoop(b *testing.B, cfg hsm.Config, g boundary.Generated, callers int) *bareLoop {
	ctx, slot, _ := initialised(b, cfg)
	l := &bareLoop{ctx: ctx}
	for range callers {
		s, err := ctx.OpenSession(slot, pkcs11.CKF_SERIAL_SESSION)
		must(b, err)
		b.Cleanup(func() { must(b, ctx.CloseSession(s)) })
		l.sessions = append(l.sessions, s)
	}
	must(b, ctx.FindObjectsInit(l.sessions[0], []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PRIVATE_KEY),
		pkcs11.NewAttribute(pkcs11.CKA_LABEL, g.Evidence.Attributes["CKA_LABEL"]),
	}))
	found, _, err := ctx.FindObjects(l.sessions[0], 1)
	must(b, errors.Join(err, ctx.FindObjectsFinal(l.sessions[0])))
	l.key = found[0]
	return l
}

func (l *bareLoop) once(n int, block []byte) error {
	if err := l.ctx.DecryptInit(l.sessions[n], []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_RSA_X_509, nil)}, l.key); err != nil {
		return err
	}
	_, err := l.ctx.Decrypt(l.sessions[n], block)
	return err
}
