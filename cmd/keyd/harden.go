package main

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// harden keeps secrets out of core files, other processes' reach and the swap:
// no core dumps, not traceable (prctl(2) PR_SET_DUMPABLE), no new privileges,
// and memory locked if the limits allow it.
func harden() (locked bool, err error) {
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return false, fmt.Errorf("turning core dumps off: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return false, fmt.Errorf("making the process undumpable: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return false, fmt.Errorf("giving up new privileges: %w", err)
	}
	return lock(), nil
}

// lock keeps every page in memory from the moment in which it is touched. The
// limit counts address space, of which Go reserves a gigabyte at once and more
// later: where there is a limit, the process would run into it some day.
func lock() bool {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &limit); err != nil || limit.Cur != unix.RLIM_INFINITY && !mayLock() {
		return false
	}
	return unix.Mlockall(unix.MCL_CURRENT|unix.MCL_FUTURE|unix.MCL_ONFAULT) == nil
}

// mayLock reports whether the process has CAP_IPC_LOCK, for which no limit holds.
func mayLock() bool {
	var data [2]unix.CapUserData
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	return unix.Capget(&header, &data[0]) == nil && data[0].Effective&(1<<unix.CAP_IPC_LOCK) != 0
}
