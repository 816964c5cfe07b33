package api

import (
	"encoding/pem"

	"keyd/client"
	"keyd/internal/boundary"
	"keyd/internal/registry"
	"keyd/internal/rotation"
)

// keyView is a key as it travels.
func (s *Server) keyView(k registry.Key, withVersions bool) client.Key {
	view := client.Key{Name: k.Name, Partner: k.Partner, Backend: k.Backend, Algorithm: k.Algorithm, Bits: k.Bits, Curve: k.Curve,
		Policy: client.Policy{Rotate: k.Policy.Rotate, ValidFor: k.Policy.ValidFor.String(), DrainFor: k.Policy.DrainFor.String(),
			SettleFor: k.Policy.SettleFor.String(), Canary: k.Policy.Canary, MinBoundary: k.Policy.MinBoundary, First: k.Policy.First},
		CreatedAt: k.CreatedAt, NextDue: k.NextDue}
	versions := s.cfg.Registry.Versions(k.Name)
	if v, ok := s.cfg.Registry.Active(k.Name); ok {
		view.ActiveKID = v.KID
	}
	if next, err := s.cfg.Engine.Next(k.Name); err == nil {
		view.Next = stepView(next)
	}
	if withVersions {
		for _, v := range versions {
			view.Versions = append(view.Versions, versionView(v))
		}
	}
	return view
}

func versionView(v registry.Version) client.Version {
	view := client.Version{KID: v.KID, Key: v.Key, Number: v.Number, State: string(v.State), Opens: v.State.Opens(),
		Backend: v.Backend, Handle: v.Handle, PublicPEM: publicPEM(v.Public), Algorithm: v.Algorithm, Bits: v.Bits, Curve: v.Curve,
		ValidFrom: v.ValidFrom, ValidTill: v.ValidTill, DrainUntil: v.DrainUntil, ToldAt: v.ToldAt,
		CanaryAt: v.CanaryAt, CanaryKID: v.CanaryKID, LastOpenAt: v.LastOpenAt, DisabledAt: v.DisabledAt,
		Tries: v.Retry.Tries, NextTry: v.Retry.Next, LastError: v.Retry.Last,
		Adopted: v.Adopted, Evidence: v.Evidence, SelfTest: v.SelfTest, History: make([]client.Event, 0, len(v.History))}
	if len(v.Public) > 0 {
		view.PublicSHA256 = rotation.Fingerprint(v.Public)
	}
	for _, e := range v.History {
		view.History = append(view.History, client.Event{At: e.At, From: string(e.From), To: string(e.To), By: e.By, Reason: e.Reason, Audit: e.Audit})
	}
	return view
}

func publicPEM(der []byte) string {
	if len(der) == 0 {
		return ""
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

func stepView(step rotation.Step) client.Step {
	return client.Step{Name: step.Name, KID: step.KID, At: step.At, Reason: step.Reason}
}

// changeView is what an operation did, with the version as it is now.
func (s *Server) changeView(c rotation.Change, dryRun bool) client.Change {
	view := client.Change{DryRun: dryRun, Key: c.Key, KID: c.KID, ByHand: c.ByHand, Steps: make([]client.Step, 0, len(c.Steps))}
	for _, step := range c.Steps {
		view.Steps = append(view.Steps, stepView(step))
	}
	if v, err := s.cfg.Registry.Version(c.KID); err == nil {
		version := versionView(v)
		view.Version = &version
	}
	return view
}

func partnerKeyView(pk registry.PartnerKey) *client.PartnerKey {
	return &client.PartnerKey{ID: pk.ID, Version: pk.Version, Algorithm: pk.Algorithm, PublicPEM: publicPEM(pk.Public),
		Fingerprint: pk.Fingerprint, FirstSeen: pk.FirstSeen, LastSeen: pk.LastSeen}
}

// partnerView is what a caller needs to talk to a partner. While no version is
// active the headers name none.
func (s *Server) partnerView(p *Partner) client.Partner {
	ours, _ := s.activeVersion(p.Name) // none has no kid
	kid := ours.KID
	view := client.Partner{Name: p.Name, Type: p.Type, ActiveKID: kid, Algs: append([]string{}, p.Algs...), Encs: append([]string{}, p.Encs...), Calls: p.Calls, Pins: p.Pins,
		Headers: plain(p.Remote.Headers(kid, "")), GetHeaders: plain(p.Remote.GetHeaders(kid))}
	if pk, err := s.cfg.Registry.PartnerKey(p.Name); err == nil {
		view.Key = partnerKeyView(pk)
	}
	return view
}

func findingViews(found []rotation.Finding) []client.Finding {
	views := make([]client.Finding, 0, len(found))
	for _, f := range found {
		views = append(views, client.Finding(f))
	}
	return views
}

func backendView(name string, h boundary.Health) client.Backend {
	levels := make(map[string]string, len(h.Levels))
	for algorithm, level := range h.Levels {
		levels[algorithm] = string(level)
	}
	return client.Backend{Name: name, Kind: h.Kind, Levels: levels, MinBoundary: string(h.Floor), Device: h.Device,
		Sessions: h.Sessions, InUse: h.InUse, Error: h.Err, Process: (*client.Process)(h.Process)}
}
