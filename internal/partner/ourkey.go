package partner

import (
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"

	"github.com/go-jose/go-jose/v4"
)

// Forms in which our public key can stand in a request's body.
const (
	KeySPKI      = "spki"       // base64 of the DER SubjectPublicKeyInfo
	KeyPoint     = "point"      // base64 of the uncompressed point (SEC 1 §2.3.3)
	KeyBase64PEM = "base64-pem" // base64 of PEM
	KeyJWK       = "jwk"        // a JWK, as a JSON object
	KeyBase64JWK = "base64-jwk" // base64 of a JWK
)

// keyForms are all of them.
var keyForms = []string{KeySPKI, KeyPoint, KeyBase64PEM, KeyJWK, KeyBase64JWK}

// encodeOurKey writes an ECDH public key of ours as the JSON value that goes
// into a request. kid is for the forms that have a place for it; "" is none.
func encodeOurKey(public crypto.PublicKey, kid, form string) (json.RawMessage, error) {
	key, err := toECDH(public)
	if err != nil {
		return nil, err
	}
	spki, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return nil, err
	}
	jwk, err := ecJWK(spki, kid)
	if err != nil {
		return nil, err
	}
	var bytes []byte
	switch form {
	case KeyJWK:
		return jwk, nil
	case KeyBase64JWK:
		bytes = jwk
	case KeyPoint:
		bytes = key.Bytes()
	case KeyBase64PEM:
		bytes = pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki})
	default:
		bytes = spki
	}
	return json.Marshal(base64.StdEncoding.EncodeToString(bytes))
}

func toECDH(public crypto.PublicKey) (*ecdh.PublicKey, error) {
	switch key := public.(type) {
	case *ecdsa.PublicKey:
		return key.ECDH()
	case *ecdh.PublicKey:
		if _, err := checkCurve(key); err != nil {
			return nil, err
		}
		return key, nil
	}
	return nil, fmt.Errorf("a public key of type %T, want one for ECDH", public)
}

// ecJWK writes a public key for ECDH as a JWK.
func ecJWK(spki []byte, kid string) ([]byte, error) {
	key, err := x509.ParsePKIXPublicKey(spki) // go-jose knows the type of crypto/ecdsa
	if err != nil {
		return nil, err
	}
	return jose.JSONWebKey{Key: key, KeyID: kid, Use: "enc", Algorithm: algECDHES}.MarshalJSON()
}
