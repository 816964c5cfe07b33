package jwe_test

import (
	"bytes"
	"crypto"
	"crypto/ecdh"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"keyd/internal/boundary"
	"keyd/internal/jwe"
)

// outsiders are implementations that have nothing to do with keyd or with Go.
var outsiders = map[string][]string{
	"npm jose": {"node", "../../interop/batch.mjs"},
	"jwcrypto": {"/usr/bin/python3", "../../interop/batch.py"}, // Debian's, whose package it is,
}

// outsideCase is one envelope for an outsider; outsideResult what became of it.
type outsideCase struct {
	Do      string `json:"do"`
	Alg     string `json:"alg,omitempty"`
	Enc     string `json:"enc,omitempty"`
	KID     string `json:"kid,omitempty"`
	Public  string `json:"public,omitempty"`
	Private string `json:"private,omitempty"`
	Compact string `json:"compact,omitempty"`
	Key     []byte `json:"key,omitempty"`
	Text    []byte `json:"text,omitempty"`
	APU     []byte `json:"apu,omitempty"`
	APV     []byte `json:"apv,omitempty"`
}

type outsideResult struct {
	Compact, Error string
	Text           []byte
	Header         map[string]any
}

func outside(t *testing.T, name string, cases []outsideCase) []outsideResult {
	t.Helper()
	in, err := json.Marshal(cases)
	if err != nil {
		t.Fatal(err)
	}
	command := outsiders[name]
	cmd := exec.CommandContext(t.Context(), command[0], command[1:]...)
	cmd.Stdin, cmd.Stderr = bytes.NewReader(in), t.Output()
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s (make outside installs it): %v", name, err)
	}
	var results []outsideResult
	if err := json.Unmarshal(out, &results); err != nil || len(results) != len(cases) {
		t.Fatalf("%s: %d results of %d, %v", name, len(results), len(cases), err)
	}
	return results
}

func pems(t *testing.T, private any) (publicPEM, privatePEM string) {
	t.Helper()
	var public crypto.PublicKey
	if p, ok := private.(interface{ Public() crypto.PublicKey }); ok {
		public = p.Public()
	}
	spki, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki})), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}))
}

// What keyd seals they open, in every alg, curve and enc.
func TestOutsideImplementationsOpenWhatIsSealed(t *testing.T) {
	for name := range outsiders {
		var cases []outsideCase
		var about []string
		for _, s := range sealables(t) {
			if name == "npm jose" && s.alg == jwe.SealRSA15 {
				continue // it has none: WebCrypto does not
			}
			_, private := pems(t, s.private)
			for _, enc := range encs() {
				h := jwe.SealHeader{Alg: s.alg, Enc: enc, KID: "their-key", URL: "/v1/cases"}
				if _, onCurve := s.public.(*ecdh.PublicKey); onCurve && name == "npm jose" {
					h.APU, h.APV = []byte("Alice"), []byte("Bob")
				}
				compact, err := jwe.Seal(s.public, h, []byte("from keyd: "+enc))
				if err != nil {
					t.Fatal(err)
				}
				cases = append(cases, outsideCase{Do: "open", Alg: string(s.alg), Private: private, Compact: compact})
				about = append(about, s.name+" "+enc)
			}
		}
		for i, r := range outside(t, name, cases) {
			if want := "from keyd: " + about[i][strings.LastIndexByte(about[i], ' ')+1:]; string(r.Text) != want || r.Header["kid"] != "their-key" || r.Header["url"] != "/v1/cases" {
				t.Errorf("%s opens %s to %q under %v: %s", name, about[i], r.Text, r.Header, r.Error)
			}
		}
	}
}

// What they seal keyd opens, in every alg, curve and enc that is accepted.
func TestWhatOutsideImplementationsSealOpens(t *testing.T) {
	for name := range outsiders {
		var cases []outsideCase
		var keys []sealable
		for _, s := range sealables(t) {
			public, _ := pems(t, s.private)
			for _, enc := range encs() {
				if s.alg == jwe.SealRSA15 {
					continue // never opened
				}
				c := outsideCase{Do: "seal", Alg: string(s.alg), Enc: enc, KID: "our-key", Public: public, Text: []byte("from outside: " + enc)}
				if _, onCurve := s.public.(*ecdh.PublicKey); onCurve && name == "npm jose" {
					c.APU, c.APV = []byte("Alice"), []byte("Bob")
				}
				cases, keys = append(cases, c), append(keys, s)
			}
		}
		for i, r := range outside(t, name, cases) {
			c, about := cases[i], fmt.Sprintf("%s, %s %s", name, keys[i].name, cases[i].Enc)
			p := everything()
			p.Algs = append(p.Algs, agreements().Algs...)
			m, err := jwe.Parse([]byte(r.Compact), p)
			if err != nil {
				t.Errorf("%s: %v %s", about, err, r.Error)
				continue
			}
			var got []byte
			if m.Envelope.EPK != nil {
				got, err = agree(privateOn(t, m.Envelope.EPK.Curve()), m)
			} else {
				got, err = open(testKey(), m)
			}
			if err != nil || !bytes.Equal(got, c.Text) || m.KID != "our-key" || m.Envelope.Enc != c.Enc || m.Envelope.Alg != c.Alg {
				t.Errorf("%s: opens to %q, %v: %+v", about, got, err, m)
			}
		}
	}
}

func privateOn(t *testing.T, curve ecdh.Curve) *ecdh.PrivateKey {
	t.Helper()
	for _, key := range onCurves() {
		if private := onCurve(t, key); private.Curve() == curve {
			return private
		}
	}
	t.Fatalf("no key on %v", curve)
	return nil
}

// A reply that they seal under a content key of keyd's opens in its exchange
// alone.
func TestDirectRepliesOfOutsideImplementationsOpen(t *testing.T) {
	for name := range outsiders {
		var cases []outsideCase
		for _, enc := range encs() {
			_, cek, err := jwe.SealKeeping(&testKey().PublicKey, jwe.SealHeader{Alg: jwe.SealRSAOAEP256, Enc: enc}, nil)
			if err != nil {
				t.Fatal(err)
			}
			cases = append(cases, outsideCase{Do: "direct", Enc: enc, Key: cek, Text: []byte("reply: " + enc)})
		}
		for i, r := range outside(t, name, cases) {
			m, err := jwe.ParseDirect([]byte(r.Compact), cases[i].Enc, 1<<20)
			if err != nil {
				t.Errorf("%s, %s: %v %s", name, cases[i].Enc, err, r.Error)
				continue
			}
			if got, err := boundary.OpenWithCEK(&m.Envelope, cases[i].Key, 1); err != nil || !bytes.Equal(got, cases[i].Text) {
				t.Errorf("%s, %s: opens to %q, %v", name, cases[i].Enc, got, err)
			}
			if m, err := jwe.Parse([]byte(r.Compact), everything()); err == nil {
				t.Errorf("%s, %s: the other parser reads it: %+v", name, cases[i].Enc, m)
			}
		}
	}
}

// OpenSSL does the raw parts: the padding of RSA, and the agreement on a curve.
func TestOpenSSLUndoesTheRawParts(t *testing.T) {
	run := func(input []byte, args ...string) []byte {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "openssl", args...)
		cmd.Stdin, cmd.Stderr = bytes.NewReader(input), t.Output()
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("openssl %s: %v", args[0], err)
		}
		return out
	}
	_, private := pems(t, testKey())
	file := write(t, "rsa.pem", private)
	for alg, padding := range map[jwe.SealAlg][]string{
		jwe.SealRSAOAEP256: {"-pkeyopt", "rsa_padding_mode:oaep", "-pkeyopt", "rsa_oaep_md:sha256", "-pkeyopt", "rsa_mgf1_md:sha256"},
		jwe.SealRSA15:      {"-pkeyopt", "rsa_padding_mode:pkcs1"},
	} {
		compact, cek, err := jwe.SealKeeping(&testKey().PublicKey, jwe.SealHeader{Alg: alg, Enc: boundary.A256GCM}, []byte("x"))
		if err != nil {
			t.Fatal(err)
		}
		wrapped := part(t, compact, 1)
		if got := run(wrapped, append([]string{"pkeyutl", "-decrypt", "-inkey", file}, padding...)...); !bytes.Equal(got, cek) {
			t.Errorf("%s: OpenSSL unwraps %x, want %x", alg, got, cek)
		}
	}
	for i, key := range onCurves() {
		compact, cek, err := jwe.SealKeeping(onCurve(t, key).PublicKey(), jwe.SealHeader{Alg: jwe.SealECDHES, Enc: boundary.A256CBCHS512, APU: []byte("Alice")}, []byte("x"))
		if err != nil {
			t.Fatal(err)
		}
		m, err := jwe.Parse([]byte(compact), agreements())
		if err != nil {
			t.Fatal(err)
		}
		spki, err := x509.MarshalPKIXPublicKey(m.Envelope.EPK)
		if err != nil {
			t.Fatal(err)
		}
		_, private := pems(t, key)
		z := run(nil, "pkeyutl", "-derive", "-inkey", write(t, "ec.pem", private), "-peerkey", write(t, "epk.pem", string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki}))))
		// The Concat KDF of NIST SP 800-56A with SHA-256, as OpenSSL has it: SSKDF.
		derivation, err := boundary.DerivationOf(&m.Envelope)
		if err != nil {
			t.Fatal(err)
		}
		got := run(nil, "kdf", "-keylen", fmt.Sprint(derivation.Bytes), "-kdfopt", "digest:SHA2-256",
			"-kdfopt", fmt.Sprintf("hexkey:%x", z), "-kdfopt", fmt.Sprintf("hexinfo:%x", derivation.OtherInfo), "-binary", "SSKDF")
		if !bytes.Equal(got, cek) {
			t.Errorf("%s: OpenSSL derives %x, want %x", boundary.Curves[i], got, cek)
		}
	}
}

func part(t *testing.T, compact string, i int) []byte {
	t.Helper()
	b, err := base64.RawURLEncoding.DecodeString(strings.Split(compact, ".")[i])
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func write(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
