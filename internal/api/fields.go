package api

import (
	"context"
	"encoding/json"
	"fmt"
	"unicode/utf8"

	"keyd/internal/audit"
	"keyd/internal/exchange"
	"keyd/internal/field"
)

// mostFields is how many values of a body are sealed or opened at a time.
const mostFields = 32

// pointers reads a parameter that names values of the body.
func (x *visit) pointers(name string) ([]field.Pointer, error) {
	return parsePointers(x.query[name])
}

func parsePointers(texts []string) ([]field.Pointer, error) {
	if len(texts) > mostFields {
		return nil, fmt.Errorf("%w: %d fields, want at most %d", errBadRequest, len(texts), mostFields)
	}
	pointers := make([]field.Pointer, 0, len(texts))
	for _, text := range texts {
		p, err := field.ParsePointer(text)
		if err != nil {
			return nil, err
		}
		if p.Whole() {
			return nil, fmt.Errorf("%w: a field is a value in the body, not all of it", errBadRequest)
		}
		pointers = append(pointers, p)
	}
	return pointers, nil
}

// sealFields seals each of the values by itself and puts the envelope in its
// place, as a string.
func sealFields(doc *field.Document, at []field.Pointer, seal func(plaintext []byte) (compact string, err error)) ([]field.Edit, error) {
	edits := make([]field.Edit, 0, len(at)+1)
	for _, p := range at {
		value, err := doc.Value(p)
		if err != nil {
			return nil, err
		}
		plaintext, err := field.Text(value)
		if err != nil {
			return nil, fmt.Errorf("%q: %w", p.String(), err)
		}
		compact, err := seal(plaintext)
		clear(plaintext)
		if err != nil {
			return nil, err
		}
		edits = append(edits, field.Edit{At: p, JSON: field.Quote(make([]byte, 0, len(compact)+2), []byte(compact))})
	}
	return edits, nil
}

// opening is a value of a body that is an envelope, and what it is to become.
type opening struct {
	at      field.Pointer
	json    bool // what is inside is JSON, not the text of a string
	compact []byte
}

// decryptFields opens values of a JSON body, each an envelope of its own, and
// puts what was sealed in their places: all of them or none.
func (s *Server) decryptFields(x *visit, p *Partner) error {
	at, err := x.readOpenings()
	if err != nil {
		return err
	}
	doc, err := field.Parse(x.body)
	if err != nil {
		return err
	}
	openings, err := envelopesIn(doc, at)
	if err != nil {
		return err
	}
	id := x.query.Get("exchange")
	if x.query.Has("exchange") && id == "" {
		return exchange.ErrUnknown
	}
	opened, err := s.openFields(x.r.Context(), x.actor, p.Name, id, openings)
	defer wipe(opened)
	if err != nil {
		return err
	}
	body, err := putBack(doc, openings, opened)
	defer clear(body)
	if err != nil {
		return err
	}
	kid, level := leastOf(opened)
	x.opened(kid, level)
	x.respondSecret("application/json", body)
	return nil
}

// readOpenings reads which values of the body are envelopes.
func (x *visit) readOpenings() ([]opening, error) {
	if len(x.query["field"])+len(x.query["field_json"]) > mostFields {
		return nil, fmt.Errorf("%w: more than %d fields", errBadRequest, mostFields)
	}
	var at []opening
	for _, name := range []string{"field", "field_json"} {
		pointers, err := x.pointers(name)
		if err != nil {
			return nil, err
		}
		for _, p := range pointers {
			at = append(at, opening{at: p, json: name == "field_json"})
		}
	}
	return at, nil
}

// envelopesIn reads the envelopes where they are said to be.
func envelopesIn(doc *field.Document, at []opening) ([]opening, error) {
	openings := make([]opening, 0, len(at))
	for _, o := range at {
		value, err := doc.Value(o.at)
		if err != nil {
			return nil, err
		}
		if value[0] != '"' {
			return nil, fmt.Errorf("%w: %q is not a string, so no envelope", errBadRequest, o.at.String())
		}
		if o.compact, err = field.Text(value); err != nil {
			return nil, fmt.Errorf("%q: %w", o.at.String(), err)
		}
		openings = append(openings, o)
	}
	return openings, nil
}

// openFields opens envelopes, one after the other, or together as the reply of an
// exchange. The caller wipes what is returned, with an error too.
func (s *Server) openFields(ctx context.Context, actor audit.Actor, partner, id string, openings []opening) ([]*Opened, error) {
	all := make([]*Opened, 0, len(openings))
	if id != "" {
		compacts := make([][]byte, 0, len(openings))
		for _, o := range openings {
			compacts = append(compacts, o.compact)
		}
		return s.cfg.Opener.OpenReply(ctx, actor, partner, id, compacts...)
	}
	for _, o := range openings {
		opened, err := s.cfg.Opener.Open(ctx, actor, partner, o.compact)
		if err != nil {
			return all, err
		}
		all = append(all, opened)
	}
	return all, nil
}

// putBack is the document with what was sealed in the places of the envelopes.
func putBack(doc *field.Document, openings []opening, opened []*Opened) ([]byte, error) {
	edits := make([]field.Edit, 0, len(openings))
	for i, o := range openings {
		value, err := o.put(opened[i].Plaintext)
		if err != nil {
			return nil, err
		}
		defer clear(value)
		edits = append(edits, field.Edit{At: o.at, JSON: value})
	}
	return doc.Apply(edits)
}

// put is what was sealed, as JSON.
func (o opening) put(plaintext []byte) ([]byte, error) {
	switch {
	case !utf8.Valid(plaintext):
		return nil, fmt.Errorf("%w: %q is not UTF-8", errNotText, o.at.String())
	case !o.json:
		// Never grown: a buffer left behind could not be wiped.
		return field.Quote(make([]byte, 0, 6*len(plaintext)+2), plaintext), nil
	case !json.Valid(plaintext):
		return nil, fmt.Errorf("%w: %q is not JSON", errNotText, o.at.String())
	}
	return append([]byte(nil), plaintext...), nil
}

// leastOf is the version that opened all of them, if it was one, and the least of
// the boundaries.
func leastOf(opened []*Opened) (kid, boundary string) {
	kid, level := opened[0].KID, opened[0].Level
	for _, o := range opened[1:] {
		if o.KID != kid {
			kid = ""
		}
		if o.Level == exchange.Host || o.Level != level && level.AtLeast(o.Level) && o.Level.AtLeast("") {
			level = o.Level
		}
	}
	return kid, string(level)
}
