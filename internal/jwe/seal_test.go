package jwe_test

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"math/big"
	"slices"
	"strings"
	"testing"

	"keyd/internal/boundary"
	"keyd/internal/jwe"
)

func TestWhatIsSealedParsesAndOpens(t *testing.T) {
	key := testKey()
	for _, enc := range encs() {
		for _, size := range []int{0, 1, 16, 1000, 100_000} {
			want := make([]byte, size)
			rand.Read(want)
			given := slices.Clone(want)
			compact, err := jwe.Seal(&key.PublicKey, jwe.SealHeader{Alg: jwe.SealRSAOAEP256, KID: "the-kid", URL: "/v1/cases?a=1&b=2", Enc: enc}, given)
			if err != nil {
				t.Fatalf("%s, %d bytes: %v", enc, size, err)
			}
			if !bytes.Equal(given, want) {
				t.Errorf("%s, %d bytes: sealing changed the plaintext", enc, size)
			}
			m, err := jwe.Parse([]byte(compact), everything())
			if err != nil {
				t.Fatalf("%s, %d bytes: %v", enc, size, err)
			}
			if m.KID != "the-kid" || m.Envelope.Enc != enc || len(members(t, m)) != 4 || !m.Fits(rsaOf(2048)) {
				t.Errorf("%s, %d bytes: got kid %q, header %q", enc, size, m.KID, members(t, m))
			}
			if got, err := open(key, m); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s, %d bytes: opens to %d bytes, %v", enc, size, len(got), err)
			}
		}
	}
}

func TestSealLeavesOutWhatItWasNotGiven(t *testing.T) {
	compact, err := jwe.Seal(&testKey().PublicKey, jwe.SealHeader{Alg: jwe.SealRSAOAEP256, Enc: boundary.A256GCM}, nil)
	if err != nil {
		t.Fatal(err)
	}
	m, err := jwe.Parse([]byte(compact), everything())
	if err != nil {
		t.Fatal(err)
	}
	if header := members(t, m); len(header) != 2 || header["alg"] == nil || header["enc"] == nil {
		t.Errorf("got %q, want alg and enc alone", header)
	}
}

func TestNoTwoEnvelopesAreAlike(t *testing.T) {
	seen := map[string]bool{}
	for range 20 {
		compact, err := jwe.Seal(&testKey().PublicKey, jwe.SealHeader{Alg: jwe.SealRSAOAEP256, Enc: boundary.A256GCM}, []byte("the same"))
		if err != nil {
			t.Fatal(err)
		}
		for _, part := range strings.Split(compact, ".")[1:] {
			if seen[part] {
				t.Fatalf("%s came twice", part)
			}
			seen[part] = true
		}
	}
}

func TestSealRefuses(t *testing.T) {
	good := &testKey().PublicKey
	short, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	a256gcm := jwe.SealHeader{Alg: jwe.SealRSAOAEP256, Enc: boundary.A256GCM}
	for _, v := range []struct {
		name string
		pub  crypto.PublicKey
		h    jwe.SealHeader
		want error
		says string
	}{
		{"no key", nil, a256gcm, nil, "no public key"},
		{"an empty key", &rsa.PublicKey{}, a256gcm, nil, "no public key"},
		{"a short key", &short.PublicKey, a256gcm, nil, "1024 bits, want 2048"},
		{"a key with the exponent 1", &rsa.PublicKey{N: good.N, E: 1}, a256gcm, nil, "exponent"},
		{"an even modulus", &rsa.PublicKey{N: new(big.Int).Lsh(big.NewInt(1), 2047), E: 65537}, a256gcm, nil, "modulus"},
		{"no enc", good, jwe.SealHeader{Alg: jwe.SealRSAOAEP256}, jwe.ErrAlgorithm, `enc ""`},
		{"an unknown enc", good, jwe.SealHeader{Alg: jwe.SealRSAOAEP256, Enc: "A192CBC-HS384"}, jwe.ErrAlgorithm, `enc "A192CBC-HS384"`},
		{"a kid that is not Unicode", good, jwe.SealHeader{Alg: jwe.SealRSAOAEP256, Enc: boundary.A256GCM, KID: "\xff"}, jwe.ErrMalformed, "not Unicode"},
		{"a url that is not Unicode", good, jwe.SealHeader{Alg: jwe.SealRSAOAEP256, Enc: boundary.A256GCM, URL: "/\xff"}, jwe.ErrMalformed, "not Unicode"},
		{"a header no one would accept", good, jwe.SealHeader{Alg: jwe.SealRSAOAEP256, Enc: boundary.A256GCM, URL: strings.Repeat("x", 4096)}, jwe.ErrTooLarge, "longer than 4096"},
	} {
		compact, err := jwe.Seal(v.pub, v.h, []byte("x"))
		if compact != "" || err == nil || !strings.Contains(err.Error(), v.says) || v.want != nil && !errors.Is(err, v.want) {
			t.Errorf("%s: got %q, %v, want an error saying %q", v.name, compact, err, v.says)
			continue
		}
		presentable(t, err)
	}
}
