package jwe

import (
	"crypto"
	"errors"
	"fmt"

	"keyd/internal/boundary"
)

// SealAlg is the alg of an envelope that keyd makes. It is a type of its own
// because the two directions do not allow the same: RSA1_5 is only a poor way
// to seal, while to open it is an oracle (Bleichenbacher), so it stands among
// these and in no [Policy].
type SealAlg string

// The algs to seal with (RFC 7518 §4.1).
const (
	SealRSAOAEP256   SealAlg = boundary.RSAOAEP256
	SealECDHES       SealAlg = boundary.ECDHES
	SealECDHESA128KW SealAlg = boundary.ECDHESA128KW
	SealECDHESA256KW SealAlg = boundary.ECDHESA256KW
	// SealRSA15 is for a partner that takes nothing better, and whose own
	// private key it is that is at risk.
	SealRSA15 SealAlg = "RSA1_5"
)

// SealAlgs are all of them.
var SealAlgs = []SealAlg{SealRSAOAEP256, SealECDHES, SealECDHESA128KW, SealECDHESA256KW, SealRSA15}

// SealHeader is what the protected header of an envelope says.
type SealHeader struct {
	Alg SealAlg
	Enc string // one of those boundary knows
	KID string // left out where ""
	URL string // left out where ""
	// APU and APV go into the key derivation of ECDH-ES (RFC 7518 §4.6.1);
	// left out where empty.
	APU, APV []byte
	// Extra are members besides these, as JSON encodes them. Those that say how
	// an envelope is made or whom to believe cannot be among them.
	Extra map[string]any
}

// Seal encrypts plaintext to a partner's public key: an *rsa.PublicKey or an
// *ecdh.PublicKey, as the alg wants it. The plaintext is left as it was, the
// content key made for it is wiped.
func Seal(pub crypto.PublicKey, h SealHeader, plaintext []byte) (string, error) {
	compact, cek, err := SealKeeping(pub, h, plaintext)
	clear(cek)
	return compact, err
}

// SealKeeping is Seal for a request whose reply comes under the same content
// key (alg "dir", RFC 7518 §4.5; see [ParseDirect]). The caller keeps that key
// no longer than it waits for the reply, and wipes it.
func SealKeeping(pub crypto.PublicKey, h SealHeader, plaintext []byte) (compact string, cek []byte, err error) {
	compact, cek, err = seal(pub, h, plaintext)
	if err != nil {
		return "", nil, fmt.Errorf("sealing a JWE: %w", err)
	}
	return compact, cek, nil
}

func seal(pub crypto.PublicKey, h SealHeader, plaintext []byte) (compact string, cek []byte, err error) {
	if _, known := boundary.ContentOf(h.Enc); !known {
		return "", nil, fmt.Errorf("%w: enc %+.32q", ErrAlgorithm, h.Enc)
	}
	members, err := h.members()
	if err != nil {
		return "", nil, err
	}
	env := boundary.Envelope{Enc: h.Enc}
	if cek, env.EncryptedKey, err = newContentKey(pub, h, members); err != nil {
		return "", nil, err
	}
	header, err := encodeHeader(members)
	if err == nil {
		env.AAD = []byte(header)
		err = env.SealContent(cek, plaintext)
	}
	if err != nil {
		clear(cek)
		return "", nil, err
	}
	return serialize(&env), cek, nil
}

// serialize is the compact serialization (RFC 7516 §7.1).
func serialize(env *boundary.Envelope) string {
	parts := [][]byte{env.EncryptedKey, env.IV, env.Ciphertext, env.Tag}
	size := len(env.AAD)
	for _, part := range parts {
		size += 1 + strict.EncodedLen(len(part))
	}
	b := append(make([]byte, 0, size), env.AAD...)
	for _, part := range parts {
		b = strict.AppendEncode(append(b, '.'), part)
	}
	return string(b)
}

// errNoKey: there is nothing to seal to.
var errNoKey = errors.New("no public key")
