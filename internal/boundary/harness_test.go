package boundary_test

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"hash"
	"math/big"
	"slices"
	"testing"

	"keyd/internal/boundary"
	"keyd/internal/boundary/oaeptest"
)

func encs() []string {
	return []string{boundary.A128GCM, boundary.A192GCM, boundary.A256GCM, boundary.A128CBCHS256, boundary.A256CBCHS512}
}

func random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

func newKey(tb testing.TB, bits int) *rsa.PrivateKey {
	tb.Helper()
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		tb.Fatalf("generating a key: %v", err)
	}
	return key
}

// bare is what CKM_RSA_X_509 does in a token.
func bare(key *rsa.PrivateKey, encrypted []byte) []byte {
	c := new(big.Int).SetBytes(encrypted)
	return c.Exp(c, key.D, key.N).FillBytes(make([]byte, key.Size()))
}

func wrap(tb testing.TB, pub *rsa.PublicKey, cek []byte) []byte {
	tb.Helper()
	wrapped, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, pub, cek, nil)
	if err != nil {
		tb.Fatalf("wrapping a content key: %v", err)
	}
	return wrapped
}

func encode(first byte, seed, db []byte) []byte { return oaeptest.Encode(first, seed, db) }

func block(size int, message []byte) []byte { return oaeptest.Block(size, message) }

// seal encrypts content under cek with the standard library alone.
func seal(tb testing.TB, enc string, cek, plaintext, aad []byte) *boundary.Envelope {
	tb.Helper()
	env := &boundary.Envelope{Alg: boundary.RSAOAEP256, Enc: enc, AAD: aad}
	switch enc {
	case boundary.A128CBCHS256:
		padded := pad(plaintext)
		sealCBC(tb, env, cek, padded, sha256.New)
	case boundary.A256CBCHS512:
		padded := pad(plaintext)
		sealCBC(tb, env, cek, padded, sha512.New)
	default:
		gcm, err := cipher.NewGCM(newAES(tb, cek))
		if err != nil {
			tb.Fatal(err)
		}
		env.IV = random(12)
		sealed := gcm.Seal(nil, env.IV, plaintext, aad)
		env.Ciphertext, env.Tag = slices.Clone(sealed[:len(plaintext)]), slices.Clone(sealed[len(plaintext):])
	}
	return env
}

func pad(plaintext []byte) []byte {
	n := aes.BlockSize - len(plaintext)%aes.BlockSize
	return append(slices.Clone(plaintext), slices.Repeat([]byte{byte(n)}, n)...)
}

// sealCBC encrypts padded, whatever its padding, and puts a true MAC on it. A
// padded that is no whole number of blocks is left in the clear.
func sealCBC(tb testing.TB, env *boundary.Envelope, cek, padded []byte, h func() hash.Hash) {
	tb.Helper()
	half := len(cek) / 2
	env.IV, env.Ciphertext = random(aes.BlockSize), slices.Clone(padded)
	if len(padded)%aes.BlockSize == 0 {
		cipher.NewCBCEncrypter(newAES(tb, cek[half:]), env.IV).CryptBlocks(env.Ciphertext, padded)
	}
	mac := hmac.New(h, cek[:half])
	for _, part := range [][]byte{env.AAD, env.IV, env.Ciphertext, binary.BigEndian.AppendUint64(nil, uint64(len(env.AAD))*8)} {
		mac.Write(part)
	}
	env.Tag = mac.Sum(nil)[:half]
}

func newAES(tb testing.TB, key []byte) cipher.Block {
	tb.Helper()
	block, err := aes.NewCipher(key)
	if err != nil {
		tb.Fatal(err)
	}
	return block
}

func cekLen(tb testing.TB, enc string) int {
	tb.Helper()
	size, known := boundary.CEKLen(enc)
	if !known {
		tb.Fatalf("CEKLen(%q): not known", enc)
	}
	return size
}

func clone(env *boundary.Envelope) *boundary.Envelope {
	c := *env
	for _, part := range []*[]byte{&c.EncryptedKey, &c.IV, &c.Ciphertext, &c.Tag, &c.AAD} {
		*part = slices.Clone(*part)
	}
	return &c
}
