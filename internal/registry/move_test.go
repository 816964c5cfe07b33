package registry_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"keyd/internal/registry"
)

func TestOnlyTheTableMovesVersions(t *testing.T) {
	for _, from := range registry.States {
		for _, target := range append(slices.Clone(registry.States), "", "retired") {
			t.Run(string(from)+" to "+string(target), func(t *testing.T) {
				r := checked(t)
				bring(t, r, "other", registry.Active) // so that there is always one that opens
				must(t, move(r, to("other", registry.Draining)))
				bring(t, r, "kid", from)
				before, err := r.Version("kid")
				must(t, err)

				err = move(r, to("kid", target))
				after, _ := r.Version("kid")
				// What was not compromised cannot have been so before its deletion began.
				unheard := from == registry.Destroying && target == registry.Compromised
				if from.May(target) && !unheard {
					must(t, err)
					if after.State != target {
						t.Errorf("got state %s, want %s", after.State, target)
					}
					want := registry.Event{At: at, From: from, To: target, By: by, Reason: "because", Audit: 2}
					if got := after.History[len(after.History)-1]; got != want || len(after.History) != len(before.History)+1 {
						t.Errorf("got history %+v, want one event more, %+v", after.History, want)
					}
					return
				}
				wantErr(t, err, registry.ErrTransition)
				if !strings.Contains(err.Error(), string(from)) || !strings.Contains(err.Error(), string(target)) {
					t.Errorf("error %q does not name both states", err)
				}
				if diff := cmp.Diff(before, after); diff != "" {
					t.Errorf("a refused move changed the version:\n%s", diff)
				}
			})
		}
	}
}

// A leak may show when the deletion has begun: the version is closed for ever
// and deleted all the same.
func TestAVersionIsCompromisedWhileItsDeletionIsUnderWay(t *testing.T) {
	r := checked(t)
	bring(t, r, "other", registry.Active)
	must(t, move(r, to("other", registry.Draining)))
	bring(t, r, "kid", registry.Active)
	for _, state := range []registry.State{registry.Draining, registry.Destroying} {
		must(t, move(r, to("kid", state)))
	}
	must(t, move(r, to("kid", registry.Compromised), to("kid", registry.Destroying)))
	wantErr(t, move(r, to("kid", registry.Draining)), registry.ErrTransition)
	must(t, move(r, to("kid", registry.Compromised))) // had back, as evidence
	if v, _ := r.Version("kid"); v.State != registry.Compromised {
		t.Errorf("it is %s", v.State)
	}
}

func TestAVersionIsHadBackAsItWas(t *testing.T) {
	for name, c := range map[string]struct {
		life []registry.State
		back registry.State
		want error
	}{
		"drained":                       {[]registry.State{registry.Announced, registry.Active, registry.Draining, registry.Destroying}, registry.Draining, nil},
		"never in use":                  {[]registry.State{registry.Announced, registry.Destroying}, registry.Draining, nil},
		"without a key pair":            {[]registry.State{registry.Destroying}, registry.Draining, registry.ErrTransition},
		"compromised, to be evidence":   {[]registry.State{registry.Announced, registry.Compromised, registry.Destroying}, registry.Compromised, nil},
		"compromised, to open again":    {[]registry.State{registry.Announced, registry.Compromised, registry.Destroying}, registry.Draining, registry.ErrTransition},
		"drained, to be called so late": {[]registry.State{registry.Announced, registry.Active, registry.Draining, registry.Destroying}, registry.Compromised, registry.ErrTransition},
	} {
		t.Run(name, func(t *testing.T) {
			r := checked(t)
			bring(t, r, "other", registry.Active)
			must(t, move(r, to("other", registry.Draining)))
			begin(t, r, "kid")
			if c.life[0] == registry.Announced {
				_, err := r.Amend("kid", equip)
				must(t, err)
			}
			for _, state := range c.life {
				must(t, move(r, to("kid", state)))
			}
			err := move(r, to("kid", c.back))
			if c.want == nil {
				must(t, err)
			} else {
				wantErr(t, err, c.want)
			}
		})
	}
}

func TestUnknownStatesOpenNothing(t *testing.T) {
	for _, s := range []registry.State{"", "retired"} {
		if s.Opens() || s.Held() {
			t.Errorf("state %q opens or is held", s)
		}
	}
	var opening, held, final []registry.State
	for _, s := range registry.States {
		if s.Opens() {
			opening = append(opening, s)
		}
		if s.Held() {
			held = append(held, s)
		}
		if s.Final() {
			final = append(final, s)
		}
	}
	want := [][]registry.State{{registry.Announced, registry.Active, registry.Draining},
		{registry.Announced, registry.Active, registry.Draining, registry.Compromised}, {registry.Destroyed}}
	if diff := cmp.Diff(want, [][]registry.State{opening, held, final}); diff != "" {
		t.Errorf("opening, held, final (-want +got):\n%s", diff)
	}
}

func TestSecondActiveIsRefused(t *testing.T) {
	r := checked(t)
	bring(t, r, "old", registry.Active)
	bring(t, r, "new", registry.Announced)
	wantErr(t, move(r, to("new", registry.Active)), registry.ErrSecondActive)
	if got := state(t, r, "new"); got != registry.Announced {
		t.Errorf("the refused version is %s, want announced", got)
	}
	// In one transaction they change places, in either order.
	must(t, move(r, to("new", registry.Active), to("old", registry.Draining)))
	must(t, move(r, to("new", registry.Draining), to("old", registry.Active)))
	if got := []registry.State{state(t, r, "old"), state(t, r, "new")}; got[0] != registry.Active || got[1] != registry.Draining {
		t.Errorf("got %v, want active and draining", got)
	}
}

func TestKeysDoNotShareTheirActiveVersion(t *testing.T) {
	r := checked(t)
	must(t, r.PutKey(newKey("another")))
	bring(t, r, "kid", registry.Active)
	v := withMaterial("other")
	v.Key = "another"
	_, err := r.Adopt(v, by, "", 1)
	must(t, err)
	must(t, move(r, to("other", registry.Active)))
}

func TestMovesAreAllOrNone(t *testing.T) {
	r := checked(t)
	bring(t, r, "old", registry.Active)
	bring(t, r, "new", registry.Announced)
	before := contents(r)
	wantErr(t, move(r, to("old", registry.Draining), to("new", registry.Active), to("old", registry.Destroyed)), registry.ErrTransition)
	wantErr(t, move(r, to("old", registry.Draining), to("nobody", registry.Active)), registry.ErrNotFound)
	wantErr(t, move(r), registry.ErrInvalid)
	if diff := cmp.Diff(before, contents(r)); diff != "" {
		t.Errorf("refused moves changed the registry:\n%s", diff)
	}
}

func TestOneVersionMovesTwiceInOneTransaction(t *testing.T) {
	r := checked(t)
	bring(t, r, "active", registry.Active)
	_, err := r.Adopt(withMaterial("adopted"), by, "", 1)
	must(t, err)
	// The way of an adopted version to draining, beside one that is active.
	versions, err := r.Move([]registry.Move{to("active", registry.Draining), to("adopted", registry.Active),
		to("adopted", registry.Draining), to("active", registry.Active)}, by, "", 3, at)
	must(t, err)
	if len(versions) != 2 || versions[0].KID != "active" || versions[0].State != registry.Active || versions[1].State != registry.Draining {
		t.Errorf("got %+v, want active and adopted as they are at the end", versions)
	}
	if got := len(versions[1].History); got != 3 {
		t.Errorf("got %d events of the adopted version, want 3", got)
	}
}

func TestDeadlineOfDraining(t *testing.T) {
	r := checked(t)
	bring(t, r, "kid", registry.Active)
	wantErr(t, move(r, registry.Move{KID: "kid", To: registry.Draining}), registry.ErrInvalid)
	until := at.AddDate(0, 2, 0)
	must(t, move(r, registry.Move{KID: "kid", To: registry.Draining, DrainUntil: until.In(time.FixedZone("CET", 3600))}))
	v, err := r.Version("kid")
	must(t, err)
	if !v.DrainUntil.Equal(until) || v.DrainUntil.Location() != time.UTC {
		t.Errorf("got the deadline %v, want %v", v.DrainUntil, until)
	}
	wantErr(t, move(r, registry.Move{KID: "kid", To: registry.Active, DrainUntil: until}), registry.ErrInvalid)
	must(t, move(r, to("kid", registry.Active)))
	if v, _ = r.Version("kid"); !v.DrainUntil.IsZero() {
		t.Errorf("an active version has the deadline %v", v.DrainUntil)
	}
}

func TestLastOpenableVersionStays(t *testing.T) {
	r := checked(t)
	bring(t, r, "kid", registry.Draining)
	wantErr(t, move(r, to("kid", registry.Destroying)), registry.ErrLastOpenable)
	// A detour through compromised is what an operator may choose.
	must(t, move(r, to("kid", registry.Compromised)))
	must(t, move(r, to("kid", registry.Destroying)))
}

func TestLastOpenableIsCountedAtTheEndOfTheTransaction(t *testing.T) {
	r := checked(t)
	bring(t, r, "a", registry.Draining)
	bring(t, r, "b", registry.Draining)
	wantErr(t, move(r, to("a", registry.Destroying), to("b", registry.Destroying)), registry.ErrLastOpenable)
	wantErr(t, move(r, to("a", registry.Compromised), to("b", registry.Destroying)), registry.ErrLastOpenable)
	must(t, move(r, to("a", registry.Destroying), to("b", registry.Active)))
	must(t, move(r, to("b", registry.Compromised), to("b", registry.Destroying)))
}

func TestVersionNeverUsedMayGoWithoutAnother(t *testing.T) {
	r := checked(t)
	bring(t, r, "kid", registry.Announced)
	must(t, move(r, to("kid", registry.Destroying)))
}

func TestAnnouncedNeedsTestedMaterial(t *testing.T) {
	r := checked(t)
	begin(t, r, "kid")
	wantErr(t, move(r, to("kid", registry.Announced)), registry.ErrTransition)
	_, err := r.Amend("kid", func(v *registry.Version) error { v.Handle, v.Public = "h", []byte("p"); return nil })
	must(t, err)
	wantErr(t, move(r, to("kid", registry.Announced)), registry.ErrTransition)
	_, err = r.Amend("kid", func(v *registry.Version) error { v.TestedAt = at; return nil })
	must(t, err)
	must(t, move(r, to("kid", registry.Announced)))
}

func TestMoveForgetsTries(t *testing.T) {
	r := checked(t)
	bring(t, r, "kid", registry.Announced)
	_, err := r.Amend("kid", func(v *registry.Version) error {
		v.Retry = registry.Retry{Step: "activate", Tries: 3, Next: at, Last: "no"}
		return nil
	})
	must(t, err)
	must(t, move(r, to("kid", registry.Active)))
	if v, _ := r.Version("kid"); v.Retry != (registry.Retry{}) {
		t.Errorf("got %+v, want no tries", v.Retry)
	}
}

func TestChangeOfStateNamesWhoAndWhen(t *testing.T) {
	r := checked(t)
	bring(t, r, "kid", registry.Announced)
	_, err := r.Move([]registry.Move{to("kid", registry.Active)}, "", "", 1, at)
	wantErr(t, err, registry.ErrInvalid)
	_, err = r.Move([]registry.Move{to("kid", registry.Active)}, by, "", 1, time.Time{})
	wantErr(t, err, registry.ErrInvalid)
	_, err = r.Begin(newVersion("another"), "", "", 1, at)
	if !errors.Is(err, registry.ErrInvalid) {
		t.Errorf("Begin by nobody: got %v", err)
	}
}
