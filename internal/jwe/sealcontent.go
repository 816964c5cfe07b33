package jwe

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"

	"keyd/internal/boundary"
)

// encryptContent makes the fourth and fifth part of an envelope.
func encryptContent(shape boundary.Content, cek, iv, plaintext, aad []byte) (ciphertext, tag []byte, err error) {
	if shape.IV == aes.BlockSize { // GCM's is of 12 bytes
		return encryptCBC(shape, cek, iv, plaintext, aad)
	}
	block, err := aes.NewCipher(cek)
	if err != nil {
		return nil, nil, err
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		return nil, nil, err
	}
	sealed := gcm.Seal(nil, iv, plaintext, aad) // RFC 7518 §5.3
	cut := len(plaintext)
	return sealed[:cut:cut], sealed[cut:], nil
}

// encryptCBC is RFC 7518 §5.2.2.1: the first half of the key is the MAC's, the
// second AES's.
func encryptCBC(shape boundary.Content, cek, iv, plaintext, aad []byte) (ciphertext, tag []byte, err error) {
	half := len(cek) / 2
	block, err := aes.NewCipher(cek[half:])
	if err != nil {
		return nil, nil, err
	}
	pad := aes.BlockSize - len(plaintext)%aes.BlockSize // RFC 5652 §6.3
	ciphertext = make([]byte, len(plaintext)+pad)
	copy(ciphertext, plaintext)
	for i := range pad {
		ciphertext[len(plaintext)+i] = byte(pad)
	}
	cipher.NewCBCEncrypter(block, iv).CryptBlocks(ciphertext, ciphertext)
	h := sha256.New
	if len(cek) == 64 {
		h = sha512.New
	}
	mac := hmac.New(h, cek[:half])
	mac.Write(aad)
	mac.Write(iv)
	mac.Write(ciphertext)
	mac.Write(binary.BigEndian.AppendUint64(nil, uint64(len(aad))*8))
	return ciphertext, mac.Sum(nil)[:shape.Tag], nil
}
