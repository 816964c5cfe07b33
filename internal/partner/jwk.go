package partner

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/go-jose/go-jose/v4"
)

// jwk is a public key as a JWK (RFC 7517 §4), as far as it is used here. Its alg
// is not: what requests are sealed with is pinned by the partner or its config,
// and some partners put odd values there.
type jwk struct {
	raw            json.RawMessage
	Type, KID, Use string
	Ops            []string
	D, K           json.RawMessage // of a private or secret key: RFC 7518 §6.2.2, §6.3.2, §6.4.1
}

// readJWKs reads a JWK or a set of them (RFC 7517 §5).
func readJWKs(body []byte) ([]jwk, error) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := decodeJSON(body, &set); err != nil {
		return nil, err
	}
	if set.Keys == nil {
		set.Keys = []json.RawMessage{body}
	}
	keys := make([]jwk, 0, len(set.Keys))
	for _, raw := range set.Keys {
		k, err := readJWK(raw)
		if err != nil {
			return nil, err
		}
		keys = append(keys, k)
	}
	return keys, nil
}

// readJWK reads one. Its members are told apart by case, which encoding/json
// does not do by itself.
func readJWK(raw []byte) (jwk, error) {
	var members map[string]json.RawMessage
	if err := decodeJSON(raw, &members); err != nil {
		return jwk{}, err
	}
	k := jwk{raw: raw}
	for name, into := range map[string]any{"kty": &k.Type, "kid": &k.KID, "use": &k.Use, "key_ops": &k.Ops,
		"d": &k.D, "k": &k.K} {
		if value, ok := members[name]; ok {
			if err := decodeJSON(value, into); err != nil {
				return jwk{}, fmt.Errorf("%w (%s of a JWK)", err, name)
			}
		}
	}
	return k, nil
}

// encrypts reports whether the key is meant to encrypt to, as far as it says
// (RFC 7517 §4.2, §4.3).
func (k jwk) encrypts() bool {
	if k.Use != "" && k.Use != "enc" {
		return false
	}
	return len(k.Ops) == 0 || slices.ContainsFunc(k.Ops, func(op string) bool {
		return slices.Contains([]string{"encrypt", "wrapKey", "deriveKey", "deriveBits"}, op)
	})
}

// public makes the key. go-jose holds a point to its curve.
func (k jwk) public() (crypto.PublicKey, error) {
	if k.D != nil || k.K != nil {
		return nil, errors.New("a JWK that holds a private key")
	}
	var parsed jose.JSONWebKey
	if err := parsed.UnmarshalJSON(k.raw); err != nil {
		return nil, fmt.Errorf("a JWK of type %q: %w", k.Type, err)
	}
	switch key := parsed.Key.(type) {
	case *rsa.PublicKey:
		return usable(key)
	case *ecdsa.PublicKey:
		return key.ECDH()
	}
	return nil, fmt.Errorf("a JWK of type %q, want RSA or EC", k.Type)
}

// Which of several keys that would do is taken.
const (
	ChooseOnly  = "only" // there must be one
	ChooseFirst = "first"
)

// chooseJWK picks the key named kid or, with kid "", one of those that encrypt.
func chooseJWK(keys []jwk, kid, choose string) (jwk, error) {
	var fit []jwk
	for _, k := range keys {
		if kid == "" && k.encrypts() || kid != "" && k.KID == kid {
			fit = append(fit, k)
		}
	}
	switch {
	case len(fit) == 0 && kid != "":
		return jwk{}, fmt.Errorf("%w: no key named %q among %d", ErrAnswer, kid, len(keys))
	case len(fit) == 0:
		return jwk{}, fmt.Errorf("%w: no key to encrypt to among %d", ErrAnswer, len(keys))
	case len(fit) > 1 && (choose == ChooseOnly || kid != ""):
		return jwk{}, fmt.Errorf("%w: %d keys would do; name one in the config", ErrAnswer, len(fit))
	}
	return fit[0], nil
}
