package field

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
)

// span is where a value stands in the text.
type span struct{ start, end int }

// scanner walks a text that is known to be valid JSON (RFC 8259), so that it
// need not look where nothing else can stand. It goes over it as often as there
// are pointers, and keeps nothing.
type scanner struct {
	text []byte
	at   int
}

// skip goes over one value and what stands in it.
func (s *scanner) skip() span {
	s.space()
	start, depth := s.at, 0
	for {
		switch s.text[s.at] {
		case '"':
			s.string()
		case '{', '[':
			depth++
			s.at++
		case '}', ']':
			depth--
			s.at++
		case ',', ':', ' ', '\t', '\r', '\n':
			s.at++
		default:
			for s.at < len(s.text) && strings.IndexByte(" \t\r\n,]}", s.text[s.at]) < 0 {
				s.at++
			}
		}
		if depth == 0 {
			return span{start, s.at}
		}
	}
}

// errMissing and errTwice are why a token names nothing.
var (
	errMissing = errors.New("missing")
	errTwice   = fmt.Errorf("%w: a member stands twice", ErrDocument)
)

// part finds the part of an object or an array that a token names.
func (s *scanner) part(of span, token string) (span, error) {
	s.at = of.start
	switch s.text[s.at] {
	case '{':
		return s.member(token)
	case '[':
		return s.element(token)
	}
	return span{}, errMissing
}

// member finds a member by its name. One that stands twice is an error: who
// reads the document next might take the other.
func (s *scanner) member(name string) (found span, err error) {
	err = errMissing
	for s.next() {
		named := s.name(name)
		s.space()
		s.at++ // the colon
		value := s.skip()
		switch {
		case named && err == nil:
			return span{}, errTwice
		case named:
			found, err = value, nil
		}
	}
	return found, err
}

func (s *scanner) element(token string) (span, error) {
	want, ok := index(token)
	if !ok {
		return span{}, errMissing
	}
	for i := 0; s.next(); i++ {
		value := s.skip()
		if i == want {
			return value, nil
		}
	}
	return span{}, errMissing
}

// next goes to the next part, past the bracket or the comma before it, and
// reports whether there is one.
func (s *scanner) next() bool {
	if s.space(); s.text[s.at] == '}' || s.text[s.at] == ']' {
		return false
	}
	s.at++ // the opening bracket, or a comma
	s.space()
	return s.text[s.at] != '}' && s.text[s.at] != ']'
}

// name goes over the name of a member and reports whether it is the one given.
func (s *scanner) name(want string) bool {
	start := s.at
	s.string()
	raw := s.text[start:s.at]
	if bytes.IndexByte(raw, '\\') < 0 {
		return string(raw[1:len(raw)-1]) == want
	}
	name, err := Text(raw)
	return err == nil && string(name) == want
}

// string goes to the end of a string.
func (s *scanner) string() {
	for s.at++; s.text[s.at] != '"'; s.at++ {
		if s.text[s.at] == '\\' {
			s.at++
		}
	}
	s.at++
}

func (s *scanner) space() {
	for strings.IndexByte(" \t\r\n", s.text[s.at]) >= 0 {
		s.at++
	}
}
