package rotation

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"keyd/internal/registry"
)

// recent is how long a change of a partner's key stays worth a look.
const recent = 7 * 24 * time.Hour

// Problems lists what an operator should know of now. It asks no backend and
// no partner.
func (e *Engine) Problems() []Finding {
	var found []Finding
	at := now()
	for _, key := range e.reg.Keys() {
		versions := e.reg.Versions(key.Name)
		found = append(found, e.configured(key)...)
		if h, ok := e.holdOf(key.Name); ok {
			found = append(found, Finding{Failure, "stalled", key.Name, fmt.Sprintf("the last step failed: %s; next try %s", h.last, day(h.until)), ""})
		}
		found = append(found, validity(at, key, versions)...)
		for _, s := range plan(at, key, versions, e.facts(key.Partner)) {
			if s.Name == StepConfirm {
				found = append(found, Finding{Warning, "confirm", s.KID, fmt.Sprintf("the public key of key %s must be handed to %s", key.Name, key.Partner),
					"keyd keys show --public " + s.KID + ", then keyd keys confirm " + s.KID})
			}
		}
		for _, v := range versions {
			found = append(found, trouble(v)...)
		}
	}
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
func (e *Engine) configured(key registry.Key) []Finding {
	var found []Finding
	if _, ok := e.cfg.Partners[key.Partner]; !ok {
		found = append(found, Finding{Failure, "no_partner", key.Name, fmt.Sprintf("its partner %q is not configured", key.Partner), ""})
	}
	if _, err := e.backend(key.Backend); err != nil {
		found = append(found, Finding{Failure, "no_backend", key.Name, fmt.Sprintf("its backend %q is not configured", key.Backend), ""})
	}
	return found
}

// validity looks at how long the active version may still be used.
func validity(at time.Time, key registry.Key, versions []registry.Version) []Finding {
	active := survey(key, versions, Facts{}).active
	switch {
	case active == nil:
		return []Finding{{Failure, "no_active", key.Name, "it has no active version: requests cannot name one", "keyd keys show " + key.Name + " says what it waits for"}}
	case !at.Before(active.ValidTill):
		return []Finding{{Failure, "expired", active.KID, fmt.Sprintf("the active version of %s was valid till %s", key.Name, day(active.ValidTill)), "its successor is late: see the other findings"}}
	case !at.Before(active.ValidTill.Add(-time.Duration(key.Policy.DrainFor) / 2)):
		return []Finding{{Warning, "expires", active.KID, fmt.Sprintf("the active version of %s is valid till %s only", key.Name, day(active.ValidTill)), "its successor is late: see the other findings"}}
	}
	return nil
}

// trouble reports a version that does not get on.
func trouble(v registry.Version) []Finding {
	var found []Finding
	if v.Retry.Tries > 0 && !v.State.Final() {
		severity := Warning
		if v.Retry.Tries >= 5 {
			severity = Failure
		}
		found = append(found, Finding{severity, "retrying", v.KID,
			fmt.Sprintf("%s failed %d times: %s; next try %s", v.Retry.Step, v.Retry.Tries, v.Retry.Last, day(v.Retry.Next)), ""})
	}
	if v.State == registry.Announced && !now().Before(v.ValidTill) {
		found = append(found, Finding{Failure, "never_active", v.KID, "its validTill passed before it could become active", "if it stays so, compromise it: a new version is then made"})
	}
	return found
}
