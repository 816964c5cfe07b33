package main

import (
	"os"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// How late the kernel may wake a thread that sleeps for a while (prctl(2)
// PR_SET_TIMERSLACK): in keyd, and as Linux has it.
const (
	keydSlack  = time.Millisecond
	linuxSlack = 50 * time.Microsecond
)

// startedAgain is set for the process that slacken has started, so that there is
// no third one on a kernel that forgets what it was told.
const startedAgain = "KEYD_STARTED_AGAIN"

// slacken lets timers be a millisecond late. Go's monitor thread wakes every 70
// µs as long as anything goes on, and with requests of half a millisecond that is
// a quarter of all that the daemon and a PKCS#11 library's process do. Threads
// have it from the one that made them, and the monitor is made before main, so
// the process starts itself again, once, as the same process. Whatever it starts
// later has it too. Where that cannot be done, all goes on as it was: Linux gives
// no slack to processes that are scheduled in real time.
func slacken() {
	if os.Getenv(startedAgain) != "" {
		_ = os.Unsetenv(startedAgain) // it cannot fail for a name like this
		return
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if slack() >= keydSlack || setSlack(keydSlack) != nil || slack() < keydSlack {
		return
	}
	env := append(os.Environ(), startedAgain+"=1")
	// By its own path, which is what ps(1) names it by, if it may.
	if self, err := os.Executable(); err == nil {
		_ = syscall.Exec(self, os.Args, env) // #nosec G204 G702 -- itself; it returns if it could not
	}
	_ = syscall.Exec("/proc/self/exe", os.Args, env) // #nosec G204 G702 -- as above
	_ = setSlack(linuxSlack)
}

// slack is that of the calling thread.
func slack() time.Duration {
	ns, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0)
	if err != nil {
		return 0
	}
	return time.Duration(ns)
}

// setSlack is for the calling thread, and those that it makes.
func setSlack(d time.Duration) error {
	return unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(d.Nanoseconds()), 0, 0, 0) // #nosec G115 -- one of two constants
}
