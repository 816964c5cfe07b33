package rotation

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"keyd/internal/registry"
)

// The steps of a version's life, in order. What a step does stands at the
// method of the same name.
const (
	StepNone     = "none"      // nothing is to be done
	StepIntent   = "intent"    // choose a kid and write it down
	StepGenerate = "generate"  // make the key pair in the backend
	StepSelfTest = "self-test" // open through the backend what was sealed to it
	StepAnnounce = "announce"  // let it open, and upload the public key
	StepConfirm  = "confirm"   // wait for an operator to say that the partner has it
	StepAdopt    = "adopt"     // wait for an operator to adopt the key's first version
	StepSettle   = "settle"    // wait for the partner to take it up
	StepCanary   = "canary"    // have the partner seal something to it
	StepActivate = "activate"  // name it in requests; the old version drains
	StepRetire   = "retire"    // let an adopted version drain beside the active one
	StepDisable  = "disable"   // put a compromised version's private key out of use
	StepDrain    = "drain"     // the drain has ended: close it
	StepDestroy  = "destroy"   // delete the private key from the backend
)

// Step is a step of a rotation: what, for which version, not before when, and
// why.
type Step struct {
	Name   string    `json:"name"`
	KID    string    `json:"kid,omitempty"`
	At     time.Time `json:"at,omitzero"`
	Reason string    `json:"reason"`
}

// Facts are what a key's partner can do.
type Facts struct {
	Announcer bool // has an API that takes public keys
	Canary    bool // has a playground
	// Disables are the backends that can put a private key out of use.
	Disables []string
}

// Plan says what a key needs next. It is a pure function of the registry's
// content and the time: what can be done now comes before what must wait, and
// what waits for a person before what waits for a date.
func Plan(now time.Time, key registry.Key, versions []registry.Version, facts Facts) Step {
	return plan(now, key, versions, facts)[0]
}

// plan lists the next step of every version of a key and of its schedule,
// those that can be done now first.
func plan(now time.Time, key registry.Key, versions []registry.Version, facts Facts) []Step {
	w := survey(key, versions, facts)
	var steps []Step
	for _, v := range versions {
		if s := w.next(now, v); s.Name != StepNone {
			steps = append(steps, s)
		}
	}
	if w.inFlight == nil {
		steps = append(steps, w.due(now))
	}
	steps = append(steps, Step{Name: StepNone, Reason: "nothing is to be done"})
	slices.SortStableFunc(steps, func(a, b Step) int {
		if c := cmp.Compare(a.rank(now), b.rank(now)); c != 0 {
			return c
		}
		if a.ready(now) {
			return 0 // in the order of the versions' numbers
		}
		return a.At.Compare(b.At)
	})
	return steps
}

// ready reports whether the engine can take the step now.
func (s Step) ready(now time.Time) bool {
	return s.Name != StepNone && !s.byHand() && !s.At.After(now)
}

// byHand reports whether the step waits for a person.
func (s Step) byHand() bool { return s.Name == StepConfirm || s.Name == StepAdopt }

func (s Step) rank(now time.Time) int {
	switch {
	case s.ready(now):
		return 0
	case s.byHand():
		return 1
	case s.Name != StepNone:
		return 2
	}
	return 3
}

// world is a key as the plan sees it.
type world struct {
	key        registry.Key
	facts      Facts
	active     *registry.Version
	inFlight   *registry.Version // pending or announced
	versions   int
	opening    int // how many versions open
	everActive bool
}

func survey(key registry.Key, versions []registry.Version, facts Facts) world {
	w := world{key: key, facts: facts, versions: len(versions)}
	for i := range versions {
		v := &versions[i]
		if v.State.Opens() {
			w.opening++
		}
		switch v.State {
		case registry.Active:
			w.active = v
		case registry.Pending, registry.Announced:
			w.inFlight = v
		}
		for _, event := range v.History {
			w.everActive = w.everActive || event.To == registry.Active
		}
	}
	return w
}

// next is what one version needs.
func (w world) next(now time.Time, v registry.Version) Step {
	switch v.State {
	case registry.Pending:
		useless := v.ValidTill.Add(-time.Duration(w.key.Policy.DrainFor))
		switch {
		case !now.Before(useless):
			return try(v, StepDrain, useless, "its validTill would come before it were of use")
		case v.GeneratedAt.IsZero():
			return try(v, StepGenerate, time.Time{}, "the key pair is still to be made in "+v.Backend)
		case v.TestedAt.IsZero():
			return try(v, StepSelfTest, time.Time{}, "the key pair is still to be tried")
		}
		return try(v, StepAnnounce, time.Time{}, "the partner is still to be told")
	case registry.Announced:
		return w.announced(now, v)
	case registry.Draining:
		if w.opening == 1 {
			// A rotation never leaves a key without a version that opens.
			return Step{Name: StepNone, KID: v.KID, Reason: "it is the last version that opens"}
		}
		return try(v, StepDrain, DrainEnd(v), "its drain and its validTill end")
	case registry.Compromised:
		if v.Handle != "" && v.DisabledAt.IsZero() && slices.Contains(w.facts.Disables, v.Backend) {
			return try(v, StepDisable, time.Time{}, "its private key is kept, and nobody is to use it")
		}
	case registry.Destroying:
		return try(v, StepDestroy, time.Time{}, "its private key is still to be deleted")
	}
	return Step{Name: StepNone, KID: v.KID}
}

// announced is what a version needs that already opens and is not yet named in
// requests.
func (w world) announced(now time.Time, v registry.Version) Step {
	told := !v.ToldAt.IsZero()
	if !now.Before(v.ValidTill) {
		if w.everActive && w.opening == 1 {
			return Step{Name: StepNone, KID: v.KID, Reason: "its validTill has passed and it is the last version that opens: compromise it to start anew"}
		}
		return try(v, StepDrain, v.ValidTill, "its validTill has passed before it could become active")
	}
	settled := v.ToldAt.Add(time.Duration(w.key.Policy.SettleFor))
	if settled.Before(v.ValidFrom) {
		settled = v.ValidFrom
	}
	switch {
	case !told && !w.facts.Announcer:
		return Step{Name: StepConfirm, KID: v.KID, Reason: "an operator must hand the public key to the partner and confirm it"}
	case !told:
		return try(v, StepAnnounce, time.Time{}, "the partner is still to be told")
	case arrived(v) && w.active != nil:
		return try(v, StepRetire, time.Time{}, "it was adopted beside an active version")
	case now.Before(settled):
		return Step{Name: StepSettle, KID: v.KID, At: settled, Reason: "the partner is given time to take it up"}
	case w.key.Policy.Canary != CanaryOff && w.facts.Canary && v.CanaryAt.IsZero():
		return try(v, StepCanary, settled, "the partner is to seal something to it")
	}
	return try(v, StepActivate, settled, "everything that must come before has been done")
}

// arrived reports whether the partner knew an adopted version before we did.
func arrived(v registry.Version) bool { return v.Adopted && v.ToldAt.Before(v.TestedAt) }

// DrainEnd is when a draining version may be closed: its deadline and the
// validTill told to the partner have both passed. Nothing but validTill keeps
// a partner from sealing to an old key.
func DrainEnd(v registry.Version) time.Time {
	if v.ValidTill.After(v.DrainUntil) {
		return v.ValidTill
	}
	return v.DrainUntil
}

// due is when a key without a rotation in flight needs one, and why.
func (w world) due(now time.Time) Step {
	switch {
	case w.versions == 0 && w.key.Policy.First == FirstAdopt:
		return Step{Name: StepAdopt, Reason: "an operator must adopt the key's first version"}
	case w.active == nil && !w.everActive:
		return Step{Name: StepIntent, At: now, Reason: "the key has no version yet"}
	case w.active == nil:
		return Step{Name: StepIntent, At: now, Reason: "the key has no active version"}
	}
	// Without a successor, requests would soon name a key that the partner no
	// longer seals to.
	ends := w.active.ValidTill.Add(-time.Duration(w.key.Policy.DrainFor))
	if ends.Before(w.key.NextDue) {
		return Step{Name: StepIntent, At: ends, Reason: fmt.Sprintf("the active version's validTill, %s, is near", w.active.ValidTill.Format(time.RFC3339)) + w.moving()}
	}
	return Step{Name: StepIntent, At: w.key.NextDue, Reason: "the schedule asks for it" + w.moving()}
}

// try is a step that is retried: not before at, and not before the next try if
// the last one failed.
func try(v registry.Version, name string, at time.Time, reason string) Step {
	if v.Retry.Step == name && v.Retry.Next.After(at) {
		at = v.Retry.Next
		if v.Retry.Tries > 0 {
			reason = fmt.Sprintf("%s; %d tries failed, the last one: %s", reason, v.Retry.Tries, v.Retry.Last)
		}
	}
	return Step{Name: name, KID: v.KID, At: at, Reason: reason}
}

// forecast lists the steps that lead from a version to its end of the
// rotation, if nothing goes wrong.
func forecast(now time.Time, key registry.Key, versions []registry.Version, v registry.Version, facts Facts) []Step {
	versions = slices.DeleteFunc(slices.Clone(versions), func(o registry.Version) bool { return o.KID == v.KID })
	w := survey(key, versions, facts)
	w.opening++ // v itself
	var steps []Step
	for {
		s := w.next(now, v)
		steps = append(steps, s)
		switch s.Name {
		case StepGenerate:
			v.GeneratedAt = now
		case StepSelfTest:
			v.TestedAt = now
		case StepAnnounce, StepConfirm:
			if v.State == registry.Pending && !facts.Announcer {
				steps = steps[:len(steps)-1] // it opens; telling the partner is the next step's
			} else {
				v.ToldAt = now
			}
			v.State = registry.Announced
		case StepSettle:
			now = s.At
		case StepCanary:
			v.CanaryAt = now
		case StepActivate:
			if w.active != nil {
				old := *w.active
				old.DrainUntil = now.Add(time.Duration(key.Policy.DrainFor))
				steps = append(steps, drainOf(old, v.Backend))
			}
			return steps
		default:
			return steps
		}
	}
}

// drainOf is the end of a version whose successor is in a backend.
func drainOf(old registry.Version, successor string) Step {
	reason := "it is closed and destroyed then"
	if old.Backend != successor {
		reason += fmt.Sprintf("; %s must stay configured until it is", old.Backend)
	}
	return Step{Name: StepDrain, KID: old.KID, At: DrainEnd(old), Reason: reason}
}
