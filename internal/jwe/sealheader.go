package jwe

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"unicode/utf8"
)

// reserved are the members that keyd alone puts into a header, or never:
// those that say how the envelope is made (RFC 7516 §4.1.1 to §4.1.3, RFC 7518
// §4.6.1), that need understanding (§4.1.13), or that point at keys (§4.1.4 to
// §4.1.10).
var reserved = []string{"alg", "enc", "zip", "kid", "url", "epk", "apu", "apv", "crit", "jku", "jwk", "x5u", "x5c", "x5t", "x5t#S256", "iv", "tag", "p2s", "p2c"}

// CheckExtra reports why a member cannot stand in [SealHeader].Extra.
func CheckExtra(name string) error {
	if name == "" || !utf8.ValidString(name) || !faithful(name) || slices.Contains(reserved, name) {
		return fmt.Errorf("%w: the header member %+.32q is not one to add", ErrAlgorithm, name)
	}
	return nil
}

// members are what the header has before the alg adds its own.
func (h SealHeader) members() (map[string]any, error) {
	m := map[string]any{"alg": string(h.Alg), "enc": h.Enc}
	for name, value := range map[string]string{"kid": h.KID, "url": h.URL} {
		if !utf8.ValidString(value) || !faithful(value) { // would be sent as another name than this
			return nil, fmt.Errorf("%w: the %s is not Unicode", ErrMalformed, name)
		}
		if value != "" {
			m[name] = value
		}
	}
	for name, party := range map[string][]byte{"apu": h.APU, "apv": h.APV} {
		if len(party) > 0 {
			m[name] = base64.RawURLEncoding.EncodeToString(party)
		}
	}
	for name, value := range h.Extra {
		if err := CheckExtra(name); err != nil {
			return nil, err
		}
		m[name] = value
	}
	return m, nil
}

// encodeHeader is the first part of an envelope. Its members come in the order
// of their names.
func encodeHeader(members map[string]any) (string, error) {
	var text bytes.Buffer
	enc := json.NewEncoder(&text)
	enc.SetEscapeHTML(false) // a url's & is an &
	if err := enc.Encode(members); err != nil {
		return "", fmt.Errorf("%w: encoding the header: %w", ErrMalformed, err)
	}
	raw := bytes.TrimSuffix(text.Bytes(), []byte("\n"))
	if len(raw) > maxHeader {
		return "", fmt.Errorf("%w: the header is longer than %d bytes", ErrTooLarge, maxHeader)
	}
	return base64.RawURLEncoding.EncodeToString(raw), nil
}
