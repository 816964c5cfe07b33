package boundary

import (
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"fmt"
	"slices"
	"strconv"
)

// What a key can be made for. The first two open envelopes (RFC 7518 §4.1),
// the last signs (§3.5): the assertions with which keyd makes itself known to
// a partner.
const (
	RSAOAEP256 = "RSA-OAEP-256"
	ECDHES     = "ECDH-ES"
	PS256      = "PS256"
)

// The algs of envelopes that a key made for ECDHES opens besides its own: the
// agreed key wraps the content key (RFC 7518 §4.6).
const (
	ECDHESA128KW = "ECDH-ES+A128KW"
	ECDHESA256KW = "ECDH-ES+A256KW"
)

// Direct is the alg of an envelope whose content key both sides have already
// (RFC 7518 §4.5). No key of ours opens one: it opens as the answer in an
// exchange, under the content key of its request, and nowhere else.
const Direct = "dir"

// KeyAlgorithm returns what a key that opens envelopes of an alg is made for,
// or "" where keyd opens none of that alg.
func KeyAlgorithm(alg string) string {
	switch alg {
	case RSAOAEP256:
		return RSAOAEP256
	case ECDHES, ECDHESA128KW, ECDHESA256KW:
		return ECDHES
	}
	return ""
}

// RSABits and Curves are the sizes a key can have, the usual one first. The
// curves have their names of RFC 7518 §6.2.1.1.
var (
	RSABits = []int{2048, 3072, 4096}
	Curves  = []string{"P-256", "P-384", "P-521"}
)

var curves = map[string]ecdh.Curve{"P-256": ecdh.P256(), "P-384": ecdh.P384(), "P-521": ecdh.P521()}

// CurveOf returns a curve by its name, or nil.
func CurveOf(name string) ecdh.Curve { return curves[name] }

// Material says what a key pair is made of.
type Material struct {
	Algorithm string // RSAOAEP256, ECDHES or PS256
	Bits      int    // of an RSA modulus; 0 for a key on a curve
	Curve     string // of a key for ECDHES; "" for RSA
}

// Check reports why keyd makes no key of this kind, with ErrUnsupported.
func (m Material) Check() error {
	switch m.Algorithm {
	case RSAOAEP256, PS256:
		if !slices.Contains(RSABits, m.Bits) || m.Curve != "" {
			return fmt.Errorf("a key for %s with %d bits and the curve %+.20q: want 2048, 3072 or 4096 bits and no curve: %w", m.Algorithm, m.Bits, m.Curve, ErrUnsupported)
		}
	case ECDHES:
		if !slices.Contains(Curves, m.Curve) || m.Bits != 0 {
			return fmt.Errorf("a key for %s with %d bits and the curve %+.20q: want P-256, P-384 or P-521 and no bits: %w", m.Algorithm, m.Bits, m.Curve, ErrUnsupported)
		}
	default:
		return fmt.Errorf("a key for %+.40q: want %s, %s or %s: %w", m.Algorithm, RSAOAEP256, ECDHES, PS256, ErrUnsupported)
	}
	return nil
}

// Usual fills in what was left out: RSA-OAEP-256, 2048 bits, P-256.
func (m Material) Usual() Material {
	if m.Algorithm == "" {
		m.Algorithm = RSAOAEP256
	}
	if m.Algorithm == ECDHES && m.Curve == "" {
		m.Curve = Curves[0]
	}
	if (m.Algorithm == RSAOAEP256 || m.Algorithm == PS256) && m.Bits == 0 {
		m.Bits = RSABits[0]
	}
	return m
}

// Size is the bits or the curve.
func (m Material) Size() string {
	if m.Bits == 0 {
		return m.Curve
	}
	return strconv.Itoa(m.Bits)
}

// MarshalPublic encodes a public key of this material as DER
// SubjectPublicKeyInfo (RFC 5280 §4.1). A key of another kind or size is an
// error.
func (m Material) MarshalPublic(public crypto.PublicKey) ([]byte, error) {
	switch key := public.(type) {
	case *rsa.PublicKey:
		if key != nil && key.N != nil && m.Curve == "" && key.N.BitLen() == m.Bits {
			return x509.MarshalPKIXPublicKey(key)
		}
	case *ecdh.PublicKey:
		if key != nil && m.Curve != "" && key.Curve() == CurveOf(m.Curve) {
			return x509.MarshalPKIXPublicKey(key)
		}
	}
	return nil, fmt.Errorf("got %s, want a public key for %s of %s", describe(public), m.Algorithm, m.Size())
}

// MaterialOf is what a public key's private half would be, if it were made for
// an algorithm.
func MaterialOf(algorithm string, public crypto.PublicKey) Material {
	m := Material{Algorithm: algorithm}
	switch key := public.(type) {
	case *rsa.PublicKey:
		if key != nil && key.N != nil {
			m.Bits = key.N.BitLen()
		}
	case *ecdh.PublicKey:
		if key != nil {
			m.Curve = fmt.Sprint(key.Curve())
		}
	}
	return m
}

// ParsePublic reads a DER SubjectPublicKeyInfo: an *rsa.PublicKey, or an
// *ecdh.PublicKey on a curve that keyd knows.
func ParsePublic(der []byte) (crypto.PublicKey, error) {
	parsed, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return nil, err
	}
	switch key := parsed.(type) {
	case *rsa.PublicKey:
		return key, nil
	case *ecdsa.PublicKey:
		return key.ECDH() // an error for P-224
	}
	return nil, fmt.Errorf("got %s, want an RSA key or one on a NIST curve", describe(parsed))
}

func describe(public crypto.PublicKey) string {
	switch key := public.(type) {
	case *rsa.PublicKey:
		if key != nil && key.N != nil {
			return fmt.Sprintf("an RSA key of %d bits", key.N.BitLen())
		}
	case *ecdh.PublicKey:
		if key != nil {
			return fmt.Sprintf("a key on %s", key.Curve())
		}
	}
	return fmt.Sprintf("a %T", public)
}

// Spec names a key pair before it exists, so that a second run after a crash
// finds what the first one left.
type Spec struct {
	Key string // the key's name, such as "wise-response"
	KID string // the version's UUID; its 16 bytes are the CKA_ID
	Material
}
