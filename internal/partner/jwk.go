package partner

import (
	"bytes"
	"crypto"
	"crypto/ecdh"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"slices"
)

// jwk is a public key as a JWK (RFC 7517 §4), as far as it is used here. Its alg
// is not: what requests are sealed with is pinned by the partner or its config,
// and some partners put odd values there.
type jwk struct {
	Type, KID, Use string
	Ops            []string
	N, E           string          // RFC 7518 §6.3.1
	Curve, X, Y    string          // RFC 7518 §6.2.1
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
	var k jwk
	for name, into := range map[string]any{"kty": &k.Type, "kid": &k.KID, "use": &k.Use, "key_ops": &k.Ops,
		"n": &k.N, "e": &k.E, "crv": &k.Curve, "x": &k.X, "y": &k.Y, "d": &k.D, "k": &k.K} {
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

// public makes the key.
func (k jwk) public() (crypto.PublicKey, error) {
	if k.D != nil || k.K != nil {
		return nil, errors.New("a JWK that holds a private key")
	}
	switch k.Type {
	case "RSA":
		return k.rsa()
	case "EC":
		return k.ec()
	}
	return nil, fmt.Errorf("a JWK of type %q, want RSA or EC", k.Type)
}

func (k jwk) rsa() (crypto.PublicKey, error) {
	n, err1 := base64URL(k.N)
	e, err2 := base64URL(k.E)
	if err := errors.Join(err1, err2); err != nil {
		return nil, fmt.Errorf("n or e of a JWK: %w", err)
	}
	exponent := new(big.Int).SetBytes(e)
	if exponent.BitLen() > 31 {
		return nil, errors.New("a JWK with a public exponent of more than 31 bits")
	}
	return usable(&rsa.PublicKey{N: new(big.Int).SetBytes(n), E: int(exponent.Int64())})
}

func (k jwk) ec() (crypto.PublicKey, error) {
	curves := map[string]ecdh.Curve{"P-256": ecdh.P256(), "P-384": ecdh.P384(), "P-521": ecdh.P521()}
	curve := curves[k.Curve]
	if curve == nil {
		return nil, fmt.Errorf("a JWK on the curve %q, want P-256, P-384 or P-521", k.Curve)
	}
	x, err1 := base64URL(k.X)
	y, err2 := base64URL(k.Y)
	if err := errors.Join(err1, err2); err != nil {
		return nil, fmt.Errorf("x or y of a JWK: %w", err)
	}
	if len(x) != len(y) { // RFC 7518 §6.2.1.2: both of the curve's length
		return nil, errors.New("a JWK with x and y of different lengths")
	}
	return curve.NewPublicKey(slices.Concat([]byte{4}, x, y)) // which checks that it is on the curve
}

// base64URL reads base64url without padding (RFC 7515 §2). Line breaks, which
// encoding/base64 would skip, are an error.
func base64URL(text string) ([]byte, error) {
	if bytes.ContainsAny([]byte(text), "\r\n") {
		return nil, errors.New("a line break in base64url")
	}
	return base64.RawURLEncoding.Strict().DecodeString(text)
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
