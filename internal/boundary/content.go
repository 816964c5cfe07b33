package boundary

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/binary"
	"fmt"
	"hash"
)

// Content is the shape of a content encryption (RFC 7518 §5): the lengths, in
// bytes, of what an envelope under it holds.
type Content struct {
	CEK, IV, Tag int
	mac          func() hash.Hash // nil for GCM, which brings its own
}

// AEAD reports whether it is one cipher (GCM), not one of CBC and a MAC.
func (c Content) AEAD() bool { return c.mac == nil }

var contents = map[string]Content{
	A128GCM:      {CEK: 16, IV: 12, Tag: 16},
	A192GCM:      {CEK: 24, IV: 12, Tag: 16},
	A256GCM:      {CEK: 32, IV: 12, Tag: 16},
	A128CBCHS256: {CEK: 32, IV: 16, Tag: 16, mac: sha256.New},
	A256CBCHS512: {CEK: 64, IV: 16, Tag: 32, mac: sha512.New},
}

// The longest there is of each.
const (
	maxCEK = 64
	maxIV  = 16
	maxTag = 32
)

// ContentOf returns the shape of a content encryption, and whether keyd knows
// it at all.
func ContentOf(enc string) (Content, bool) {
	c, known := contents[enc]
	return c, known
}

// CEKLen returns the length of enc's content key in bytes.
func CEKLen(enc string) (int, bool) {
	c, known := contents[enc]
	return c.CEK, known
}

// OpenRaw opens an envelope from the bare result of the modular exponentiation
// (see [RemoveOAEP256]), which the caller wipes.
func OpenRaw(env *Envelope, em []byte) ([]byte, error) {
	size, known := CEKLen(env.Enc)
	if !known {
		return nil, unknownContent(env.Enc)
	}
	cek := make([]byte, size)
	defer clear(cek)
	growStack()
	defer SweepStack()
	ok := RemoveOAEP256(em, cek)
	return OpenWithCEK(env, cek, ok)
}

// OpenWithCEK decrypts an envelope's content. ok is 1 when cek came out of the
// encrypted key, 0 when it did not.
//
// RFC 7516 §11.5: whoever sends envelopes must not learn why one did not open.
// So a key that is missing or of a wrong length is replaced, without a branch,
// by a random one, and an IV or tag of a wrong length is cut or filled up to
// the right one under such a random key. Each of them then costs what a forged
// tag costs and fails where it fails, with the bare [ErrOpen]. The random key
// is drawn for good envelopes too.
//
// The copies of cek made here are wiped, those inside crypto/aes and on the
// stack too. cek itself is the caller's to wipe, and so is the plaintext.
func OpenWithCEK(env *Envelope, cek []byte, ok int) ([]byte, error) {
	c, known := contents[env.Enc]
	if !known {
		return nil, unknownContent(env.Enc)
	}
	growStack()
	defer SweepStack()
	keys := newKeys()
	key, given := keys.used[:], &keys.given
	defer clear(key)
	defer clear(given[:])
	rand.Read(key) // never fails: crypto/rand ends the process first
	copyFixed(given, cek)
	use := subtle.ConstantTimeEq(int32(ok), 1) &
		sameLength(cek, c.CEK) & sameLength(env.IV, c.IV) & sameLength(env.Tag, c.Tag)
	subtle.ConstantTimeCopy(use, key, given[:])

	var iv [maxIV]byte
	copy(iv[:], env.IV)
	var tag [maxTag]byte
	copy(tag[:], env.Tag)
	if c.mac != nil {
		return openCBC(c, key[:c.CEK], iv[:c.IV], env, tag[:c.Tag])
	}
	return openGCM(key[:c.CEK], iv[:c.IV], env, tag[:c.Tag])
}

// keys are content keys at work. They are not on the stack, of which the runtime
// may make copies.
type keys struct{ used, given [maxCEK]byte }

//go:noinline
func newKeys() *keys { return new(keys) }

// copyFixed fills dst from the beginning of src, in a time that does not depend
// on how long src is.
func copyFixed(dst *[maxCEK]byte, src []byte) {
	var none [maxCEK]byte
	src = [...][]byte{src, none[:]}[sameLength(src, 0)]
	for i := range dst {
		within := subtle.ConstantTimeLessOrEq(i+1, len(src))
		dst[i] = src[i*within] & byte(-within)
	}
}

func sameLength(b []byte, want int) int {
	return subtle.ConstantTimeEq(int32(len(b)), int32(want))
}

func unknownContent(enc string) error {
	return fmt.Errorf("content encryption %+.32q: %w", enc, ErrUnsupported)
}

// openGCM is RFC 7518 §5.3.
func openGCM(key, iv []byte, env *Envelope, tag []byte) ([]byte, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("setting up AES: %w", err)
	}
	defer forget(block)
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		return nil, fmt.Errorf("setting up GCM: %w", err)
	}
	defer forget(gcm)
	buf := make([]byte, 0, len(env.Ciphertext)+len(tag))
	buf = append(append(buf, env.Ciphertext...), tag...)
	plaintext, err := gcm.Open(buf[:0], iv, buf, env.AAD)
	if err != nil {
		return nil, ErrOpen
	}
	return plaintext, nil
}

// openCBC is RFC 7518 §5.2.2.2: the first half of the key is the MAC's, the
// second AES's, and nothing is decrypted before the MAC has been found right.
// What is looked at after that, length and padding, only the one who chose the
// content key can have got wrong.
func openCBC(c Content, key, iv []byte, env *Envelope, tag []byte) ([]byte, error) {
	half := len(key) / 2
	mac := macOf(c, key[:half], iv, env)
	size := len(env.Ciphertext)
	if subtle.ConstantTimeCompare(mac[:c.Tag], tag) != 1 || size == 0 || size%aes.BlockSize != 0 {
		return nil, ErrOpen
	}
	block, err := aes.NewCipher(key[half:])
	if err != nil {
		return nil, fmt.Errorf("setting up AES: %w", err)
	}
	defer forget(block)
	cbc := cipher.NewCBCDecrypter(block, iv)
	defer forget(cbc)
	plaintext := make([]byte, size)
	cbc.CryptBlocks(plaintext, env.Ciphertext)
	rest, ok := removePKCS7(plaintext)
	if !ok {
		clear(plaintext)
		return nil, ErrOpen
	}
	return rest, nil
}

// macOf is the MAC of RFC 7518 §5.2.2.1, before it is cut to the tag.
func macOf(c Content, key, iv []byte, env *Envelope) []byte {
	return hmacSum(c.mac, key, env.AAD, iv, env.Ciphertext, binary.BigEndian.AppendUint64(nil, uint64(len(env.AAD))*8))
}

// removePKCS7 takes off the padding of RFC 5652 §6.3. b is whole blocks, and at
// least one.
func removePKCS7(b []byte) ([]byte, bool) {
	n := int(b[len(b)-1])
	if n == 0 || n > aes.BlockSize {
		return nil, false
	}
	rest, padding := b[:len(b)-n], b[len(b)-n:]
	for _, p := range padding {
		if int(p) != n {
			return nil, false
		}
	}
	return rest, true
}
