package conformance

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/pkcs11"

	"keyd/internal/boundary"
)

// threadChecks use several sessions at once, one goroutine to each, as keyd does.
// Two on one session are for the standard to forbid (§5.2) and for modules to crash
// on, and not tried.
var threadChecks = []check{
	{"RSA in separate sessions at once", withRSA(uses{decrypt: true}, func(l *lab, k *rsaPair) Check {
		cek := random(32)
		block, err := wrapped(k.key, cek)
		if err != nil {
			return fail("%v", err)
		}
		return l.together(func(s pkcs11.SessionHandle) error {
			got, err := l.decrypt(s, mechanism1(pkcs11.CKM_RSA_X_509, nil), k.private, block)
			out := make([]byte, len(cek))
			if err == nil && (boundary.RemoveOAEP256(got, out) != 1 || !bytes.Equal(out, cek)) {
				err = errWrong
			}
			return err
		})
	})},
	{"ECDH in separate sessions at once", withEC(func(l *lab, k *ecPair) Check {
		sh, err := agreeWith(k.key)
		if err != nil {
			return fail("%v", err)
		}
		return l.together(func(s pkcs11.SessionHandle) error {
			o, err := l.agree(s, k.private, pkcs11.CKD_NULL, nil, sh.point, readable())
			if err != nil {
				return err
			}
			got, err := l.value(s, o)
			if err == nil && !bytes.Equal(got, sh.z) {
				err = errWrong
			}
			if destroyed := l.pkcs11.DestroyObject(s, o); err == nil {
				err = destroyed
			}
			return err
		})
	})},
	{"keys made and destroyed while others are used", withRSA(uses{decrypt: true}, func(l *lab, k *rsaPair) Check {
		block, err := wrapped(k.key, random(32))
		if err != nil {
			return fail("%v", err)
		}
		stop := make(chan struct{})
		var ops atomic.Int64
		wait, err := l.atOnce(3, func(s pkcs11.SessionHandle) error {
			for {
				select {
				case <-stop:
					return nil
				default:
				}
				if _, err := l.decrypt(s, mechanism1(pkcs11.CKM_RSA_X_509, nil), k.private, block); err != nil {
					return err
				}
				ops.Add(1)
			}
		})
		if err != nil {
			return fail("C_OpenSession: %s", name(err))
		}
		made := 0
		for end := time.Now().Add(time.Second); time.Now().Before(end) || made < 2; made++ {
			var priv pkcs11.ObjectHandle
			if _, priv, err = l.generate(pkcs11.CKM_RSA_PKCS_KEY_PAIR_GEN, rsaTemplate(2048), uses{decrypt: true}); err == nil {
				err = l.pkcs11.DestroyObject(l.session, priv)
			}
			if err != nil {
				break
			}
		}
		close(stop)
		if err := cmp.Or(wait(), err); err != nil {
			return fail("%s", l.said("meanwhile", err))
		}
		return pass("%d keys, %d operations", made, ops.Load())
	})},
	// From here on it is no more the lab that it was.
	{"sessions opened at once", openedAtOnce},
}

// atOnce has f run in n goroutines, each with a session of its own, and returns
// what waits for their end. The sessions are opened one after the other: to open
// them at once is a check of its own.
func (l *lab) atOnce(n int, f func(pkcs11.SessionHandle) error) (wait func() error, err error) {
	var open []pkcs11.SessionHandle
	closeAll := func() {
		for _, s := range open {
			_ = l.pkcs11.CloseSession(s) // it was of use
		}
	}
	for range n {
		s, err := l.pkcs11.OpenSession(l.slot, pkcs11.CKF_SERIAL_SESSION)
		if err != nil {
			closeAll()
			return nil, err
		}
		open = append(open, s)
	}
	var wg sync.WaitGroup
	var bad atomic.Pointer[error]
	for _, s := range open {
		wg.Go(func() {
			if err := f(s); err != nil {
				bad.Store(&err)
			}
		})
	}
	return func() error {
		wg.Wait()
		closeAll()
		if err := bad.Load(); err != nil {
			return *err
		}
		return nil
	}, nil
}

// together does the same in 1, 2 and 4 sessions for a while.
func (l *lab) together(op func(pkcs11.SessionHandle) error) Check {
	const each = 700 * time.Millisecond
	var rates []string
	var first float64
	for _, n := range []int{1, 2, 4} {
		var ops atomic.Int64
		end := time.Now().Add(each)
		wait, err := l.atOnce(n, func(s pkcs11.SessionHandle) error {
			for time.Now().Before(end) {
				if err := op(s); err != nil {
					return err
				}
				ops.Add(1)
			}
			return nil
		})
		if err == nil {
			err = wait()
		}
		if err != nil {
			if n == 1 && !errors.Is(err, errWrong) {
				return l.lacks(l.check, err)
			}
			return fail("%d sessions: %s", n, l.said(fmt.Sprintf("%d sessions", n), err))
		}
		rate := float64(ops.Load()) / each.Seconds()
		if n == 1 {
			first = rate
		}
		rates = append(rates, fmt.Sprintf("%d: %.2f", n, rate/first))
	}
	return pass("every answer right; throughput by sessions %s (1 is %.0f a second)", strings.Join(rates, ", "), first)
}
