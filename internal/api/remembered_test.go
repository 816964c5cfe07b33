package api_test

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"keyd/internal/api"
)

func TestAnAnswerOfTheUserDatabaseIsRenewedWhileItIsUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var now atomic.Pointer[string]
		tell := func(s string) { now.Store(&s) }
		var takes atomic.Int64
		of := api.Remembered(func(int) string {
			time.Sleep(time.Duration(takes.Load()))
			return *now.Load()
		})
		wants := func(want string, within time.Duration) {
			t.Helper()
			start := time.Now()
			if got := of(1); got != want || time.Since(start) > within {
				t.Errorf("got %q after %s, want %q", got, time.Since(start), want)
			}
		}
		tell("a")
		wants("a", 0)
		tell("b")
		takes.Store(int64(time.Second))
		wants("a", 0)
		time.Sleep(6 * time.Second)
		wants("a", 0) // and has it asked for again
		time.Sleep(2 * time.Second)
		wants("b", 0)
		tell("c")
		time.Sleep(time.Minute)
		wants("c", time.Second) // too old to be used
		tell("d")
		takes.Store(int64(time.Hour))
		time.Sleep(time.Minute)
		wants("", 3*time.Second)
		time.Sleep(2 * time.Hour)
	})
}
