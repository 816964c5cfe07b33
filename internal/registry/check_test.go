package registry_test

import (
	"encoding/json"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"keyd/internal/registry"
)

// damage stores versions that no registry would, and returns the codes that
// Check answers after opening.
func damage(t *testing.T, versions ...registry.Version) []string {
	t.Helper()
	engine := newMemory()
	must(t, open(t, engine).PutKey(newKey(keyID)))
	for _, v := range versions {
		raw, err := json.Marshal(v)
		must(t, err)
		engine.raw(t, "versions", v.KID, string(raw))
	}
	var codes []string
	for _, v := range open(t, engine).Check() {
		if v.Message == "" || v.Key == "" {
			t.Errorf("violation without a message or a key: %+v", v)
		}
		codes = append(codes, v.Code)
	}
	return codes
}

// lived is a sound version with a history that ends in a state.
func lived(kid string, number int, states ...registry.State) registry.Version {
	v := withMaterial(kid)
	v.Number, v.DrainUntil = number, at
	from := registry.State("")
	for i, s := range append([]registry.State{registry.Pending}, states...) {
		v.History = append(v.History, registry.Event{At: at.Add(time.Duration(i) * time.Hour), From: from, To: s, By: by, Audit: uint64(i + 1)})
		from = s
	}
	v.State = from
	return v
}

func TestCheckFindsEveryViolation(t *testing.T) {
	const p, an, ac, dr, co, de = registry.Pending, registry.Announced, registry.Active, registry.Draining, registry.Compromised, registry.Destroying
	change := func(v registry.Version, f func(*registry.Version)) registry.Version {
		f(&v)
		return v
	}
	laterBy := func(v registry.Version, d time.Duration, audit uint64) registry.Version {
		for i := range v.History {
			v.History[i].At, v.History[i].Audit = v.History[i].At.Add(d), v.History[i].Audit+audit
		}
		return v
	}
	sound := func() registry.Version { return lived("sound", 1, an, ac) }
	for name, c := range map[string]struct {
		versions []registry.Version
		want     []string
	}{
		"nothing wrong":           {[]registry.Version{sound(), lived("b", 2, an)}, nil},
		"two active":              {[]registry.Version{sound(), lived("b", 2, an, ac)}, []string{"second_active"}},
		"two in flight":           {[]registry.Version{lived("a", 1, an), lived("b", 2)}, []string{"in_flight"}},
		"a gap in numbers":        {[]registry.Version{sound(), lived("b", 3, an)}, []string{"number"}},
		"a number twice":          {[]registry.Version{sound(), lived("b", 1, an)}, []string{"number"}},
		"an unknown state":        {[]registry.Version{change(sound(), func(v *registry.Version) { v.State = "retired" })}, []string{"state", "history", "unopenable"}},
		"no history":              {[]registry.Version{change(lived("a", 1), func(v *registry.Version) { v.History = nil })}, []string{"history"}},
		"history ends elsewhere":  {[]registry.Version{change(sound(), func(v *registry.Version) { v.State = dr })}, []string{"history"}},
		"history has a hole":      {[]registry.Version{change(sound(), func(v *registry.Version) { v.History = slices.Delete(v.History, 1, 2) })}, []string{"history"}},
		"history off the table":   {[]registry.Version{lived("a", 1, ac)}, []string{"history"}},
		"history begins late":     {[]registry.Version{change(sound(), func(v *registry.Version) { v.History = v.History[1:]; v.History[0].From = "" })}, []string{"history"}},
		"adopted after pending":   {[]registry.Version{change(sound(), func(v *registry.Version) { v.Adopted = true })}, []string{"history"}},
		"opens without material":  {[]registry.Version{change(sound(), func(v *registry.Version) { v.Public = nil })}, []string{"material"}},
		"opens without self-test": {[]registry.Version{change(sound(), func(v *registry.Version) { v.TestedAt = time.Time{} })}, []string{"material"}},
		"drains for ever":         {[]registry.Version{change(lived("a", 1, an, ac, dr), func(v *registry.Version) { v.DrainUntil = time.Time{} })}, []string{"deadline"}},
		"two with a private key":  {[]registry.Version{sound(), change(lived("b", 2, an), func(v *registry.Version) { v.Handle = "pkcs11:object=sound" })}, []string{"handle"}},
		"no such key":             {[]registry.Version{change(sound(), func(v *registry.Version) { v.Key = "nobody" })}, []string{"no_key"}},
		"destroyed while in use":  {[]registry.Version{lived("a", 1, an, ac, dr, de)}, []string{"unopenable"}},
		"compromised":             {[]registry.Version{lived("a", 1, an, ac, co, de)}, nil},
		"had back":                {[]registry.Version{lived("a", 1, an, ac, dr, de, dr)}, nil},
		"back from a compromise":  {[]registry.Version{lived("a", 1, an, ac, co, de, dr)}, []string{"history"}},
		"kept after all":          {[]registry.Version{lived("a", 1, an, ac, co, de, co)}, nil},
		"never in use":            {[]registry.Version{lived("a", 1, an, de)}, nil},
		"compromised, then the other destroyed": {[]registry.Version{lived("a", 1, an, ac, co),
			laterBy(lived("b", 2, an, ac, dr, de), 24*time.Hour, 10)}, []string{"unopenable"}},
		"the other destroyed, then compromised": {[]registry.Version{lived("b", 1, an, ac, dr, de),
			laterBy(lived("a", 2, an, ac, co), 24*time.Hour, 10)}, nil},
		"the clock was put back between": {[]registry.Version{lived("b", 1, an, ac, dr, de),
			laterBy(lived("a", 2, an, ac, co), -24*time.Hour, 10)}, nil},
		"the other's entry was written later": {[]registry.Version{laterBy(lived("b", 1, an, ac, dr, de), 0, 20),
			laterBy(lived("a", 2, an, ac, co), 24*time.Hour, 10)}, nil},
		"never made": {[]registry.Version{change(lived("a", 1, de), func(v *registry.Version) { v.Handle, v.Public = "", nil })}, nil},
		"pending":    {[]registry.Version{change(lived("a", 1), func(v *registry.Version) { v.State = p })}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, damage(t, c.versions...)); diff != "" {
				t.Errorf("codes (-want +got):\n%s", diff)
			}
		})
	}
}

func TestCheckComparesMemoryWithWhatIsStored(t *testing.T) {
	engine := newMemory()
	r := open(t, engine)
	must(t, r.PutKey(newKey(keyID)))
	stored := maps.Clone(engine.buckets["keys"])
	must(t, r.SetDue(keyID, at))
	engine.raw(t, "keys", keyID, string(stored[keyID]))
	if got := r.Check(); len(got) != 1 || got[0].Code != "memory" {
		t.Errorf("got %+v, want memory", got)
	}
}
