package partner

import (
	"bytes"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"time"
)

// parseKeyText reads a public key in whichever form a partner has it: PEM,
// base64 of PEM, or base64 of DER. It returns an *rsa.PublicKey or an
// *ecdh.PublicKey.
func parseKeyText(text string) (crypto.PublicKey, error) {
	if isPEM([]byte(text)) {
		return parsePEM([]byte(text))
	}
	decoded, err := decodeBase64(text)
	switch {
	case err != nil:
		return nil, err
	case len(decoded) == 0:
		return nil, errors.New("it is empty")
	case isPEM(decoded):
		return parsePEM(decoded)
	}
	return parseDER(decoded)
}

func isPEM(b []byte) bool { return bytes.HasPrefix(bytes.TrimSpace(b), []byte("-----BEGIN ")) }

// parsePEM reads a single PEM block: a SubjectPublicKeyInfo, a PKCS#1 key or a
// certificate.
func parsePEM(text []byte) (crypto.PublicKey, error) {
	block, rest := pem.Decode(bytes.TrimSpace(text))
	switch {
	case block == nil:
		return nil, errors.New("not a whole PEM block")
	case len(bytes.TrimSpace(rest)) > 0:
		return nil, errors.New("more than one PEM block")
	}
	switch block.Type {
	case "PUBLIC KEY", "RSA PUBLIC KEY":
		return parseDER(block.Bytes)
	case "CERTIFICATE":
		return certified(block.Bytes)
	}
	return nil, fmt.Errorf("a PEM block of type %q, want PUBLIC KEY, RSA PUBLIC KEY or CERTIFICATE", block.Type)
}

// certified takes the key of a certificate in force. Who signed it is not
// looked at: the file or the TLS connection it came by is what is trusted.
func certified(der []byte) (crypto.PublicKey, error) {
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	if now := time.Now(); now.Before(cert.NotBefore) || now.After(cert.NotAfter) {
		return nil, fmt.Errorf("a certificate that is valid from %s to %s", cert.NotBefore.Format(time.RFC3339), cert.NotAfter.Format(time.RFC3339))
	}
	return usable(cert.PublicKey)
}

// parseDER reads a SubjectPublicKeyInfo or, for RSA, a bare PKCS#1 key.
func parseDER(der []byte) (crypto.PublicKey, error) {
	key, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		bare, pkcs1 := x509.ParsePKCS1PublicKey(der)
		if pkcs1 != nil {
			return nil, err
		}
		key = bare
	}
	return usable(key)
}

// usable checks a key and gives it the form that package partner deals in.
func usable(key any) (crypto.PublicKey, error) {
	switch key := key.(type) {
	case *rsa.PublicKey:
		return key, checkRSA(key)
	case *ecdsa.PublicKey:
		return key.ECDH() // which checks that the point is on the curve
	case *ecdh.PublicKey:
		return checkCurve(key)
	}
	return nil, fmt.Errorf("a key of type %T, want RSA or EC", key)
}

// checkCurve takes the curves of RFC 7518 §6.2.1.1.
func checkCurve(key *ecdh.PublicKey) (crypto.PublicKey, error) {
	switch key.Curve() {
	case ecdh.P256(), ecdh.P384(), ecdh.P521():
		return key, nil
	}
	return nil, fmt.Errorf("a key on the curve %v, want P-256, P-384 or P-521", key.Curve())
}

// asRSA takes a key that must be an RSA one.
func asRSA(key crypto.PublicKey, err error) (*rsa.PublicKey, error) {
	if err != nil {
		return nil, err
	}
	out, ok := key.(*rsa.PublicKey)
	if !ok {
		return nil, fmt.Errorf("a key of type %T, not RSA", key)
	}
	return out, nil
}

// asEC takes a key that must be an elliptic curve one.
func asEC(key crypto.PublicKey, err error) (*ecdh.PublicKey, error) {
	if err != nil {
		return nil, err
	}
	out, ok := key.(*ecdh.PublicKey)
	if !ok {
		return nil, fmt.Errorf("a key of type %T, not EC", key)
	}
	return out, nil
}
