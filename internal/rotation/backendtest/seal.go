package backendtest

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
	"slices"
	"testing"

	"keyd/internal/boundary"
)

// Encs are the content encryptions a backend opens.
func Encs() []string {
	return []string{"A128GCM", "A192GCM", "A256GCM", "A128CBC-HS256", "A256CBC-HS512"}
}

// cekLen is the content key's length in bytes (RFC 7518 §5.1).
func cekLen(enc string) int {
	return map[string]int{"A128GCM": 16, "A192GCM": 24, "A256GCM": 32, "A128CBC-HS256": 32, "A256CBC-HS512": 64}[enc]
}

// Seal makes an envelope for pub with the standard library alone, so that the
// suite does not test keyd's own code against itself.
func Seal(t testing.TB, pub *rsa.PublicKey, enc string, plaintext, aad []byte) *boundary.Envelope {
	t.Helper()
	cek := random(cekLen(enc))
	return sealUnder(t, cek, wrap(t, pub, cek), enc, plaintext, aad)
}

// wrap encrypts a content key as RSA-OAEP-256 does (RFC 7518 §4.3).
func wrap(t testing.TB, pub *rsa.PublicKey, cek []byte) []byte {
	t.Helper()
	wrapped, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, pub, cek, nil)
	if err != nil {
		t.Fatalf("wrapping a content key: %v", err)
	}
	return wrapped
}

// sealUnder encrypts the content under cek and puts wrapped beside it.
func sealUnder(t testing.TB, cek, wrapped []byte, enc string, plaintext, aad []byte) *boundary.Envelope {
	t.Helper()
	env := &boundary.Envelope{Alg: boundary.RSAOAEP256, Enc: enc, EncryptedKey: wrapped, AAD: aad}
	switch enc {
	case "A128CBC-HS256":
		sealCBC(t, env, cek, plaintext, sha256.New)
	case "A256CBC-HS512":
		sealCBC(t, env, cek, plaintext, sha512.New)
	default:
		sealGCM(t, env, cek, plaintext)
	}
	return env
}

func sealGCM(t testing.TB, env *boundary.Envelope, cek, plaintext []byte) {
	t.Helper()
	gcm, err := cipher.NewGCM(newAES(t, cek))
	if err != nil {
		t.Fatalf("making GCM: %v", err)
	}
	env.IV = random(gcm.NonceSize())
	sealed := gcm.Seal(nil, env.IV, plaintext, env.AAD)
	cut := len(sealed) - gcm.Overhead()
	env.Ciphertext, env.Tag = sealed[:cut:cut], sealed[cut:]
}

// sealCBC follows RFC 7518 §5.2.2.1: the first half of the key is for the
// MAC, the second for AES, and the tag is the first half of the MAC.
func sealCBC(t testing.TB, env *boundary.Envelope, cek, plaintext []byte, h func() hash.Hash) {
	t.Helper()
	half := len(cek) / 2
	pad := aes.BlockSize - len(plaintext)%aes.BlockSize
	padded := append(slices.Clone(plaintext), slices.Repeat([]byte{byte(pad)}, pad)...)
	env.IV, env.Ciphertext = random(aes.BlockSize), make([]byte, len(padded))
	cipher.NewCBCEncrypter(newAES(t, cek[half:]), env.IV).CryptBlocks(env.Ciphertext, padded)
	mac := hmac.New(h, cek[:half])
	mac.Write(env.AAD)
	mac.Write(env.IV)
	mac.Write(env.Ciphertext)
	mac.Write(binary.BigEndian.AppendUint64(nil, uint64(len(env.AAD))*8))
	env.Tag = mac.Sum(nil)[:half]
}

func newAES(t testing.TB, key []byte) cipher.Block {
	t.Helper()
	block, err := aes.NewCipher(key)
	if err != nil {
		t.Fatalf("making AES: %v", err)
	}
	return block
}

// concatKDF is RFC 7518 §4.6.2.
func concatKDF(z []byte, algorithmID string, apu, apv []byte, size int) []byte {
	var info []byte
	for _, part := range [][]byte{[]byte(algorithmID), apu, apv} {
		info = append(binary.BigEndian.AppendUint32(info, uint32(len(part))), part...)
	}
	info = binary.BigEndian.AppendUint32(info, uint32(8*size))
	var key []byte
	for round := uint32(1); len(key) < size; round++ {
		digest := sha256.Sum256(slices.Concat(binary.BigEndian.AppendUint32(nil, round), z, info))
		key = append(key, digest[:]...)
	}
	return key[:size]
}

// keyWrap is RFC 3394 §2.2.1.
func keyWrap(t testing.TB, kek, cek []byte) []byte {
	t.Helper()
	block := newAES(t, kek)
	a, r := slices.Repeat([]byte{0xA6}, 8), slices.Clone(cek)
	for step := uint64(1); step <= uint64(6*len(cek)/8); step++ {
		b := append(slices.Clone(a), r[:8]...)
		block.Encrypt(b, b)
		binary.BigEndian.PutUint64(a, binary.BigEndian.Uint64(b[:8])^step)
		r = append(r[8:], b[8:]...)
	}
	return append(a, r...)
}

func random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

// clone copies an envelope deeply, so that one byte of it can be changed.
func clone(env *boundary.Envelope) *boundary.Envelope {
	c := *env
	for _, part := range []*[]byte{&c.EncryptedKey, &c.APU, &c.APV, &c.IV, &c.Ciphertext, &c.Tag, &c.AAD} {
		*part = slices.Clone(*part)
	}
	return &c
}
