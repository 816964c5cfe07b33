package jwe

import (
	"slices"
	"strings"
)

// notPlain are the members that are more than a text to read, or refused.
var notPlain = []string{"zip", "crit", "epk", "apu", "apv"}

// maxPlain is how many members readPlain follows: it compares each name with
// those before it.
const maxPlain = 16

// readPlain reads a header of the shape nearly all have, one object of strings
// in ASCII with nothing escaped, in one pass. For every other shape, and for
// all that is to be refused, ok is false: readMembers reads those and says what
// is wrong. What readPlain reads readMembers reads the same.
func readPlain(text string) (h header, ok bool) {
	s := scanner{rest: text}
	if !s.take('{') {
		return header{}, false
	}
	var names [maxPlain]string
	for n := range names {
		name, value, ok := s.member()
		if !ok || slices.Contains(notPlain, name) || slices.Contains(names[:n], name) {
			return header{}, false
		}
		names[n] = name
		switch name {
		case "alg":
			h.alg = value
		case "enc":
			h.enc = value
		case "kid":
			h.kid = value
		}
		if s.take('}') {
			return h, s.end() && h.alg != "" && h.enc != ""
		}
		if !s.take(',') {
			return header{}, false
		}
	}
	return header{}, false
}

// scanner takes what it knows of JSON (RFC 8259) off the front of rest.
type scanner struct{ rest string }

// member takes a name and its value.
func (s *scanner) member() (name, value string, ok bool) {
	if name, ok = s.text(); !ok || !s.take(':') {
		return "", "", false
	}
	value, ok = s.text()
	return name, value, ok
}

// text takes a string that is spelled as it reads.
func (s *scanner) text() (string, bool) {
	if !s.take('"') {
		return "", false
	}
	for i := range len(s.rest) {
		switch c := s.rest[i]; {
		case c == '"':
			text := s.rest[:i]
			s.rest = s.rest[i+1:]
			return text, true
		case c < ' ' || c > '~' || c == '\\':
			return "", false
		}
	}
	return "", false
}

// take takes one character, and the white space before it (RFC 8259 §2).
func (s *scanner) take(c byte) bool {
	if s.end() || s.rest[0] != c {
		return false
	}
	s.rest = s.rest[1:]
	return true
}

// end takes white space and reports whether there was nothing else.
func (s *scanner) end() bool {
	for s.rest != "" && strings.IndexByte(" \t\r\n", s.rest[0]) >= 0 {
		s.rest = s.rest[1:]
	}
	return s.rest == ""
}
