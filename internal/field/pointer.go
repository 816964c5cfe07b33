package field

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

const (
	maxPointer = 512 // bytes
	maxTokens  = 32
)

// Pointer is a JSON pointer. The zero Pointer is the whole document.
type Pointer struct{ tokens []string }

// ParsePointer reads a JSON pointer (RFC 6901 §3).
func ParsePointer(text string) (Pointer, error) {
	switch {
	case text == "":
		return Pointer{}, nil
	case len(text) > maxPointer || !utf8.ValidString(text):
		return Pointer{}, fmt.Errorf("%w: want at most %d bytes of UTF-8", ErrPointer, maxPointer)
	case text[0] != '/':
		return Pointer{}, fmt.Errorf("%w: %q: want it to begin with /", ErrPointer, text)
	}
	tokens := strings.Split(text[1:], "/")
	if len(tokens) > maxTokens {
		return Pointer{}, fmt.Errorf("%w: %q: want at most %d steps", ErrPointer, text, maxTokens)
	}
	for i, token := range tokens {
		for j := range len(token) {
			if token[j] == '~' && (j+1 == len(token) || token[j+1] != '0' && token[j+1] != '1') {
				return Pointer{}, fmt.Errorf("%w: %q: want ~0 or ~1 after ~", ErrPointer, text)
			}
		}
		// §4: ~1 first, so that ~01 becomes ~1.
		tokens[i] = strings.ReplaceAll(strings.ReplaceAll(token, "~1", "/"), "~0", "~")
	}
	return Pointer{tokens}, nil
}

// String is the pointer as it is written.
func (p Pointer) String() string {
	var b strings.Builder
	for _, token := range p.tokens {
		b.WriteByte('/')
		b.WriteString(strings.ReplaceAll(strings.ReplaceAll(token, "~", "~0"), "/", "~1"))
	}
	return b.String()
}

// Whole reports whether it is the whole document.
func (p Pointer) Whole() bool { return len(p.tokens) == 0 }

// index reads an array's index (RFC 6901 §4): digits without a leading zero.
// "-", the element after the last, is none.
func index(token string) (int, bool) {
	if token == "" || len(token) > 1 && token[0] == '0' || strings.Trim(token, "0123456789") != "" {
		return 0, false
	}
	i, err := strconv.Atoi(token)
	return i, err == nil
}
