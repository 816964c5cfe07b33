package registry_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"keyd/internal/registry"
)

var errCrash = errors.New("the power went")

// writes are all the ways to write. Each runs on a registry prepared by
// prepareWrites and changes something.
var writes = map[string]func(*registry.Registry) error{
	"PutKey": func(r *registry.Registry) error { return r.PutKey(newKey("another")) },
	"SetDue": func(r *registry.Registry) error { return r.SetDue(keyID, at.AddDate(5, 0, 0)) },
	"Begin": func(r *registry.Registry) error {
		v := newVersion("begun")
		v.Key = "spare"
		_, err := r.Begin(v, by, "due", 1, at)
		return err
	},
	"Adopt": func(r *registry.Registry) error {
		v := withMaterial("adopted")
		v.Key = "spare"
		_, err := r.Adopt(v, by, "", 1)
		return err
	},
	"Amend": func(r *registry.Registry) error {
		_, err := r.Amend("new", func(v *registry.Version) error { v.ToldAt = at; return nil })
		return err
	},
	"Move": func(r *registry.Registry) error {
		return move(r, to("new", registry.Active), to("old", registry.Draining))
	},
	"SawPartnerKey": func(r *registry.Registry) error {
		_, err := r.SawPartnerKey(registry.PartnerKey{Partner: "wise", Public: []byte("theirs")}, at)
		return err
	},
}

func prepareWrites(t *testing.T) (*registry.Registry, *faulty) {
	t.Helper()
	engine := &faulty{Engine: newMemory()}
	r := open(t, engine)
	must(t, r.PutKey(newKey(keyID)))
	must(t, r.PutKey(newKey("spare")))
	bring(t, r, "old", registry.Active)
	bring(t, r, "new", registry.Announced)
	return r, engine
}

func TestFailedCommitChangesNothing(t *testing.T) {
	for name, write := range writes {
		for _, fault := range []struct {
			name string
			set  func(*faulty)
		}{
			{"commit", func(f *faulty) { f.before = errCrash }},
			{"put", func(f *faulty) { f.put = errCrash }},
		} {
			t.Run(name+" "+fault.name, func(t *testing.T) {
				r, engine := prepareWrites(t)
				before := contents(r)
				engine.set(fault.set)
				err := write(r)
				wantErr(t, err, errCrash)
				if !strings.Contains(err.Error(), "nothing was changed") {
					t.Errorf("error %q does not say that nothing was changed", err)
				}
				if diff := cmp.Diff(before, contents(r)); diff != "" {
					t.Errorf("(-before +after):\n%s", diff)
				}
				must(t, write(r)) // and it can be done again
				consistent(t, r, engine)
			})
		}
	}
}

func TestCommitThatFailedButHappenedIsSeen(t *testing.T) {
	for name, write := range writes {
		t.Run(name, func(t *testing.T) {
			r, engine := prepareWrites(t)
			before := contents(r)
			engine.set(func(f *faulty) { f.after = errCrash })
			err := write(r)
			wantErr(t, err, errCrash)
			if !strings.Contains(err.Error(), "the change stands") {
				t.Errorf("error %q does not say that the change stands", err)
			}
			if cmp.Equal(before, contents(r)) {
				t.Error("memory does not show what was committed")
			}
			consistent(t, r, engine)
		})
	}
}

// When even the reading fails, nothing is answered that the disk may
// contradict, until it can be read again.
func TestUnknownOutcomeIsNotAnswered(t *testing.T) {
	for _, happened := range []bool{false, true} {
		t.Run(fmt.Sprintf("happened %t", happened), func(t *testing.T) {
			r, engine := prepareWrites(t)
			broken := errors.New("no page")
			engine.set(func(f *faulty) {
				f.view = broken
				if happened {
					f.after = errCrash
				} else {
					f.before = errCrash
				}
			})
			_, err := r.Amend("new", func(v *registry.Version) error { v.ToldAt = at; return nil })
			wantErr(t, err, errCrash)
			wantErr(t, err, broken)
			_, err = r.Version("new")
			wantErr(t, err, broken)
			_, err = r.Key(keyID)
			wantErr(t, err, broken)
			_, err = r.PartnerKey("wise")
			wantErr(t, err, broken)
			if n := len(r.Keys()) + len(r.Versions(keyID)) + len(r.PartnerKeys("wise")); n != 0 {
				t.Errorf("got %d keys and versions of an unknown state", n)
			}
			r.TouchOpened("new", at)
			if got := r.Check(); len(got) != 1 || got[0].Code != "unreadable" {
				t.Errorf("Check: got %+v, want unreadable", got)
			}
			engine.set(func(f *faulty) { f.view = nil })
			v, err := r.Version("new")
			must(t, err)
			if v.ToldAt.IsZero() == happened {
				t.Errorf("got told_at %v, and the commit happened: %t", v.ToldAt, happened)
			}
			consistent(t, r, engine)
		})
	}
}

// A write does not wait for a read to find the index again.
func TestWriteAfterUnknownOutcomeStartsFromWhatIsStored(t *testing.T) {
	r, engine := prepareWrites(t)
	engine.set(func(f *faulty) { f.after, f.view = errCrash, errCrash })
	wantErr(t, move(r, to("new", registry.Active), to("old", registry.Draining)), errCrash)
	// Were the rules applied to what memory last knew, this would be allowed.
	wantErr(t, move(r, to("old", registry.Draining)), registry.ErrTransition)
	engine.set(func(f *faulty) { f.view = nil })
	consistent(t, r, engine)
}

func TestPanicInATransactionLosesNothing(t *testing.T) {
	r, engine := prepareWrites(t)
	before := contents(r)
	panics := func(f func()) {
		t.Helper()
		defer func() {
			if recover() == nil {
				t.Error("the panic was swallowed")
			}
		}()
		f()
	}
	panics(func() {
		_, _ = r.Amend("new", func(*registry.Version) error { panic("a mistake of the caller's") })
	})
	if diff := cmp.Diff(before, contents(r)); diff != "" {
		t.Errorf("(-before +after):\n%s", diff)
	}
	engine.set(func(f *faulty) { f.panics = true })
	panics(func() { _ = r.SetDue(keyID, at.AddDate(1, 0, 0)) })
	consistent(t, r, engine)
	for _, write := range writes {
		if err := write(r); err != nil && !errors.Is(err, registry.ErrInFlight) {
			t.Error(err)
		}
	}
	consistent(t, r, engine)
}

func TestFullDiskIsNamed(t *testing.T) {
	for _, errno := range []syscall.Errno{syscall.ENOSPC, syscall.EDQUOT} {
		r, engine := prepareWrites(t)
		engine.set(func(f *faulty) { f.before = errno })
		err := r.SetDue(keyID, at)
		wantErr(t, err, errno)
		if !strings.Contains(err.Error(), "the disk is full") || !strings.Contains(err.Error(), "nothing was changed") {
			t.Errorf("got %q", err)
		}
	}
}

// Another writer on the same engine, as a cluster has after a change of its
// leader: the rules are applied to what is stored.
func TestAnothersWriteIsNoticed(t *testing.T) {
	engine := newMemory()
	mine := open(t, engine)
	must(t, mine.PutKey(newKey(keyID)))
	theirs := open(t, engine)
	begin(t, theirs, "theirs")
	_, err := mine.Begin(newVersion("mine"), by, "", 1, at)
	wantErr(t, err, registry.ErrInFlight)
	consistent(t, mine, engine)
}

func TestWriteRefusesWhatCannotBeReadAnyMore(t *testing.T) {
	engine := newMemory()
	r := open(t, engine)
	must(t, r.PutKey(newKey(keyID)))
	engine.raw(t, "meta", "revision", "many")
	wantErr(t, r.SetDue(keyID, at), registry.ErrCorrupt)
	_, err := r.Key(keyID)
	wantErr(t, err, registry.ErrCorrupt)
	engine.raw(t, "meta", "revision", "1")
	must(t, r.SetDue(keyID, at))
	consistent(t, r, engine)
}

// Every prefix of a life is a state in which the power may go: each commit
// fails once without and once with effect, and the life goes on from there.
func TestLifeSurvivesACrashAtEveryCommit(t *testing.T) {
	const kid = "kid"
	steps := []func(*registry.Registry) error{
		func(r *registry.Registry) error { return r.PutKey(newKey(keyID)) },
		func(r *registry.Registry) error {
			_, err := r.Begin(newVersion(kid), by, "", 1, at)
			return ignore(err, registry.ErrExists, registry.ErrInFlight)
		},
		func(r *registry.Registry) error { _, err := r.Amend(kid, equip); return err },
		func(r *registry.Registry) error { return once(r, kid, registry.Announced) },
		func(r *registry.Registry) error {
			_, err := r.Amend(kid, func(v *registry.Version) error { v.ToldAt = at; return nil })
			return err
		},
		func(r *registry.Registry) error { return once(r, kid, registry.Active) },
		func(r *registry.Registry) error { return once(r, kid, registry.Compromised) },
		func(r *registry.Registry) error { return once(r, kid, registry.Destroying) },
		func(r *registry.Registry) error { return once(r, kid, registry.Destroyed) },
	}
	const want = "pending announced active compromised destroying destroyed "
	for crash := range 2*len(steps) + 1 { // the last run has none
		engine := &faulty{Engine: newMemory()}
		r := open(t, engine)
		for i, step := range steps {
			if crash/2 == i {
				engine.set(func(f *faulty) {
					if crash%2 == 0 {
						f.before = errCrash
					} else {
						f.after = errCrash
					}
				})
				wantErr(t, step(r), errCrash)
				engine.set(func(f *faulty) { f.before, f.after = nil, nil })
				r = open(t, engine) // the daemon starts again
			}
			must(t, step(r))
			consistent(t, r, engine)
		}
		if got := history(t, r, kid); got != want {
			t.Errorf("crash %d: got the history %q, want %q", crash, got, want)
		}
	}
}

func once(r *registry.Registry, kid string, s registry.State) error {
	if v, err := r.Version(kid); err != nil || v.State == s {
		return err
	}
	return move(r, to(kid, s))
}

func ignore(err error, these ...error) error {
	for _, e := range these {
		if errors.Is(err, e) {
			return nil
		}
	}
	return err
}

func history(t *testing.T, r *registry.Registry, kid string) string {
	t.Helper()
	v, err := r.Version(kid)
	must(t, err)
	var b bytes.Buffer
	for _, e := range v.History {
		fmt.Fprintf(&b, "%s ", e.To)
	}
	return b.String()
}

func TestOpeningSurvivesFailedFirstCommit(t *testing.T) {
	for _, after := range []bool{false, true} {
		engine := &faulty{Engine: newMemory()}
		engine.set(func(f *faulty) {
			if after {
				f.after = errCrash
			} else {
				f.before = errCrash
			}
		})
		if _, err := registry.New(engine); !errors.Is(err, errCrash) {
			t.Errorf("got %v, want the crash", err)
		}
		r := open(t, engine)
		must(t, r.PutKey(newKey(keyID)))
		consistent(t, r, engine)
	}
	engine := &faulty{Engine: newMemory(), view: errCrash}
	_, err := registry.New(engine)
	wantErr(t, err, errCrash)
}

func TestCloseReportsWhatFailed(t *testing.T) {
	r := open(t, closeFails{newMemory()})
	wantErr(t, r.Close(), errCrash)
}

type closeFails struct{ registry.Engine }

func (closeFails) Close() error { return errCrash }
