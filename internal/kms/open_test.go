package kms_test

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"keyd/internal/boundary"
	"keyd/internal/kms"
	"keyd/internal/kms/kmstest"
	"keyd/internal/rotation/backendtest"
)

func TestWhatKMSRefusesHasANameOfItsOwn(t *testing.T) {
	for name, tt := range map[string]struct {
		code string
		want []error
	}{
		"throttled":        {"ThrottlingException", []error{boundary.ErrBusy}},
		"denied":           {"AccessDeniedException", []error{kms.ErrDenied, boundary.ErrUnavailable}},
		"expired":          {"ExpiredTokenException", []error{kms.ErrDenied, boundary.ErrUnavailable}},
		"disabled":         {"DisabledException", []error{boundary.ErrDisabled, boundary.ErrUnavailable}},
		"gone":             {"NotFoundException", []error{boundary.ErrNoKey}},
		"of another use":   {"InvalidKeyUsageException", []error{kms.ErrUsage, boundary.ErrUnsupported}},
		"down":             {"KMSInternalException", []error{boundary.ErrUnavailable}},
		"away for a while": {"KMSInvalidStateException", []error{boundary.ErrUnavailable}},
		"cut off":          {"", []error{kms.ErrUnreachable, boundary.ErrUnavailable}},
	} {
		for op, prepare := range uses {
			t.Run(name+", "+op, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { refused(t, op, prepare, tt.code, tt.want) })
			})
		}
	}
}

// uses are the operations with a private key; each makes a key of its own kind.
var uses = map[string]func(t *testing.T, b *kms.Backend) func(context.Context) error{
	"Decrypt": func(t *testing.T, b *kms.Backend) func(context.Context) error {
		g := generate(t, b, spec())
		env := backendtest.Seal(t, rsaOf(t, g.Public), boundary.A256GCM, []byte("x"), nil)
		return func(ctx context.Context) error { _, err := b.Open(ctx, g.Handle, env); return err }
	},
	"DeriveSharedSecret": func(t *testing.T, b *kms.Backend) func(context.Context) error {
		g := generate(t, b, specFor(materials[1]))
		env := backendtest.Agree(t, g.Public.(*ecdh.PublicKey), boundary.ECDHESA128KW, boundary.A256GCM, []byte("x"), nil)
		return func(ctx context.Context) error { _, err := b.Open(ctx, g.Handle, env); return err }
	},
	"Sign": func(t *testing.T, b *kms.Backend) func(context.Context) error {
		g := generate(t, b, specFor(materials[2]))
		return func(ctx context.Context) error { _, err := b.Sign(ctx, g.Handle, make([]byte, 32)); return err }
	},
}

// refused has KMS answer a code to an operation, and heal.
func refused(t *testing.T, op string, prepare func(*testing.T, *kms.Backend) func(context.Context) error, code string, wants []error) {
	s := kmstest.New(kmstest.Options{})
	use := prepare(t, open(t, s))
	s.Inject(kmstest.Fault{Op: op, Code: code, Drop: code == "", Times: 3})
	err := use(t.Context())
	for _, want := range wants {
		if !errors.Is(err, want) {
			t.Errorf("got %v, want %v", err, want)
		}
	}
	if errors.Is(err, boundary.ErrOpen) {
		t.Errorf("%v: that is no fault of the envelope", err)
	}
	after, says := errors.AsType[interface {
		error
		RetryAfter() time.Duration
	}](err)
	if busy := errors.Is(err, boundary.ErrBusy); says != busy || says && after.RetryAfter() <= 0 {
		t.Errorf("%v says when to come back: %t, want %t", err, says, busy)
	}
	s.Heal()
	if err := use(t.Context()); err != nil {
		t.Errorf("healed: %v", err)
	}
}

// Whatever the sender got wrong about the content key, the work done and the
// error are those of a forged tag.
func TestABadContentKeyGoesOnToTheTag(t *testing.T) {
	s := kmstest.New(kmstest.Options{})
	b := open(t, s)
	g := generate(t, b, spec())
	for name, change := range map[string]func(*boundary.Envelope){
		"forged tag":         func(e *boundary.Envelope) { e.Tag[0] ^= 1 },
		"broken content key": func(e *boundary.Envelope) { e.EncryptedKey[9] ^= 1 },
	} {
		before := s.Calls("Decrypt")
		env := backendtest.Seal(t, rsaOf(t, g.Public), boundary.A256GCM, []byte("x"), nil)
		change(env)
		if _, err := b.Open(t.Context(), g.Handle, env); err != boundary.ErrOpen { //nolint:errorlint // the bare one
			t.Errorf("%s: Open: %v, want the bare boundary.ErrOpen", name, err)
		}
		if n := s.Calls("Decrypt") - before; n != 1 {
			t.Errorf("%s: KMS was asked %d times, want once", name, n)
		}
	}
}

func TestAnOperatorsDisabledKeyIsNotGone(t *testing.T) {
	s := kmstest.New(kmstest.Options{})
	b, sp := open(t, s), spec()
	g := generate(t, b, sp)
	request(t, s, "DisableKey", map[string]any{"KeyId": g.Handle})
	if _, err := b.Public(t.Context(), g.Handle); !errors.Is(err, boundary.ErrDisabled) {
		t.Errorf("Public: %v, want ErrDisabled", err)
	}
	if all, err := b.List(t.Context()); err != nil || len(all) != 1 || all[0].Public != nil || all[0].KID != sp.KID {
		t.Errorf("List = %+v, %v, want the key without its public half", all, err)
	}
	if gone, err := b.Destroy(t.Context(), g.Handle); gone || err != nil || alive(s) != 0 {
		t.Errorf("Destroy = %t, %v, want it scheduled", gone, err)
	}
}

func TestHealthAsksKMSOnlyWhenNothingElseDid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := kmstest.New(kmstest.Options{})
		b := open(t, s, func(c *kms.Config) { c.FIPS = true })
		generate(t, b, spec())
		before := s.Calls("ListAliases")
		if h := b.Health(t.Context()); h.Err != "" || h.Kind != "kms" || h.Device["account"] == "" || h.Device["fips"] != "true" {
			t.Errorf("Health = %+v", h)
		}
		if s.Calls("ListAliases") != before {
			t.Error("KMS was asked although it had just answered")
		}
		time.Sleep(time.Minute)
		s.Deny("ListAliases")
		if h := b.Health(t.Context()); !strings.Contains(h.Err, "ListAliases") || !strings.Contains(h.Err, "AccessDeniedException") {
			t.Errorf("Health = %+v, want what is denied", h)
		}
		s.Heal()
		if h := b.Health(t.Context()); h.Err != "" || s.Calls("ListAliases") != before+2 {
			t.Errorf("Health = %+v, want it well and asked anew", h)
		}
		s.Deny("ListKeys")
		if _, err := b.List(t.Context()); err == nil {
			t.Error("List was denied and says nothing")
		}
		if b.Health(t.Context()); s.Calls("ListAliases") != before+4 { // List's own, and this one
			t.Error("after a refusal Health relied on the answer before it")
		}
	})
}

func TestEveryCallIsObservedAndNoSecretIsLogged(t *testing.T) {
	s := kmstest.New(kmstest.Options{})
	var lines bytes.Buffer
	seen := map[string]int{}
	b := open(t, s, func(c *kms.Config) {
		c.Logger = slog.New(slog.NewTextHandler(&lines, &slog.HandlerOptions{Level: slog.LevelDebug}))
		c.Observe = func(op string, wait, inside time.Duration, err error) {
			if wait < 0 || inside < 0 || err != nil && op != "DescribeKey" {
				t.Errorf("%s: %s, %s, %v", op, wait, inside, err)
			}
			seen[op]++
		}
	})
	g := generate(t, b, spec())
	secret := "the plaintext"
	if _, err := b.Open(t.Context(), g.Handle, backendtest.Seal(t, rsaOf(t, g.Public), boundary.A256GCM, []byte(secret), nil)); err != nil {
		t.Fatal(err)
	}
	for _, op := range []string{"CreateKey", "CreateAlias", "GetPublicKey", "Decrypt"} {
		if seen[op] != 1 {
			t.Errorf("%s was observed %d times, want once", op, seen[op])
		}
	}
	if strings.Contains(lines.String(), secret) {
		t.Error("the plaintext is in the log")
	}
}

func TestOpenChecksItsConfigWhole(t *testing.T) {
	_, err := kms.Open(t.Context(), kms.Config{Endpoint: "http://kms.example", FIPS: true, DeletionWindowDays: 3, Policy: "{", Timeout: -1,
		Concurrency: -1, Tags: map[string]string{"keyd:kid": "x", "": "y"}, Budget: kms.Budget{ECC: -1}, CustomKeyStore: "cks-1"})
	for _, want := range []string{"no name", "instance", "region", "https://", "FIPS", "deletion window", "key policy", "timeout", "concurrency",
		"reserved", "too long", "budget", "custom key store", "no logger"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not speak of %q", err, want)
		}
	}
	for endpoint, ok := range map[string]bool{"https://vpce-1.kms.eu-central-1.vpce.amazonaws.com": true, "http://127.0.0.1:4566": true, "http://[::1]:1/": true,
		"http://localhost:1": false, "https://u:p@h": false, "https://h/path": false, "h": false, "\x00": false, "ftp://127.0.0.1": false} {
		cfg := config(t, kmstest.New(kmstest.Options{}))
		cfg.Endpoint = endpoint
		if _, err := kms.Open(t.Context(), cfg); (err == nil) != ok {
			t.Errorf("endpoint %q: %v, want it accepted: %t", endpoint, err, ok)
		}
	}
	cfg := config(t, kmstest.New(kmstest.Options{}))
	cfg.Tags = map[string]string{"team": "pay;roll"}
	for i := range 47 {
		cfg.Tags[fmt.Sprint("cost center ", i)] = "a.b:c/d=e+f-g@h_é"
	}
	if _, err := kms.Open(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "48 tags") || strings.Count(err.Error(), "want letters") != 1 {
		t.Errorf("48 tags, one of them not KMS's to have: %v", err)
	}
	cfg = config(t, kmstest.New(kmstest.Options{}))
	cfg.Profile = "none"
	if _, err := kms.Open(t.Context(), cfg); err == nil {
		t.Error("a profile that is not there was accepted")
	}
}

func TestMissingCredentialsAreSaidToBe(t *testing.T) {
	for _, name := range []string{"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"} {
		t.Setenv(name, "")
	}
	b, err := kms.Open(t.Context(), kms.Config{Name: "aws", Instance: "test", Region: "us-east-1", Timeout: 5 * time.Second,
		Endpoint: "http://127.0.0.1:1", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.List(t.Context()); !errors.Is(err, kms.ErrDenied) {
		t.Errorf("List: %v, want ErrDenied", err)
	}
	if os.Getenv("AWS_EC2_METADATA_DISABLED") == "" {
		t.Error("the test may have asked a real metadata service")
	}
}
