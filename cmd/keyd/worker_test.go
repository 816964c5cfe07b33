package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"keyd/internal/partner/partnersim"
)

// workers are the processes that a daemon runs PKCS#11 libraries in.
func (d *testDaemon) workers(tb testing.TB) []int {
	tb.Helper()
	// Children belong to the thread that started them.
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", d.process.Pid))
	if err != nil {
		tb.Fatal(err)
	}
	var raw []byte
	var pids []int
	for _, task := range tasks {
		more, _ := os.ReadFile(task) // the thread may have ended
		raw = append(raw, more...)
	}
	for field := range strings.FieldsSeq(string(raw)) {
		pid, err := strconv.Atoi(field)
		if err != nil {
			tb.Fatal(err)
		}
		if line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); strings.Contains(string(line), workerName) && !slices.Contains(pids, pid) {
			pids = append(pids, pid)
		}
	}
	return pids
}

func TestTheLibrarysProcessHasNothingThatItDoesNotNeed(t *testing.T) {
	if os.Getuid() != 0 {
		t.Fatal("this test changes its user: run the tests as root")
	}
	t.Setenv("A_SECRET_OF_THE_DAEMON", "x")
	dir, err := os.MkdirTemp("", "keyd-worker-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	// As a service it has a user without privileges, for whom starting the
	// daemon's own program again, undumpable as it is, must work too.
	nobody := &syscall.Credential{Uid: 65534, Gid: 65534}
	d := startDaemonAs(t, nobody, dir, partnersim.New(partnersim.Options{ClientID: "demo-client", ClientSecret: testSecret}))
	d.activeVersion(t)
	pids := d.workers(t)
	if len(pids) != 1 {
		t.Fatalf("the daemon has the workers %v, want one", pids)
	}
	proc := fmt.Sprintf("/proc/%d/", pids[0])
	read := func(name string) string {
		t.Helper()
		raw, err := os.ReadFile(proc + name)
		if err != nil {
			t.Fatal(err)
		}
		return string(raw)
	}
	pin, err := os.ReadFile(filepath.Join(d.dir, "token", "pin"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"cmdline", "environ"} {
		if text := read(name); strings.Contains(text, strings.TrimSpace(string(pin))) || strings.Contains(text, "A_SECRET_OF_THE_DAEMON") {
			t.Errorf("%s: %q", name, text)
		}
	}
	if status := read("status"); !strings.Contains(status, "NoNewPrivs:\t1") {
		t.Errorf("it may gain privileges:\n%s", status)
	}
	for _, pid := range []int{pids[0], d.process.Pid} {
		// proc(5): what belongs to a process that is not dumpable belongs to root.
		if info, err := os.Stat(fmt.Sprintf("/proc/%d/maps", pid)); err != nil || info.Sys().(*syscall.Stat_t).Uid != 0 {
			t.Errorf("process %d can be traced by its own user (%v)", pid, err)
		}
	}
	if limits := read("limits"); !strings.Contains(limits, "Max core file size        0                    0") {
		t.Errorf("core dumps are not off:\n%s", limits)
	}
	fds, err := filepath.Glob(proc + "fd/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		target, _ := os.Readlink(fd)
		for _, mine := range []string{"keyd.db", "audit", ".sock", "state"} {
			if strings.Contains(target, mine) {
				t.Errorf("it has the daemon's %s open", target)
			}
		}
	}
}
