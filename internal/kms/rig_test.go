package kms_test

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"keyd/internal/boundary"
	"keyd/internal/kms"
	"keyd/internal/kms/kmstest"
	"keyd/internal/rotation"
)

var (
	_ rotation.Backend  = (*kms.Backend)(nil)
	_ rotation.Signer   = (*kms.Backend)(nil)
	_ rotation.Disabler = (*kms.Backend)(nil)
	_ rotation.Rescuer  = (*kms.Backend)(nil)
)

// TestMain gives AWS's SDK credentials that are worth nothing, and nothing else.
func TestMain(m *testing.M) {
	for name, value := range map[string]string{"AWS_ACCESS_KEY_ID": "AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY": "worthless",
		"AWS_CONFIG_FILE": os.DevNull, "AWS_SHARED_CREDENTIALS_FILE": os.DevNull, "AWS_EC2_METADATA_DISABLED": "true",
		"AWS_PROFILE": "", "AWS_SESSION_TOKEN": "", "AWS_WEB_IDENTITY_TOKEN_FILE": ""} {
		if err := os.Setenv(name, value); err != nil {
			panic(err)
		}
	}
	os.Exit(m.Run())
}

// config is a backend on a simulator, with a budget that does not show.
func config(t *testing.T, s *kmstest.Server) kms.Config {
	return kms.Config{Name: "aws", Instance: "test", Region: "us-east-1", HTTPClient: &http.Client{Transport: s.Transport()},
		Budget: kms.Budget{RSA: 1e5, ECC: 1e5, Look: 1e5, List: 1e5, Change: 1e5}, Logger: slog.New(slog.NewTextHandler(t.Output(), nil))}
}

func open(t *testing.T, s *kmstest.Server, change ...func(*kms.Config)) *kms.Backend {
	t.Helper()
	cfg := config(t, s)
	for _, f := range change {
		f(&cfg)
	}
	b, err := kms.Open(t.Context(), cfg)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	return b
}

func spec() boundary.Spec {
	return boundary.Spec{Key: "wise-response", KID: uuid.NewString(), Material: boundary.Material{Algorithm: boundary.RSAOAEP256, Bits: 2048}}
}

// materials are one of each kind of key.
var materials = []boundary.Material{{Algorithm: boundary.RSAOAEP256, Bits: 2048}, {Algorithm: boundary.ECDHES, Curve: "P-256"}, {Algorithm: boundary.PS256, Bits: 2048}}

// specFor names a new key of a kind.
func specFor(m boundary.Material) boundary.Spec {
	return boundary.Spec{Key: "wise-response", KID: uuid.NewString(), Material: m}
}

func generate(t *testing.T, b *kms.Backend, s boundary.Spec) boundary.Generated {
	t.Helper()
	g, err := b.Generate(t.Context(), s)
	if err != nil {
		t.Fatalf("Generate: %v", err)
	}
	return g
}

// request has somebody else than keyd ask for something.
func request(t *testing.T, s *kmstest.Server, op string, in any) {
	t.Helper()
	body, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", bytes.NewReader(body))
	r.Header.Set("Content-Type", "application/x-amz-json-1.1")
	r.Header.Set("X-Amz-Target", "TrentService."+op)
	r.Header.Set("X-Amz-Date", "20260101T000000Z")
	r.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential=A/20260101/us-east-1/kms/aws4_request, "+
		"SignedHeaders=host;x-amz-date;x-amz-target, Signature="+strings.Repeat("0", 64))
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	if w.Code != http.StatusOK {
		t.Fatalf("%s: %s", op, w.Body)
	}
}

func rsaOf(t *testing.T, public crypto.PublicKey) *rsa.PublicKey {
	t.Helper()
	key, ok := public.(*rsa.PublicKey)
	if !ok {
		t.Fatalf("the public key is a %T", public)
	}
	return key
}

// alive counts the keys that are not being deleted.
func alive(s *kmstest.Server) int {
	n := 0
	for _, k := range s.Keys() {
		if k.State != kmstest.PendingDeletion {
			n++
		}
	}
	return n
}

const day = 24 * time.Hour
