package jwe

import (
	"crypto/ecdh"
	"encoding/json"
	"fmt"

	"keyd/internal/boundary"
)

// agree reads what a key agreement takes from the header (RFC 7518 §4.6.1).
func (m members) agree(env *boundary.Envelope) (err error) {
	if env.EPK, err = m.epk(); err != nil {
		return err
	}
	for _, party := range []struct {
		name string
		to   *[]byte
	}{{"apu", &env.APU}, {"apv", &env.APV}} {
		text, err := m.text(party.name)
		if err != nil {
			return err
		}
		if *party.to, err = decode(party.name+" in the header", nil, []byte(text)); err != nil {
			return err
		}
	}
	return nil
}

// epk reads the sender's ephemeral public key (RFC 7518 §6.2.1). It must be a
// point of its curve, of which there is one spelling: a token that is handed
// another can be made to tell its private key (invalid curve attack).
func (m members) epk() (*ecdh.PublicKey, error) {
	raw, ok := m["epk"]
	if !ok {
		return nil, fmt.Errorf("%w: the header has no epk", ErrMalformed)
	}
	var key members
	if err := json.Unmarshal(raw, &key); err != nil || key == nil {
		return nil, fmt.Errorf("%w: epk in the header is not a JSON object", ErrMalformed)
	}
	if _, private := key["d"]; private {
		return nil, fmt.Errorf("%w: epk in the header holds a private key", ErrMalformed)
	}
	var kty, crv, x, y string
	for _, member := range []struct {
		name string
		to   *string
	}{{"kty", &kty}, {"crv", &crv}, {"x", &x}, {"y", &y}} {
		var err error
		if *member.to, err = key.text(member.name); err != nil {
			return nil, fmt.Errorf("%w (epk)", err)
		}
	}
	curve := boundary.CurveOf(crv)
	if kty != "EC" || curve == nil {
		return nil, fmt.Errorf("%w: epk is a key of kty %+.16q and crv %+.16q, want EC and P-256, P-384 or P-521", ErrAlgorithm, kty, crv)
	}
	point := []byte{4} // uncompressed (SEC 1 §2.3.3)
	for _, coordinate := range []string{x, y} {
		start := len(point)
		var err error
		if point, err = decode("coordinate of epk", point, []byte(coordinate)); err != nil {
			return nil, err
		}
		// RFC 7518 §6.2.1.2: as long as the curve's field, leading zeros kept.
		if got, want := len(point)-start, coordinateLen[crv]; got != want {
			return nil, fmt.Errorf("%w: a coordinate of epk is %d bytes, %s has %d", ErrMalformed, got, crv, want)
		}
	}
	public, err := curve.NewPublicKey(point)
	if err != nil {
		return nil, fmt.Errorf("%w: epk is not a point of %s", ErrMalformed, crv)
	}
	return public, nil
}

var coordinateLen = map[string]int{"P-256": 32, "P-384": 48, "P-521": 66}
