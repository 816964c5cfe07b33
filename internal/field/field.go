// Package field finds values in a JSON document by their JSON pointers (RFC
// 6901) and puts others in their place, without touching a byte of the rest: no
// number is read and written differently, no member changes its place.
//
// What stands in such documents are card numbers and passwords, so nothing is
// decoded into strings that could not be wiped, and no error repeats more than
// the pointer it is about.
package field

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"unicode/utf8"
)

var (
	// ErrDocument: it is not a JSON document that has one meaning.
	ErrDocument = errors.New("not a usable JSON document")
	// ErrPointer: it is not a JSON pointer.
	ErrPointer = errors.New("not a JSON pointer")
	// ErrMissing: the document has no value there.
	ErrMissing = errors.New("no value there")
	// ErrOverlap: one value is meant twice, or is part of another that is meant.
	ErrOverlap = errors.New("the values overlap, and each must stand by itself")
)

// Document is a JSON text in which values are found.
type Document struct{ text []byte }

// Parse reads a document, which it keeps.
func Parse(text []byte) (*Document, error) {
	switch {
	case !utf8.Valid(text):
		return nil, fmt.Errorf("%w: it is not UTF-8", ErrDocument)
	case !json.Valid(text):
		return nil, fmt.Errorf("%w: it is not JSON", ErrDocument)
	}
	return &Document{text}, nil
}

// Value returns the JSON text of a value, which is the document's own.
func (d *Document) Value(p Pointer) ([]byte, error) {
	at, err := d.find(p)
	if err != nil {
		return nil, err
	}
	return d.text[at.start:at.end:at.end], nil
}

func (d *Document) find(p Pointer) (span, error) {
	s := scanner{text: d.text}
	at := s.skip()
	for _, token := range p.tokens {
		var err error
		switch at, err = s.part(at, token); {
		case errors.Is(err, errMissing):
			return span{}, fmt.Errorf("%q: %w", p.String(), ErrMissing)
		case err != nil:
			return span{}, fmt.Errorf("%q: %w", p.String(), err)
		}
	}
	return at, nil
}

// Edit is a value to be put at a pointer, as JSON text. With Add a member that
// is not there is added to its object; without, it must be there.
type Edit struct {
	At   Pointer
	JSON []byte
	Add  bool
}

// splice is a stretch of the document with what comes in its place.
type splice struct {
	start, end int
	with       []byte
	at         Pointer
}

// Apply returns the document with every edit made, in a buffer of its own.
func (d *Document) Apply(edits []Edit) ([]byte, error) {
	splices := make([]splice, 0, len(edits))
	size := len(d.text)
	for _, e := range edits {
		s, err := d.splice(e)
		if err != nil {
			return nil, err
		}
		size += len(s.with)
		splices = append(splices, s)
	}
	slices.SortStableFunc(splices, func(a, b splice) int { return a.start - b.start })
	out, done := make([]byte, 0, size), 0
	for i, s := range splices {
		if s.start < done || i > 0 && s.start == splices[i-1].start {
			return nil, fmt.Errorf("%q and %q: %w", splices[i-1].at.String(), s.at.String(), ErrOverlap)
		}
		out = append(append(out, d.text[done:s.start]...), s.with...)
		done = s.end
	}
	return append(out, d.text[done:]...), nil
}

func (d *Document) splice(e Edit) (splice, error) {
	at, err := d.find(e.At)
	last := len(e.At.tokens) - 1
	switch {
	case err == nil:
		return splice{at.start, at.end, e.JSON, e.At}, nil
	case !e.Add || last < 0 || !errors.Is(err, ErrMissing):
		return splice{}, err
	}
	parent, above := d.find(Pointer{tokens: e.At.tokens[:last]})
	if above != nil || d.text[parent.start] != '{' {
		return splice{}, fmt.Errorf("%w, and no object to add it to", err)
	}
	inside := bytes.TrimRight(d.text[parent.start+1:parent.end-1], " \t\r\n")
	member := make([]byte, 0, 6*len(e.At.tokens[last])+len(e.JSON)+4)
	if len(inside) > 0 {
		member = append(member, ',')
	}
	member = append(append(Quote(member, []byte(e.At.tokens[last])), ':'), e.JSON...)
	end := parent.start + 1 + len(inside)
	return splice{end, end, member, e.At}, nil
}
