package api

import (
	"cmp"
	"context"
	"fmt"
	"strings"

	"keyd/client"
	"keyd/internal/audit"
	"keyd/internal/registry"
	"keyd/internal/rotation"
)

func (s *Server) listKeys(x *visit) error {
	keys := s.cfg.Registry.Keys()
	views := make([]client.Key, 0, len(keys))
	for _, k := range keys {
		views = append(views, s.keyView(k, false))
	}
	return x.json(views)
}

func (s *Server) showKey(x *visit) error {
	k, err := s.cfg.Registry.Key(x.r.PathValue("key"))
	if err != nil {
		return err
	}
	return x.json(s.keyView(k, true))
}

func (s *Server) showVersion(x *visit) error {
	v, err := s.cfg.Registry.Version(x.r.PathValue("kid"))
	if err != nil {
		return err
	}
	return x.json(versionView(v))
}

// changed runs an operation, or its dry run, and answers with what it did.
func (s *Server) changed(x *visit, operate func(ctx context.Context, dryRun bool) (rotation.Change, error)) error {
	dryRun, err := x.flag("dry_run")
	if err != nil {
		return err
	}
	change, err := operate(x.r.Context(), dryRun)
	if err != nil {
		return err
	}
	if !dryRun {
		s.done(x, "key", change.Key, "kid", change.KID)
	}
	return x.json(s.changeView(change, dryRun))
}

// done logs that an operator changed something.
func (s *Server) done(x *visit, what ...any) {
	s.log.With(what...).InfoContext(x.r.Context(), "changed", "request", x.id, "action", x.route.action, "caller", x.actor.String())
}

func (s *Server) createKey(x *visit) error {
	var body client.CreateKey
	if err := x.decode(&body); err != nil {
		return err
	}
	for name, text := range map[string]string{"name": body.Name, "partner": body.Partner, "backend": body.Backend, "algorithm": body.Algorithm, "curve": body.Curve,
		"policy.rotate": body.Policy.Rotate, "policy.canary": body.Policy.Canary, "policy.min_boundary": body.Policy.MinBoundary, "policy.first": body.Policy.First} {
		if err := short(name, text, maxShown); err != nil {
			return err
		}
	}
	key := registry.Key{Name: body.Name, Partner: body.Partner, Backend: body.Backend, Algorithm: body.Algorithm, Bits: body.Bits, Curve: body.Curve,
		Policy: registry.Policy{Rotate: body.Policy.Rotate, Canary: body.Policy.Canary, MinBoundary: body.Policy.MinBoundary, First: body.Policy.First}}
	for _, d := range []struct {
		name, text string
		to         *registry.Duration
	}{
		{"valid_for", body.Policy.ValidFor, &key.Policy.ValidFor},
		{"drain_for", body.Policy.DrainFor, &key.Policy.DrainFor},
		{"settle_for", body.Policy.SettleFor, &key.Policy.SettleFor},
	} {
		if d.text == "" {
			continue // whether it may be left out is the policy's to say
		}
		if err := d.to.UnmarshalText([]byte(d.text)); err != nil {
			return fmt.Errorf("%w: %s: %w", errBadRequest, d.name, err)
		}
	}
	return s.changed(x, func(ctx context.Context, dryRun bool) (rotation.Change, error) {
		return s.cfg.Engine.Create(ctx, x.actor, key, dryRun)
	})
}

func (s *Server) rotateKey(x *visit) error {
	return s.changed(x, func(ctx context.Context, dryRun bool) (rotation.Change, error) {
		return s.cfg.Engine.Rotate(ctx, x.actor, x.r.PathValue("key"), dryRun)
	})
}

func (s *Server) adoptKey(x *visit) error {
	var body client.Adopt
	if err := x.decode(&body); err != nil {
		return err
	}
	if err := cmp.Or(short("kid", body.KID, maxShown), short("find", body.Find, maxFind), short("backend", body.Backend, maxShown)); err != nil {
		return err
	}
	return s.changed(x, func(ctx context.Context, dryRun bool) (rotation.Change, error) {
		return s.cfg.Engine.Adopt(ctx, x.actor, x.r.PathValue("key"), rotation.Adoption{KID: body.KID, Find: body.Find, Backend: body.Backend,
			ValidFrom: body.ValidFrom, ValidTill: body.ValidTill, Told: body.Told}, dryRun)
	})
}

func (s *Server) confirmVersion(x *visit) error {
	return s.moved(x, s.cfg.Engine.Confirm, false)
}

func (s *Server) activateVersion(x *visit) error {
	return s.moved(x, s.cfg.Engine.Activate, true)
}

func (s *Server) compromiseVersion(x *visit) error {
	return s.moved(x, s.cfg.Engine.Compromise, true)
}

func (s *Server) destroyVersion(x *visit) error {
	return s.moved(x, s.cfg.Engine.Destroy, true)
}

func (s *Server) rescueVersion(x *visit) error {
	return s.moved(x, s.cfg.Engine.Rescue, true)
}

// moved runs one of the operations on a version that ask why.
func (s *Server) moved(x *visit, operate func(context.Context, audit.Actor, string, string, bool) (rotation.Change, error), why bool) error {
	var body client.Reason
	if len(x.body) > 0 || why {
		if err := x.decode(&body); err != nil {
			return err
		}
	}
	reason := strings.TrimSpace(body.Reason)
	if why && reason == "" {
		return fmt.Errorf("%w: a reason must be given", errBadRequest)
	}
	if err := short("the reason", reason, maxReason); err != nil {
		return err
	}
	return s.changed(x, func(ctx context.Context, dryRun bool) (rotation.Change, error) {
		return operate(ctx, x.actor, x.r.PathValue("kid"), reason, dryRun)
	})
}
