package jwe_test

import (
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"math/big"
	"slices"
	"strings"
	"sync"
	"testing"
	"unicode"

	"keyd/internal/boundary"
	"keyd/internal/jwe"
)

func encs() []string {
	return []string{boundary.A128GCM, boundary.A192GCM, boundary.A256GCM, boundary.A128CBCHS256, boundary.A256CBCHS512}
}

func everything() jwe.Policy {
	return jwe.Policy{Algs: []string{boundary.RSAOAEP256}, Encs: encs(), MaxSize: 1 << 20}
}

// testKey is one key for all tests: making one takes longer than they do.
var testKey = sync.OnceValue(func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
})

// open is what a token at the boundary raw does.
func open(key *rsa.PrivateKey, m *jwe.Message) ([]byte, error) {
	c := new(big.Int).SetBytes(m.Envelope.EncryptedKey)
	if c.Cmp(key.N) >= 0 || !m.Fits(rsaOf(key.N.BitLen())) {
		return nil, boundary.ErrOpen
	}
	em := c.Exp(c, key.D, key.N).FillBytes(make([]byte, key.Size()))
	return boundary.OpenRaw(&m.Envelope, em)
}

// serialize writes a message in compact serialization from nothing but what a
// backend is given.
func serialize(m *jwe.Message) string {
	out := []string{string(m.Envelope.AAD)}
	for _, part := range [][]byte{m.Envelope.EncryptedKey, m.Envelope.IV, m.Envelope.Ciphertext, m.Envelope.Tag} {
		out = append(out, base64.RawURLEncoding.EncodeToString(part))
	}
	return strings.Join(out, ".")
}

// members are a header's, each as it is written, read from what a backend is
// given.
func members(tb testing.TB, m *jwe.Message) map[string]json.RawMessage {
	tb.Helper()
	text, err := base64.RawURLEncoding.DecodeString(string(m.Envelope.AAD))
	if err != nil {
		tb.Fatal(err)
	}
	var all map[string]json.RawMessage
	if err := json.Unmarshal(text, &all); err != nil {
		tb.Fatal(err)
	}
	return all
}

// build is an envelope with any header at all and parts of the right lengths.
func build(header string, lengths ...int) string {
	parts := []string{base64.RawURLEncoding.EncodeToString([]byte(header))}
	for _, n := range slices.Concat(lengths, []int{256, 12, 20, 16}[len(lengths):]) {
		parts = append(parts, base64.RawURLEncoding.EncodeToString(slices.Repeat([]byte{0x5a}, n)))
	}
	return strings.Join(parts, ".")
}

// replaced is an envelope with one part written differently.
func replaced(compact string, part int, with func(string) string) string {
	split := strings.Split(compact, ".")
	split[part] = with(split[part])
	return strings.Join(split, ".")
}

// presentable holds an error to what its sentinels promise: it can be shown.
func presentable(tb testing.TB, err error) {
	tb.Helper()
	text := err.Error()
	if len(text) > 250 {
		tb.Errorf("a message of %d characters: %.300q", len(text), text)
	}
	for _, r := range text {
		if !unicode.IsPrint(r) {
			tb.Errorf("a message that holds %q: %q", r, text)
		}
	}
}

// rsaOf is an RSA-OAEP-256 key of a size.
func rsaOf(bits int) boundary.Material {
	return boundary.Material{Algorithm: boundary.RSAOAEP256, Bits: bits}
}
