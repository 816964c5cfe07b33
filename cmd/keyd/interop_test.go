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
	"strings"
	"testing"

	"keyd/client"
	"keyd/internal/partner/partnersim"
)

// TestAnOutsideImplementationAndKeydOpenEachOthersEnvelopes exchanges envelopes
// with npm's jose (and jwcrypto, where it seals), both ways, through the daemon
// and a real token.
func TestAnOutsideImplementationAndKeydOpenEachOthersEnvelopes(t *testing.T) {
	theirs, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	d := startDaemon(t, wiseWithKey(t, theirs), "type: wise", "type: wise\n    encs: ["+strings.Join(everyEnc, ", ")+"]")
	v := d.activeVersion(t)
	c := client.New(d.client)

	t.Run("they seal, keyd opens in the token", func(t *testing.T) {
		for text, envelope := range sealedOutside(t, v.PublicPEM, v.KID, "RSA-OAEP-256") {
			opened, err := c.Decrypt(t.Context(), "wise", envelope)
			if err != nil {
				t.Errorf("%s: %v", text, err)
				continue
			}
			if string(opened.Plaintext) != text || opened.KID != v.KID {
				t.Errorf("%s: got %q under %s", text, opened.Plaintext, opened.KID)
			}
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

var everyEnc = []string{"A128GCM", "A192GCM", "A256GCM", "A128CBC-HS256", "A256CBC-HS512"}

// sealedOutside are envelopes that npm's jose and jwcrypto seal to a key with each
// of the algs and every enc, by the text in them.
func sealedOutside(t *testing.T, publicPEM, kid string, algs ...string) map[string][]byte {
	t.Helper()
	envelopes := map[string][]byte{}
	for _, program := range [][]string{{"node", "../../interop/batch.mjs"}, {"/usr/bin/python3", "../../interop/batch.py"}} {
		var cases []map[string]any
		var texts []string
		for _, alg := range algs {
			for _, enc := range everyEnc {
				text := filepath.Base(program[1]) + ": " + alg + " with " + enc
				texts = append(texts, text)
				cases = append(cases, map[string]any{"do": "seal", "alg": alg, "enc": enc, "kid": kid, "public": publicPEM, "text": []byte(text)})
			}
		}
		in, err := json.Marshal(cases)
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), program[0], program[1:]...)
		cmd.Stdin, cmd.Stderr = bytes.NewReader(in), t.Output()
		out, err := cmd.Output()
		var results []struct{ Compact, Error string }
		if err == nil {
			err = json.Unmarshal(out, &results)
		}
		if err != nil || len(results) != len(cases) {
			t.Fatalf("%s (make outside installs it): %d results, %v", program[1], len(results), err)
		}
		for i, r := range results {
			if r.Compact == "" {
				t.Errorf("%s: %s", texts[i], r.Error)
			}
			envelopes[texts[i]] = []byte(r.Compact)
		}
	}
	return envelopes
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
