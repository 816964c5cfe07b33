package jwe

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

const (
	// maxHeader is the longest protected header, in bytes of JSON.
	maxHeader = 4 << 10
	// maxDepth is how deep objects and arrays may stand in a header. The deepest
	// that is registered is a key in jwk with its certificates in x5c.
	maxDepth = 4
)

// header is what keyd needs of a protected header that is well formed and asks
// for nothing keyd does not do.
type header struct {
	alg, enc, kid string
	agreement     members // epk, apu and apv as they are written; nil where none stands there
}

// readHeader reads the first part of an envelope. Names are compared as they
// are (RFC 7515 §4), a member that stands twice is refused (RFC 7516 §4), and
// members keyd does not know are left alone, as §4 wants it.
func readHeader(part []byte) (header, error) {
	if strict.DecodedLen(len(part)) > maxHeader {
		return header{}, fmt.Errorf("%w: the header is longer than %d bytes", ErrTooLarge, maxHeader)
	}
	var room [256]byte // enough for most
	decoded, err := decode(parts[0], room[:0], part)
	if err != nil {
		return header{}, err
	}
	text := string(decoded)
	if h, ok := readPlain(text); ok {
		return h, nil
	}
	return readMembers([]byte(text))
}

// members are a header's, each as it is written.
type members map[string]json.RawMessage

// readMembers reads any header there may be.
func readMembers(text []byte) (header, error) {
	if !utf8.Valid(text) {
		return header{}, fmt.Errorf("%w: the header is not UTF-8", ErrMalformed)
	}
	var m members
	if err := json.Unmarshal(text, &m); err != nil || m == nil {
		return header{}, fmt.Errorf("%w: the header is not a JSON object", ErrMalformed)
	}
	if err := checkMembers(text); err != nil {
		return header{}, fmt.Errorf("%w: the header %w", ErrMalformed, err)
	}
	var h header
	var ignored string
	for _, member := range []struct {
		name     string
		to       *string
		required bool
	}{{"alg", &h.alg, true}, {"enc", &h.enc, true}, {"kid", &h.kid, false}, {"typ", &ignored, false}, {"cty", &ignored, false}, {"url", &ignored, false}} {
		var err error
		if *member.to, err = m.text(member.name); err != nil {
			return header{}, err
		}
		if member.required && *member.to == "" {
			return header{}, fmt.Errorf("%w: the header has no %s", ErrMalformed, member.name)
		}
	}
	if err := m.refuseExtensions(); err != nil {
		return header{}, err
	}
	for _, name := range []string{"epk", "apu", "apv"} {
		if raw, ok := m[name]; ok {
			if h.agreement == nil {
				h.agreement = members{}
			}
			h.agreement[name] = raw
		}
	}
	return h, nil
}

// text returns a member that must be a string if it is there at all.
func (m members) text(name string) (string, error) {
	raw, ok := m[name]
	if !ok {
		return "", nil
	}
	if raw[0] != '"' {
		return "", fmt.Errorf("%w: %s in the header is not a string", ErrMalformed, name)
	}
	var value string
	if err := json.Unmarshal(raw, &value); err != nil || !faithful(value) {
		return "", fmt.Errorf("%w: %s in the header is not Unicode", ErrMalformed, name)
	}
	return value, nil
}

// faithful reports whether a decoded string is the only one spelled so:
// encoding/json turns every surrogate that stands alone into U+FFFD, and two
// different names would become one.
func faithful(s string) bool { return !strings.ContainsRune(s, utf8.RuneError) }

// refuseExtensions refuses what would have to be done besides decrypting.
func (m members) refuseExtensions() error {
	// RFC 7516 §4.1.3: inflating lets a small envelope become a large plaintext,
	// and the length of the ciphertext tells of the content.
	if _, ok := m["zip"]; ok {
		return fmt.Errorf("%w: zip: compressed content is %w", ErrAlgorithm, ErrNever)
	}
	// RFC 7516 §4.1.13: keyd understands no extension, so none can be critical.
	if _, ok := m["crit"]; ok {
		return fmt.Errorf("%w: crit: a critical extension is %w, for none is understood", ErrAlgorithm, ErrNever)
	}
	return nil
}

// checkMembers finds what encoding/json lets pass: members that stand twice, at
// any depth, and nesting without end. text is valid JSON.
func checkMembers(text []byte) error {
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber() // no number is too large to be skipped
	return checkValue(dec, 0)
}

func checkValue(dec *json.Decoder, depth int) error {
	token, err := dec.Token()
	if err != nil {
		return errors.New("is not JSON")
	}
	delim, nested := token.(json.Delim)
	if !nested {
		return nil
	}
	if depth == maxDepth {
		return fmt.Errorf("is nested more than %d deep", maxDepth)
	}
	seen := map[string]bool{}
	for dec.More() {
		if delim == '{' {
			token, err := dec.Token()
			name, ok := token.(string)
			if err != nil || !ok || !faithful(name) {
				return errors.New("has a member whose name is not Unicode")
			}
			if seen[name] {
				return fmt.Errorf("has %+.32q twice", name)
			}
			seen[name] = true
		}
		if err := checkValue(dec, depth+1); err != nil {
			return err
		}
	}
	if _, err := dec.Token(); err != nil { // the closing bracket
		return errors.New("is not JSON")
	}
	return nil
}
