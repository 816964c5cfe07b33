package hsm_test

import (
	"crypto/aes"
	"crypto/cipher"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/miekg/pkcs11"

	"keyd/internal/boundary"
	"keyd/internal/hsm"
	"keyd/softhsm/softhsmtest"
)

func TestMain(m *testing.M) {
	// NSS derives a key from the PIN for every private attribute it reads, by
	// default so slowly that an RSA operation takes 45 ms.
	if err := os.Setenv("NSS_MAX_MP_PBE_ITERATION_COUNT", "1"); err != nil {
		panic(err)
	}
	if len(os.Args) > 1 && strings.HasPrefix(os.Args[1], "hsm-worker") {
		os.Exit(serveWorker())
	}
	os.Exit(m.Run())
}

// softHSM makes a token and a config for it.
func softHSM(t testing.TB) hsm.Config {
	t.Helper()
	token := softhsmtest.New(t)
	t.Setenv("SOFTHSM2_CONF", token.Conf)
	return config(t, token.Module, token.Label, token.PIN)
}

func config(t testing.TB, module, label, pin string) hsm.Config {
	return hsm.Config{
		Name: "hsm", Instance: "test", Module: module, TokenLabel: label,
		PIN:          func() ([]byte, error) { return []byte(pin), nil },
		PINGuardPath: filepath.Join(t.TempDir(), "pin-refused"),
		Sessions:     4, SessionWait: 5 * time.Second, CallTimeout: 30 * time.Second,
		Logger: slog.New(slog.NewTextHandler(output(t), nil)),
	}
}

// output is the test's own output. testing.TB does not promise it.
func output(t testing.TB) io.Writer {
	if t, ok := t.(interface{ Output() io.Writer }); ok {
		return t.Output()
	}
	return io.Discard
}

// nss makes a database with NSS softoken, which has no tool of its own for it,
// and a config for it.
func nss(t testing.TB) hsm.Config {
	t.Helper()
	found, err := filepath.Glob("/usr/lib/*/libsoftokn3.so")
	if err != nil || len(found) == 0 {
		t.Fatalf("no NSS softoken (make softhsm installs it): %v", err)
	}
	const label, pin = "keyd-nss", "a PIN for NSS"
	cfg := config(t, found[0], label, pin)
	cfg.Reserved = "configdir='sql:" + t.TempDir() + "' certPrefix='' keyPrefix='' secmod='secmod.db' dbTokenDescription='" + label + "'"
	ctx, slot, _ := initialised(t, cfg)
	session(t, ctx, slot, func(s pkcs11.SessionHandle) {
		must(t, ctx.Login(s, pkcs11.CKU_SO, ""))
		must(t, ctx.InitPIN(s, pin))
	})
	must(t, ctx.Finalize())
	return cfg
}

// initialised loads the module behind keyd's back and finds the token. It says
// whether nobody had initialised the module before.
func initialised(t testing.TB, cfg hsm.Config) (_ *pkcs11.Ctx, slot uint, first bool) {
	t.Helper()
	ctx := pkcs11.New(cfg.Module)
	if ctx == nil {
		t.Fatalf("loading %s", cfg.Module)
	}
	var opts []pkcs11.InitializeOption
	var pin runtime.Pinner
	t.Cleanup(pin.Unpin)
	if cfg.Reserved != "" {
		text := append([]byte(cfg.Reserved), 0)
		pin.Pin(&text[0])
		opts = append(opts, pkcs11.InitializeWithReserved(unsafe.Pointer(&text[0])))
	}
	err := ctx.Initialize(opts...)
	if err != nil && !errors.Is(err, pkcs11.Error(pkcs11.CKR_CRYPTOKI_ALREADY_INITIALIZED)) {
		t.Fatalf("initialising %s: %v", cfg.Module, err)
	}
	first = err == nil
	slots, err := ctx.GetSlotList(true)
	must(t, err)
	for _, slot := range slots {
		if info, err := ctx.GetTokenInfo(slot); err == nil && info.Label == cfg.TokenLabel {
			return ctx, slot, first
		}
	}
	t.Fatalf("no token %q", cfg.TokenLabel)
	return nil, 0, false
}

// session runs f in a session of its own.
func session(t testing.TB, ctx *pkcs11.Ctx, slot uint, f func(pkcs11.SessionHandle)) {
	t.Helper()
	s, err := ctx.OpenSession(slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
	must(t, err)
	defer func() { must(t, ctx.CloseSession(s)) }()
	f(s)
}

// outside runs f in a session that is logged in, beside whatever keyd does.
func outside(t testing.TB, cfg hsm.Config, f func(*pkcs11.Ctx, pkcs11.SessionHandle)) {
	t.Helper()
	ctx, slot, first := initialised(t, cfg)
	if first {
		defer func() { must(t, ctx.Finalize()) }()
	}
	pin, err := cfg.PIN()
	must(t, err)
	session(t, ctx, slot, func(s pkcs11.SessionHandle) {
		if err := ctx.Login(s, pkcs11.CKU_USER, string(pin)); !errors.Is(err, pkcs11.Error(pkcs11.CKR_USER_ALREADY_LOGGED_IN)) {
			must(t, err)
		}
		f(ctx, s)
	})
}

// open opens a token and closes it after the test.
func open(t testing.TB, cfg hsm.Config) *hsm.Token {
	t.Helper()
	token, err := hsm.Open(t.Context(), cfg)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	t.Cleanup(func() {
		if err := token.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return token
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// gcmEnvelope seals "from outside" under cek.
func gcmEnvelope(t testing.TB, cek, wrapped []byte) *boundary.Envelope {
	t.Helper()
	block, err := aes.NewCipher(cek)
	must(t, err)
	gcm, err := cipher.NewGCM(block)
	must(t, err)
	env := &boundary.Envelope{Alg: boundary.RSAOAEP256, Enc: boundary.A256GCM, EncryptedKey: wrapped,
		IV: make([]byte, gcm.NonceSize()), AAD: []byte("header")}
	sealed := gcm.Seal(nil, env.IV, []byte("from outside"), env.AAD)
	cut := len(sealed) - gcm.Overhead()
	env.Ciphertext, env.Tag = sealed[:cut], sealed[cut:]
	return env
}
