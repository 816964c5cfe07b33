package api

import (
	"context"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"keyd/client"
	"keyd/internal/boundary"
	"keyd/internal/jwe"
	"keyd/internal/registry"
	"keyd/internal/rotation"
)

// decrypt opens an envelope that a partner sealed to us.
func (s *Server) decrypt(x *visit) error {
	if err := x.refuseForms(); err != nil {
		return err
	}
	p, err := s.partner(x)
	if err != nil {
		return err
	}
	opened, err := s.cfg.Opener.Open(x.r.Context(), x.actor, p.Name, x.body)
	if err != nil {
		return err
	}
	defer clear(opened.Plaintext)
	h := x.w.Header()
	h.Set("Keyd-Kid", opened.KID)
	h.Set("Keyd-Boundary", string(opened.Level))
	x.respond(http.StatusOK, "application/octet-stream", opened.Plaintext)
	return nil
}

// refetchEvery is how often callers can make keyd fetch a partner's key afresh:
// a partner that has trouble must not get a call for each request it refuses.
const refetchEvery = 30 * time.Second

// encrypt seals a request to a partner.
func (s *Server) encrypt(x *visit) error {
	defer clear(x.body)
	if err := x.refuseForms(); err != nil {
		return err
	}
	p, err := s.partner(x)
	if err != nil {
		return err
	}
	sealed, err := s.seal(x, p)
	s.cfg.Meters.sealed(p.Name, err)
	if err != nil {
		return err
	}
	if strings.Contains(x.r.Header.Get("Accept"), "application/json") {
		return x.json(sealed)
	}
	h := x.w.Header()
	if sealed.KID != "" {
		h.Set("Keyd-Kid", sealed.KID)
	}
	h.Set("Keyd-Partner-Key", sealed.KeyID)
	x.respond(http.StatusOK, "application/jose+json", []byte(sealed.JWE))
	return nil
}

func (s *Server) seal(x *visit, p *Partner) (*client.Sealed, error) {
	if len(x.body) == 0 {
		return nil, fmt.Errorf("%w: the body is empty, there is nothing to seal", errBadRequest)
	}
	refetch, err := x.flag("refetch")
	if err != nil {
		return nil, err
	}
	path, err := x.sealedPath()
	if err != nil {
		return nil, err
	}
	kid, err := s.activeKID(p.Name)
	if err != nil {
		return nil, err
	}
	pk, err := s.partnerKey(x, p.Name, refetch)
	if err != nil {
		return nil, err
	}
	public, err := x509.ParsePKIXPublicKey(pk.Public)
	if err != nil {
		return nil, fmt.Errorf("reading the stored public key of %s: %w", p.Name, err)
	}
	rsaPublic, ok := public.(*rsa.PublicKey)
	if !ok {
		return nil, fmt.Errorf("the stored public key of %s is a %T", p.Name, public)
	}
	header := jwe.SealHeader{Alg: jwe.SealRSAOAEP256, URL: path, Enc: p.SealEnc}
	if p.KIDInJOSE {
		header.KID = kid
	}
	compact, err := jwe.Seal(rsaPublic, header, x.body)
	if errors.Is(err, jwe.ErrTooLarge) {
		return nil, fmt.Errorf("%w: the url is too long for a JOSE header", errBadRequest)
	} else if err != nil {
		return nil, err
	}
	sealed := &client.Sealed{JWE: compact, Headers: plain(p.Headers(kid)), KID: kid, KeyID: pk.ID}
	if sealed.KeyID == "" {
		sealed.KeyID = pk.Fingerprint
	}
	return sealed, nil
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
func (s *Server) partnerKey(x *visit, partner string, refetch bool) (registry.PartnerKey, error) {
	ctx := x.r.Context()
	if refetch && s.refetch.may(partner, time.Now()) {
		pk, _, err := s.cfg.Engine.RefreshPartnerKey(ctx, x.actor, partner)
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

// partner finds the partner that a path names.
func (s *Server) partner(x *visit) (*Partner, error) {
	name := x.r.PathValue("partner")
	partners := s.cfg.Opener.cfg.Partners
	for i := range partners {
		if partners[i].Name == name {
			return &partners[i], nil
		}
	}
	return nil, fmt.Errorf("%w: partner %q", errNotFound, printable(name))
}

// plain is a header as JSON has it. None of them stands twice.
func plain(h http.Header) map[string]string {
	m := make(map[string]string, len(h))
	for name, values := range h {
		m[name] = strings.Join(values, ", ")
	}
	return m
}
