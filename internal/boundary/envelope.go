package boundary

import (
	"crypto/ecdh"
	"fmt"
	"time"
)

// The content encryptions (RFC 7518 §5.1) keyd opens. A192CBC-HS384 is left
// out: no partner sends it.
const (
	A128GCM      = "A128GCM"
	A192GCM      = "A192GCM"
	A256GCM      = "A256GCM"
	A128CBCHS256 = "A128CBC-HS256"
	A256CBCHS512 = "A256CBC-HS512"
)

// Envelope is a parsed JWE as it travels to a backend: no header to interpret
// any more, alg and enc already pinned by policy.
type Envelope struct {
	Alg string // RSAOAEP256, ECDHES, ECDHESA128KW or ECDHESA256KW
	Enc string // A256GCM or another of the above
	// EncryptedKey is as long as the RSA modulus; empty for ECDHES; with a key
	// wrap eight bytes longer than the content key.
	EncryptedKey []byte
	// EPK is the sender's ephemeral public key, nil for RSA. Its type says that
	// it is a point of its curve. APU and APV go into the key derivation
	// (RFC 7518 §4.6.1).
	EPK      *ecdh.PublicKey
	APU, APV []byte

	IV         []byte
	Ciphertext []byte
	Tag        []byte
	AAD        []byte // the ASCII bytes of the protected header as received

	// Floor is the lowest level at which it may be opened; "" is any. A backend
	// that would open it lower does not use the private key: [ErrBelowFloor].
	Floor Level
}

// CheckFloor reports why an envelope may not be opened at a level.
func (env *Envelope) CheckFloor(l Level) error {
	if l.AtLeast(env.Floor) {
		return nil
	}
	return fmt.Errorf("%w: %.32s with %.32s opens at %q, and %s is asked for", ErrBelowFloor, env.Alg, env.Enc, l, env.Floor)
}

// Opened is an envelope's content. The caller owns Plaintext and wipes it.
type Opened struct {
	Plaintext []byte
	Level     Level
	InToken   time.Duration // spent inside the device, waiting for a session not counted
}
