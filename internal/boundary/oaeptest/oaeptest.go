// Package oaeptest makes RSA-OAEP-256 encodings, right and wrong, that no
// encoder makes, to see that nobody can tell them apart. It is for tests.
package oaeptest

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"math/big"
)

// Encode is EME-OAEP encoding (RFC 8017 §7.1.1 step 2) of any first byte, seed
// and data block at all.
func Encode(first byte, seed, db []byte) []byte {
	masked := xor(db, MGF1(seed, len(db)))
	return append(append([]byte{first}, xor(seed, MGF1(masked, len(seed)))...), masked...)
}

// MGF1 is MGF1-SHA-256 (RFC 8017 appendix B.2.1).
func MGF1(seed []byte, size int) []byte {
	var out []byte
	for counter := uint32(0); len(out) < size; counter++ {
		digest := sha256.Sum256(binary.BigEndian.AppendUint32(append([]byte(nil), seed...), counter))
		out = append(out, digest[:]...)
	}
	return out[:size]
}

func xor(a, b []byte) []byte {
	out := make([]byte, len(a))
	subtle.XORBytes(out, a, b)
	return out
}

// Block is a data block as it should be: lHash, zeros, 0x01, message.
func Block(size int, message []byte) []byte {
	db := make([]byte, size)
	lHash := sha256.Sum256(nil)
	copy(db, lHash[:])
	db[size-len(message)-1] = 1
	copy(db[size-len(message):], message)
	return db
}

// Random bytes.
func Random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

// Wrong are everything that can be wrong with an encoding of modulus bytes, by
// name: each makes one of a content key.
func Wrong(modulus int) map[string]func(cek []byte) []byte {
	size := modulus - 1 - sha256.Size
	changed := func(cek []byte, change func(db []byte)) []byte {
		db := Block(size, cek)
		change(db)
		return Encode(0, Random(sha256.Size), db)
	}
	return map[string]func(cek []byte) []byte{
		"first byte not zero": func(cek []byte) []byte { // and yet below any modulus
			return Encode(1+Random(1)[0]%127, Random(sha256.Size), Block(size, cek))
		},
		"bad lHash": func(cek []byte) []byte {
			return changed(cek, func(db []byte) { copy(db, Random(sha256.Size)) })
		},
		"no 0x01": func(cek []byte) []byte {
			return changed(cek, func(db []byte) { db[size-len(cek)-1] = 0 })
		},
		"bad padding string": func(cek []byte) []byte {
			return changed(cek, func(db []byte) {
				db[sha256.Size+int(Random(1)[0])%(size-sha256.Size-len(cek)-1)] = 2 + Random(1)[0]%254
			})
		},
		"content key too short": func(cek []byte) []byte { return Right(modulus, cek[:len(cek)/2]) },
	}
}

// Right is an encoding that decodes to a content key.
func Right(modulus int, cek []byte) []byte {
	return Encode(0, Random(sha256.Size), Block(modulus-1-sha256.Size, cek))
}

// Encrypt takes an encoding to where the private key brings it back from.
func Encrypt(public *rsa.PublicKey, encoding []byte) []byte {
	m := new(big.Int).SetBytes(encoding)
	return m.Exp(m, big.NewInt(int64(public.E)), public.N).FillBytes(make([]byte, public.Size()))
}
