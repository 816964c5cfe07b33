package partner

import (
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"strings"
	"unicode"
)

// parseSPKI reads an RSA public key from the base64 of its DER
// SubjectPublicKeyInfo, with or without line breaks. No other form is taken.
func parseSPKI(text string) (*rsa.PublicKey, error) {
	der, err := decodeBase64(text)
	if err != nil {
		return nil, err
	}
	parsed, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return nil, err
	}
	key, ok := parsed.(*rsa.PublicKey)
	if !ok {
		return nil, fmt.Errorf("a key of type %T, not RSA", parsed)
	}
	return key, checkRSA(key)
}

// checkRSA refuses keys that are weak (NIST SP 800-131A: 2048 bits at least),
// broken, or so large that using them is an attack on us.
func checkRSA(key *rsa.PublicKey) error {
	switch n := key.N.BitLen(); {
	case n < 2048 || n > 8192:
		return fmt.Errorf("an RSA key of %d bits, want 2048 to 8192", n)
	case key.N.Bit(0) == 0:
		return fmt.Errorf("an RSA key with an even modulus")
	case key.E < 65537 || key.E&1 == 0: // NIST SP 800-56B rev. 2 §6.2
		return fmt.Errorf("an RSA key with the public exponent %d, want an odd one from 65537", key.E)
	}
	return nil
}

// decodeBase64 reads standard base64 after taking out white space, which old
// answers have in the manner of PEM.
func decodeBase64(text string) ([]byte, error) {
	text = strings.Map(func(r rune) rune {
		if unicode.IsSpace(r) {
			return -1
		}
		return r
	}, text)
	return base64.StdEncoding.Strict().DecodeString(text)
}

// isKID reports whether a partner's name for a key can stand in a JOSE header, a
// log line and an HTTP header.
func isKID(s string) bool {
	return s != "" && len(s) <= 256 && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' })
}

// isUUID reports whether s is a UUID in its usual form, of any version.
func isUUID(s string) bool {
	if len(s) != 36 {
		return false
	}
	for i, c := range []byte(s) {
		switch i {
		case 8, 13, 18, 23:
			if c != '-' {
				return false
			}
		default:
			if !strings.ContainsRune("0123456789abcdefABCDEF", rune(c)) {
				return false
			}
		}
	}
	return true
}
