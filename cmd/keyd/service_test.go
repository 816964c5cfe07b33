package main

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"keyd/internal/partner/partnersim"
	"keyd/internal/registry"
)

// TestTheServiceTellsSystemdHowItIs plays systemd: it listens on NOTIFY_SOCKET
// (sd_notify(3)), expects the watchdog to be fed, and stops the service.
func TestTheServiceTellsSystemdHowItIs(t *testing.T) {
	dir := t.TempDir()
	notify, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "notify"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer notify.Close()
	t.Setenv("NOTIFY_SOCKET", filepath.Join(dir, "notify"))
	t.Setenv("WATCHDOG_USEC", "600000")
	metrics := freePort(t)
	d := startDaemon(t, partnersim.New(partnersim.Options{ClientID: "demo-client", ClientSecret: testSecret}),
		`metrics: "off"`, "metrics: "+metrics)

	expect(t, notify, "READY=1")
	expect(t, notify, "WATCHDOG=1")
	d.activeVersion(t)
	for path, want := range map[string]string{"/healthz": "", "/readyz": "", "/metrics": `keyd_versions{key="wise-response",state="active"} 1`} {
		if body := get(t, "http://"+metrics+path); !strings.Contains(body, want) {
			t.Errorf("%s: no %q in\n%s", path, want, body)
		}
	}
	if limits := execute(t, "cat", fmt.Sprintf("/proc/%d/limits", d.process.Pid)); !strings.Contains(limits, "Max core file size        0                    0") {
		t.Errorf("core dumps are not off:\n%s", limits)
	}
	if err := d.process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	expect(t, notify, "STOPPING=1")
}

// expect reads messages until one is wanted.
func expect(t *testing.T, notify *net.UnixConn, want string) {
	t.Helper()
	if err := notify.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	var message [4096]byte
	for {
		n, err := notify.Read(message[:])
		if err != nil {
			t.Fatalf("waiting for %s: %v", want, err)
		}
		if string(message[:n]) == want {
			return
		}
	}
}

func get(t *testing.T, url string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var body strings.Builder
	if err := res.Write(&body); err != nil {
		t.Fatal(err)
	}
	if res.StatusCode != http.StatusOK {
		t.Errorf("%s: status %d", url, res.StatusCode)
	}
	return body.String()
}

// freePort is an address that nobody listens on. The kernel's own choice would be a
// port that it gives to the next connection too, of this test or another.
func freePort(t *testing.T) string {
	t.Helper()
	for range 100 {
		// Below the ports of outgoing connections (ip_local_port_range, 32768 and up).
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 10_000+rand.N(20_000)))
		if err == nil {
			defer l.Close()
			return l.Addr().String()
		}
	}
	t.Fatal("no port is free")
	return ""
}

// TestAnotherUserHasNoRole runs the CLI as nobody against sockets that anybody
// may connect to.
func TestAnotherUserHasNoRole(t *testing.T) {
	if os.Getuid() != 0 {
		t.Fatal("this test changes its user: run the tests as root")
	}
	open, err := os.MkdirTemp("", "keyd-sockets-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(open) })
	if err := os.Chmod(open, 0o777); err != nil {
		t.Fatal(err)
	}
	d := startDaemon(t, partnersim.New(partnersim.Options{ClientID: "demo-client", ClientSecret: testSecret}),
		`mode: "0600"`, `mode: "0666"`, "DIR/keyd.sock", open+"/keyd.sock", "DIR/admin.sock", open+"/admin.sock")
	d.client, d.admin = open+"/keyd.sock", open+"/admin.sock"
	d.activeVersion(t)
	binary := filepath.Join(open, "keyd")
	execute(t, "cp", filepath.Join(d.dir, "keyd"), binary)
	for _, args := range [][]string{
		{"status"}, {"keys", "rotate", "wise-response"}, {"audit", "tail"}, {"backup", open + "/copy"},
	} {
		nobody := exec.CommandContext(t.Context(), binary, append(args, "--socket", d.admin)...)
		nobody.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		out, err := nobody.CombinedOutput()
		if err == nil || !strings.Contains(string(out), "forbidden") {
			t.Errorf("keyd %v as nobody: %v\n%s", args, err, out)
		}
	}
	if log := execute(t, binary, "audit", "tail", "--socket", d.admin); !strings.Contains(log, "nobody(65534)") || !strings.Contains(log, "refused forbidden") {
		t.Errorf("no entry of a refused caller in\n%s", log)
	}
}

func TestARegistryOfANewerKeydIsLeftAlone(t *testing.T) {
	dir := t.TempDir()
	d := configured(t, dir, "http://127.0.0.1:1", "file:DIR/token/pin", "env:THE_PIN")
	t.Setenv("THE_PIN", "1234")
	path := filepath.Join(dir, "state", registryFile)
	engine, err := registry.OpenBolt(path, registry.Options{})
	if err != nil {
		t.Fatal(err)
	}
	err = engine.Update(func(tx registry.Tx) error { return tx.Put("meta", "schema", []byte("99")) })
	if err := errors.Join(err, engine.Close()); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	code, _, stderr := invoke(t, "serve", "--config", d)
	if code != exitConfig || !strings.Contains(stderr, "schema 99") || !strings.Contains(stderr, "install the newer keyd") {
		t.Errorf("exit %d, %s", code, stderr)
	}
	if after, err := os.ReadFile(path); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the registry was changed (%v)", err)
	}
}
