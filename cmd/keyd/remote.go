package main

import (
	"context"
	"crypto"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"keyd/client"
	"keyd/internal/api"
	"keyd/internal/jwe"
	"keyd/internal/partner"
	"keyd/internal/rotation"
)

// remote is what every type of partner can do.
type remote interface {
	Profile() partner.Profile
	Endpoint(method, path string) partner.Endpoint
	Headers(kid string) http.Header
	GetHeaders(kid string) http.Header
	FetchKey(ctx context.Context) (id string, version int, algorithm string, public crypto.PublicKey, err error)
	Frame(envelope []byte, version int) ([]byte, error)
	Allows(method, path string) error
	Do(ctx context.Context, r partner.Request) (*partner.Response, error)
}

// What some types can do besides.
type (
	writer interface {
		PublicKey(public crypto.PublicKey, kid string) (json.RawMessage, error)
	}
	addresser interface {
		HeadersTo(kid, keyID string) http.Header
	}
	shower interface {
		FetchKeyAs(ctx context.Context, authorization string) (id string, version int, algorithm string, public crypto.PublicKey, err error)
	}
)

// adapter says in the API's words what package partner says in its own.
type adapter struct{ remote }

// Headers are those of a request with a sealed body.
func (a adapter) Headers(kid, keyID string) http.Header {
	if to, ok := a.remote.(addresser); ok {
		return to.HeadersTo(kid, keyID)
	}
	return a.remote.Headers(kid)
}

// Endpoint says what is special about an endpoint.
func (a adapter) Endpoint(method, path string) api.Endpoint {
	e := a.remote.Endpoint(method, path)
	return api.Endpoint{Direct: e.Direct != partner.DirectNever, Header: e.Header, Seal: e.Seal, PublicKey: e.PublicKey, Envelope: e.Envelope}
}

// Allows reports whether a request may be made.
func (a adapter) Allows(method, path string) error {
	return unsent(a.remote.Allows(method, path))
}

// unsent marks why a request was not sent.
func unsent(err error) error {
	switch {
	case errors.Is(err, partner.ErrNotAllowed):
		return marked{err, api.ErrCallNotAllowed}
	case errors.Is(err, partner.ErrRequest):
		return marked{err, api.ErrCallRequest}
	case errors.Is(err, partner.ErrCredentials):
		return marked{err, api.ErrCallCredentials}
	}
	return err
}

// marked is an error that is one of the API's too, and says so once.
type marked struct {
	error
	as error
}

// Is reports whether it is the API's, or what the error itself is.
func (m marked) Is(target error) bool { return target == m.as || errors.Is(m.error, target) }

// Do sends a request.
func (a adapter) Do(ctx context.Context, r api.Request) (*api.Response, error) {
	res, err := a.remote.Do(ctx, partner.Request{Method: r.Method, Path: r.Path, Query: r.Query, Header: r.Header, Body: r.Body,
		KID: r.KID, KeyID: r.KeyID, Authorization: r.Authorization})
	if err != nil {
		return nil, unsent(err)
	}
	return &api.Response{Status: res.Status, Header: res.Header, Body: res.Body, Envelope: res.Envelope, Stale: res.Kind == partner.KindStale,
		RetryAfter: int((res.RetryAfter + time.Second - 1) / time.Second)}, nil
}

// PublicKey writes a public key of ours, for partners that take one in a body.
func (a adapter) PublicKey(public crypto.PublicKey, kid string) (json.RawMessage, error) {
	w, ok := a.remote.(writer)
	if !ok {
		return nil, fmt.Errorf("a public key in a body: %w", errors.ErrUnsupported)
	}
	return w.PublicKey(public, kid)
}

// enveloper makes envelopes of a partner's own kind.
type enveloper interface {
	SealBody(public crypto.PublicKey, id string, plaintext []byte) ([]byte, error)
	SealHeader(public crypto.PublicKey, id string, m partner.SigningMethod, body []byte) (string, error)
}

// own is an enveloper in the API's words.
type own struct{ enveloper }

// SealMethod seals with what a user allows a request.
func (o own) SealMethod(public crypto.PublicKey, keyID string, m api.SigningMethod, body []byte) (name, value string, err error) {
	value, err = o.SealHeader(public, keyID, partner.SigningMethod{ID: m.ID, Value: m.Value, IdempotencyKey: m.IdempotencyKey, PhysicalDeviceID: m.PhysicalDeviceID}, body)
	return "Encrypted-Signing-Method", value, err
}

// keySource fetches a partner's key, with the caller's own authority where the
// partner shows it to nobody else.
type keySource struct{ remote }

// FetchKey fetches the key.
func (k keySource) FetchKey(ctx context.Context) (id string, version int, algorithm string, public crypto.PublicKey, err error) {
	if s, ok := k.remote.(shower); ok && k.Profile().CallersKey {
		if authorization := api.Authorization(ctx); authorization != "" {
			return s.FetchKeyAs(ctx, authorization)
		}
	}
	return k.remote.FetchKey(ctx)
}

// untold is a partner that needs no telling: our key travels in each request, or
// it reads our JWKS.
type untold struct{}

// Announce has nobody to tell.
func (untold) Announce(context.Context, string, crypto.PublicKey, time.Time, time.Time) error {
	return nil
}

// issued are the units of iat in a JOSE header.
var issued = map[string]time.Duration{partner.IssuedSeconds: time.Second, partner.IssuedMilliseconds: time.Millisecond}

// facts is what the API knows of a partner.
func facts(name string, c partnerConfig, r remote) api.Partner {
	p := r.Profile()
	all := api.Partner{Name: name, Type: p.Type, Form: api.Form(p.Form), Seal: jwe.SealAlg(p.SealAlg), SealEnc: p.SealEnc, KID: api.KIDOf(p.KID),
		URLInJOSE: p.URLHeader, JOSE: p.JOSE, IssuedIn: issued[p.IssuedAt], KeyInBody: p.OurKey == partner.OurKeyInBody, CallersKey: p.CallersKey, Pins: c.pinned(), AnswerHeaders: c.answerHeaders(),
		Algs: p.ReplyAlgs, Encs: p.ReplyEncs, Kidless: api.Kidless(c.Kidless), ForeignKID: c.ForeignKID == foreignIgnore,
		Direct: p.Type == partner.TypeWise || p.Type == partner.TypeWiseCard && c.Replies != partner.RepliesClear || len(c.Direct) > 0, Remote: adapter{r}}
	for _, a := range c.Allow {
		all.Calls = append(all.Calls, client.Allowed(a))
	}
	if e, ok := r.(enveloper); ok && p.Form == partner.FormVenly {
		all.Form, all.Own = api.FormOwn, own{e}
	}
	return all
}

// dealingsOf is what the engine can do with a partner.
func (d *keyd) dealingsOf(name string, r remote) rotation.Partner {
	c, p := d.cfg.Partners[name], r.Profile()
	does := rotation.Partner{KeySource: keySource{r}, Pins: c.pinned()}
	switch announcer, announces := r.(rotation.Announcer); {
	case p.OurKey == partner.OurKeyUploaded && announces:
		does.Announcer = announcer
	case p.OurKey == partner.OurKeyInBody, p.OurKey == partner.OurKeyFetched:
		does.Announcer = untold{}
	}
	if c.AssertionKey == assertionFetched {
		does.Verifier = untold{}
	}
	if asks, ok := r.(playground); ok && p.Playground {
		does.Canary = canary{partner: name, remote: asks, opener: d.opener}
	}
	if p.Type == partner.TypeWise {
		does.Withdraw = wiseWithdraws
	}
	return does
}
