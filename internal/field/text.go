package field

import (
	"errors"
	"fmt"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// Text is what a value means, for who is to have it alone: of a string its
// characters in UTF-8, of anything else its JSON text. The result is a copy, in
// one buffer that can be wiped.
func Text(value []byte) ([]byte, error) {
	out := make([]byte, 0, len(value)) // never grown: an escape is longer than what it stands for
	if len(value) == 0 || value[0] != '"' {
		return append(out, value...), nil
	}
	for i := 1; i < len(value)-1; {
		if value[i] != '\\' {
			out = append(out, value[i])
			i++
			continue
		}
		r, size, err := escape(value[i:])
		if err != nil {
			clear(out)
			return nil, err
		}
		out = utf8.AppendRune(out, r)
		i += size
	}
	return out, nil
}

// escapes are those of RFC 8259 §7 that are one character.
var escapes = map[byte]rune{'"': '"', '\\': '\\', '/': '/', 'b': '\b', 'f': '\f', 'n': '\n', 'r': '\r', 't': '\t'}

// errSurrogate: encoding/json would put U+FFFD there, and the partner would get
// another text than the caller sent.
var errSurrogate = fmt.Errorf("%w: half a surrogate pair", ErrDocument)

// escape reads what begins with a backslash in valid JSON.
func escape(text []byte) (r rune, size int, err error) {
	if text[1] != 'u' {
		return escapes[text[1]], 2, nil
	}
	if r, err = unit(text); err != nil || !utf16.IsSurrogate(r) {
		return r, 6, err
	}
	if len(text) < 12 || text[6] != '\\' || text[7] != 'u' {
		return 0, 0, errSurrogate
	}
	low, err := unit(text[6:])
	if r = utf16.DecodeRune(r, low); err != nil || r == utf8.RuneError {
		return 0, 0, errSurrogate
	}
	return r, 12, nil
}

// unit reads the four digits of \uXXXX.
func unit(text []byte) (rune, error) {
	n, err := strconv.ParseUint(string(text[2:6]), 16, 16)
	return rune(n), err
}

// errNotUTF8: JSON is UTF-8 (RFC 8259 §8.1).
var errNotUTF8 = errors.New("not UTF-8")

// CheckText reports why bytes cannot stand in a document as a string.
func CheckText(text []byte) error {
	if !utf8.Valid(text) {
		return errNotUTF8
	}
	return nil
}

// Quote appends text, which is UTF-8, as a JSON string.
func Quote(to, text []byte) []byte {
	const hex = "0123456789abcdef"
	to = append(to, '"')
	for _, c := range text {
		switch {
		case c == '"' || c == '\\':
			to = append(to, '\\', c)
		case c < ' ':
			to = append(to, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		default:
			to = append(to, c)
		}
	}
	return append(to, '"')
}
