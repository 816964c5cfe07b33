package main

import (
	"errors"
	"net/http"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"keyd/client"
	"keyd/internal/hsm/faultytest"
)

// agreeing changes the demo's config to a partner that seals to a key on a
// curve, and fetches it.
func agreeing(curve string, more ...string) []string {
	return append([]string{
		"type: wise", "type: jwe\n    our_key: fetched\n    algs: [ECDH-ES, ECDH-ES+A128KW, ECDH-ES+A256KW]\n    encs: [A128GCM, A192GCM, A256GCM, A128CBC-HS256, A256CBC-HS512]",
		"    client_id: demo-client\n", "    key: {url: \"http://127.0.0.1:1/never\"}\n",
		"    client_secret: file:DIR/secret\n", "",
		"rotate: ", "algorithm: ECDH-ES\n    curve: " + curve + "\n    rotate: ",
	}, more...)
}

// TestOutsideImplementationsAgreeWithAKeyInTheToken has npm's jose and jwcrypto
// seal to keys on each curve, with each alg and enc, and the daemon open that
// through a real token.
func TestOutsideImplementationsAgreeWithAKeyInTheToken(t *testing.T) {
	for _, curve := range []string{"P-256", "P-384", "P-521"} {
		t.Run(curve, func(t *testing.T) {
			d := startDaemon(t, http.NotFoundHandler(), agreeing(curve)...)
			v := d.activeVersion(t)
			c := client.New(d.client)
			for text, envelope := range sealedOutside(t, v.PublicPEM, v.KID, "ECDH-ES", "ECDH-ES+A128KW", "ECDH-ES+A256KW") {
				opened, err := c.Decrypt(t.Context(), "wise", envelope)
				if err != nil {
					t.Errorf("%s: %v", text, err)
					continue
				}
				if string(opened.Plaintext) != text || opened.KID != v.KID || opened.Boundary != "unwrap" {
					t.Errorf("%s: got %+v", text, opened)
				}
			}
		})
	}
}

const softHSMModule = "/usr/lib/softhsm/libsofthsm2.so"

// faultyModule builds the module that fails on demand (internal/hsm/testdata), to
// stand before SoftHSM. env is what it wants in the backend's env.
func faultyModule(t *testing.T) (module, env string, fail func(lines string)) {
	t.Helper()
	f := faultytest.New(t, softHSMModule)
	return f.Path, strings.ReplaceAll(strings.Join(f.Env, ", "), "=", ": "), func(lines string) { f.Fail(lines) }
}

// another has the daemon start another worker.
func (d *testDaemon) another(t *testing.T) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "pgrep", "-P", strconv.Itoa(d.process.Pid)).Output()
	if err != nil {
		t.Fatalf("looking for the worker: %v", err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(out)))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

func TestKeyWhoseLevelFallsBelowItsFloorStopsOpeningAndSaysSo(t *testing.T) {
	module, env, fail := faultyModule(t)
	d := startDaemon(t, http.NotFoundHandler(), agreeing("P-256", "module: "+softHSMModule, "module: "+module+"\n    env: {"+env+"}",
		"curve: P-256", "curve: P-256\n    min_boundary: unwrap")...)
	v := d.activeVersion(t)
	c, admin := client.New(d.client), client.New(d.admin)
	envelope := jose(t, []byte("x"), "encrypt", write(t, "public.pem", []byte(v.PublicPEM)), "A256GCM", v.KID, "ECDH-ES")
	until := func(what string, done func() bool) {
		t.Helper()
		for range 600 {
			if done() {
				return
			}
			time.Sleep(100 * time.Millisecond)
		}
		t.Fatalf("waited a minute for: %s", what)
	}
	if opened, err := c.Decrypt(t.Context(), "wise", envelope); err != nil || opened.Boundary != "unwrap" {
		t.Fatalf("Decrypt = %+v, %v, want level unwrap", opened, err)
	}

	fail("C_DigestKey 0x54") // CKR_FUNCTION_NOT_SUPPORTED: the shared secret has to come out
	d.another(t)
	until("the level to fall", func() bool {
		status, err := admin.Status(t.Context())
		return err == nil && status.Backends[0].Error == "" && status.Backends[0].Levels["ECDH-ES"] == "raw"
	})
	_, err := c.Decrypt(t.Context(), "wise", envelope)
	if p, ok := errors.AsType[*client.Problem](err); !ok || p.Code != "below_floor" || p.Status != http.StatusServiceUnavailable {
		t.Errorf("Decrypt: %v, want the problem below_floor", err)
	}
	doctor, err := admin.Doctor(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	said := false
	for _, f := range doctor.Findings {
		said = said || f.Code == "boundary_low"
	}
	if !said {
		t.Errorf("doctor says nothing of it: %+v", doctor.Findings)
	}

	fail("")
	d.another(t)
	until("the level to come back", func() bool {
		opened, err := c.Decrypt(t.Context(), "wise", envelope)
		return err == nil && opened.Boundary == "unwrap"
	})
}
