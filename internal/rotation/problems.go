package rotation

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"keyd/internal/registry"
)

// manyTries is when a step that fails stops being a mere hiccup.
const manyTries = 5

// recent is how long a change of a partner's key stays worth a look.
const recent = 7 * 24 * time.Hour

// Problems lists what an operator should know of now. It asks no backend and
// no partner.
func (e *Engine) Problems() []Finding {
	var found []Finding
	at := now()
	for _, key := range e.reg.Keys() {
		versions := e.reg.Versions(key.Name)
		found = append(found, e.configured(key, versions)...)
		if h, ok := e.holdOf(key.Name); ok {
			found = append(found, Finding{Failure, "stalled", key.Name, fmt.Sprintf("the last step failed: %s; next try %s", h.last, day(h.until)), ""})
		}
		w := survey(key, versions, e.facts(key))
		found = append(found, w.validity(at)...)
		for _, v := range versions {
			found = append(found, w.trouble(at, v)...)
		}
	}
	found = append(found, e.pins()...)
	for _, name := range slices.Sorted(maps.Keys(e.cfg.Partners)) {
		found = append(found, changedRecently(at, name, e.reg.PartnerKeys(name))...)
	}
	return found
}

// changedRecently looks at the public keys that a partner was seen with, the
// last one at the end. It may have gone back to one that is not new.
func changedRecently(at time.Time, partner string, keys []registry.PartnerKey) []Finding {
	if len(keys) < 2 {
		return nil
	}
	last, before := keys[len(keys)-1], keys[len(keys)-2]
	if since := at.Add(-recent); last.FirstSeen.Before(since) && before.LastSeen.Before(since) {
		return nil
	}
	return []Finding{{Warning, "partner_key_changed", partner,
		fmt.Sprintf("its public key is now %s; until %s it was %s", last.Fingerprint, day(before.LastSeen), before.Fingerprint),
		"compare the fingerprint with what the partner says"}}
}

// configured reports what the config no longer names.
func (e *Engine) configured(key registry.Key, versions []registry.Version) []Finding {
	var found []Finding
	if _, ok := e.cfg.Partners[key.Partner]; !ok {
		found = append(found, Finding{Failure, "no_partner", key.Name, fmt.Sprintf("its partner %q is not configured", key.Partner), ""})
	}
	return append(found, e.homed(key, versions)...)
}

// validity looks at how long the active version may still be used.
func (w world) validity(at time.Time) []Finding {
	if w.active == nil && w.due(at).Name == StepAdopt {
		return []Finding{{Warning, "adopt", w.key.Name, "it waits for its first version to be adopted", "keyd keys adopt " + w.key.Name + " --kid KID --find LABEL --valid-till TIME --told"}}
	}
	if w.active == nil {
		return []Finding{{Failure, "no_active", w.key.Name, "it has no active version: requests cannot name one", "keyd keys show " + w.key.Name + " says what it waits for"}}
	}
	if !at.Before(w.active.ValidTill) {
		return []Finding{{Failure, "expired", w.active.KID, fmt.Sprintf("the active version of %s was valid till %s", w.key.Name, day(w.active.ValidTill)), "its successor is late: see the other findings"}}
	}
	if !at.Before(w.active.ValidTill.Add(-time.Duration(w.key.Policy.DrainFor) / 2)) {
		return []Finding{{Warning, "expires", w.active.KID, fmt.Sprintf("the active version of %s is valid till %s only", w.key.Name, day(w.active.ValidTill)), "its successor is late: see the other findings"}}
	}
	return nil
}

// trouble reports a version that waits for a person or does not get on.
func (w world) trouble(at time.Time, v registry.Version) []Finding {
	var found []Finding
	step := w.next(at, v)
	if step.Name == StepConfirm {
		found = append(found, Finding{Warning, "confirm", v.KID, fmt.Sprintf("the public key of %s must be handed to %s", w.key.Name, w.key.Partner),
			"keyd keys show --public " + v.KID + ", then keyd keys confirm " + v.KID})
	}
	if v.Retry.Tries > 0 && v.Retry.Step == step.Name {
		severity := Warning
		if v.Retry.Tries >= manyTries {
			severity = Failure
		}
		found = append(found, Finding{severity, "retrying", v.KID,
			fmt.Sprintf("%s failed %d times: %s; next try %s", v.Retry.Step, v.Retry.Tries, v.Retry.Last, day(v.Retry.Next)), ""})
	}
	if v.State == registry.Compromised {
		found = append(found, Finding{Warning, "compromised_held", v.KID,
			fmt.Sprintf("it is compromised, its private key is still in %s%s, and %s may seal to it until %s unless told not to", v.Backend,
				map[bool]string{true: "", false: " (disabled)"}[v.DisabledAt.IsZero()], w.key.Partner, day(v.ValidTill)),
			"have " + w.key.Partner + " remove the key, then keyd keys destroy " + v.KID})
	}
	if v.State == registry.Announced && step.Name == StepNone {
		found = append(found, Finding{Failure, "never_active", v.KID, step.Reason, "keyd keys compromise " + v.KID})
	}
	if v.State == registry.Draining && step.Name == StepNone {
		found = append(found, Finding{Warning, "last_open", v.KID, "it is kept past its drain: " + step.Reason, "see why there is no other"})
	}
	return found
}
