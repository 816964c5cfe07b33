package api

import (
	"cmp"
	"fmt"
	"strings"

	"keyd/client"
	"keyd/internal/rotation"
)

// mostHandles is how many orphans one request may destroy.
const mostHandles = 100

// listOrphans looks for private keys that no version has.
func (s *Server) listOrphans(x *visit) error {
	found, err := s.cfg.Engine.Orphans(x.r.Context(), x.r.PathValue("backend"))
	if err != nil {
		return err
	}
	return x.json(orphanViews(found))
}

// destroyOrphans destroys those that are named by their handles.
func (s *Server) destroyOrphans(x *visit) error {
	var body client.DestroyOrphans
	if err := x.decode(&body); err != nil {
		return err
	}
	dryRun, err := x.flag("dry_run")
	if err != nil {
		return err
	}
	reason := strings.TrimSpace(body.Reason)
	switch {
	case reason == "":
		return fmt.Errorf("%w: a reason must be given", errBadRequest)
	case len(body.Handles) == 0 || len(body.Handles) > mostHandles:
		return fmt.Errorf("%w: %d handles: want 1 to %d", errBadRequest, len(body.Handles), mostHandles)
	}
	err = short("the reason", reason, maxReason)
	for _, handle := range body.Handles {
		err = cmp.Or(err, short("a handle", handle, maxHandle))
	}
	if err != nil {
		return err
	}
	backend := x.r.PathValue("backend")
	done, err := s.cfg.Engine.DestroyOrphans(x.r.Context(), x.actor, backend, body.Handles, reason, body.Told, dryRun)
	if err != nil {
		return err
	}
	if !dryRun {
		s.done(x, "backend", backend, "orphans", len(done))
	}
	return x.json(client.DestroyedOrphans{DryRun: dryRun, Orphans: orphanViews(done)})
}

func orphanViews(found []rotation.Orphan) []client.Orphan {
	views := make([]client.Orphan, 0, len(found))
	for _, o := range found {
		views = append(views, client.Orphan(o))
	}
	return views
}
