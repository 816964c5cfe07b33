package jwe

import (
	"crypto"
	"crypto/ecdh"
	"crypto/x509"
	"encoding/json"

	"github.com/go-jose/go-jose/v4"
)

// PublicKey is a public key of ours as partners find it in a JWK set.
type PublicKey struct {
	KID string
	Use string // "enc" or "sig" (RFC 7517 §4.2)
	Alg string
	Key crypto.PublicKey // *rsa.PublicKey or *ecdh.PublicKey
}

// KeySet writes public keys as a JWK set (RFC 7517 §5).
func KeySet(keys []PublicKey) ([]byte, error) {
	set := jose.JSONWebKeySet{Keys: make([]jose.JSONWebKey, 0, len(keys))}
	for _, k := range keys {
		key := k.Key
		if point, onCurve := key.(*ecdh.PublicKey); onCurve { // go-jose knows the type of crypto/ecdsa
			der, err := x509.MarshalPKIXPublicKey(point)
			if err != nil {
				return nil, err
			}
			if key, err = x509.ParsePKIXPublicKey(der); err != nil {
				return nil, err
			}
		}
		set.Keys = append(set.Keys, jose.JSONWebKey{Key: key, KeyID: k.KID, Use: k.Use, Algorithm: k.Alg})
	}
	return json.Marshal(set)
}
