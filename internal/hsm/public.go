package hsm

import (
	"bytes"
	"crypto/ecdh"
	"crypto/rsa"
	"encoding/asn1"
	"math/big"

	"keyd/internal/boundary"
)

// rsaKey makes a public key of two big-endian numbers, or nil where they cannot
// be one.
func rsaKey(modulus, exponent []byte) *rsa.PublicKey {
	n, e := new(big.Int).SetBytes(modulus), new(big.Int).SetBytes(exponent)
	if n.BitLen() < 1024 || n.Bit(0) == 0 || !e.IsInt64() || e.Int64() < 3 || e.Int64() > 1<<31-1 || e.Bit(0) == 0 {
		return nil
	}
	return &rsa.PublicKey{N: n, E: int(e.Int64())}
}

// curveParams are the CKA_EC_PARAMS of the curves that keyd knows: the DER of
// their object identifiers (RFC 5480 §2.1.1.1).
var curveParams = map[string][]byte{
	"P-256": {0x06, 0x08, 0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x03, 0x01, 0x07},
	"P-384": {0x06, 0x05, 0x2B, 0x81, 0x04, 0x00, 0x22},
	"P-521": {0x06, 0x05, 0x2B, 0x81, 0x04, 0x00, 0x23},
}

// fieldBytes is how long a coordinate on a curve is, and so what two agree on
// (RFC 7518 §6.2.1.2, SEC 1 §2.3.5).
var fieldBytes = map[ecdh.Curve]int{ecdh.P256(): 32, ecdh.P384(): 48, ecdh.P521(): 66}

// curveOf reads CKA_EC_PARAMS: a curve by its name, or nil. Curves that are
// spelled out are not looked at (RFC 5480 §2.1.1 forbids them).
func curveOf(params []byte) ecdh.Curve {
	for name, p := range curveParams {
		if bytes.Equal(params, p) {
			return boundary.CurveOf(name)
		}
	}
	return nil
}

// pointOn reads CKA_EC_POINT: a point of the curve in the uncompressed form of
// SEC 1 §2.3.3, in a DER OCTET STRING as PKCS #11 mechanisms v2.40 §2.3.3 wants it,
// or bare as some tokens have it. What is no point of the curve is nil.
func pointOn(curve ecdh.Curve, raw []byte) *ecdh.PublicKey {
	if len(raw) != 1+2*fieldBytes[curve] {
		var inner []byte
		if rest, err := asn1.Unmarshal(raw, &inner); err != nil || len(rest) != 0 {
			return nil
		}
		raw = inner
	}
	point, err := curve.NewPublicKey(raw)
	if err != nil {
		return nil
	}
	return point
}

// octetString is the DER of an OCTET STRING (X.690 §8.7).
func octetString(b []byte) []byte {
	if len(b) < 0x80 {
		return append([]byte{0x04, byte(len(b))}, b...)
	}
	return append([]byte{0x04, 0x81, byte(len(b))}, b...) // a point of P-521 has 133 octets
}
