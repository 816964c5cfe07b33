package api

import (
	"slices"
	"time"

	"keyd/client"
	"keyd/internal/rotation"
)

// status is the whole picture, without asking a backend or a partner anything
// that takes time.
func (s *Server) status(x *visit) error {
	ready, reasons := s.ready(x.r.Context())
	view := client.Status{Instance: s.cfg.Instance, Version: s.cfg.Version.Version, Now: time.Now().UTC(), StartedAt: s.started,
		Ready: ready, Backends: []client.Backend{}, Keys: []client.Key{}, Partners: s.partnerViews(),
		Problems: append(findingViews(reasons), findingViews(s.cfg.Engine.Problems())...), AuditHead: client.Head(s.audit.Head())}
	for _, h := range s.healths.all(x.r.Context()) {
		view.Backends = append(view.Backends, backendView(h.name, h.Health))
	}
	for _, k := range s.cfg.Registry.Keys() {
		view.Keys = append(view.Keys, s.keyView(k, true))
	}
	return x.json(view)
}

// doctor has every invariant checked.
func (s *Server) doctor(x *visit) error {
	found := s.cfg.Engine.Check(x.r.Context())
	bad := slices.ContainsFunc(found, func(f rotation.Finding) bool { return f.Severity == rotation.Failure })
	return x.json(client.Doctor{OK: !bad, Checked: rotation.Checked, Findings: findingViews(found)})
}

func (s *Server) version(x *visit) error { return x.json(s.cfg.Version) }
