package api

import (
	"fmt"
	"net/http"
	"strings"

	"keyd/client"
)

// exchangeHeader names the exchange that a sealed request began.
const exchangeHeader = "Keyd-Exchange"

// decrypt opens an envelope that a partner sealed to us, or in reply to one
// request of ours.
func (s *Server) decrypt(x *visit) error {
	if err := x.refuseForms(); err != nil {
		return err
	}
	p, err := s.partner(x)
	if err != nil {
		return err
	}
	switch {
	case x.query.Has("field") || x.query.Has("field_json"):
		return s.decryptFields(x, p)
	case x.query.Has("exchange"):
		opened, err := s.cfg.Opener.OpenReply(x.r.Context(), x.actor, p.Name, x.query.Get("exchange"), x.body)
		if err != nil {
			return err
		}
		return x.plaintext(opened[0])
	}
	opened, err := s.cfg.Opener.Open(x.r.Context(), x.actor, p.Name, x.body)
	if err != nil {
		return err
	}
	return x.plaintext(opened)
}

// plaintext answers with what an envelope held, and wipes it.
func (x *visit) plaintext(opened *Opened) error {
	defer clear(opened.Plaintext)
	x.opened(opened.KID, string(opened.Level))
	x.respondSecret("application/octet-stream", opened.Plaintext)
	return nil
}

// opened says which version opened an envelope, and how deep inside the hardware.
func (x *visit) opened(kid, boundary string) {
	if kid != "" {
		x.w.Header().Set("Keyd-Kid", kid)
	}
	x.w.Header().Set("Keyd-Boundary", boundary)
}

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
	sealed, err := s.sealOne(x, p)
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
	if sealed.Exchange != nil {
		h.Set(exchangeHeader, sealed.Exchange.ID)
	}
	h.Set("Keyd-Partner-Key", sealed.KeyID)
	if sealed.JWE == "" && sealed.Body == "" {
		return x.json(sealed) // all of it is in a header
	}
	if sealed.Body != "" {
		x.respond(http.StatusOK, "application/json", []byte(sealed.Body))
		return nil
	}
	x.respond(http.StatusOK, "application/jose+json", []byte(sealed.JWE))
	return nil
}

// sealOne seals what a caller asks to be sealed. Where the partner has to be asked
// for its key, that is one of the calls that wait for it.
func (s *Server) sealOne(x *visit, p *Partner) (*client.Sealed, error) {
	w, err := x.readSealing(s, p)
	if err != nil {
		return nil, err
	}
	if _, unknown := s.cfg.Registry.PartnerKey(p.Name); unknown != nil || w.refetch {
		giveBack, err := s.turns.take(p.Name)
		if err != nil {
			return nil, err
		}
		defer giveBack()
	}
	ctx := withAuthorization(x.r.Context(), x.r.Header.Get("Authorization"))
	l, err := s.seal(ctx, x.actor, p, w)
	if err != nil {
		return nil, err
	}
	return l.out, nil
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
