package main

import (
	"context"
	"crypto"
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
	Do(ctx context.Context, r partner.Request) (*partner.Response, error)
}

// adapter says in the API's words what package partner says in its own.
type adapter struct{ remote }

func (a adapter) Endpoint(method, path string) api.Endpoint {
	e := a.remote.Endpoint(method, path)
	return api.Endpoint{Direct: e.Direct != partner.DirectNever, Header: e.Header}
}

// facts is what the API knows of a partner.
func facts(name string, r remote) api.Partner {
	p := r.Profile()
	return api.Partner{Name: name, Type: p.Type, Seal: jwe.SealAlg(p.SealAlg), SealEnc: p.SealEnc, KID: api.KIDOf(p.KID),
		Algs: p.ReplyAlgs, Encs: p.ReplyEncs, Direct: p.Type == partner.TypeWise, Remote: adapter{r}}
}
