package boundary

import (
	"crypto/aes"
	"crypto/subtle"
	"encoding/binary"
)

// integrity is the initial value of RFC 3394 §2.2.3.1.
var integrity = [8]byte{0xA6, 0xA6, 0xA6, 0xA6, 0xA6, 0xA6, 0xA6, 0xA6}

// UnwrapAESKW undoes the AES key wrap of RFC 3394 §2.2.2 (RFC 7518 §4.4). The
// wrapped key must be eight bytes longer than cek, whose length the content
// encryption gives. ok is 1 and cek the key, or ok is 0 and cek is noise or
// zero: it goes to [OpenWithCEK], not into an if. kek has 16, 24 or 32 bytes.
func UnwrapAESKW(kek, wrapped, cek []byte) (ok int) {
	n := len(cek) / 8
	block, err := aes.NewCipher(kek)
	if err != nil || n < 2 || len(cek)%8 != 0 || len(wrapped) != len(cek)+8 { // lengths are public
		clear(cek)
		return 0
	}
	defer forget(block)
	var b [16]byte
	defer clear(b[:])
	copy(b[:8], wrapped[:8])
	copy(cek, wrapped[8:])
	for j := 5; j >= 0; j-- {
		for i := n; i >= 1; i-- {
			t := uint64(n*j + i)
			binary.BigEndian.PutUint64(b[:8], binary.BigEndian.Uint64(b[:8])^t)
			r := cek[(i-1)*8 : i*8]
			copy(b[8:], r)
			block.Decrypt(b[:], b[:])
			copy(r, b[8:])
		}
	}
	return subtle.ConstantTimeCompare(b[:8], integrity[:])
}
