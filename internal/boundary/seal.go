package boundary

import (
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
)

// Seal makes an envelope as a partner does, with the standard library, so that
// a backend can be tried: the alg must be one of the public key's. What keyd
// sends to partners is sealed elsewhere, but for its content.
func Seal(public crypto.PublicKey, alg, enc string, plaintext, aad []byte) (*Envelope, error) {
	switch key := public.(type) {
	case *rsa.PublicKey:
		env := &Envelope{Alg: RSAOAEP256, Enc: enc, AAD: aad}
		size, known := CEKLen(enc)
		switch {
		case !known:
			return nil, unknownContent(enc)
		case alg != RSAOAEP256:
			return nil, fmt.Errorf("sealing to an RSA key with %+.32q: %w", alg, ErrUnsupported)
		}
		cek := make([]byte, size)
		defer clear(cek)
		rand.Read(cek)
		var err error
		if env.EncryptedKey, err = rsa.EncryptOAEP(sha256.New(), rand.Reader, key, cek, nil); err != nil {
			return nil, fmt.Errorf("wrapping a content key: %w", err)
		}
		return sealed(env, cek, plaintext)
	case *ecdh.PublicKey:
		ephemeral, err := key.Curve().GenerateKey(rand.Reader)
		if err != nil {
			return nil, fmt.Errorf("making an ephemeral key: %w", err)
		}
		return SealFrom(ephemeral, key, alg, enc, plaintext, aad)
	}
	return nil, fmt.Errorf("sealing to a %T: %w", public, ErrUnsupported)
}

// SealFrom is Seal to a key on a curve with an ephemeral key that is given.
func SealFrom(ephemeral *ecdh.PrivateKey, public *ecdh.PublicKey, alg, enc string, plaintext, aad []byte) (*Envelope, error) {
	env := &Envelope{Alg: alg, Enc: enc, EPK: ephemeral.PublicKey(), APU: []byte("keyd"), APV: []byte("probe"), AAD: aad}
	d, err := DerivationOf(env)
	if err != nil {
		return nil, err
	}
	z, err := ephemeral.ECDH(public)
	if err != nil {
		return nil, fmt.Errorf("agreeing: %w", err)
	}
	defer clear(z)
	cek := d.Key(z)
	defer func() { clear(cek) }()
	if alg != ECDHES {
		kek := cek
		defer clear(kek)
		size, _ := CEKLen(enc) // DerivationOf knows it
		cek = make([]byte, size)
		rand.Read(cek)
		env.EncryptedKey = WrapAESKW(kek, cek)
	}
	return sealed(env, cek, plaintext)
}

func sealed(env *Envelope, cek, plaintext []byte) (*Envelope, error) {
	if err := env.SealContent(cek, plaintext); err != nil {
		return nil, err
	}
	return env, nil
}

// SealContent encrypts an envelope's content under a key, with a random IV. The
// copies of the key made here are wiped, as those of [OpenWithCEK] are.
func (env *Envelope) SealContent(cek, plaintext []byte) error {
	c, known := contents[env.Enc]
	if !known || len(cek) != c.CEK {
		return fmt.Errorf("sealing under %d bytes: %w", len(cek), unknownContent(env.Enc))
	}
	growStack()
	defer SweepStack()
	env.IV = make([]byte, c.IV)
	rand.Read(env.IV) // never fails: crypto/rand ends the process first
	if c.AEAD() {
		return env.sealGCM(cek, plaintext)
	}
	return env.sealCBC(c, cek, plaintext)
}

// sealGCM is RFC 7518 §5.3.
func (env *Envelope) sealGCM(cek, plaintext []byte) error {
	block, err := aes.NewCipher(cek)
	if err != nil {
		return fmt.Errorf("setting up AES: %w", err)
	}
	defer forget(block)
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		return fmt.Errorf("setting up GCM: %w", err)
	}
	defer forget(gcm)
	sealed := gcm.Seal(nil, env.IV, plaintext, env.AAD)
	cut := len(plaintext)
	env.Ciphertext, env.Tag = sealed[:cut:cut], sealed[cut:]
	return nil
}

// sealCBC is RFC 7518 §5.2.2.1: the first half of the key is the MAC's, the
// second AES's.
func (env *Envelope) sealCBC(c Content, cek, plaintext []byte) error {
	half := len(cek) / 2
	block, err := aes.NewCipher(cek[half:])
	if err != nil {
		return fmt.Errorf("setting up AES: %w", err)
	}
	defer forget(block)
	pad := aes.BlockSize - len(plaintext)%aes.BlockSize // RFC 5652 §6.3
	env.Ciphertext = make([]byte, len(plaintext)+pad)
	copy(env.Ciphertext, plaintext)
	for i := range pad {
		env.Ciphertext[len(plaintext)+i] = byte(pad)
	}
	cbc := cipher.NewCBCEncrypter(block, env.IV)
	defer forget(cbc)
	cbc.CryptBlocks(env.Ciphertext, env.Ciphertext)
	env.Tag = macOf(c, cek[:half], env.IV, env)[:c.Tag]
	return nil
}

// WrapAESKW is the AES key wrap of RFC 3394 §2.2.1. kek has 16, 24 or 32 bytes,
// cek at least 16 and a multiple of 8.
func WrapAESKW(kek, cek []byte) []byte {
	block, err := aes.NewCipher(kek)
	if err != nil || len(cek) < 16 || len(cek)%8 != 0 {
		panic(fmt.Sprintf("boundary: wrapping %d bytes under %d", len(cek), len(kek)))
	}
	defer forget(block)
	n := len(cek) / 8
	wrapped := make([]byte, 8+len(cek))
	copy(wrapped[8:], cek)
	var b [16]byte
	defer clear(b[:])
	copy(b[:8], integrity[:])
	for j := range 6 {
		for i := 1; i <= n; i++ {
			r := wrapped[i*8 : (i+1)*8]
			copy(b[8:], r)
			block.Encrypt(b[:], b[:])
			copy(r, b[8:])
			binary.BigEndian.PutUint64(b[:8], binary.BigEndian.Uint64(b[:8])^uint64(n*j+i))
		}
	}
	copy(wrapped, b[:8])
	return wrapped
}
