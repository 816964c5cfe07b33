package conformance

import (
	"sync"
	"time"

	"github.com/miekg/pkcs11"
)

// openedAtOnce opens sessions in several threads at once. What is wrong with that
// shows once in a while: so that it is found in one run as in another, it is tried
// again and again.
func openedAtOnce(l *lab) Check {
	const threads, each = 4, 16
	l.destroy() // what a module that counts wrong does later is not known
	opened := 0
	for began := time.Now(); goesOn(opened/(threads*each), time.Since(began)) && !l.stopped(); {
		all, err := l.openTogether(threads, each)
		distinct := map[pkcs11.SessionHandle]bool{}
		for _, s := range all {
			distinct[s] = true
		}
		for s := range distinct {
			_ = l.pkcs11.CloseSession(s) // whether it can be is another check
		}
		opened += len(all)
		switch {
		case err != nil && !is(err, pkcs11.CKR_SESSION_COUNT):
			return fail("C_OpenSession: %s", l.said("sessions opened at once", err))
		case len(distinct) < len(all):
			return quirk("two get the same; keyd opens one at a time")
		}
	}
	return pass("%d in %d threads, each another one", opened, threads)
}

// goesOn: tpm2-pkcs11 1.9 needed a second at most, on a machine with much else to
// do. A slow token is not tried for ever.
func goesOn(rounds int, took time.Duration) bool {
	return took < 5*time.Second || took < 20*time.Second && rounds < 1000
}

// openTogether opens so many sessions in each of so many threads.
func (l *lab) openTogether(threads, each int) (all []pkcs11.SessionHandle, err error) {
	var wg sync.WaitGroup
	var mu sync.Mutex
	start := make(chan struct{})
	for range threads {
		wg.Go(func() {
			mine := make([]pkcs11.SessionHandle, 0, each)
			<-start
			var failed error
			for len(mine) < each && failed == nil {
				var s pkcs11.SessionHandle
				if s, failed = l.pkcs11.OpenSession(l.slot, pkcs11.CKF_SERIAL_SESSION); failed == nil {
					mine = append(mine, s)
				}
			}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, mine...)
			if failed != nil {
				err = failed
			}
		})
	}
	close(start)
	wg.Wait()
	return all, err
}
