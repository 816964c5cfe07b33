package worker

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"keyd/internal/boundary"
	"keyd/internal/hsm"
)

// settings is what the worker is told when it starts. The PIN is not in it.
type settings struct {
	hsm.Config
	LogLevel int
}

// generated is boundary.Generated on the wire: its public key is DER.
type generated struct {
	boundary.Generated
	DER []byte
}

// found is boundary.Found on the wire.
type found struct {
	boundary.Found
	DER []byte
}

func encodeJSON(v any) ([]byte, error) {
	raw, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encoding a message: %w", err)
	}
	return raw, nil
}

func decodeJSON[T any](raw []byte) (T, error) {
	var v T
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&v); err != nil {
		return v, fmt.Errorf("%w: %w", errMalformed, err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return v, errMalformed
	}
	return v, nil
}

func encodePublic(key crypto.PublicKey) ([]byte, error) {
	if key == nil {
		return nil, nil
	}
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return nil, fmt.Errorf("encoding a public key: %w", err)
	}
	return der, nil
}

// decodePublic reads a public key. One of an elliptic curve is an
// *ecdh.PublicKey, as everywhere in keyd.
func decodePublic(der []byte) (crypto.PublicKey, error) {
	if len(der) == 0 {
		return nil, nil
	}
	key, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errMalformed, err)
	}
	if ec, ok := key.(*ecdsa.PublicKey); ok {
		agree, err := ec.ECDH()
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errMalformed, err)
		}
		return agree, nil
	}
	return key, nil
}

func wireGenerated(g boundary.Generated) ([]byte, error) {
	der, err := encodePublic(g.Public)
	if err != nil {
		return nil, err
	}
	g.Public = nil
	return encodeJSON(generated{Generated: g, DER: der})
}

func readGenerated(raw []byte) (boundary.Generated, error) {
	g, err := decodeJSON[generated](raw)
	if err != nil {
		return boundary.Generated{}, err
	}
	g.Public, err = decodePublic(g.DER)
	return g.Generated, err
}

func wire(f boundary.Found) (found, error) {
	der, err := encodePublic(f.Public)
	f.Public = nil
	return found{Found: f, DER: der}, err
}

func (f found) found() (boundary.Found, error) {
	public, err := decodePublic(f.DER)
	f.Public = public
	return f.Found, err
}

func wireFound(f boundary.Found) ([]byte, error) {
	w, err := wire(f)
	if err != nil {
		return nil, err
	}
	return encodeJSON(w)
}

func readFound(raw []byte) (boundary.Found, error) {
	f, err := decodeJSON[found](raw)
	if err != nil {
		return boundary.Found{}, err
	}
	return f.found()
}

func wireList(all []boundary.Found) ([]byte, error) {
	list := make([]found, len(all))
	for i, f := range all {
		var err error
		if list[i], err = wire(f); err != nil {
			return nil, err
		}
	}
	return encodeJSON(list)
}

func readList(raw []byte) ([]boundary.Found, error) {
	list, err := decodeJSON[[]found](raw)
	if err != nil {
		return nil, err
	}
	var all []boundary.Found
	for _, f := range list {
		one, err := f.found()
		if err != nil {
			return nil, err
		}
		all = append(all, one)
	}
	return all, nil
}
