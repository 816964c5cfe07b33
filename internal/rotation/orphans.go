package rotation

import (
	"context"
	"fmt"
	"slices"
	"strconv"

	"keyd/internal/audit"
	"keyd/internal/boundary"
	"keyd/internal/registry"
)

// Why a private key is an orphan.
const (
	OrphanUnknown   = "unknown"   // the registry knows nothing of it
	OrphanDestroyed = "destroyed" // the registry holds it for destroyed
	OrphanDuplicate = "duplicate" // a version has its kid, and another private key
)

// Orphan is a private key that stands in a backend under keyd's name, and
// should not: nothing opens with it, and nothing will destroy it by itself.
type Orphan struct {
	Backend string
	Handle  string
	Label   string
	KID     string // "" where its name holds none
	Why     string // OrphanUnknown, OrphanDestroyed or OrphanDuplicate
	// Told: the audit log says that the partner was told of it, so it may be a
	// version of a registry that was lost. keyd keys adopt brings it back.
	Told bool
	Gone bool // the backend has destroyed it; false while its deletion waits
}

// destroyed are the versions that the registry holds for destroyed. It is read
// before a backend is asked, so that none counts that is just being destroyed.
func (e *Engine) destroyed() map[string]bool {
	kids := map[string]bool{}
	for _, key := range e.reg.Keys() {
		for _, v := range e.reg.Versions(key.Name) {
			if v.State == registry.Destroyed {
				kids[v.KID] = true
			}
		}
	}
	return kids
}

// strays looks for what a backend holds and should not. It changes nothing.
func (e *Engine) strays(ctx context.Context, name string, destroyed map[string]bool) ([]Orphan, error) {
	b, err := e.backend(name)
	if err != nil {
		return nil, err
	}
	all, err := b.List(ctx)
	if err != nil {
		return nil, err
	}
	var found []Orphan
	for _, f := range all {
		if !f.Managed {
			continue
		}
		why := OrphanUnknown
		if kid, ok := e.owner(name, f); ok {
			if !destroyed[kid] {
				continue
			}
			why = OrphanDestroyed
		} else if _, err := e.reg.Version(f.KID); err == nil {
			why = OrphanDuplicate
		}
		found = append(found, Orphan{Backend: name, Handle: f.Handle, Label: f.Label, KID: f.KID, Why: why})
	}
	return found, nil
}

// owner is the version that a private key is of: by its handle, or by its kid
// while the version is still to learn the handle.
func (e *Engine) owner(backend string, f boundary.Found) (kid string, ok bool) {
	if kid, ok := e.holder(backend, f.Handle); ok {
		return kid, true
	}
	v, err := e.reg.Version(f.KID)
	return f.KID, err == nil && v.Backend == backend && v.Handle == ""
}

// Orphans lists the private keys that stand in a backend and should not.
func (e *Engine) Orphans(ctx context.Context, backend string) ([]Orphan, error) {
	found, err := e.strays(ctx, backend, e.destroyed())
	if err != nil {
		return nil, fmt.Errorf("looking for orphans in %s: %w", backend, err)
	}
	told, err := e.toldOf(ctx, found)
	if err != nil {
		return nil, fmt.Errorf("looking for the orphans of %s in the audit log: %w", backend, err)
	}
	for i := range found {
		found[i].Told = told[found[i].KID]
	}
	return found, nil
}

// DestroyOrphans destroys those of a backend's orphans that an operator names
// by their handles: all of them, or none where one is no orphan. Those that the
// partner was told of go only with told.
func (e *Engine) DestroyOrphans(ctx context.Context, actor audit.Actor, backend string, handles []string, reason string, told, dryRun bool) ([]Orphan, error) {
	record := withDetail(withDetail(audit.Entry{Action: "orphan.destroy", Actor: actor}, "backend", backend), "reason", reason)
	unlock, err := e.claim(ctx, backend)
	if err != nil {
		return nil, fmt.Errorf("destroying orphans of %s: %w", backend, err)
	}
	defer unlock()
	chosen, err := e.chosen(ctx, backend, handles, told)
	if err != nil {
		err = fmt.Errorf("destroying orphans of %s: %w", backend, err)
		if !dryRun {
			err = e.refuse(ctx, withDetail(record, "handles", strconv.Itoa(len(handles))), err)
		}
		return nil, err
	}
	if dryRun {
		return chosen, nil
	}
	for i := range chosen {
		o := &chosen[i]
		one := withDetail(withDetail(record, "handle", o.Handle), "label", o.Label)
		one.KID = o.KID
		err := e.journalSaying(ctx, one, func(_ uint64, said map[string]string) (err error) {
			if o.Gone, err = e.cfg.Backends[backend].Destroy(ctx, o.Handle); err == nil {
				said[saidGone] = strconv.FormatBool(o.Gone)
			}
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("destroying the orphan %s of %s, %d of %d before it are done: %w", o.Handle, backend, i, len(chosen), err)
		}
	}
	return chosen, nil
}

// claim keeps adoptions from a backend and the destruction of its orphans apart:
// else one could give a version the private key that the other destroys.
func (e *Engine) claim(ctx context.Context, backend string) (unlock func(), err error) {
	return e.lock(ctx, "the orphans of "+backend) // which is no key's name
}

// chosen are the orphans of these handles.
func (e *Engine) chosen(ctx context.Context, backend string, handles []string, told bool) ([]Orphan, error) {
	if len(handles) == 0 {
		return nil, fmt.Errorf("%w: no handle is named", ErrInvalid)
	}
	all, err := e.Orphans(ctx, backend)
	if err != nil {
		return nil, err
	}
	var chosen []Orphan
	for _, handle := range handles {
		i := slices.IndexFunc(all, func(o Orphan) bool { return o.Handle == handle })
		if i < 0 {
			return nil, e.noOrphan(backend, handle)
		}
		if all[i].Told && !told {
			return nil, fmt.Errorf("%w: the audit log says that the partner was told of %s; adopt it if it is still in use", ErrNeeded, all[i].KID)
		}
		if !slices.Contains(chosen, all[i]) {
			chosen = append(chosen, all[i])
		}
	}
	return chosen, nil
}

// noOrphan says why a private key is not one.
func (e *Engine) noOrphan(backend, handle string) error {
	if kid, ok := e.holder(backend, handle); ok {
		return fmt.Errorf("%w: %.200q is no orphan: version %s has that private key", ErrState, handle, kid)
	}
	return fmt.Errorf("%w: %.200q is no private key under the name of keyd %q", boundary.ErrNoKey, handle, e.cfg.Instance)
}

// orphans is what Check says of them.
func (e *Engine) orphans(ctx context.Context, name string, destroyed map[string]bool) []Finding {
	all, err := e.strays(ctx, name, destroyed)
	if err != nil {
		return []Finding{{Warning, "backend_unchecked", name, "its keys could not be listed: " + err.Error(), "run doctor again when the backend works"}}
	}
	var found []Finding
	for _, o := range all {
		subject := orDefault(o.KID, o.Handle)
		if o.Why == OrphanDestroyed {
			found = append(found, Finding{Failure, "undead", subject, "it is destroyed, and " + name + " still holds its private key",
				"the token was restored from a backup; keyd backends orphans " + name + " destroys it again"})
			continue
		}
		said, hint := "the registry knows nothing of it", "two daemons with one instance name, or a registry restored from before; "
		if o.Why == OrphanDuplicate {
			said, hint = "the version of that kid has another one", "it was made twice, as its first making was not answered; "
		}
		found = append(found, Finding{Failure, "orphan", subject,
			fmt.Sprintf("a private key stands in %s as %s, under the name of keyd %q, and %s", name, orDefault(o.Label, o.Handle), e.cfg.Instance, said),
			hint + "keyd backends orphans " + name + " says more"})
	}
	return found
}
