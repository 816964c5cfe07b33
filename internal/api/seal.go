package api

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"time"

	"keyd/client"
	"keyd/internal/audit"
	"keyd/internal/boundary"
	"keyd/internal/jwe"
	"keyd/internal/registry"
	"keyd/internal/rotation"
)

// refetchEvery is how often callers can make keyd fetch a partner's key afresh:
// a partner that has trouble must not get a call for each request it refuses.
const refetchEvery = 30 * time.Second

// sealing is what is to be sealed to a partner, and how.
type sealing struct {
	plaintext []byte
	url       string // path of the request; "" leaves it out
	refetch   bool   // the partner's key is fetched afresh first
	direct    bool   // the reply comes under the content key of the request
}

// readSealing reads what a caller asks for. Where the reply of an endpoint may
// come under the request's own key, that key is kept, unless the caller says
// otherwise.
func (x *visit) readSealing(p *Partner) (w sealing, err error) {
	w.plaintext = x.body
	if len(x.body) == 0 {
		return w, fmt.Errorf("%w: the body is empty, there is nothing to seal", errBadRequest)
	}
	if w.refetch, err = x.flag("refetch"); err != nil {
		return w, err
	}
	if w.url, err = x.sealedPath(); err != nil {
		return w, err
	}
	if w.direct, err = x.flag("direct"); err != nil {
		return w, err
	}
	if !x.query.Has("direct") && w.url != "" {
		w.direct = p.Remote.Endpoint(http.MethodPost, w.url).Direct
	}
	if w.direct && !p.Direct {
		return w, fmt.Errorf("%w: direct: no reply of partner %s comes under the key of its request", errBadRequest, p.Name)
	}
	return w, nil
}

// seal seals a request to a partner.
func (s *Server) seal(ctx context.Context, actor audit.Actor, p *Partner, w sealing) (*client.Sealed, error) {
	kid, err := s.activeKID(p.Name)
	if err != nil {
		return nil, err
	}
	pk, err := s.partnerKey(ctx, actor, p.Name, w.refetch)
	if err != nil {
		return nil, err
	}
	header := jwe.SealHeader{Alg: p.Seal, Enc: p.SealEnc, URL: w.url, KID: map[KIDOf]string{KIDOurs: kid, KIDTheirs: pk.ID}[p.KID]}
	compact, cek, err := sealTo(pk, header, w.plaintext)
	defer clear(cek)
	if err != nil {
		return nil, err
	}
	sealed := &client.Sealed{JWE: compact, Headers: plain(p.headers(kid, w.url)), KID: kid, KeyID: pk.ID}
	if sealed.KeyID == "" {
		sealed.KeyID = pk.Fingerprint
	}
	if !w.direct {
		return sealed, nil
	}
	ticket, err := s.cfg.Opener.BeginDirect(ctx, actor, p.Name, s.home(p.Name), p.SealEnc, cek)
	if err != nil {
		return nil, err
	}
	sealed.Exchange = &client.Exchange{ID: ticket.ID, Kind: ticket.Kind, ExpiresAt: ticket.Expires}
	return sealed, nil
}

// sealTo seals to a partner's stored key. The caller wipes the content key.
func sealTo(pk registry.PartnerKey, header jwe.SealHeader, plaintext []byte) (compact string, cek []byte, err error) {
	public, err := boundary.ParsePublic(pk.Public)
	if err != nil {
		return "", nil, fmt.Errorf("reading the stored public key of %s: %w", pk.Partner, err)
	}
	compact, cek, err = jwe.SealKeeping(public, header, plaintext)
	switch {
	case errors.Is(err, jwe.ErrTooLarge):
		return "", nil, fmt.Errorf("%w: the url is too long for a JOSE header", errBadRequest)
	case errors.Is(err, jwe.ErrAlgorithm):
		return "", nil, fmt.Errorf("%w: %s cannot be used with the public key of %s: %v", errPartner, header.Alg, pk.Partner, err) //nolint:errorlint // it is no envelope that is refused
	}
	return compact, cek, err
}

// headers are those of a request with a sealed body to a path; "" is any.
func (p *Partner) headers(kid, path string) http.Header {
	h := p.Remote.Headers(kid).Clone()
	if path != "" {
		maps.Copy(h, p.Remote.Endpoint(http.MethodPost, path).Header)
	}
	return h
}

// activeKID is the version that requests to a partner name. A partner without a
// key of ours, which sends us nothing sealed, has none.
func (s *Server) activeKID(partner string) (string, error) {
	mine := false
	for _, key := range s.cfg.Registry.Keys() {
		if key.Partner != partner || key.Algorithm == boundary.PS256 {
			continue
		}
		mine = true
		if v, ok := active(s.cfg.Registry.Versions(key.Name)); ok {
			return v.KID, nil
		}
	}
	if mine {
		return "", fmt.Errorf("partner %s: %w", partner, errNoActive)
	}
	return "", nil
}

// home is the backend in which a partner's exchanges are kept: where its key
// that opens is or, where it has none, the one that signs.
func (s *Server) home(partner string) (backend string) {
	for _, key := range s.cfg.Registry.Keys() {
		switch {
		case key.Partner != partner:
		case key.Algorithm != boundary.PS256:
			return key.Backend
		default:
			backend = key.Backend
		}
	}
	return backend
}

func active(versions []registry.Version) (registry.Version, bool) {
	for _, v := range versions {
		if v.State == registry.Active {
			return v, true
		}
	}
	return registry.Version{}, false
}

// partnerKey is the public key to seal to. The caller may say that the partner
// refused the last envelope, which may mean that it has another key by now.
func (s *Server) partnerKey(ctx context.Context, actor audit.Actor, partner string, refetch bool) (registry.PartnerKey, error) {
	if refetch && s.refetch.may(partner, time.Now()) {
		pk, _, err := s.cfg.Engine.RefreshPartnerKey(ctx, actor, partner)
		return pk, partnerFailure(ctx, err)
	}
	pk, err := s.cfg.Engine.PartnerKey(ctx, partner)
	return pk, partnerFailure(ctx, err)
}

// partnerFailure tells what a partner did wrong from what we did.
func partnerFailure(ctx context.Context, err error) error {
	switch {
	case err == nil, ctx.Err() != nil, errors.Is(err, rotation.ErrAudit), errors.Is(err, rotation.ErrNoPartner), errors.Is(err, rotation.ErrNoPartnerKey):
		return err
	}
	return fmt.Errorf("%w: %w", errPartner, err)
}
