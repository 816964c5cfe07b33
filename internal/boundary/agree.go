package boundary

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"fmt"
)

// derived says what the key derivation of an envelope's alg yields (RFC 7518
// §4.6.2): the content key itself, or a key that unwraps it.
func derived(env *Envelope) (algorithmID string, bytes int, err error) {
	size, known := CEKLen(env.Enc)
	switch {
	case !known:
		return "", 0, unknownContent(env.Enc)
	case env.Alg == ECDHES:
		return env.Enc, size, nil
	case env.Alg == ECDHESA128KW:
		return env.Alg, 16, nil
	case env.Alg == ECDHESA256KW:
		return env.Alg, 32, nil
	}
	return "", 0, fmt.Errorf("key agreement for alg %+.32q: %w", env.Alg, ErrUnsupported)
}

// Derivation is the Concat KDF of NIST SP 800-56A rev. 3 §5.8.2.1 with SHA-256
// as RFC 7518 §4.6.2 uses it, without the shared secret: round n of the digest
// is over the round's number as four bytes, the secret, and OtherInfo. A token
// that keeps the secret computes the rounds itself.
type Derivation struct {
	// OtherInfo is AlgorithmID || PartyUInfo || PartyVInfo || SuppPubInfo.
	OtherInfo []byte
	// Bytes is how many the derived key has: the first of the rounds' digests.
	Bytes int
}

// DerivationOf returns what is to be derived from the shared secret of an
// envelope.
func DerivationOf(env *Envelope) (Derivation, error) {
	id, size, err := derived(env)
	if err != nil {
		return Derivation{}, err
	}
	info := make([]byte, 0, 4+len(id)+4+len(env.APU)+4+len(env.APV)+4)
	for _, part := range [][]byte{[]byte(id), env.APU, env.APV} {
		info = binary.BigEndian.AppendUint32(info, uint32(len(part)))
		info = append(info, part...)
	}
	info = binary.BigEndian.AppendUint32(info, uint32(size)*8)
	return Derivation{OtherInfo: info, Bytes: size}, nil
}

// Rounds is how many digests the derived key needs.
func (d Derivation) Rounds() int { return (d.Bytes + sha256.Size - 1) / sha256.Size }

// Prefix is what stands before the secret in a round, counted from 1.
func (d Derivation) Prefix(round int) []byte {
	return binary.BigEndian.AppendUint32(nil, uint32(round))
}

// Key derives the key from the shared secret z, the x-coordinate of the agreed
// point, leading zeros kept (RFC 7518 §4.6.2). The caller wipes both.
func (d Derivation) Key(z []byte) []byte {
	key := make([]byte, 0, d.Rounds()*sha256.Size)
	input := make([]byte, 4+len(z)+len(d.OtherInfo))
	defer clear(input)
	copy(input[4:], z)
	copy(input[4+len(z):], d.OtherInfo)
	for round := range d.Rounds() {
		copy(input, d.Prefix(round+1))
		digest := sha256.Sum256(input)
		key = append(key, digest[:]...)
		clear(digest[:])
	}
	clear(key[d.Bytes:])
	return key[:d.Bytes]
}

// OpenAgreed opens an envelope from the shared secret, which the caller wipes.
func OpenAgreed(env *Envelope, z []byte) ([]byte, error) {
	d, err := DerivationOf(env)
	if err != nil {
		return nil, err
	}
	growStack()
	defer SweepStack()
	key := d.Key(z)
	defer clear(key)
	return OpenDerived(env, key)
}

// OpenDerived opens an envelope from the derived key, which the caller wipes.
// What does not unwrap fails at the tag, as in [OpenWithCEK]. nil is a key
// that could not be derived: an envelope for another curve.
func OpenDerived(env *Envelope, key []byte) ([]byte, error) {
	_, size, err := derived(env)
	if err != nil {
		return nil, err
	}
	right := subtle.ConstantTimeEq(int32(len(key)), int32(size))
	if env.Alg == ECDHES {
		// RFC 7518 §4.6: the encrypted key is the empty octet string.
		return OpenWithCEK(env, key, right&subtle.ConstantTimeEq(int32(len(env.EncryptedKey)), 0))
	}
	kek := make([]byte, size)
	defer clear(kek)
	copy(kek, key)
	length, _ := CEKLen(env.Enc)
	cek := make([]byte, length)
	defer clear(cek)
	ok := UnwrapAESKW(kek, env.EncryptedKey, cek)
	return OpenWithCEK(env, cek, ok&right)
}
