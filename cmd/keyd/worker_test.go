package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

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

// firstLineFD is the first descriptor after the pipe's.
const firstLineFD = 4

// nonblocking reads the flags of a descriptor (proc(5), fdinfo).
func nonblocking(t *testing.T, fdinfo string) bool {
	t.Helper()
	_, rest, _ := strings.Cut(fdinfo, "flags:")
	line, _, _ := strings.Cut(rest, "\n")
	flags, err := strconv.ParseUint(strings.TrimSpace(line), 8, 64)
	if err != nil {
		t.Fatalf("%v in %s", err, fdinfo)
	}
	return flags&syscall.O_NONBLOCK != 0
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
	for process, pid := range map[string]int{"library's process": pids[0], "daemon": d.process.Pid} {
		isHardened(t, process, pid)
	}
	if slack, err := os.ReadFile(fmt.Sprintf("/proc/%d/timerslack_ns", pids[0])); string(slack) != "1000000\n" {
		t.Errorf("its timers may be late by %s ns, want 1000000 (%v)", bytes.TrimSpace(slack), err)
	}
	if !strings.Contains(read("environ"), "GOMAXPROCS=") {
		t.Error("it has as many of Go's processors as there are, and lines that wait keep them")
	}
	if info := read(fmt.Sprintf("fdinfo/%d", firstLineFD)); nonblocking(t, info) {
		t.Errorf("its first line is waited for by Go's poller:\n%s", info)
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

// isHardened looks at what harden does, from outside.
func isHardened(t *testing.T, process string, pid int) {
	t.Helper()
	for name, line := range map[string]string{
		"status": "NoNewPrivs:\t1\n",
		"limits": "Max core file size        0                    0 ",
	} {
		if raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, name)); err != nil || !strings.Contains(string(raw), line) {
			t.Errorf("the %s: no %q in its %s (%v):\n%s", process, line, name, err, raw)
		}
	}
	// proc(5): what belongs to a process that is not dumpable belongs to root.
	if info, err := os.Stat(fmt.Sprintf("/proc/%d/maps", pid)); err != nil || info.Sys().(*syscall.Stat_t).Uid != 0 {
		t.Errorf("the %s can be traced by its own user (%v)", process, err)
	}
}

// TestTheDaemonOutlivesItsLibrary kills the library's process while envelopes
// are opened: each answer is the plaintext or says when to ask again.
func TestTheDaemonOutlivesItsLibrary(t *testing.T) {
	metrics := freePort(t)
	d := startDaemon(t, partnersim.New(partnersim.Options{ClientID: "demo-client", ClientSecret: testSecret}),
		`metrics: "off"`, "metrics: "+metrics)
	envelope := d.sealTo(t, d.activeVersion(t), []byte("plaintext"))
	post := func() (status int, retryAfter, body string) {
		t.Helper()
		transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", d.client)
		}}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://keyd/v1/partners/wise/decrypt", bytes.NewReader(envelope))
		if err != nil {
			t.Fatal(err)
		}
		res, err := transport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		raw, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res.StatusCode, res.Header.Get("Retry-After"), string(raw)
	}
	for _, pid := range []int{d.process.Pid, d.workers(t)[0]} {
		status := execute(t, "cat", fmt.Sprintf("/proc/%d/status", pid))
		var kib int
		if _, after, ok := strings.Cut(status, "VmLck:"); ok {
			_, _ = fmt.Sscan(after, &kib)
		}
		if kib == 0 && mayLock() {
			t.Errorf("process %d has no memory locked:\n%s", pid, status)
		}
	}
	// An upgrade may have replaced the file: the process is still this program.
	if err := os.Remove(filepath.Join(d.dir, "keyd")); err != nil {
		t.Fatal(err)
	}
	opened := 0
	for kill := 0; kill < 3 || opened < 3; {
		status, retryAfter, body := post()
		switch {
		case status == http.StatusOK && body == "plaintext":
			opened++
		case status != http.StatusServiceUnavailable || retryAfter == "":
			t.Fatalf("status %d, Retry-After %q: %s", status, retryAfter, body)
		}
		if pids := d.workers(t); len(pids) == 1 && status == http.StatusOK && kill < 3 {
			kill++
			opened = 0
			if err := syscall.Kill(pids[0], syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
		}
	}
	// What is known of the backends is a second old at most.
	for range 600 {
		if strings.Contains(get(t, "http://"+metrics+"/metrics"), `keyd_backend_process_generation{backend="hsm"} 4`) {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	for path, want := range map[string]string{"/readyz": `"ready":true`, "/metrics": `keyd_backend_process{backend="hsm",state="ready"} 1`} {
		if body := get(t, "http://"+metrics+path); !strings.Contains(body, want) {
			t.Errorf("%s: no %q in\n%s", path, want, body)
		}
	}
	code, out, stderr := invoke(t, "status", "--socket", d.admin)
	if code != exitOK || !strings.Contains(out, "number 4") || !strings.Contains(out, "the last one ended: ") {
		t.Errorf("status: exit %d\n%s%s", code, out, stderr)
	}
}

func TestTheLibrarysProcessGoesWithTheDaemon(t *testing.T) {
	d := startDaemon(t, partnersim.New(partnersim.Options{ClientID: "demo-client", ClientSecret: testSecret}))
	d.activeVersion(t)
	pid := d.workers(t)[0]
	if err := d.process.Kill(); err != nil {
		t.Fatal(err)
	}
	for range 600 {
		if _, err := os.Stat(fmt.Sprintf("/proc/%d/exe", pid)); err != nil {
			return
		}
		if state, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); strings.Contains(string(state), ") Z ") {
			return // init has not looked yet
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Errorf("process %d is still there", pid)
}
