package rotation

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"keyd/internal/boundary"
	"keyd/internal/registry"
)

// A key names the backend that its next version is made in. A version stays in
// the one it was made in until its end, so a key whose backend the config
// changed is at home in two of them for a while.

// Homes are the backends that must be there for a key: the one its next version
// is made in, and those that its versions open in.
func Homes(key registry.Key, versions []registry.Version) []string {
	homes := map[string]bool{key.Backend: true}
	for _, v := range versions {
		if v.State.Opens() {
			homes[v.Backend] = true
		}
	}
	return slices.Sorted(maps.Keys(homes))
}

// homed reports the backends that a key needs and the config no longer names.
func (e *Engine) homed(key registry.Key, versions []registry.Version) []Finding {
	var found []Finding
	if _, err := e.backend(key.Backend); err != nil {
		found = append(found, Finding{Failure, "no_backend", key.Name, fmt.Sprintf("its backend %q is not configured", key.Backend), ""})
	}
	opening, waiting := map[string][]string{}, map[string][]string{}
	for _, v := range versions {
		if _, err := e.backend(v.Backend); err == nil || v.State == registry.Destroyed || v.Backend == key.Backend {
			continue
		}
		if v.State.Opens() {
			opening[v.Backend] = append(opening[v.Backend], v.KID)
		} else {
			waiting[v.Backend] = append(waiting[v.Backend], v.KID)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(opening)) {
		found = append(found, Finding{Failure, "no_backend", key.Name,
			fmt.Sprintf("%s should open in the backend %q, which is not configured", strings.Join(opening[name], ", "), name), "name it in the config again, or compromise what it held"})
	}
	for _, name := range slices.Sorted(maps.Keys(waiting)) {
		found = append(found, Finding{Warning, "no_backend", key.Name,
			fmt.Sprintf("the private keys of %s cannot be destroyed: their backend %q is not configured", strings.Join(waiting[name], ", "), name), "name it in the config again until keyd keys show says that they are destroyed"})
	}
	return found
}

// serves reports why a version would not open where it is.
func (e *Engine) serves(ctx context.Context, key registry.Key, v registry.Version) error {
	b, err := e.backend(v.Backend)
	if err != nil {
		return err
	}
	health := b.Health(ctx)
	if health.Err != "" {
		return fmt.Errorf("backend %s: %w: %s", v.Backend, boundary.ErrUnavailable, health.Err)
	}
	if err := Reaches(key, health); err != nil {
		return fmt.Errorf("backend %s: %w", v.Backend, err)
	}
	return nil
}

// moving says, after a step's reason, that the next version will not be where
// the active one is.
func (w world) moving() string {
	if w.active == nil || w.active.Backend == w.key.Backend {
		return ""
	}
	return fmt.Sprintf("; it will be in %s, the active one is in %s", w.key.Backend, w.active.Backend)
}
