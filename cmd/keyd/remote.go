package main

import (
	"context"
	"crypto"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"keyd/internal/api"
	"keyd/internal/jwe"
	"keyd/internal/partner"
)

// remote is what every type of partner can do.
type remote interface {
	Profile() partner.Profile
	Endpoint(method, path string) partner.Endpoint
	Headers(kid string) http.Header
	GetHeaders(kid string) http.Header
	FetchKey(ctx context.Context) (id string, version int, algorithm string, public crypto.PublicKey, err error)
	Frame(envelope []byte, version int) ([]byte, error)
	Do(ctx context.Context, r partner.Request) (*partner.Response, error)
}

// adapter says in the API's words what package partner says in its own.
type adapter struct{ remote }

func (a adapter) Endpoint(method, path string) api.Endpoint {
	e := a.remote.Endpoint(method, path)
	return api.Endpoint{Direct: e.Direct != partner.DirectNever, Header: e.Header, Seal: e.Seal, PublicKey: e.PublicKey}
}

// writer is a partner into whose bodies our public key is written.
type writer interface {
	PublicKey(public crypto.PublicKey, kid string) (json.RawMessage, error)
}

// PublicKey writes a public key of ours, for partners that take one in a body.
func (a adapter) PublicKey(public crypto.PublicKey, kid string) (json.RawMessage, error) {
	w, ok := a.remote.(writer)
	if !ok {
		return nil, fmt.Errorf("a public key in a body: %w", errors.ErrUnsupported)
	}
	return w.PublicKey(public, kid)
}

// facts is what the API knows of a partner.
func facts(name string, r remote) api.Partner {
	p := r.Profile()
	return api.Partner{Name: name, Type: p.Type, Seal: jwe.SealAlg(p.SealAlg), SealEnc: p.SealEnc, KID: api.KIDOf(p.KID),
		Form: api.Form(p.Form), URLInJOSE: p.URLHeader, KeyInBody: p.OurKey == partner.OurKeyInBody,
		Algs: p.ReplyAlgs, Encs: p.ReplyEncs, Direct: p.Type == partner.TypeWise, Remote: adapter{r}}
}
