package api

import (
	"crypto"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"

	"keyd/internal/field"
)

// Enveloper makes the envelopes of a partner that has its own kind of them, for
// FormOwn.
type Enveloper interface {
	// SealBody seals a JSON object and returns the body to send in its place.
	SealBody(public crypto.PublicKey, keyID string, plaintext []byte) ([]byte, error)
	// SealMethod seals with what a user allows a request, for its header. body is
	// exactly what is sent.
	SealMethod(public crypto.PublicKey, keyID string, m SigningMethod, body []byte) (name, value string, err error)
}

// SigningMethod is with what a user allows a request: a PIN, say.
type SigningMethod struct {
	ID, IdempotencyKey, PhysicalDeviceID string
	Value                                []byte // in UTF-8, wiped by whoever made it
}

// Where an endpoint takes an envelope of a partner's own kind.
const (
	InBody   = "body"
	InHeader = "header"
)

// own seals a request in the partner's own kind of envelope: its body, with what
// a user allows it in a header, or both. The header is made for the body as it is
// sent.
func (l *sealer) own() (err error) {
	method, body := l.want.method, l.want.body
	if l.want.in == InBody {
		if body, err = l.p.Own.SealBody(l.public, l.theirs.ID, l.want.plaintext); err != nil {
			return fmt.Errorf("%w: %w", errBadRequest, err)
		}
		l.out.Body = string(body)
		if method == nil {
			return nil
		}
	}
	if method == nil {
		if method, body, err = readMethod(l.want.plaintext); err != nil {
			return err
		}
		defer clear(method.Value)
	}
	name, value, err := l.p.Own.SealMethod(l.public, l.theirs.ID, *method, body)
	if err != nil {
		return fmt.Errorf("%w: %w", errBadRequest, err)
	}
	l.out.Headers[name], l.header = value, name
	return nil
}

// readMethod reads {"signing_method":{"id","value",…},"body":base64}. The value
// is taken from the text as it stands, so that it can be wiped.
func readMethod(text []byte) (*SigningMethod, []byte, error) {
	wrong := func(format string, args ...any) (*SigningMethod, []byte, error) {
		return nil, nil, fmt.Errorf("%w: %s", errBadRequest, fmt.Sprintf(format, args...))
	}
	doc, err := field.Parse(text)
	if err != nil {
		return nil, nil, err
	}
	var m SigningMethod
	var encoded string
	for pointer, to := range map[string]*string{"/signing_method/id": &m.ID, "/signing_method/idempotency_key": &m.IdempotencyKey,
		"/signing_method/physical_device_id": &m.PhysicalDeviceID, "/body": &encoded} {
		raw, err := member(doc, pointer)
		switch {
		case errors.Is(err, field.ErrMissing) && pointer != "/signing_method/id":
			continue
		case err != nil:
			return nil, nil, err
		case json.Unmarshal(raw, to) != nil:
			return wrong("%s is not a string", pointer)
		}
	}
	body, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		return wrong("/body is not base64 of the request's exact body")
	}
	raw, err := member(doc, "/signing_method/value")
	if err != nil {
		return nil, nil, err
	}
	if raw[0] != '"' {
		return wrong("/signing_method/value is not a string")
	}
	if m.Value, err = field.Text(raw); err != nil {
		return nil, nil, err
	}
	return &m, body, nil
}

func member(doc *field.Document, pointer string) ([]byte, error) {
	p, err := field.ParsePointer(pointer)
	if err != nil {
		return nil, err
	}
	return doc.Value(p)
}
