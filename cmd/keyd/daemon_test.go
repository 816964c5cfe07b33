package main

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"keyd/client"
	"keyd/internal/boundary"
	"keyd/internal/jwe"
)

const testSecret = "s3cret-of-the-client"

// testDaemon is keyd in a process of its own, on a fresh SoftHSM token.
type testDaemon struct {
	dir           string // token, state, keyd.yaml
	client, admin string // its sockets
	process       *os.Process
}

// startDaemon builds and runs keyd with the demo's config against wise, and
// stops it when the test ends. Edits replace parts of the config: old, new, …;
// DIR in them is the daemon's folder.
func startDaemon(tb testing.TB, wise http.Handler, edits ...string) *testDaemon {
	tb.Helper()
	return startDaemonAs(tb, nil, tb.TempDir(), wise, edits...)
}

// startDaemonAs does it in dir and as another user, who is given the folder.
func startDaemonAs(tb testing.TB, user *syscall.Credential, dir string, wise http.Handler, edits ...string) *testDaemon {
	tb.Helper()
	d := &testDaemon{dir: dir, client: filepath.Join(dir, "keyd.sock"), admin: filepath.Join(dir, "admin.sock")}
	execute(tb, "../../softhsm/token.sh", filepath.Join(dir, "token"), "keyd")
	tb.Setenv("SOFTHSM2_CONF", filepath.Join(dir, "token", "softhsm2.conf"))
	partner := httptest.NewServer(wise)
	tb.Cleanup(partner.Close)
	path := configured(tb, dir, partner.URL, edits...)
	bin := filepath.Join(dir, "keyd")
	execute(tb, "go", "build", "-o", bin, ".")
	daemon := exec.CommandContext(tb.Context(), bin, "serve", "--config", path)
	daemon.Stderr = tb.Output()
	if user != nil {
		execute(tb, "chown", "-R", fmt.Sprintf("%d:%d", user.Uid, user.Gid), dir)
		daemon.SysProcAttr = &syscall.SysProcAttr{Credential: user}
	}
	daemon.Cancel = func() error { return daemon.Process.Signal(os.Interrupt) }
	if err := daemon.Start(); err != nil {
		tb.Fatal(err)
	}
	d.process = daemon.Process
	tb.Cleanup(func() {
		if err := daemon.Wait(); err != nil && tb.Context().Err() == nil {
			tb.Errorf("the daemon ended: %v", err)
		}
	})
	return d
}

// configured lays out dir for a daemon, with the demo's config edited, and
// returns the config's path. The token is not made.
func configured(tb testing.TB, dir, url string, edits ...string) string {
	tb.Helper()
	raw, err := os.ReadFile("../../demo/keyd.yaml")
	if err != nil {
		tb.Fatal(err)
	}
	config := strings.NewReplacer("@SIM@", url, "@D@", dir, "@UID@", strconv.Itoa(os.Getuid())).Replace(string(raw))
	for i := 0; i < len(edits); i += 2 {
		config = strings.ReplaceAll(config, strings.ReplaceAll(edits[i], "DIR", dir), edits[i+1])
	}
	if err := errors.Join(
		os.Mkdir(filepath.Join(dir, "state"), 0o700),
		os.WriteFile(filepath.Join(dir, "secret"), []byte(testSecret), 0o600),
		os.WriteFile(filepath.Join(dir, "keyd.yaml"), []byte(config), 0o600),
	); err != nil {
		tb.Fatal(err)
	}
	return filepath.Join(dir, "keyd.yaml")
}

// activeVersion waits for the key's first version to become active.
func (d *testDaemon) activeVersion(tb testing.TB) client.Version {
	tb.Helper()
	admin := client.New(d.admin)
	for range 600 {
		key, err := admin.Key(tb.Context(), "wise-response")
		for _, v := range versionsOf(key, err) {
			if v.KID == key.ActiveKID {
				return v
			}
		}
		time.Sleep(100 * time.Millisecond)
	}
	tb.Fatal("no active version")
	return client.Version{}
}

func versionsOf(key *client.Key, err error) []client.Version {
	if err != nil {
		return nil // not serving yet
	}
	return key.Versions
}

func execute(tb testing.TB, name string, args ...string) string {
	tb.Helper()
	out, err := exec.CommandContext(tb.Context(), name, args...).Output()
	if err != nil {
		tb.Fatalf("%s %v: %v", name, args, err)
	}
	return string(out)
}

// sealTo seals as the partner would.
func (d *testDaemon) sealTo(tb testing.TB, v client.Version, plaintext []byte) []byte {
	tb.Helper()
	block, _ := pem.Decode([]byte(v.PublicPEM))
	public, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		tb.Fatal(err)
	}
	sealed, err := jwe.Seal(public, jwe.SealHeader{Alg: jwe.SealAlg(boundary.RSAOAEP256), KID: v.KID, Enc: boundary.A256GCM}, plaintext)
	if err != nil {
		tb.Fatal(err)
	}
	return []byte(sealed)
}
