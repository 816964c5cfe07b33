package api

import (
	"crypto/ecdh"
	"crypto/rsa"
	"encoding/base64"
	"fmt"
	"math/big"
	"net/http"

	"keyd/client"
	"keyd/internal/boundary"
	"keyd/internal/registry"
)

// jwks answers with the public keys of ours that a partner may use now, as a JWK
// set (RFC 7517 §5): what it may seal to, and what our assertions are verified
// with. A new key is in it before it is used, one that signed for as long as
// what it signed may be looked at.
func (s *Server) jwks(x *visit) error {
	p, err := s.partner(x)
	if err != nil {
		return err
	}
	set := client.JWKS{Keys: []client.JWK{}}
	for _, key := range s.cfg.Registry.Keys() {
		if key.Partner != p.Name {
			continue
		}
		for _, v := range s.cfg.Registry.Versions(key.Name) {
			if !published(v) {
				continue
			}
			jwk, err := jwkOf(v)
			if err != nil {
				return fmt.Errorf("the public key of version %s: %w", v.KID, err)
			}
			set.Keys = append(set.Keys, jwk)
		}
	}
	x.respond(http.StatusOK, "application/jwk-set+json", encode(set))
	return nil
}

// published reports whether a partner may find a version in the set.
func published(v registry.Version) bool {
	switch v.State {
	case registry.Announced, registry.Active:
		return len(v.Public) > 0
	case registry.Draining:
		return v.Algorithm == boundary.PS256 // nothing more is to be sealed to one that opens
	}
	return false
}

// jwkOf writes a version's public key (RFC 7518 §6.2.1, §6.3.1).
func jwkOf(v registry.Version) (client.JWK, error) {
	public, err := boundary.ParsePublic(v.Public)
	if err != nil {
		return client.JWK{}, err
	}
	jwk := client.JWK{KID: v.KID, Alg: v.Algorithm, Use: "enc"}
	if v.Algorithm == boundary.PS256 {
		jwk.Use = "sig"
	}
	text := base64.RawURLEncoding.EncodeToString
	switch key := public.(type) {
	case *rsa.PublicKey:
		jwk.Type, jwk.N, jwk.E = "RSA", text(key.N.Bytes()), text(big.NewInt(int64(key.E)).Bytes())
	case *ecdh.PublicKey:
		point := key.Bytes()[1:] // uncompressed (SEC 1 §2.3.3), without the 4 in front
		jwk.Type, jwk.Curve, jwk.X, jwk.Y = "EC", v.Curve, text(point[:len(point)/2]), text(point[len(point)/2:])
	}
	return jwk, nil
}
