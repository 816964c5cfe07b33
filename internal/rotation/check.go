package rotation

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"keyd/internal/boundary"
	"keyd/internal/registry"
)

// Severities of a finding.
const (
	Warning = "warning" // look at it
	Failure = "error"   // something that must never be
)

// Finding is something wrong: what, with what, and what to do.
type Finding struct {
	Severity string `json:"severity"`
	Code     string `json:"code"`    // stable, for programs
	Subject  string `json:"subject"` // key, kid, backend or partner
	Message  string `json:"message"`
	Hint     string `json:"hint,omitempty"`
}

// Checked says in words what Check looks at.
var Checked = []string{
	"the registry's own invariants: one active version per key, at most one in flight, every history a path of the table",
	"every version whose key pair should exist has it in its backend, and the public keys match",
	"nothing stands in a backend under keyd's name that the registry does not know, or that it holds for destroyed",
	"every change of state has its entry in the audit log, and the log claims none that is in no history",
	"what is kept of each key pair, its evidence, public key and self-test, is what the audit log committed to",
	"the partners' public keys are among those that the config pins, where it pins any",
	"every backend works, at the boundary level that the policies ask for",
	"what the backends said of each key pair when it was made or adopted",
}

// Check states every invariant there is, and reports where one does not hold.
// It asks the backends and takes its time; Problems is the cheap one.
func (e *Engine) Check(ctx context.Context) []Finding {
	var found []Finding
	for _, v := range e.reg.Check() {
		found = append(found, Finding{Failure, v.Code, orDefault(v.KID, v.Key), v.Message, "the registry was changed by something else than keyd; restore a backup"})
	}
	before := e.cfg.Audit.Head().Seq
	var versions []registry.Version
	for _, key := range e.reg.Keys() {
		own := e.reg.Versions(key.Name)
		found = append(found, e.homed(key, own)...)
		versions = append(versions, own...)
	}
	head := e.cfg.Audit.Head().Seq // after the histories, or it might lag behind them
	destroyed := e.destroyed()
	for _, v := range versions {
		found = append(found, traced(v, head)...)
		found = append(found, e.material(ctx, v)...)
	}
	found = append(found, e.told(ctx, versions, before)...)
	for _, name := range slices.Sorted(maps.Keys(e.cfg.Backends)) {
		found = append(found, e.orphans(ctx, name, destroyed)...)
	}
	return append(append(found, e.pins()...), e.levels(ctx)...)
}

// traced holds a history against the audit log.
func traced(v registry.Version, head uint64) []Finding {
	var found []Finding
	for _, event := range v.History {
		switch {
		case event.Audit == 0:
			found = append(found, Finding{Failure, "unaudited", v.KID,
				fmt.Sprintf("it became %s on %s without an entry in the audit log", event.To, day(event.At)), "the registry was changed by something else than keyd"})
		case event.Audit > head:
			found = append(found, Finding{Failure, "audit_truncated", v.KID,
				fmt.Sprintf("it became %s under entry %d of the audit log, which ends at %d", event.To, event.Audit, head), "the audit log was cut off or replaced; look for the copy that goes further"})
		}
	}
	return found
}

// material holds a version against its backend.
func (e *Engine) material(ctx context.Context, v registry.Version) []Finding {
	b, err := e.backend(v.Backend)
	if !v.State.Held() || v.Handle == "" || err != nil {
		return nil // compromised before its key pair was made; or nobody to ask, see homed
	}
	err = matches(ctx, b, v.Handle, v.Public)
	if latest, gone := e.reg.Version(v.KID); err != nil && gone == nil && !latest.State.Held() {
		return nil // it was closed meanwhile
	}
	found := pair(v, b, err)
	var evidence boundary.Evidence
	if len(v.Evidence) > 0 && json.Unmarshal(v.Evidence, &evidence) == nil {
		for _, problem := range evidence.Problems {
			found = append(found, Finding{Warning, "evidence", v.KID, v.Backend + " said of its key pair: " + problem, ""})
		}
	}
	return found
}

// pair says what is wrong with a version's key pair, which its backend was asked
// for.
func pair(v registry.Version, b Backend, err error) []Finding {
	switch disabled := !v.DisabledAt.IsZero(); {
	case err == nil && disabled:
		return []Finding{{Warning, "key_enabled", v.KID, fmt.Sprintf("it is compromised, keyd disabled its private key in %s on %s, and it is enabled: whoever may use it there can", v.Backend, day(v.DisabledAt)),
			"find out who enabled " + v.Handle + " and why; disable it there, or keyd keys destroy " + v.KID}}
	case err == nil:
	case errors.Is(err, boundary.ErrDisabled) && v.State == registry.Compromised: // as it should be
	case errors.Is(err, boundary.ErrDisabled):
		return []Finding{{Failure, "key_disabled", v.KID, fmt.Sprintf("it is %s, and its private key in %s is disabled: nothing opens with it", v.State, v.Backend),
			"find out who disabled " + v.Handle + " and why; enable it there, or compromise the version"}}
	case errors.Is(err, boundary.ErrNoKey):
		hint := "restore the token from its backup; if that cannot be, compromise the version"
		if _, waits := b.(Rescuer); waits {
			hint = "if somebody has scheduled its deletion there, call that off now and enable the key; if it is gone, compromise the version"
		}
		return []Finding{{Failure, "key_missing", v.KID, fmt.Sprintf("it is %s and %s does not hold its private key: %v", v.State, v.Backend, err), hint}}
	case errors.Is(err, ErrSelfTest):
		return []Finding{{Failure, "key_mismatch", v.KID, "the key pair in " + v.Backend + " is not the recorded one", "compromise the version: something else stands under its name"}}
	default:
		return []Finding{{Warning, "key_unchecked", v.KID, "its key pair could not be looked at: " + err.Error(), "run doctor again when the backend works"}}
	}
	return nil
}

// levels holds each backend against the policies of its keys.
func (e *Engine) levels(ctx context.Context) []Finding {
	var found []Finding
	health := map[string]boundary.Health{}
	for _, name := range slices.Sorted(maps.Keys(e.cfg.Backends)) {
		h := e.cfg.Backends[name].Health(ctx)
		health[name] = h
		if h.Err != "" {
			found = append(found, Finding{Failure, "backend_down", name, h.Err, ""})
		}
	}
	for _, key := range e.reg.Keys() {
		for _, name := range Homes(key, e.reg.Versions(key.Name)) {
			if h, ok := health[name]; ok && h.Err == "" && Reaches(key, h) != nil {
				found = append(found, Finding{Failure, "boundary_low", key.Name,
					fmt.Sprintf("backend %s: %v", name, Reaches(key, h)), "nothing is made or opened there until it does"})
			}
		}
	}
	return found
}

// day is a date for people.
func day(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 MST") }
