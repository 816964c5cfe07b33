package main

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"keyd/client"
	"keyd/internal/boundary"
	"keyd/internal/hsm/baretoken"
	"keyd/internal/jwe"
	"keyd/internal/partner/partnersim"
	"keyd/internal/residue"
)

// residueOf is what a process has in memory of some secrets.
func residueOf(tb testing.TB, pid int, secrets map[string][]byte) map[string]int {
	tb.Helper()
	found, err := residue.Find(pid, secrets)
	if err != nil {
		tb.Fatal(err)
	}
	return found
}

// sealed is an envelope of which everything is known.
type sealed struct {
	compact        string
	cek, plaintext []byte
}

func sealKnown(tb testing.TB, pub crypto.PublicKey, kid, enc string, size int) sealed {
	tb.Helper()
	plaintext := make([]byte, size)
	rand.Read(plaintext)
	compact, cek, err := jwe.SealKeeping(pub, jwe.SealHeader{Alg: jwe.SealRSAOAEP256, KID: kid, Enc: enc}, plaintext)
	if err != nil {
		tb.Fatal(err)
	}
	return sealed{compact, cek, plaintext}
}

// open posts an envelope and returns what comes back.
func (d *testDaemon) open(tb testing.TB, transport http.RoundTripper, compact string) (int, []byte) {
	tb.Helper()
	req, err := http.NewRequestWithContext(tb.Context(), http.MethodPost, "http://keyd/v1/partners/wise/decrypt", strings.NewReader(compact))
	if err != nil {
		tb.Error(err)
		return 0, nil
	}
	res, err := transport.RoundTrip(req)
	if err != nil {
		tb.Error(err)
		return 0, nil
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	if err != nil {
		tb.Error(err)
	}
	return res.StatusCode, raw
}

func (d *testDaemon) transport() *http.Transport {
	return &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", d.client)
	}}
}

// openAll opens envelopes from three callers, and beside each one that was
// tampered with.
func (d *testDaemon) openAll(tb testing.TB, all []sealed) {
	tb.Helper()
	transport := d.transport()
	defer transport.CloseIdleConnections()
	var wg sync.WaitGroup
	for part := range 3 {
		wg.Go(func() {
			for i := part; i < len(all); i += 3 {
				if status, got := d.open(tb, transport, all[i].compact); status != http.StatusOK || !bytes.Equal(got, all[i].plaintext) {
					tb.Errorf("status %d, %d bytes", status, len(got))
				}
				bad := []byte(all[i].compact)
				tag := bytes.LastIndexByte(bad, '.') + 1
				bad[tag] = 'A' + (bad[tag]+1)%26
				if status, _ := d.open(tb, transport, string(bad)); status != http.StatusUnprocessableEntity {
					tb.Errorf("tampered with: status %d", status)
				}
			}
		})
	}
	wg.Wait()
}

// plantCanary leaves half of a request with the daemon: what is in it must be
// found in its memory, or nothing would be. It is gone when forget returns.
func (d *testDaemon) plantCanary(tb testing.TB, canary []byte) (forget func()) {
	tb.Helper()
	conn, err := new(net.Dialer).DialContext(tb.Context(), "unix", d.client)
	if err != nil {
		tb.Fatal(err)
	}
	if _, err := fmt.Fprintf(conn, "POST /v1/partners/wise/decrypt HTTP/1.1\r\nHost: keyd\r\nContent-Length: %d\r\n\r\n%s", 2*len(canary), canary); err != nil {
		tb.Fatal(err)
	}
	return func() { _ = conn.Close() }
}

// memoryTokens are tokens of each boundary level: how the config is edited for
// one, and what of the private key is known.
var memoryTokens = map[string]func(t *testing.T, d *memoryRig){
	"SoftHSM": func(t *testing.T, d *memoryRig) { d.imported(t) },
	"NSS":     func(t *testing.T, d *memoryRig) { d.nss(t) },
}

// memoryRig is a daemon whose every secret is known.
type memoryRig struct {
	*testDaemon
	kid     string
	public  crypto.PublicKey
	secrets map[string][]byte
}

const moduleCanary = "KEYD_TEST_CANARY"

func (r *memoryRig) start(t *testing.T, edits ...string) {
	t.Helper()
	canary := make([]byte, 16)
	rand.Read(canary)
	r.secrets = map[string][]byte{"canary of the worker": []byte(hex.EncodeToString(canary))}
	sim := partnersim.New(partnersim.Options{ClientID: "demo-client", ClientSecret: testSecret})
	r.testDaemon = startDaemon(t, sim, append(edits,
		"    type: wise\n", "    type: wise\n    encs: [A256GCM, A256CBC-HS512, A128CBC-HS256]\n",
		"    type: pkcs11\n", fmt.Sprintf("    type: pkcs11\n    env: {%s: %x}\n", moduleCanary, canary))...)
}

// imported is a token with a private key that came from outside.
func (r *memoryRig) imported(t *testing.T) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	r.start(t, "    drain_for: 14d\n", "    drain_for: 14d\n    first: adopt\n")
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(r.dir, "imported.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	pin, err := os.ReadFile(filepath.Join(r.dir, "token", "pin"))
	if err != nil {
		t.Fatal(err)
	}
	pin = bytes.TrimSpace(pin)
	execute(t, "softhsm2-util", "--import", file, "--token", "keyd", "--label", "imported", "--id", "0badcafe", "--pin", string(pin))
	r.kid, r.public = uuid.NewString(), &key.PublicKey
	waitFor(t, func() bool { _, err := client.New(r.admin).VersionInfo(t.Context()); return err == nil })
	if code, _, stderr := invoke(t, "keys", "adopt", "wise-response", "--kid", r.kid, "--find", "imported",
		"--valid-till", time.Now().AddDate(0, 1, 0).UTC().Format(time.RFC3339), "--told", "--socket", r.admin); code != exitOK {
		t.Fatalf("adopting: %s", stderr)
	}
	r.secrets["pin"] = pin
	for name, n := range map[string]*big.Int{"d": key.D, "p": key.Primes[0], "q": key.Primes[1],
		"dp": key.Precomputed.Dp, "dq": key.Precomputed.Dq, "qinv": key.Precomputed.Qinv} {
		big := n.Bytes()
		r.secrets["private key, "+name] = big[:24]
		little := slices.Clone(big[len(big)-24:])
		slices.Reverse(little)
		r.secrets["private key, little-endian, "+name] = little
	}
}

// nss is a token whose softoken opens at a better level than SoftHSM.
func (r *memoryRig) nss(t *testing.T) {
	t.Helper()
	found, err := filepath.Glob("/usr/lib/*/libsoftokn3.so")
	if err != nil || len(found) == 0 {
		t.Fatalf("no NSS softoken (make softhsm installs it): %v", err)
	}
	t.Setenv("NSS_MAX_MP_PBE_ITERATION_COUNT", "1")
	const label = "keyd-nss"
	pin := rand.Text()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "pin"), []byte(pin), 0o600); err != nil {
		t.Fatal(err)
	}
	args, err := baretoken.InitNSS(found[0], dir, label, pin)
	if err != nil {
		t.Fatal(err)
	}
	r.start(t, "/usr/lib/softhsm/libsofthsm2.so", found[0], "token_label: keyd\n", fmt.Sprintf("token_label: %s\n    init_args: %q\n", label, args),
		"file:DIR/token/pin", "file:"+dir+"/pin")
	v := r.activeVersion(t)
	block, _ := pem.Decode([]byte(v.PublicPEM))
	if r.public, err = x509.ParsePKIXPublicKey(block.Bytes); err != nil {
		t.Fatal(err)
	}
	r.kid, r.secrets["pin"] = v.KID, []byte(pin)
}

func waitFor(t *testing.T, done func() bool) {
	t.Helper()
	for range 600 {
		if done() {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatal("waited 30 s for nothing")
}

// TestMemoryHoldsNoSecretOnceTheAnswerIsSent looks through everything that the
// daemon and the library's process have in memory. In the daemon there must be
// no content key, no PIN and nothing of a private key at any time, and no
// plaintext once it is sent; in the library's process no content key and no
// plaintext. (A software token has PIN and private keys there: that is what it is.)
func TestMemoryHoldsNoSecretOnceTheAnswerIsSent(t *testing.T) {
	for name, token := range memoryTokens {
		t.Run(name, func(t *testing.T) {
			var r memoryRig
			token(t, &r)
			var all, others []sealed
			for i := range 60 {
				enc := []string{boundary.A256GCM, boundary.A256CBCHS512, boundary.A128CBCHS256}[i%3]
				size := []int{40, 700, 3000, 6000, 40_000, 200_000}[i%6]
				e := sealKnown(t, r.public, r.kid, enc, size)
				all, others = append(all, e), append(others, sealKnown(t, r.public, r.kid, enc, 16))
				// Half of a key is a key for CBC, and what a round key schedule begins with.
				half := len(e.cek) / 2
				r.secrets[fmt.Sprintf("%s key %d", enc, i)] = e.cek[:half]
				r.secrets[fmt.Sprintf("%s key %d, second half", enc, i)] = e.cek[half:]
				for at := 0; at+24 <= size; at += max(size/8, 24) {
					r.secrets[fmt.Sprintf("plaintext %d of %d bytes, at %d", i, size, at)] = e.plaintext[at : at+24]
				}
			}
			canary := make([]byte, 3000)
			rand.Read(canary)
			r.secrets["canary of the daemon"] = canary[len(canary)-24:]
			forget := r.plantCanary(t, canary)
			r.openAll(t, all)
			waitFor(t, func() bool {
				return residueOf(t, r.process.Pid, map[string][]byte{"canary": canary[2976:]})["canary"] > 0
			})
			// A signal can write registers to memory at any time: what is looked for
			// is what stays, so others have had their turn since.
			r.openAll(t, others)

			inDaemon, inWorker := residueOf(t, r.process.Pid, r.secrets), residueOf(t, r.workers(t)[0], r.secrets)
			forget()
			if inDaemon["canary of the daemon"] == 0 || inWorker["canary of the worker"] == 0 {
				t.Fatal("not even the canaries were found: the search does not work")
			}
			for _, name := range []string{"canary of the daemon", "canary of the worker"} {
				delete(inDaemon, name)
				delete(inWorker, name)
			}
			for name, n := range inDaemon {
				t.Errorf("the daemon has %s in memory, %d times", name, n)
			}
			for name, n := range inWorker {
				if strings.HasPrefix(name, "private key") || name == "pin" {
					t.Logf("the token's process has %s in memory, %d times", name, n)
					continue
				}
				t.Errorf("the library's process has %s in memory, %d times", name, n)
			}
		})
	}
}
