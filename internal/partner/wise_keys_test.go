package partner_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"math/big"
	"net/http"
	"slices"
	"strings"
	"testing"

	"keyd/internal/partner"
)

// inLines breaks base64 into lines as PEM does.
func inLines(s string) string {
	var lines []string
	for line := range slices.Chunk([]byte(s), 64) {
		lines = append(lines, string(line))
	}
	return strings.Join(lines, "\n") + "\n"
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func TestFetchKey(t *testing.T) {
	whole := keyBody(nil)
	for name, tc := range map[string]struct{ body, id string }{
		"an object":        {whole, "9d09e43f-3c16-4683-9c07-db7e992b2050"},
		"a list of one":    {" \n[" + whole + "]", "9d09e43f-3c16-4683-9c07-db7e992b2050"},
		"no keyId":         {keyBody(func(k map[string]any) { delete(k, "keyId") }), ""},
		"PEM-like base64":  {keyBody(func(k map[string]any) { km(k)["keyMaterial"] = inLines(spki(&rsaKey().PublicKey)) }), "9d09e43f-3c16-4683-9c07-db7e992b2050"},
		"CRLF in base64":   {keyBody(func(k map[string]any) { km(k)["keyMaterial"] = "\r\n" + spki(&rsaKey().PublicKey) + " \r\n" }), "9d09e43f-3c16-4683-9c07-db7e992b2050"},
		"fields to ignore": {keyBody(func(k map[string]any) { k["validTill"] = "?" }), "9d09e43f-3c16-4683-9c07-db7e992b2050"},
	} {
		t.Run(name, func(t *testing.T) {
			h := open(t, routes{askKey: func(w http.ResponseWriter, r *http.Request) {
				if got, want := r.URL.RawQuery, "algorithm=RSA_OAEP_256&scope=PAYLOAD_ENCRYPTION"; got != want {
					t.Errorf("got query %q, want %q", got, want)
				}
				reply(w, 200, tc.body)
			}})
			id, version, alg, public, err := h.FetchKey(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if id != tc.id || version != 3 || alg != "RSA-OAEP-256" || !rsaKey().PublicKey.Equal(public) {
				t.Errorf("got %q %d %q %v", id, version, alg, public)
			}
		})
	}
}

func km(k map[string]any) map[string]any { return k["keyMaterial"].(map[string]any) }

func TestFetchKeyReadsThePublishedSample(t *testing.T) {
	h := open(t, routes{askKey: always(200, keyBody(func(k map[string]any) { km(k)["keyMaterial"] = sampleKey }))})
	_, _, _, public, err := h.FetchKey(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if spki(public) != sampleKey {
		t.Error("another key came out")
	}
}

func TestFetchKeyRefusesWhatIsNotTheKey(t *testing.T) {
	ec, _ := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	put := func(v any) string { return keyBody(func(k map[string]any) { km(k)["keyMaterial"] = v }) }
	der := must(x509.MarshalPKIXPublicKey(&rsaKey().PublicKey))
	// 422 bytes of DER end in padding, whose unused bits must be zero.
	padded := spki(&rsa.PublicKey{N: new(big.Int).SetBit(big.NewInt(1), 3071, 1), E: 65537})
	for name, body := range map[string]string{
		"bits in padding":   put(strings.TrimSuffix(padded, "E=") + "F="),
		"empty":             ``,
		"not JSON":          `<html>`,
		"cut":               keyBody(nil)[:200],
		"null":              `null`,
		"no keys":           `[]`,
		"two keys":          "[" + keyBody(nil) + "," + keyBody(nil) + "]",
		"list in list":      "[[" + keyBody(nil) + "]]",
		"two objects":       keyBody(nil) + keyBody(nil),
		"too large":         keyBody(nil) + strings.Repeat(" ", 1<<20),
		"signing scope":     keyBody(func(k map[string]any) { k["scope"] = "PAYLOAD_SIGNING" }),
		"no scope":          keyBody(func(k map[string]any) { delete(k, "scope") }),
		"other algorithm":   keyBody(func(k map[string]any) { km(k)["algorithm"] = "RSA_OAEP_512" }),
		"no algorithm":      keyBody(func(k map[string]any) { delete(km(k), "algorithm") }),
		"negative version":  keyBody(func(k map[string]any) { k["version"] = -1 }),
		"version too large": keyBody(func(k map[string]any) { k["version"] = 1 << 40 }),
		"version in words":  keyBody(func(k map[string]any) { k["version"] = "three" }),
		"keyId not a UUID":  keyBody(func(k map[string]any) { k["keyId"] = "../etc" }),
		"no material":       keyBody(func(k map[string]any) { delete(k, "keyMaterial") }),
		"a JWK":             put(map[string]any{"kty": "RSA"}),
		"not base64":        put("!!!"),
		"base64url":         put(base64.URLEncoding.EncodeToString(append([]byte{0xff, 0xfe}, der...))),
		"PEM":               put(string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))),
		"PKCS #1":           put(base64.StdEncoding.EncodeToString(x509.MarshalPKCS1PublicKey(&rsaKey().PublicKey))),
		"cut DER":           put(base64.StdEncoding.EncodeToString(der[:200])),
		"more after it":     put(base64.StdEncoding.EncodeToString(append(slices.Clip(der), 0))),
		"EC":                put(spki(&ec.PublicKey)),
		"1024 bits":         put(spki(&newRSA(1024).PublicKey)),
		"exponent 3":        put(spki(&rsa.PublicKey{N: rsaKey().N, E: 3})),
	} {
		t.Run(name, func(t *testing.T) {
			h := open(t, routes{askKey: always(200, body)})
			id, version, alg, public, err := h.FetchKey(t.Context())
			e := callError(t, err, "key", 200)
			if !errors.Is(e, partner.ErrAnswer) || e.Temporary() {
				t.Errorf("got %v", e)
			}
			if id != "" || version != 0 || alg != "" || public != nil {
				t.Errorf("got %q %d %q %v beside an error", id, version, alg, public)
			}
		})
	}
}
