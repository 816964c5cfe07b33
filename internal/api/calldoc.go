package api

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"unicode/utf8"

	"keyd/internal/field"
)

// Request is a business request as it leaves for a partner.
type Request struct {
	Method, Path string
	Query        url.Values
	Header       http.Header // the caller's own
	Body         []byte      // sealed
	KID, KeyID   string      // ours, and theirs that it is sealed to
	// Authorization is the caller's own at the partner; "" is none.
	Authorization string
}

// Response is what a partner answered.
type Response struct {
	Status   int
	Header   http.Header
	Body     []byte
	Envelope []byte // the compact JWE that Body is or holds; nil is none
	// Stale: it may mean that the request was sealed to a key that the partner no
	// longer uses.
	Stale      bool
	RetryAfter int // seconds; 0 if it does not say
}

// callDocument is the body of a call: client.Call, with what may be secret as it
// stands in the text, so that it can be wiped.
type callDocument struct {
	Method         string              `json:"method"`
	Path           string              `json:"path"`
	Query          map[string][]string `json:"query"`
	Headers        map[string]string   `json:"headers"`
	Body           json.RawMessage     `json:"body"`
	BodyBase64     json.RawMessage     `json:"body_base64"`
	Unsealed       bool                `json:"unsealed"`
	Repeatable     bool                `json:"repeatable"`
	Fields         []string            `json:"fields"`
	PublicKeyAt    string              `json:"public_key_at"`
	Ephemeral      *bool               `json:"ephemeral"`
	Direct         *bool               `json:"direct"`
	Form           string              `json:"form"`
	SigningMethod  json.RawMessage     `json:"signing_method"`
	OpenFields     []string            `json:"open_fields"`
	OpenJSONFields []string            `json:"open_json_fields"`
}

// call is a call as it is to be made.
type call struct {
	doc     callDocument
	request Request
	want    sealing // of Request.Body, unless that is empty or to be sent as it is
	open    []opening
}

// readCall reads the document of a call.
func (x *visit) readCall(s *Server, p *Partner) (*call, error) {
	c := &call{}
	if err := x.decode(&c.doc); err != nil {
		return nil, err
	}
	defer clear(c.doc.Body)
	defer clear(c.doc.BodyBase64)
	defer clear(c.doc.SigningMethod)
	body, err := c.doc.body()
	if err != nil {
		return nil, err
	}
	if most := s.cfg.MaxPlaintext; int64(len(body)) > most { // the document may be larger, as JSON has its ways of writing it
		clear(body)
		return nil, fmt.Errorf("%w: a body of %d bytes, at most %d are taken", errTooLarge, len(body), most)
	}
	c.request = Request{Method: c.doc.Method, Path: c.doc.Path, Query: c.doc.Query, Header: http.Header{}, Body: body,
		Authorization: x.r.Header.Get("Authorization")}
	for name, value := range c.doc.Headers {
		c.request.Header.Add(name, value)
	}
	for _, list := range []struct {
		pointers []string
		json     bool
	}{{c.doc.OpenFields, false}, {c.doc.OpenJSONFields, true}} {
		pointers, err := parsePointers(list.pointers)
		if err != nil {
			return nil, err
		}
		for _, at := range pointers {
			c.open = append(c.open, opening{at: at, json: list.json})
		}
	}
	if len(c.open) > mostFields {
		return nil, fmt.Errorf("%w: more than %d fields", errBadRequest, mostFields)
	}
	return c, c.readSealing(s, p)
}

// body is what the caller wants the partner to get.
func (d *callDocument) body() ([]byte, error) {
	switch {
	case len(d.Body) > 0 && len(d.BodyBase64) > 0:
		return nil, fmt.Errorf("%w: body or body_base64, not both", errBadRequest)
	case len(d.Body) > 0 && d.Body[0] == '"':
		return field.Text(d.Body)
	case len(d.Body) > 0:
		return nil, fmt.Errorf("%w: body is the text of the request's body, as a string", errBadRequest)
	case len(d.BodyBase64) == 0:
		return nil, nil
	}
	text, err := field.Text(d.BodyBase64)
	if err != nil {
		return nil, err
	}
	defer clear(text)
	body := make([]byte, base64.StdEncoding.DecodedLen(len(text)))
	n, err := base64.StdEncoding.Decode(body, text)
	if err != nil || d.BodyBase64[0] != '"' || bytes.ContainsAny(text, "\r\n") {
		clear(body)
		return nil, fmt.Errorf("%w: body_base64 is not base64", errBadRequest)
	}
	return body[:n], nil
}

// readSealing says how the body is sealed, as far as it is not known.
func (c *call) readSealing(s *Server, p *Partner) (err error) {
	d := &c.doc
	if len(c.request.Body) == 0 && p.Form != FormOwn || d.Unsealed {
		if d.Fields != nil || d.PublicKeyAt != "" || d.Ephemeral != nil || d.Direct != nil || d.Form != "" || d.SigningMethod != nil {
			return fmt.Errorf("%w: it says how to seal a body, and none is to be sealed", errBadRequest)
		}
		return nil
	}
	w := sealing{plaintext: c.request.Body, verb: d.Method, path: d.Path, in: d.Form}
	if w.fields, err = parsePointers(d.Fields); err != nil {
		return err
	}
	if w.keyAt, err = field.ParsePointer(d.PublicKeyAt); err != nil {
		return err
	}
	said := map[string]bool{"field": d.Fields != nil, "public_key_at": d.PublicKeyAt != "", "ephemeral": d.Ephemeral != nil, "direct": d.Direct != nil, "form": d.Form != ""}
	w.ephemeral, w.direct = d.Ephemeral != nil && *d.Ephemeral, d.Direct != nil && *d.Direct
	if err := s.complete(p, &w, func(name string) bool { return said[name] }); err != nil {
		return err
	}
	switch allowed := d.SigningMethod != nil; {
	case allowed && p.Form != FormOwn:
		return fmt.Errorf("%w: partner %s: it takes no signing_method", errBadRequest, p.Name)
	case allowed:
		if w.method, err = readSigningMethod(d.SigningMethod); err != nil {
			return err
		}
		w.body = c.request.Body
	case p.Form == FormOwn && w.in == InHeader:
		return nil // a request that no user has to allow
	}
	c.want = w
	return nil
}

// repeatable reports whether the partner may be asked twice: it changes nothing,
// or the caller says that twice does what once does.
func (c *call) repeatable() bool { return c.request.Method == http.MethodGet || c.doc.Repeatable }

// sealed reports whether something of the request is to be sealed.
func (c *call) sealed() bool { return c.want.verb != "" }

// readSigningMethod reads {"id","value",…}.
func readSigningMethod(text []byte) (*SigningMethod, error) {
	wrapped := append(append([]byte(`{"signing_method":`), text...), '}')
	defer clear(wrapped)
	m, _, err := readMethod(wrapped)
	return m, err
}

// wipe clears what the call was made of.
func (c *call) wipe() {
	clear(c.request.Body)
	if c.want.method != nil {
		clear(c.want.method.Value)
	}
}

// send answers with the outcome of a call. The body is put into the document as
// it stands, so that no copy of it stays behind.
func (x *visit) send(out *outcome) error {
	head := encode(out.Answer) // without the body
	head = head[:len(head)-2]  // and without its closing brace and line break
	text := make([]byte, 0, len(head)+6*len(out.body)+64)
	defer func() { clear(text[:cap(text)]) }()
	text = append(text, head...)
	switch {
	case len(out.body) == 0:
	case utf8.Valid(out.body):
		text = field.Quote(append(text, `,"body":`...), out.body)
	default:
		text = append(text, `,"body_base64":"`...)
		text = append(base64.StdEncoding.AppendEncode(text, out.body), '"')
	}
	x.respondSecret("application/json", append(text, '}', '\n'))
	return nil
}
