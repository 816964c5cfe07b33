package partner_test

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"keyd/internal/partner"
	"keyd/internal/partner/partnersim"
)

// outside runs a program that is none of ours.
func outside(t *testing.T, input []byte, name string, args ...string) []byte {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	var stderr bytes.Buffer
	cmd.Stdin, cmd.Stderr = bytes.NewReader(input), &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %v (make outside installs it): %v: %s", name, args, err, &stderr)
	}
	return out
}

func keyFile(t *testing.T, kind string, der []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "key.pem")
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

const venlyScript = "../../interop/venly.mjs"

// WebCrypto opens what keyd seals for Venly, in both forms.
func TestWebCryptoOpensVenlysEnvelopes(t *testing.T) {
	private := keyFile(t, "PRIVATE KEY", must(x509.MarshalPKCS8PrivateKey(rsaKey())))
	v := venly(t, &wire{})
	body := []byte(`{"transactionRequest":{"value":1}}`)
	header := must(v.SealHeader(&rsaKey().PublicKey, "k1", partner.SigningMethod{ID: aMethod, Value: []byte("12é\"4"), IdempotencyKey: testKID}, body))
	var got map[string]any
	if err := json.Unmarshal(outside(t, must(base64.StdEncoding.DecodeString(header)), "node", venlyScript, "open", private), &got); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(body)
	signature, _ := got["signature"].(map[string]any)
	if got["id"] != aMethod || got["value"] != "12é\"4" || got["idempotencyKey"] != testKID || signature["type"] != "sha256" ||
		signature["value"] != base64.StdEncoding.EncodeToString(sum[:]) {
		t.Errorf("got %v", got)
	}
	plain := []byte(`{"reference":"r"}`)
	if got := outside(t, must(v.SealBody(&rsaKey().PublicKey, "k1", plain)), "node", venlyScript, "open", private); !bytes.Equal(got, plain) {
		t.Errorf("got %s", got)
	}
}

// The simulator opens what WebCrypto seals, so that it is a fair judge of ours.
func TestTheSimulatorOpensWhatWebCryptoSeals(t *testing.T) {
	sim := partnersim.New(partnersim.Options{})
	v := venly(t, sim.Transport(), func(c *partner.VenlyConfig) { c.BaseURL = "https://partner.example/venly" })
	id, _, _, key, err := v.FetchKey(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	public := keyFile(t, "PUBLIC KEY", must(x509.MarshalPKIXPublicKey(key)))
	sealed := outside(t, []byte(`{"reference":"r"}`), "node", venlyScript, "seal", public, id)
	res, err := v.Do(t.Context(), partner.Request{Method: "POST", Path: "/api/users", Body: sealed})
	if err != nil || res.Status != 200 {
		t.Errorf("got %+v, %v", res, err)
	}
}

// OpenSSL unwraps the content key of an envelope: OAEP with SHA-256 in both
// places.
func TestOpenSSLUnwrapsVenlysContentKey(t *testing.T) {
	private := keyFile(t, "PRIVATE KEY", must(x509.MarshalPKCS8PrivateKey(rsaKey())))
	var e struct {
		Encryption struct {
			Key struct{ EncryptedValue []byte }
		}
	}
	if err := json.Unmarshal(must(venly(t, &wire{}).SealBody(&rsaKey().PublicKey, "k1", []byte(`{}`))), &e); err != nil {
		t.Fatal(err)
	}
	content := outside(t, e.Encryption.Key.EncryptedValue, "openssl", "pkeyutl", "-decrypt", "-inkey", private,
		"-pkeyopt", "rsa_padding_mode:oaep", "-pkeyopt", "rsa_oaep_md:sha256", "-pkeyopt", "rsa_mgf1_md:sha256")
	if len(content) != 32 {
		t.Errorf("a content key of %d bytes", len(content))
	}
}

// Keys as OpenSSL writes them are read in every form.
func TestKeysThatOpenSSLWrites(t *testing.T) {
	rsaPEM := keyFile(t, "PRIVATE KEY", must(x509.MarshalPKCS8PrivateKey(rsaKey())))
	for name, args := range map[string][]string{
		"PEM":         {"-pubout"},
		"DER":         {"-pubout", "-outform", "DER"},
		"PEM, PKCS#1": {"-RSAPublicKey_out"},
		"DER, PKCS#1": {"-RSAPublicKey_out", "-outform", "DER"},
	} {
		key := outside(t, nil, "openssl", append([]string{"rsa", "-in", rsaPEM}, args...)...)
		text := string(key)
		if !bytes.HasPrefix(key, []byte("-----")) {
			text = base64.StdEncoding.EncodeToString(key)
		}
		w := openCard(t, &wire{Handler: routes{askCard: always(200, toJSON(map[string]any{"version": 1, "key": text}))}})
		if _, _, _, public, err := w.FetchKeyAs(t.Context(), "Bearer user-1"); err != nil || !rsaKey().PublicKey.Equal(public) {
			t.Errorf("%s: %v", name, err)
		}
	}
	ecPEM := outside(t, nil, "openssl", "ec", "-in", keyFile(t, "PRIVATE KEY", must(x509.MarshalPKCS8PrivateKey(ecKey()))), "-pubout")
	h := &wire{Handler: routes{"POST " + jhToken: always(200, tokenBody("token-1", 600)),
		"GET " + jhKey: always(200, toJSON(map[string]string{"publicKey": base64.StdEncoding.EncodeToString(ecPEM), "keyId": "k"}))}}
	_, _, _, public, err := jackHenry(t, h, &ps256{key: rsaKey()}).FetchKey(t.Context())
	if err != nil || spki(public) != spki(&ecKey().PublicKey) {
		t.Errorf("EC: %v", err)
	}
	// And OpenSSL reads ours as we write it into requests.
	raw := must(jackHenry(t, h, &ps256{}, func(c *partner.JackHenryConfig) { c.KeyForm = partner.KeyBase64PEM }).PublicKey(public, ""))
	var text string
	if err := json.Unmarshal(raw, &text); err != nil {
		t.Fatal(err)
	}
	if got := outside(t, must(base64.StdEncoding.DecodeString(text)), "openssl", "pkey", "-pubin", "-outform", "DER"); !bytes.Equal(got, must(x509.MarshalPKIXPublicKey(&ecKey().PublicKey))) {
		t.Errorf("OpenSSL read another key")
	}
}

// npm jose takes the client assertion for what it is.
func TestNpmJoseVerifiesTheClientAssertion(t *testing.T) {
	var jwt string
	h := &wire{Handler: routes{"POST " + jhToken: func(w http.ResponseWriter, r *http.Request) {
		jwt = r.PostFormValue("client_assertion")
		reply(w, 200, tokenBody("token-1", 600))
	}, "GET " + jhKey: always(200, toJSON(map[string]string{"publicKey": spki(&ecKey().PublicKey), "keyId": "k"}))}}
	if _, _, _, _, err := jackHenry(t, h, &ps256{key: rsaKey(), kid: testKID}).FetchKey(t.Context()); err != nil {
		t.Fatal(err)
	}
	public := keyFile(t, "PUBLIC KEY", must(x509.MarshalPKIXPublicKey(&rsaKey().PublicKey)))
	var got struct{ Header map[string]string }
	out := outside(t, []byte(jwt), "node", "../../interop/assertion.mjs", public, partnersim.DemoJackHenryClientID, "https://partner.example"+jhToken)
	if err := json.Unmarshal(out, &got); err != nil || got.Header["kid"] != testKID {
		t.Errorf("got %s, %v", out, err)
	}
}
