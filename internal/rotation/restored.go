package rotation

import (
	"context"
	"fmt"
	"math"
	"slices"

	"keyd/internal/audit"
	"keyd/internal/boundary"
	"keyd/internal/registry"
)

// A registry restored from a backup may hold a version as it was before its key
// pair was made, or recorded. What stands under its kid may be in use since, and
// is neither to be made anew nor to be thrown away. The audit log, which is not
// restored with it, knows.

// toldActions are those of the audit log after which a partner may seal to a key.
var toldActions = []string{"key.announce", "key.confirm", "key.activate", "key.adopt"}

// toldIn says of which kids the audit log has it, after one entry and up to
// another, that the partner was told.
func (e *Engine) toldIn(ctx context.Context, kids map[string]bool, after, upTo uint64) (map[string]bool, error) {
	told := map[string]bool{}
	if len(kids) == 0 || e.cfg.ReadAudit == nil {
		return told, nil
	}
	for after < upTo {
		page, err := e.cfg.ReadAudit(ctx, after, auditPage)
		if err != nil {
			return nil, err
		}
		for _, entry := range page {
			after = entry.Seq
			if entry.Seq <= upTo && kids[entry.KID] && slices.Contains(toldActions, entry.Action) && entry.Phase != audit.PhaseEvent {
				told[entry.KID] = true
			}
		}
		if len(page) < auditPage {
			break
		}
	}
	return told, nil
}

// toldOf says which of the orphans the partner may know, from the audit log. Of
// a kid that the registry knows, the partner was told with the version's own
// public key.
func (e *Engine) toldOf(ctx context.Context, orphans []Orphan) (map[string]bool, error) {
	kids := map[string]bool{}
	for _, o := range orphans {
		if o.Why == OrphanUnknown && o.KID != "" {
			kids[o.KID] = true
		}
	}
	return e.toldIn(ctx, kids, 0, math.MaxUint64)
}

// inUse reports whether the partner was told of a version whose key pair the
// registry does not know. Only a daemon before this one can have done so, and it
// is looked up once.
func (e *Engine) inUse(ctx context.Context, v registry.Version) (bool, error) {
	begun := v.History[0].Audit
	if begun > e.began {
		return false, nil
	}
	e.mu.Lock()
	known, ok := e.used[v.KID]
	e.mu.Unlock()
	if ok {
		return known, nil
	}
	told, err := e.toldIn(ctx, map[string]bool{v.KID: true}, begun, e.began)
	if err != nil {
		return false, fmt.Errorf("looking for %s in the audit log: %w", v.KID, err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.used[v.KID] = told[v.KID]
	return told[v.KID], nil
}

// make makes a version's key pair, or takes up the one that is in use.
func (e *Engine) make(ctx context.Context, b Backend, v registry.Version) (boundary.Generated, error) {
	used, err := e.inUse(ctx, v)
	if err != nil {
		return boundary.Generated{}, err
	}
	if !used {
		return b.Generate(ctx, specOf(v))
	}
	e.log.WarnContext(ctx, "the partner was told of a version before the registry was restored; its key pair is taken up as it stands", "key", v.Key, "kid", v.KID)
	found, err := b.Find(ctx, v.KID)
	return boundary.Generated{Handle: found.Handle, Public: found.Public, Evidence: found.Evidence}, err
}

// disposes reports why a key pair that the registry does not know is not to be
// thrown away.
func (e *Engine) disposes(ctx context.Context, v registry.Version) error {
	if closed(v) {
		return nil
	}
	used, err := e.inUse(ctx, v)
	if err == nil && used {
		err = fmt.Errorf("%w: the audit log says that the partner was told of it, and the registry, restored from before, does not know its key pair; compromise it to give it up", ErrNeeded)
	}
	return err
}
