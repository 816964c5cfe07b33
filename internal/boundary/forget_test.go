package boundary_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/sha512"
	"hash"
	"testing"

	"keyd/internal/boundary"
)

// What holds keys in the standard library must be what can be wiped, in every
// version of Go that keyd is built with.
func TestEveryCipherAndDigestCanBeWiped(t *testing.T) {
	for _, size := range []int{16, 24, 32} {
		block, err := aes.NewCipher(bytes.Repeat([]byte{7}, size))
		if err != nil {
			t.Fatal(err)
		}
		gcm, err := cipher.NewGCM(block)
		if err != nil {
			t.Fatal(err)
		}
		cbc := cipher.NewCBCDecrypter(block, make([]byte, 16))
		for name, v := range map[string]any{"AES": block, "GCM": gcm, "CBC": cbc, "CBC to encrypt": cipher.NewCBCEncrypter(block, make([]byte, 16))} {
			if !boundary.Forget(v) {
				t.Errorf("%s, %d bytes: a %T cannot be wiped", name, size, v)
			}
		}
		// The key schedule is gone: it is that of no key now.
		one, other := make([]byte, 16), make([]byte, 16)
		block.Encrypt(one, one)
		fresh, _ := aes.NewCipher(bytes.Repeat([]byte{7}, size))
		fresh.Encrypt(other, other)
		if bytes.Equal(one, other) {
			t.Errorf("%d bytes: the key is still there", size)
		}
	}
	for name, h := range map[string]hash.Hash{"SHA-256": sha256.New(), "SHA-512": sha512.New()} {
		if !boundary.Forget(h) {
			t.Errorf("%s: a %T cannot be wiped", name, h)
		}
	}
	for _, v := range []any{nil, 7, "text", new(string), &struct{ p *int }{}, (*int)(nil), map[string]int{}} {
		if boundary.Forget(v) {
			t.Errorf("a %T was wiped", v)
		}
	}
}

func TestMACIsTheStandardLibrarys(t *testing.T) {
	for name, h := range map[string]func() hash.Hash{"SHA-256": sha256.New, "SHA-512": sha512.New} {
		for size := range h().BlockSize() + 1 {
			key := bytes.Repeat([]byte{byte(size)}, size)
			parts := [][]byte{[]byte("one"), nil, bytes.Repeat([]byte("two"), size)}
			want := hmac.New(h, key)
			for _, p := range parts {
				want.Write(p)
			}
			if got := boundary.HMACSum(h, key, parts...); !bytes.Equal(got, want.Sum(nil)) {
				t.Errorf("%s with a key of %d bytes: %x", name, size, got)
			}
		}
	}
}
