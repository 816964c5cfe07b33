package boundary

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
)

// RemoveOAEP256 is EME-OAEP decoding (RFC 8017 §7.1.2 step 3) as RSA-OAEP-256
// has it: SHA-256, MGF1 with SHA-256, no label. em is the bare result of the
// modular exponentiation, as long as the modulus, leading zeros kept.
//
// The message must be exactly as long as cek: the content encryption says how
// long a content key is, so the place of the 0x01 is known, and no index,
// branch or length depends on a secret (Manger's attack). ok is 1 and cek the
// message, or ok is 0 and cek is zero. ok is itself a secret: it goes to
// [OpenWithCEK], not into an if.
//
// em is worth as much as the key inside it. It is left as it was; the caller
// wipes it.
func RemoveOAEP256(em, cek []byte) (ok int) {
	if len(em) < 2*sha256.Size+2+len(cek) { // lengths are public
		clear(cek)
		return 0
	}
	subtle.WithDataIndependentTiming(func() { ok = removeOAEP256(em, cek) })
	return ok
}

func removeOAEP256(em, cek []byte) int {
	block := make([]byte, len(em)-1)
	defer clear(block)
	copy(block, em[1:])
	seed, db := block[:sha256.Size], block[sha256.Size:]
	maskMGF1(seed, db)
	maskMGF1(db, seed)

	// em = 0x00 || seed || db, db = lHash || 0x00… || 0x01 || message. Whatever
	// is not so leaves a bit in wrong.
	one := len(db) - len(cek) - 1
	wrong := em[0] | (db[one] ^ 0x01)
	lHash := sha256.Sum256(nil)
	for i, b := range lHash {
		wrong |= db[i] ^ b
	}
	for _, b := range db[sha256.Size:one] {
		wrong |= b
	}

	ok := subtle.ConstantTimeByteEq(wrong, 0)
	keep := byte(-ok) // 0xff or 0x00
	for i, b := range db[one+1:] {
		cek[i] = b & keep
	}
	return ok
}

// maskMGF1 XORs MGF1-SHA-256 of seed into out (RFC 8017 appendix B.2.1).
func maskMGF1(out, seed []byte) {
	input := make([]byte, len(seed)+4)
	defer clear(input)
	copy(input, seed)
	var digest [sha256.Size]byte
	defer clear(digest[:])
	for counter := uint32(0); len(out) > 0; counter++ {
		binary.BigEndian.PutUint32(input[len(seed):], counter)
		digest = sha256.Sum256(input)
		out = out[subtle.XORBytes(out, out, digest[:]):]
	}
}
