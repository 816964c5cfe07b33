package api

import (
	"fmt"
	"net/http"

	"keyd/internal/boundary"
	"keyd/internal/jwe"
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
	var keys []jwe.PublicKey
	for _, key := range s.cfg.Registry.Keys() {
		if key.Partner != p.Name {
			continue
		}
		for _, v := range s.cfg.Registry.Versions(key.Name) {
			if !published(v) {
				continue
			}
			public, err := boundary.ParsePublic(v.Public)
			if err != nil {
				return fmt.Errorf("the public key of version %s: %w", v.KID, err)
			}
			use := "enc"
			if v.Algorithm == boundary.PS256 {
				use = "sig"
			}
			keys = append(keys, jwe.PublicKey{KID: v.KID, Use: use, Alg: v.Algorithm, Key: public})
		}
	}
	set, err := jwe.KeySet(keys)
	if err != nil {
		return fmt.Errorf("writing our public keys for %s: %w", p.Name, err)
	}
	x.respond(http.StatusOK, "application/jwk-set+json", set)
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
