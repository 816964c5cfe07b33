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
	for _, n := range needs {
		missing := map[string][]string{} // kids by backend
		for _, v := range versions {
			if _, err := e.backend(v.Backend); err != nil && v.Backend != key.Backend && slices.Contains(n.by, v.State) {
				missing[v.Backend] = append(missing[v.Backend], v.KID)
			}
		}
		for _, name := range slices.Sorted(maps.Keys(missing)) {
			found = append(found, Finding{n.severity, "no_backend", key.Name, fmt.Sprintf(n.message, strings.Join(missing[name], ", "), name), n.hint})
		}
	}
	return found
}

// needs are what versions need their backend for.
var needs = []struct {
	by                      []registry.State
	severity, message, hint string
}{
	{[]registry.State{registry.Announced, registry.Active, registry.Draining}, Failure,
		"%s should open in the backend %q, which is not configured", "name it in the config again, or compromise what it held"},
	{[]registry.State{registry.Pending}, Failure,
		"%s is to be made in the backend %q, which is not configured, and keeps the key from rotating", "name it in the config again, or give the version up with keyd keys destroy"},
	{[]registry.State{registry.Compromised, registry.Destroying}, Warning,
		"the private keys of %s cannot be destroyed: their backend %q is not configured", "name it in the config again until keyd keys show says that they are destroyed"},
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
