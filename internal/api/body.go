package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"os"
	"strings"
)

// readBody takes in the whole body, in one buffer where its length is said, so
// that a plaintext to seal leaves no copies behind.
func (x *visit) readBody() (err error) {
	size, limit := x.r.ContentLength, x.route.maxBody
	switch {
	case size == 0:
		return nil
	case limit == 0:
		return fmt.Errorf("%w: no body is taken here", errBadRequest)
	case size > limit:
		return fmt.Errorf("%w: %d bytes, at most %d are taken", errTooLarge, size, limit)
	case size > 0:
		x.body = make([]byte, size)
		_, err = io.ReadFull(x.r.Body, x.body)
	default:
		x.body, err = readAll(x.r.Body, limit)
	}
	if err != nil {
		clear(x.body)
		x.body = nil
		return unread(err)
	}
	return nil
}

func unread(err error) error {
	switch {
	case errors.Is(err, errTooLarge):
		return err
	case errors.Is(err, os.ErrDeadlineExceeded):
		return errSlow
	}
	return fmt.Errorf("%w: reading the body: %w", errBadRequest, err)
}

// readAll reads a body of unknown length, clearing each buffer it outgrows.
func readAll(r io.Reader, limit int64) ([]byte, error) {
	body := make([]byte, 0, 4<<10)
	for {
		n, err := r.Read(body[len(body):cap(body)])
		body = body[:len(body)+n]
		switch {
		case int64(len(body)) > limit:
			clear(body)
			return nil, fmt.Errorf("%w: more than the %d bytes that are taken", errTooLarge, limit)
		case errors.Is(err, io.EOF):
			return body, nil
		case err != nil:
			return body, err
		}
		if len(body) == cap(body) {
			grown := make([]byte, len(body), 2*cap(body))
			copy(grown, body)
			clear(body)
			body = grown
		}
	}
}

// refuseForms: an envelope or a plaintext is the body itself. The type that it
// is said to have does not matter (curl calls everything a form), but the parts
// of a multipart body would be taken for it.
func (x *visit) refuseForms() error {
	kind := x.r.Header.Get("Content-Type")
	if len(kind) >= 10 && strings.EqualFold(kind[:10], "multipart/") {
		return fmt.Errorf("%w: send the bytes themselves as the body, with curl --data-binary", errMedia)
	}
	return nil
}

// decode reads a JSON body strictly.
func (x *visit) decode(into any) error {
	if kind, _, err := mime.ParseMediaType(x.r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		return fmt.Errorf("%w: want application/json", errMedia)
	}
	dec := json.NewDecoder(bytes.NewReader(x.body))
	dec.DisallowUnknownFields()
	if err := dec.Decode(into); err != nil {
		return fmt.Errorf("%w: the body: %w", errBadRequest, err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: the body goes on after its JSON", errBadRequest)
	}
	return nil
}
