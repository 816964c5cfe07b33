package jwe

import (
	"crypto"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"fmt"

	"keyd/internal/boundary"
)

// minBits is the shortest RSA modulus [Seal] encrypts to (NIST SP 800-131A).
const minBits = 2048

// newContentKey makes a content key and the second part of the envelope, by
// which its receiver comes to it. What the receiver needs besides goes into
// the header's members.
func newContentKey(pub crypto.PublicKey, h SealHeader, members map[string]any) (cek, wrapped []byte, err error) {
	switch h.Alg {
	case SealRSAOAEP256, SealRSA15:
		key, ok := pub.(*rsa.PublicKey)
		if !ok || key == nil || key.N == nil {
			return nil, nil, mismatch(pub, h.Alg, "RSA")
		}
		if len(h.APU)+len(h.APV) > 0 {
			return nil, nil, fmt.Errorf("%w: apu and apv go with ECDH-ES only", ErrAlgorithm)
		}
		return encryptKey(key, h)
	case SealECDHES, SealECDHESA128KW, SealECDHESA256KW:
		key, ok := pub.(*ecdh.PublicKey)
		if !ok || key == nil {
			return nil, nil, mismatch(pub, h.Alg, "EC")
		}
		return agreeKey(key, h, members)
	}
	return nil, nil, fmt.Errorf("%w: alg %+.32q", ErrAlgorithm, string(h.Alg))
}

func mismatch(pub crypto.PublicKey, alg SealAlg, want string) error {
	switch key := pub.(type) {
	case nil:
		return errNoKey
	case *rsa.PublicKey:
		if key == nil || key.N == nil {
			return errNoKey
		}
	case *ecdh.PublicKey:
		if key == nil {
			return errNoKey
		}
	}
	return fmt.Errorf("%w: a public key of type %T, %s needs an %s key", ErrAlgorithm, pub, alg, want)
}

func newCEK(enc string) []byte {
	size, _ := boundary.CEKLen(enc)
	cek := make([]byte, size)
	rand.Read(cek)
	return cek
}

// encryptKey is RFC 7518 §4.2 and §4.3.
func encryptKey(pub *rsa.PublicKey, h SealHeader) (cek, wrapped []byte, err error) {
	if bits := pub.N.BitLen(); bits < minBits {
		return nil, nil, fmt.Errorf("the public key has %d bits, want %d or more", bits, minBits)
	}
	cek = newCEK(h.Enc)
	if h.Alg == SealRSA15 {
		wrapped, err = rsa.EncryptPKCS1v15(rand.Reader, pub, cek) //nolint:staticcheck // SA1019: there is a partner that takes nothing else
	} else {
		wrapped, err = rsa.EncryptOAEP(sha256.New(), rand.Reader, pub, cek, nil)
	}
	if err != nil {
		clear(cek)
		return nil, nil, err
	}
	return cek, wrapped, nil
}

// agreeKey is RFC 7518 §4.6 from the sender's side: the ephemeral key is made
// for this envelope and forgotten.
func agreeKey(pub *ecdh.PublicKey, h SealHeader, members map[string]any) (cek, wrapped []byte, err error) {
	crv := fmt.Sprint(pub.Curve())
	if boundary.CurveOf(crv) == nil {
		return nil, nil, fmt.Errorf("%w: a public key on %s, want P-256, P-384 or P-521", ErrAlgorithm, crv)
	}
	ephemeral, err := pub.Curve().GenerateKey(rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	z, err := ephemeral.ECDH(pub)
	if err != nil {
		return nil, nil, err
	}
	defer clear(z)
	derivation, err := boundary.DerivationOf(&boundary.Envelope{Alg: string(h.Alg), Enc: h.Enc, APU: h.APU, APV: h.APV})
	if err != nil {
		return nil, nil, err
	}
	members["epk"] = writeEPK(crv, ephemeral.PublicKey())
	derived := derivation.Key(z)
	if h.Alg == SealECDHES {
		return derived, nil, nil
	}
	defer clear(derived)
	cek = newCEK(h.Enc)
	return cek, boundary.WrapAESKW(derived, cek), nil
}

// writeEPK is a public key as RFC 7518 §6.2.1 has it; epk reads it.
func writeEPK(crv string, key *ecdh.PublicKey) map[string]string {
	point := key.Bytes()[1:] // uncompressed (SEC 1 §2.3.3), without the 4 in front
	half := len(point) / 2
	return map[string]string{"kty": "EC", "crv": crv,
		"x": base64.RawURLEncoding.EncodeToString(point[:half]), "y": base64.RawURLEncoding.EncodeToString(point[half:])}
}
