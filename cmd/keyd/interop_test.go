package main

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"keyd/client"
	"keyd/internal/partner/partnersim"
)

// TestAnOutsideImplementationAndKeydOpenEachOthersEnvelopes exchanges envelopes
// with npm's jose, both ways, through the daemon and a real token.
func TestAnOutsideImplementationAndKeydOpenEachOthersEnvelopes(t *testing.T) {
	theirs, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	d := startDaemon(t, wiseWithKey(t, theirs))
	v := d.activeVersion(t)
	c := client.New(d.client)

	t.Run("they seal, keyd opens in the token", func(t *testing.T) {
		public := write(t, "public.pem", []byte(v.PublicPEM))
		want := []byte(`{"from":"outside"}`)
		envelope := jose(t, want, "encrypt", public, "A256GCM", v.KID)
		opened, err := c.Decrypt(t.Context(), "wise", envelope)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(opened.Plaintext, want) || opened.KID != v.KID {
			t.Errorf("got %q under %s, want %q under %s", opened.Plaintext, opened.KID, want, v.KID)
		}
	})

	t.Run("keyd seals, they open", func(t *testing.T) {
		der, err := x509.MarshalPKCS8PrivateKey(theirs)
		if err != nil {
			t.Fatal(err)
		}
		private := write(t, "private.pem", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
		want := []byte(`{"from":"keyd"}`)
		sealed, err := c.Encrypt(t.Context(), "wise", want, client.EncryptOptions{URL: "/v1/cases"})
		if err != nil {
			t.Fatal(err)
		}
		var got struct {
			Header    map[string]string
			Plaintext []byte
		}
		if err := json.Unmarshal(jose(t, []byte(sealed.JWE), "decrypt", private), &got); err != nil {
			t.Fatal(err)
		}
		header := map[string]string{"alg": "RSA-OAEP-256", "enc": "A256GCM", "kid": v.KID, "url": "/v1/cases"}
		for name, value := range header {
			if got.Header[name] != value {
				t.Errorf("header %s: got %q, want %q", name, got.Header[name], value)
			}
		}
		if !bytes.Equal(got.Plaintext, want) || len(got.Header) != len(header) {
			t.Errorf("got %q with %v, want %q with %v", got.Plaintext, got.Header, want, header)
		}
	})
}

// wiseWithKey is the simulator, but for Wise's own key, whose private half the
// test must have.
func wiseWithKey(t *testing.T, key *rsa.PrivateKey) http.Handler {
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle("/", partnersim.New(partnersim.Options{ClientID: "demo-client", ClientSecret: testSecret}))
	mux.HandleFunc("GET /v1/auth/jose/response/public-keys", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]any{"version": 1, "scope": "PAYLOAD_ENCRYPTION",
			"keyMaterial": map[string]string{"algorithm": "RSA_OAEP_256", "keyMaterial": base64.StdEncoding.EncodeToString(der)}})
	})
	return mux
}

func jose(t *testing.T, input []byte, args ...string) []byte {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "node", append([]string{"../../interop/jose.mjs"}, args...)...)
	cmd.Stdin, cmd.Stderr = bytes.NewReader(input), t.Output()
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("node jose.mjs %s (make outside installs it): %v", args[0], err)
	}
	return out
}

func write(t *testing.T, name string, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
