package api

import "keyd/client"

func (s *Server) listPartners(x *exchange) error {
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

func (s *Server) showPartner(x *exchange) error {
	p, err := s.partner(x)
	if err != nil {
		return err
	}
	return x.json(s.partnerView(p))
}

// refreshPartner fetches a partner's key whenever an operator says so; the
// engine records it.
func (s *Server) refreshPartner(x *exchange) error {
	p, err := s.partner(x)
	if err != nil {
		return err
	}
	pk, changed, err := s.cfg.Engine.RefreshPartnerKey(x.r.Context(), x.actor, p.Name)
	if err != nil {
		return partnerFailure(x.r.Context(), err)
	}
	view := partnerKeyView(pk)
	view.Changed = changed
	return x.json(view)
}
