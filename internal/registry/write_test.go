package registry_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"keyd/internal/registry"
)

func TestPutKeyCreatesThenChanges(t *testing.T) {
	r := checked(t)
	created, err := r.Key(keyID)
	must(t, err)
	if created.CreatedAt.IsZero() {
		t.Error("a new key does not say when it was created")
	}
	changed := created
	changed.Policy.Rotate, changed.Bits, changed.CreatedAt = "0 3 * * 0", 3072, at
	must(t, r.PutKey(changed))
	changed.CreatedAt = created.CreatedAt
	if got, _ := r.Key(keyID); got != changed {
		t.Errorf("got %+v, want %+v", got, changed)
	}
	changed.Partner = "venly"
	wantErr(t, r.PutKey(changed), registry.ErrImmutable)
}

func TestNamesAreHeldToWhatARecordCanBear(t *testing.T) {
	r := checked(t)
	for _, bad := range []string{"", "a\nb", "a\x00b", "\xff", strings.Repeat("x", 256)} {
		k := newKey(bad)
		wantErr(t, r.PutKey(k), registry.ErrInvalid)
		k = newKey("k")
		k.Partner = bad
		wantErr(t, r.PutKey(k), registry.ErrInvalid)
		_, err := r.Begin(newVersion(bad), by, "", 1, at)
		wantErr(t, err, registry.ErrInvalid)
		_, err = r.SawPartnerKey(registry.PartnerKey{Partner: bad, Public: []byte("p")}, at)
		wantErr(t, err, registry.ErrInvalid)
	}
	v := newVersion("kid")
	v.Backend = ""
	_, err := r.Begin(v, by, "", 1, at)
	wantErr(t, err, registry.ErrInvalid)
}

func TestBeginRecordsTheIntent(t *testing.T) {
	r := checked(t)
	due := at.AddDate(0, 3, 0)
	v := newVersion("kid")
	v.Number, v.History, v.Retry, v.DrainUntil = 7, []registry.Event{{By: "mallory"}}, registry.Retry{Tries: 2}, at
	v.ValidFrom = at.Add(time.Millisecond).In(time.FixedZone("CET", 3600))
	start := time.Now()
	got, err := r.Begin(v, by, "due", 42, due)
	must(t, err)
	begun := got.History[0].At
	if begun.Before(start) || begun.After(time.Now()) {
		t.Errorf("begun at %v, want now", begun)
	}
	want := newVersion("kid")
	want.Number, want.State = 1, registry.Pending
	want.History = []registry.Event{{At: begun, To: registry.Pending, By: by, Reason: "due", Audit: 42}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if k, _ := r.Key(keyID); !k.NextDue.Equal(due) {
		t.Errorf("the key is due %v, want %v", k.NextDue, due)
	}
}

func TestOneVersionInFlight(t *testing.T) {
	r := checked(t)
	refused := func() {
		t.Helper()
		due, _ := r.Key(keyID)
		_, err := r.Begin(newVersion("second"), by, "", 1, at.AddDate(9, 0, 0))
		wantErr(t, err, registry.ErrInFlight)
		_, err = r.Adopt(withMaterial("second"), by, "", 1)
		wantErr(t, err, registry.ErrInFlight)
		if now, _ := r.Key(keyID); now != due {
			t.Error("a refused version changed when its key is due")
		}
	}
	begin(t, r, "first")
	refused()
	_, err := r.Amend("first", equip)
	must(t, err)
	must(t, move(r, to("first", registry.Announced)))
	refused()
	must(t, move(r, to("first", registry.Active)))
	second, err := r.Begin(newVersion("second"), by, "", 1, at)
	must(t, err)
	if second.Number != 2 {
		t.Errorf("got number %d, want 2", second.Number)
	}
}

func TestKIDsAndPrivateKeysHaveOneVersion(t *testing.T) {
	r := checked(t)
	bring(t, r, "kid", registry.Active)
	_, err := r.Begin(newVersion("kid"), by, "", 1, at)
	wantErr(t, err, registry.ErrExists)
	_, err = r.Adopt(withMaterial("kid"), by, "", 1)
	wantErr(t, err, registry.ErrExists)

	same := withMaterial("new")
	same.Handle = "pkcs11:object=kid"
	_, err = r.Adopt(same, by, "", 1)
	wantErr(t, err, registry.ErrExists)
	begin(t, r, "new")
	_, err = r.Amend("new", func(v *registry.Version) error { v.Handle = "pkcs11:object=kid"; return nil })
	wantErr(t, err, registry.ErrExists)
	// Another backend may use the same name.
	must(t, move(r, to("new", registry.Destroying)))
	same.Backend, same.KID = "kms", "elsewhere"
	_, err = r.Adopt(same, by, "", 1)
	must(t, err)
}

func TestBeginRefusesMaterial(t *testing.T) {
	r := checked(t)
	_, err := r.Begin(withMaterial("kid"), by, "", 1, at)
	wantErr(t, err, registry.ErrInvalid)
	v := newVersion("kid")
	v.State = registry.Active
	_, err = r.Begin(v, by, "", 1, at)
	wantErr(t, err, registry.ErrTransition)
}

func TestAdoptEntersAsAnnounced(t *testing.T) {
	r := checked(t)
	_, err := r.Adopt(newVersion("kid"), by, "", 1)
	wantErr(t, err, registry.ErrInvalid)
	untested := withMaterial("kid")
	untested.TestedAt = time.Time{}
	_, err = r.Adopt(untested, by, "", 1)
	wantErr(t, err, registry.ErrInvalid)
	v, err := r.Adopt(withMaterial("kid"), by, "moved here", 9)
	must(t, err)
	if v.State != registry.Announced || !v.Adopted || v.Number != 1 || len(v.History) != 1 || v.History[0].Audit != 9 {
		t.Errorf("got %+v", v)
	}
}

func TestAmendChangesMarksOnly(t *testing.T) {
	r := checked(t)
	begin(t, r, "kid")
	fixed := map[string]func(*registry.Version){
		"KID":        func(v *registry.Version) { v.KID = "x" },
		"Key":        func(v *registry.Version) { v.Key = "x" },
		"Number":     func(v *registry.Version) { v.Number++ },
		"State":      func(v *registry.Version) { v.State = registry.Active },
		"Backend":    func(v *registry.Version) { v.Backend = "x" },
		"Algorithm":  func(v *registry.Version) { v.Algorithm = "x" },
		"Bits":       func(v *registry.Version) { v.Bits++ },
		"ValidFrom":  func(v *registry.Version) { v.ValidFrom = v.ValidFrom.Add(1) },
		"ValidTill":  func(v *registry.Version) { v.ValidTill = v.ValidTill.Add(1) },
		"DrainUntil": func(v *registry.Version) { v.DrainUntil = at },
		"LastOpenAt": func(v *registry.Version) { v.LastOpenAt = at },
		"Adopted":    func(v *registry.Version) { v.Adopted = true },
		"History":    func(v *registry.Version) { v.History[0].By = "mallory" },
	}
	for name, change := range fixed {
		_, err := r.Amend("kid", func(v *registry.Version) error { change(v); return nil })
		wantErr(t, err, registry.ErrImmutable)
		if err != nil && !strings.Contains(err.Error(), name) {
			t.Errorf("error %q does not name %s", err, name)
		}
	}
	marks := func(v *registry.Version) error {
		v.Handle, v.Public, v.Evidence = "h", []byte("p"), json.RawMessage(`{"local":true}`)
		v.GeneratedAt, v.TestedAt, v.ToldAt, v.CanaryAt, v.CanaryKID = at, at, at, at, "kid"
		v.Retry = registry.Retry{Step: "canary", Tries: 1, Next: at, Last: "no answer"}
		return nil
	}
	got, err := r.Amend("kid", marks)
	must(t, err)
	want := got
	must(t, marks(&want))
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	_, err = r.Amend("kid", marks) // the same again is no change
	must(t, err)
	for name, change := range map[string]func(*registry.Version){
		"Handle":   func(v *registry.Version) { v.Handle = "other" },
		"Public":   func(v *registry.Version) { v.Public = []byte("other") },
		"Evidence": func(v *registry.Version) { v.Evidence = nil },
	} {
		_, err := r.Amend("kid", func(v *registry.Version) error { change(v); return nil })
		if !errors.Is(err, registry.ErrImmutable) {
			t.Errorf("changing %s again: got %v, want ErrImmutable", name, err)
		}
	}
}

func TestAmendRefusesWhatCannotBeStored(t *testing.T) {
	r := checked(t)
	begin(t, r, "kid")
	_, err := r.Amend("kid", func(v *registry.Version) error { v.Evidence = json.RawMessage("{"); return nil })
	wantErr(t, err, registry.ErrInvalid)
	_, err = r.Amend("kid", func(v *registry.Version) error { v.ToldAt = at.AddDate(9000, 0, 0); return nil })
	wantErr(t, err, registry.ErrInvalid)
	mine := errors.New("mine")
	_, err = r.Amend("kid", func(*registry.Version) error { return mine })
	wantErr(t, err, mine)
}

// A time that JSON cannot write is refused, wherever it comes in.
func TestTimesBeyondTheCalendarAreRefused(t *testing.T) {
	r := checked(t)
	bring(t, r, "kid", registry.Active)
	before := contents(r)
	never := at.AddDate(9000, 0, 0)
	v := newVersion("new")
	v.ValidTill = never
	_, errBegin := r.Begin(v, by, "", 1, at.AddDate(1, 0, 0))
	_, errMove := r.Move([]registry.Move{to("kid", registry.Draining)}, by, "", 1, never)
	_, errSaw := r.SawPartnerKey(registry.PartnerKey{Partner: "wise", Public: []byte("theirs")}, never)
	for _, err := range []error{errBegin, errMove, errSaw, r.SetDue(keyID, never)} {
		wantErr(t, err, registry.ErrInvalid)
	}
	if diff := cmp.Diff(before, contents(r)); diff != "" {
		t.Errorf("(-before +after):\n%s", diff)
	}
}

func TestSetDue(t *testing.T) {
	r := checked(t)
	must(t, r.SetDue(keyID, at))
	if k, _ := r.Key(keyID); !k.NextDue.Equal(at) {
		t.Errorf("due %v, want %v", k.NextDue, at)
	}
}

func TestPartnerKeysAreKnownByTheirFingerprint(t *testing.T) {
	r := checked(t)
	see := func(public, id string, when time.Time, wantChanged bool) {
		t.Helper()
		changed, err := r.SawPartnerKey(registry.PartnerKey{Partner: "wise", ID: id, Public: []byte(public)}, when)
		must(t, err)
		last, err := r.PartnerKey("wise")
		must(t, err)
		if changed != wantChanged || string(last.Public) != public || last.ID != id {
			t.Errorf("saw %s: changed %v, latest %s (id %s)", public, changed, last.Public, last.ID)
		}
	}
	see("A", "1", at, false)
	see("A", "2", at.Add(time.Hour), false)   // same key, another name
	see("B", "3", at.Add(time.Minute), true)  // the clock was put back
	see("B", "3", at.Add(-time.Hour), false)  // and further
	see("A", "2", at.Add(2*time.Hour), true)  // the old one again
	see("A", "2", at.Add(3*time.Hour), false) //
	keys := r.PartnerKeys("wise")
	if len(keys) != 2 || string(keys[1].Public) != "A" || !keys[1].FirstSeen.Equal(at) || !keys[1].LastSeen.Equal(at.Add(3*time.Hour)) {
		t.Errorf("got %+v", keys)
	}
	for _, bad := range []registry.PartnerKey{{Partner: "wise"}, {Partner: "wise", Public: []byte("A"), Fingerprint: "00"}} {
		_, err := r.SawPartnerKey(bad, at)
		wantErr(t, err, registry.ErrInvalid)
	}
	_, err := r.SawPartnerKey(registry.PartnerKey{Partner: "wise", Public: []byte("A")}, time.Time{})
	wantErr(t, err, registry.ErrInvalid)
}
