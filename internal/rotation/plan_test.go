package rotation_test

import (
	"strings"
	"testing"
	"time"

	"keyd/internal/registry"
	"keyd/internal/rotation"
)

// noon is when every case of the plan happens.
var noon = time.Date(2027, 2, 1, 12, 0, 0, 0, time.UTC)

func in(d time.Duration) time.Time { return noon.Add(d) }

// planned is a key with a schedule two months ahead.
func planned() registry.Key {
	p := quarterly()
	p.SettleFor = registry.Duration(time.Hour)
	return registry.Key{Name: "wise-response", Partner: "wise", Policy: p, NextDue: in(59 * aDay)}
}

// version is one that has come as far as its state says, without trouble.
func version(kid string, state registry.State) registry.Version {
	v := registry.Version{KID: kid, Key: "wise-response", State: state, ValidFrom: in(-aDay), ValidTill: in(149 * aDay),
		History: []registry.Event{{At: in(-aDay), To: registry.Pending}}}
	if state == registry.Pending {
		return v
	}
	v.GeneratedAt, v.TestedAt, v.ToldAt = in(-aDay), in(-aDay), in(-aDay)
	if state == registry.Announced {
		return v
	}
	v.CanaryAt = in(-aDay)
	v.History = append(v.History, registry.Event{At: in(-aDay), To: registry.Active})
	if state != registry.Active {
		v.DrainUntil = in(29 * aDay)
	}
	return v
}

func with(v registry.Version, change func(*registry.Version)) registry.Version {
	change(&v)
	return v
}

func TestPlan(t *testing.T) {
	wise := rotation.Facts{Announcer: true, Canary: true}
	manual := rotation.Facts{}
	active := version("a", registry.Active)
	tested := with(version("p", registry.Pending), func(v *registry.Version) { v.GeneratedAt, v.TestedAt = noon, noon })
	untold := with(version("n", registry.Announced), func(v *registry.Version) { v.ToldAt = time.Time{} })
	for _, c := range []struct {
		name     string
		key      func(*registry.Key)
		versions []registry.Version
		facts    rotation.Facts
		want     rotation.Step // Reason: a part of it
	}{
		{"a new key", nil, nil, wise, rotation.Step{Name: "intent", At: noon, Reason: "no version yet"}},
		{"an intent without material", nil, []registry.Version{version("p", registry.Pending)}, wise, rotation.Step{Name: "generate", KID: "p"}},
		{"material not tried yet", nil, []registry.Version{with(tested, func(v *registry.Version) { v.TestedAt = time.Time{} })}, wise, rotation.Step{Name: "self-test", KID: "p"}},
		{"material that works", nil, []registry.Version{tested}, wise, rotation.Step{Name: "announce", KID: "p"}},
		{"material that works, a partner without an API", nil, []registry.Version{tested}, manual, rotation.Step{Name: "announce", KID: "p"}},
		{"generating failed a moment ago", nil, []registry.Version{with(version("p", registry.Pending), func(v *registry.Version) {
			v.Retry = registry.Retry{Step: "generate", Tries: 3, Next: in(time.Minute), Last: "no session"}
		})}, wise, rotation.Step{Name: "generate", KID: "p", At: in(time.Minute), Reason: "3 tries failed, the last one: no session"}},
		{"the next try of generating has come", nil, []registry.Version{with(version("p", registry.Pending), func(v *registry.Version) {
			v.Retry = registry.Retry{Step: "generate", Tries: 3, Next: noon, Last: "no session"}
		})}, wise, rotation.Step{Name: "generate", KID: "p", At: noon}},
		{"the tries of an earlier step do not hold up the next", nil, []registry.Version{with(tested, func(v *registry.Version) {
			v.Retry = registry.Retry{Step: "generate", Tries: 3, Next: in(time.Minute)}
		})}, wise, rotation.Step{Name: "announce", KID: "p"}},
		{"a pending version that comes too late", nil, []registry.Version{active, with(tested, func(v *registry.Version) { v.ValidTill = in(30 * aDay) })}, wise,
			rotation.Step{Name: "drain", KID: "p", At: noon, Reason: "of use"}},

		{"announced, the partner has not said yes", nil, []registry.Version{untold}, wise, rotation.Step{Name: "announce", KID: "n"}},
		{"announced, the partner was down", nil, []registry.Version{with(untold, func(v *registry.Version) {
			v.Retry = registry.Retry{Step: "announce", Tries: 9, Next: in(time.Hour)}
		})}, wise, rotation.Step{Name: "announce", KID: "n", At: in(time.Hour)}},
		{"announced to a partner without an API", nil, []registry.Version{active, untold}, manual, rotation.Step{Name: "confirm", KID: "n"}},
		{"told just now", nil, []registry.Version{with(untold, func(v *registry.Version) { v.ToldAt = noon })}, wise,
			rotation.Step{Name: "settle", KID: "n", At: in(time.Hour)}},
		{"settled", nil, []registry.Version{version("n", registry.Announced)}, wise, rotation.Step{Name: "canary", KID: "n"}},
		{"settled, without a playground", nil, []registry.Version{version("n", registry.Announced)}, rotation.Facts{Announcer: true}, rotation.Step{Name: "activate", KID: "n"}},
		{"settled, canary off", func(k *registry.Key) { k.Policy.Canary = "off" }, []registry.Version{version("n", registry.Announced)}, wise, rotation.Step{Name: "activate", KID: "n"}},
		{"the canary sang", nil, []registry.Version{with(version("n", registry.Announced), func(v *registry.Version) { v.CanaryAt = noon })}, wise, rotation.Step{Name: "activate", KID: "n"}},
		{"the canary keeps silent", nil, []registry.Version{active, with(version("n", registry.Announced), func(v *registry.Version) {
			v.Retry = registry.Retry{Step: "canary", Tries: 1, Next: in(time.Minute)}
		})}, wise, rotation.Step{Name: "canary", KID: "n", At: in(time.Minute)}},
		{"not valid yet", nil, []registry.Version{with(version("n", registry.Announced), func(v *registry.Version) { v.ValidFrom = in(time.Hour) })}, wise,
			rotation.Step{Name: "settle", KID: "n", At: in(time.Hour)}},
		{"never told, and its time is over", nil, []registry.Version{active, with(untold, func(v *registry.Version) { v.ValidTill = noon })}, wise,
			rotation.Step{Name: "drain", KID: "n", At: noon, Reason: "before it could become active"}},
		{"the first version ever, and its time is over", nil, []registry.Version{with(untold, func(v *registry.Version) { v.ValidTill = noon })}, wise,
			rotation.Step{Name: "drain", KID: "n", At: noon}},
		{"its time is over and nothing else opens", nil, []registry.Version{version("c", registry.Compromised), with(untold, func(v *registry.Version) { v.ValidTill = noon })}, wise,
			rotation.Step{Name: "none"}},

		{"all is well", nil, []registry.Version{active}, wise, rotation.Step{Name: "intent", At: in(59 * aDay), Reason: "the schedule"}},
		{"the schedule has fired", func(k *registry.Key) { k.NextDue = noon }, []registry.Version{active}, wise, rotation.Step{Name: "intent", At: noon, Reason: "the schedule"}},
		{"the schedule fired long ago", func(k *registry.Key) { k.NextDue = in(-40 * aDay) }, []registry.Version{active}, wise,
			rotation.Step{Name: "intent", At: in(-40 * aDay), Reason: "the schedule"}},
		{"validTill nearer than the schedule", nil, []registry.Version{with(active, func(v *registry.Version) { v.ValidTill = in(40 * aDay) })}, wise,
			rotation.Step{Name: "intent", At: in(10 * aDay), Reason: "validTill"}},
		{"validTill nearer than a drain", nil, []registry.Version{with(active, func(v *registry.Version) { v.ValidTill = in(30 * aDay) })}, wise,
			rotation.Step{Name: "intent", At: noon, Reason: "validTill"}},
		{"due, and one in flight already", func(k *registry.Key) { k.NextDue = noon }, []registry.Version{active, version("p", registry.Pending)}, wise,
			rotation.Step{Name: "generate", KID: "p"}},
		{"the active version was compromised", nil, []registry.Version{version("c", registry.Compromised)}, wise, rotation.Step{Name: "intent", At: noon, Reason: "no active version"}},
		{"the active one was compromised, one in flight", nil, []registry.Version{version("c", registry.Compromised), version("n", registry.Announced)}, wise,
			rotation.Step{Name: "canary", KID: "n"}},
		{"all destroyed", nil, []registry.Version{version("x", registry.Destroyed)}, wise, rotation.Step{Name: "intent", At: noon}},

		{"draining, partner may still seal to it", nil, []registry.Version{with(version("d", registry.Draining), func(v *registry.Version) { v.DrainUntil = noon; v.ValidTill = in(aDay) }), active}, wise,
			rotation.Step{Name: "drain", KID: "d", At: in(aDay)}},
		{"draining past validTill, before the deadline", nil, []registry.Version{with(version("d", registry.Draining), func(v *registry.Version) { v.ValidTill = noon; v.DrainUntil = in(aDay) }), active}, wise,
			rotation.Step{Name: "drain", KID: "d", At: in(aDay)}},
		{"the drain has ended", nil, []registry.Version{with(version("d", registry.Draining), func(v *registry.Version) { v.ValidTill = in(-1); v.DrainUntil = noon }), active}, wise,
			rotation.Step{Name: "drain", KID: "d", At: noon}},
		{"the drain has ended, but nothing else opens", nil, []registry.Version{with(version("d", registry.Draining), func(v *registry.Version) { v.ValidTill = noon; v.DrainUntil = noon }), version("p", registry.Pending)}, wise,
			rotation.Step{Name: "generate", KID: "p"}},
		{"being destroyed", nil, []registry.Version{version("x", registry.Destroying), active}, wise, rotation.Step{Name: "destroy", KID: "x"}},
		{"being destroyed, the backend takes its time", nil, []registry.Version{with(version("x", registry.Destroying), func(v *registry.Version) {
			v.Retry = registry.Retry{Step: "destroy", Next: in(6 * time.Hour)}
		}), active}, wise, rotation.Step{Name: "destroy", KID: "x", At: in(6 * time.Hour)}},
		{"a compromised version waits for an operator", nil, []registry.Version{version("c", registry.Compromised), active}, wise, rotation.Step{Name: "intent", At: in(59 * aDay)}},
		{"what can be done now comes before what waits", nil, []registry.Version{version("x", registry.Destroying), active, untold}, manual, rotation.Step{Name: "destroy", KID: "x"}},

		{"adopted, the partner has it, none is active", nil, []registry.Version{adopted("n")}, wise, rotation.Step{Name: "canary", KID: "n"}},
		{"adopted, the partner has it, another is active", nil, []registry.Version{active, adopted("n")}, wise, rotation.Step{Name: "retire", KID: "n"}},
		{"adopted, the partner is still to be told", nil, []registry.Version{active, with(adopted("n"), func(v *registry.Version) { v.ToldAt = time.Time{} })}, wise, rotation.Step{Name: "announce", KID: "n"}},
		{"adopted and told by us", nil, []registry.Version{active, with(adopted("n"), func(v *registry.Version) { v.ToldAt = v.TestedAt })}, wise, rotation.Step{Name: "canary", KID: "n"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			key := planned()
			if c.key != nil {
				c.key(&key)
			}
			got := rotation.Plan(noon, key, c.versions, c.facts)
			if !strings.Contains(got.Reason, c.want.Reason) {
				t.Errorf("got the reason %q, want %q in it", got.Reason, c.want.Reason)
			}
			due := got.Name != "settle" && !got.At.After(noon)
			if wantDue := !c.want.At.After(noon); due && wantDue && c.want.At.IsZero() {
				got.At = time.Time{} // either is now
			}
			got.Reason = c.want.Reason
			if got != c.want {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
		})
	}
}

func adopted(kid string) registry.Version {
	return with(version(kid, registry.Announced), func(v *registry.Version) {
		v.Adopted, v.TestedAt, v.ToldAt = true, in(-2*time.Hour), in(-30*aDay)
	})
}

// Whatever the plan says is to be done at a time is done then and not before.
func TestPlanChangesAtTheTimeItNames(t *testing.T) {
	versions := []registry.Version{version("d", registry.Draining), version("a", registry.Active)}
	first := rotation.Plan(noon, planned(), versions, rotation.Facts{Announcer: true})
	if !first.At.After(noon) {
		t.Fatalf("got %+v, want something to wait for", first)
	}
	before := rotation.Plan(first.At.Add(-1), planned(), versions, rotation.Facts{Announcer: true})
	after := rotation.Plan(first.At, planned(), versions, rotation.Facts{Announcer: true})
	if before != first || after != first {
		t.Errorf("got %+v just before and %+v then, want %+v", before, after, first)
	}
}
