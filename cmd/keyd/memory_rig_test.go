package main

import (
	"bytes"
	"crypto"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"keyd/client"
	"keyd/internal/boundary"
	"keyd/internal/hsm/baretoken"
	"keyd/internal/jwe"
	"keyd/internal/partner/partnersim"
	"keyd/softhsm/softhsmtest"
)

// memoryTokens are tokens of each boundary level, for either kind of key.
var memoryTokens = map[string]func(r *memoryRig, t *testing.T){
	"SoftHSM":          (*memoryRig).imported,
	"NSS":              (*memoryRig).nss,
	"SoftHSM-ECDH":     (*memoryRig).agreeing,
	"SoftHSM-ECDH-raw": (*memoryRig).agreeingAtRaw,
	"NSS-ECDH":         (*memoryRig).agreeingInNSS,
	"p11-kit":          (*memoryRig).behindP11Kit,
}

// memoryRig is a daemon whose every secret is known.
type memoryRig struct {
	*testDaemon
	metrics string // the listener's address
	kid     string
	public  crypto.PublicKey
	algs    []jwe.SealAlg
	levels  map[string]boundary.Level // at which it opens, by enc
	secrets map[string][]byte
	leaks   bool // its library loses memory over each envelope
}

const moduleCanary = "KEYD_TEST_CANARY"

// start starts the daemon. env is more for the library's process.
func (r *memoryRig) start(t *testing.T, env string, edits ...string) {
	t.Helper()
	canary := make([]byte, 16)
	rand.Read(canary)
	r.secrets = map[string][]byte{"canary of the worker": []byte(hex.EncodeToString(canary))}
	r.algs = []jwe.SealAlg{jwe.SealRSAOAEP256}
	sim := partnersim.New(partnersim.Options{ClientID: "demo-client", ClientSecret: testSecret})
	r.metrics = freePort(t)
	r.testDaemon = startDaemon(t, sim, append(edits,
		`metrics: "off"`, "metrics: "+r.metrics,
		"    type: wise\n", "    type: wise\n    encs: [A256GCM, A256CBC-HS512, A128CBC-HS256]\n",
		"    type: pkcs11\n", fmt.Sprintf("    type: pkcs11\n    env: {%s: %x%s}\n", moduleCanary, canary, env))...)
}

// reaches says at which levels contents under GCM and under CBC are opened.
func (r *memoryRig) reaches(gcm, cbc boundary.Level) {
	r.levels = map[string]boundary.Level{boundary.A256GCM: gcm, boundary.A256CBCHS512: cbc, boundary.A128CBCHS256: cbc}
}

// generated takes the key that the daemon has made.
func (r *memoryRig) generated(t *testing.T) {
	t.Helper()
	v := r.activeVersion(t)
	block, _ := pem.Decode([]byte(v.PublicPEM))
	public, err := boundary.ParsePublic(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	r.take(v.KID, public)
}

// take has envelopes sealed to a version.
func (r *memoryRig) take(kid string, public crypto.PublicKey) {
	r.kid, r.public = kid, public
	if _, agrees := public.(*ecdh.PublicKey); agrees {
		r.algs = []jwe.SealAlg{jwe.SealECDHES, jwe.SealECDHESA128KW, jwe.SealECDHESA256KW}
	}
}

// tokenPIN is that of the SoftHSM token.
func (r *memoryRig) tokenPIN(t *testing.T) []byte {
	t.Helper()
	pin, err := os.ReadFile(filepath.Join(r.dir, "token", "pin"))
	if err != nil {
		t.Fatal(err)
	}
	return bytes.TrimSpace(pin)
}

// agreeing is a token that keeps the shared secret in, with a private key that
// came from outside.
func (r *memoryRig) agreeing(t *testing.T) {
	key, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	r.start(t, "", agreeing("P-256", adopting...)...)
	r.serves(t)
	r.reaches(boundary.Unwrap, boundary.Unwrap)
	r.leaks = true
	r.write(t, key)
	r.adopt(t, key.PublicKey())
	r.knows("d", key.Bytes())
}

// write has a tool write a key into the token that softhsm2-util only imports
// for signing.
func (r *memoryRig) write(t *testing.T, key *ecdh.PrivateKey) {
	t.Helper()
	private, err1 := x509.MarshalPKCS8PrivateKey(key)
	public, err2 := x509.MarshalPKIXPublicKey(key.PublicKey())
	file := filepath.Join(r.dir, "imported")
	if err := errors.Join(err1, err2,
		os.WriteFile(file+".pem", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600),
		os.WriteFile(file+".der", public, 0o600)); err != nil {
		t.Fatal(err)
	}
	t.Setenv("KEYD_PIN", string(r.tokenPIN(t)))
	for _, half := range [][]string{{file + ".pem", "--type", "privkey", "--private", "--sensitive"}, {file + ".der", "--type", "pubkey"}} {
		execute(t, "pkcs11-tool", append([]string{"--module", softHSMModule, "--token-label", "keyd", "--login", "--pin", "env:KEYD_PIN",
			"--label", "imported", "--id", "0badcafe", "--usage-derive", "--write-object"}, half...)...)
	}
}

// agreeingAtRaw is one that digests no keys, so that the shared secret comes out.
func (r *memoryRig) agreeingAtRaw(t *testing.T) {
	module, env, fail := faultyModule(t)
	fail("C_DigestKey 0x54") // CKR_FUNCTION_NOT_SUPPORTED
	r.start(t, ", "+env, agreeing("P-384", "module: "+softHSMModule, "module: "+module)...)
	r.reaches(boundary.Raw, boundary.Raw)
	r.generated(t)
	r.secrets["pin"] = r.tokenPIN(t)
}

// adopting edits the config to keys that come from outside.
var adopting = []string{"    drain_for: 14d\n", "    drain_for: 14d\n    first: adopt\n"}

// imported is a token with a private key that came from outside.
func (r *memoryRig) imported(t *testing.T) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	r.start(t, "", adopting...)
	r.serves(t)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(r.dir, "imported.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	r.reaches(boundary.Raw, boundary.Raw)
	execute(t, "softhsm2-util", "--import", file, "--token", "keyd", "--label", "imported", "--id", "0badcafe", "--pin", string(r.tokenPIN(t)))
	r.adopt(t, &key.PublicKey)
	for name, n := range map[string]*big.Int{"d": key.D, "p": key.Primes[0], "q": key.Primes[1],
		"dp": key.Precomputed.Dp, "dq": key.Precomputed.Dq, "qinv": key.Precomputed.Qinv} {
		r.knows(name, n.Bytes())
	}
}

// serves waits until the daemon has opened the token: while a tool logs in to it,
// SoftHSM now and then cannot tell what it is, and a start fails with that.
func (r *memoryRig) serves(t *testing.T) {
	t.Helper()
	waitFor(t, func() bool { _, err := client.New(r.admin).VersionInfo(t.Context()); return err == nil })
}

// adopt has the daemon take over the key that was imported.
func (r *memoryRig) adopt(t *testing.T, public crypto.PublicKey) {
	t.Helper()
	kid := uuid.NewString()
	if code, _, stderr := invoke(t, "keys", "adopt", "wise-response", "--kid", kid, "--find", "imported",
		"--valid-till", time.Now().AddDate(0, 1, 0).UTC().Format(time.RFC3339), "--told", "--socket", r.admin); code != exitOK {
		t.Fatalf("adopting: %s", stderr)
	}
	r.take(kid, public)
	r.secrets["pin"] = r.tokenPIN(t)
}

// knows has a number of the private key looked for, in the byte order of PKCS #11
// and in that of the libraries' own big numbers.
func (r *memoryRig) knows(name string, big []byte) {
	r.secrets["private key, "+name] = big[:24]
	little := slices.Clone(big[len(big)-24:])
	slices.Reverse(little)
	r.secrets["private key, little-endian, "+name] = little
}

// nss is a token whose softoken opens at a better level than SoftHSM.
func (r *memoryRig) nss(t *testing.T) { r.inNSS(t) }

func (r *memoryRig) agreeingInNSS(t *testing.T) { r.inNSS(t, agreeing("P-521")...) }

func (r *memoryRig) inNSS(t *testing.T, edits ...string) {
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
	r.start(t, "", append(edits, softHSMModule, found[0], "token_label: keyd\n", fmt.Sprintf("token_label: %s\n    init_args: %q\n", label, args),
		"file:DIR/token/pin", "file:"+dir+"/pin")...)
	r.reaches(boundary.Sealed, boundary.Unwrap)
	r.generated(t)
	r.secrets["pin"] = []byte(pin)
}

// behindP11Kit is a token in another process than the library: SoftHSM behind
// `p11-kit server`.
func (r *memoryRig) behindP11Kit(t *testing.T) {
	t.Helper()
	token := softhsmtest.Other(t, "p11kit")
	r.start(t, "", "module: "+softHSMModule, "module: "+token.Module, "token_label: keyd\n", "token_label: "+token.Label+"\n",
		"file:DIR/token/pin", "file:"+token.Dir+"/pin")
	r.reaches(boundary.Raw, boundary.Raw)
	r.generated(t)
	r.secrets["pin"] = []byte(token.PIN)
}
