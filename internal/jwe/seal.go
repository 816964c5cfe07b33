package jwe

import (
	"crypto/rsa"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"github.com/go-jose/go-jose/v4"

	"keyd/internal/boundary"
)

// minBits is the shortest RSA modulus [Seal] encrypts to (NIST SP 800-131A).
const minBits = 2048

// SealHeader is what the protected header says besides the alg, which is
// RSA-OAEP-256.
type SealHeader struct {
	KID string // left out where ""
	URL string // left out where ""
	Enc string // one of those boundary knows
}

// Seal encrypts plaintext to a partner's public key. The plaintext is left as
// it was; the content key made for it is go-jose's and is not wiped.
func Seal(pub *rsa.PublicKey, h SealHeader, plaintext []byte) (string, error) {
	if pub == nil || pub.N == nil {
		return "", errors.New("sealing a JWE: no public key")
	}
	if bits := pub.N.BitLen(); bits < minBits {
		return "", fmt.Errorf("sealing a JWE: the public key has %d bits, want %d or more", bits, minBits)
	}
	if _, known := boundary.ContentOf(h.Enc); !known {
		return "", fmt.Errorf("sealing a JWE: %w: enc %+.32q", ErrAlgorithm, h.Enc)
	}
	if !faithful(h.KID) || !faithful(h.URL) { // would be sent as other names than these
		return "", fmt.Errorf("sealing a JWE: %w: the kid or the url is not Unicode", ErrMalformed)
	}
	options := &jose.EncrypterOptions{}
	if h.URL != "" {
		options.WithHeader("url", h.URL)
	}
	recipient := jose.Recipient{Algorithm: jose.RSA_OAEP_256, Key: pub, KeyID: h.KID}
	encrypter, err := jose.NewEncrypter(jose.ContentEncryption(h.Enc), recipient, options)
	if err != nil {
		return "", fmt.Errorf("sealing a JWE: %w", err)
	}
	sealed, err := encrypter.Encrypt(plaintext)
	if err != nil {
		return "", fmt.Errorf("sealing a JWE: %w", err)
	}
	compact, err := sealed.CompactSerialize()
	if err != nil {
		return "", fmt.Errorf("sealing a JWE: %w", err)
	}
	if part, _, _ := strings.Cut(compact, "."); base64.RawURLEncoding.DecodedLen(len(part)) > maxHeader {
		return "", fmt.Errorf("sealing a JWE: %w: the header is longer than %d bytes", ErrTooLarge, maxHeader)
	}
	return compact, nil
}
