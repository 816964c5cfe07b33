package api

import (
	"fmt"
	"time"

	"keyd/client"
)

func (s *Server) listPartners(x *visit) error {
	return x.json(s.partnerViews())
}

func (s *Server) partnerViews() []client.Partner {
	partners := s.cfg.Opener.cfg.Partners
	views := make([]client.Partner, 0, len(partners))
	for i := range partners {
		views = append(views, s.partnerView(&partners[i]))
	}
	return views
}

func (s *Server) showPartner(x *visit) error {
	p, err := s.partner(x)
	if err != nil {
		return err
	}
	return x.json(s.partnerView(p))
}

// refreshPartner fetches a partner's key whenever an operator says so; the
// engine records it.
func (s *Server) refreshPartner(x *visit) error {
	p, err := s.partner(x)
	if err != nil {
		return err
	}
	if p.CallersKey {
		return fmt.Errorf("partner %s: %w", p.Name, errNeedsToken)
	}
	dryRun, err := x.flag("dry_run")
	if err != nil {
		return err
	}
	if dryRun {
		return s.peekPartner(x, p)
	}
	pk, changed, err := s.cfg.Engine.RefreshPartnerKey(x.r.Context(), x.actor, p.Name)
	if err != nil {
		return partnerFailure(x.r.Context(), err)
	}
	s.done(x, "partner", p.Name, "fingerprint", pk.Fingerprint, "new", changed)
	view := partnerKeyView(pk)
	view.Changed = changed
	return x.json(view)
}

// peekPartner asks the partner too, and stores nothing.
func (s *Server) peekPartner(x *visit, p *Partner) error {
	pk, changed, err := s.cfg.Engine.PeekPartnerKey(x.r.Context(), p.Name)
	if err != nil {
		return partnerFailure(x.r.Context(), err)
	}
	pk.LastSeen = time.Now().UTC()
	pk.FirstSeen = pk.LastSeen
	if stored, err := s.cfg.Registry.PartnerKey(p.Name); err == nil && stored.Fingerprint == pk.Fingerprint {
		pk.FirstSeen = stored.FirstSeen
	}
	view := partnerKeyView(pk)
	view.Changed = changed
	return x.json(view)
}
