package rotation_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"keyd/internal/audit"
	"keyd/internal/registry"
	"keyd/internal/rotation"
)

type tooMany struct{ after time.Duration }

func (e tooMany) RetryAfter() time.Duration { return e.after }

func TestRetryAfterIsHonoured(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		var tries []time.Time
		w.partner.down = func() error {
			if tries = append(tries, time.Now()); len(tries) < 4 {
				return fmt.Errorf("uploading: %w", tooMany{3 * time.Hour})
			}
			return nil
		}
		w.create(weekly())
		w.pass(aDay)
		if len(tries) != 4 {
			w.t.Fatalf("%d tries in a day, want 4", len(tries))
		}
		for i := range tries[1:] {
			if waited := tries[i+1].Sub(tries[i]); waited < 3*time.Hour || waited > 4*time.Hour {
				w.t.Errorf("try %d came %s after the one before, asked for were 3h", i+2, waited)
			}
		}
	})
}

func TestRetryAfterIsNotObeyedForEver(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		calls := 0
		w.partner.down = func() error {
			if calls++; calls == 1 {
				return tooMany{1000 * time.Hour}
			}
			return nil
		}
		w.create(weekly())
		w.pass(25 * time.Hour)
		w.the(registry.Active)
	})
}

func TestAPartnerThatIsDownForDays(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		w.create(weekly())
		first := w.the(registry.Active)
		calls := 0
		w.partner.set(func(p *partner) {
			p.down = func() error { calls++; return errors.New("no route to host") }
		})
		w.pass(5 * aDay) // one Monday
		w.opensAll()
		stuck := w.the(registry.Announced)
		if w.the(registry.Active).KID != first.KID {
			w.t.Errorf("a version that the partner does not have is active: %s", w.describe())
		}
		if calls < 20 || calls > 400 {
			w.t.Errorf("%d tries in three days, want them spread out", calls)
		}
		if f := finding(w.engine.Problems(), "retrying"); f.Subject != stuck.KID || f.Severity != rotation.Failure {
			w.t.Errorf("Problems say %+v of it", f)
		}
		before := stuck.Retry.Tries
		w.restart()
		w.pass(0)
		if got := w.the(registry.Announced).Retry.Tries; got < before {
			w.t.Errorf("%d tries after a restart, %d before", got, before)
		}
		w.partner.set(func(p *partner) { p.down = nil })
		w.pass(2 * time.Hour)
		if w.the(registry.Active).KID != stuck.KID || w.partner.known()[stuck.KID].times != 1 {
			w.t.Errorf("not the same version went on: %s", w.describe())
		}
		if f := finding(w.engine.Problems(), "retrying"); f.Code != "" {
			w.t.Errorf("Problems still say %+v", f)
		}
	})
}

func TestASlowKeyDoesNotHoldUpAnother(t *testing.T) {
	inWorld(t, func(w *world) {
		w.change = func(c *rotation.Config) {
			c.Partners["slow"] = rotation.Partner{Announcer: &partner{world: w, uploads: map[string]upload{}, wait: 100 * aDay}}
		}
	}, func(w *world) {
		slow := theKey(weekly())
		slow.Name, slow.Partner = "slow-response", "slow"
		if _, err := w.engine.Create(w.t.Context(), operator, slow, false); err != nil {
			w.t.Fatalf("Create: %v", err)
		}
		w.pass(0)
		w.create(weekly())
		w.the(registry.Active)
		if v := w.reg.Versions("slow-response"); len(v) != 1 || v[0].State != registry.Announced {
			w.t.Errorf("the slow key: %+v", v)
		}
		// A compromise does not wait for the upload either.
		kid := w.reg.Versions("slow-response")[0].KID
		if _, err := w.engine.Compromise(w.t.Context(), operator, kid, "leaked", false); err != nil {
			w.t.Errorf("Compromise: %v", err)
		}
		if v, _ := w.reg.Version(kid); v.State.Opens() {
			w.t.Errorf("it is %s", v.State)
		}
	})
}

func TestNoTwoPassesOverOneKey(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		inside := 0
		w.partner.wait = time.Minute
		w.partner.crash = func(string) {
			if inside++; inside > 1 {
				w.t.Error("two uploads at the same time")
			}
			time.AfterFunc(30*time.Second, func() { inside-- })
		}
		if _, err := w.engine.Create(w.t.Context(), operator, theKey(weekly()), false); err != nil {
			w.t.Fatalf("Create: %v", err)
		}
		for range 5 {
			go w.engine.Reconcile(context.Background())
			w.engine.Wake()
		}
		w.pass(time.Hour)
		if up := w.partner.known()[w.the(registry.Active).KID]; up.times != 1 {
			w.t.Errorf("uploaded %d times", up.times)
		}
	})
}

func TestAPanicInADriverIsOnlyAFailedStep(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		panics := 2
		w.partner.crash = func(string) {
			if panics--; panics >= 0 {
				panic("index out of range")
			}
		}
		w.create(weekly())
		w.pass(time.Hour)
		w.the(registry.Active)
		if n := w.outcomes("key.announce", audit.ResultFailed, "panic"); n != 2 {
			w.t.Errorf("%d failed outcomes in the audit log, want 2", n)
		}
	})
}

func TestAStepUnderWayMayFinishWhenTheDaemonStops(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		w.partner.wait = 10 * time.Second
		w.create(weekly())
		w.pass(time.Second)
		w.stop() // in the middle of the upload
		if v := w.the(registry.Announced); v.ToldAt.IsZero() {
			w.t.Errorf("the upload was cut off: %s", w.describe())
		}
	})
}

func TestAStepThatHangsIsAFailedTry(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		w.partner.wait = 24 * time.Hour
		w.create(weekly())
		w.pass(6 * time.Minute)
		v := w.the(registry.Announced)
		if v.Retry.Tries != 1 || !strings.Contains(v.Retry.Last, "deadline exceeded") {
			w.t.Errorf("after six minutes: %+v", v.Retry)
		}
	})
}

// closing is an audit log that finds a version compromised by an operator just
// when the engine has written that it is about to upload it.
type closing struct {
	rotation.Auditor
	world *world
}

func (c closing) Append(ctx context.Context, e audit.Entry) (audit.Head, error) {
	head, err := c.Auditor.Append(ctx, e)
	if v, found := c.world.reg.Version(e.KID); found == nil && e.Action == "key.announce" && e.Phase == audit.PhaseIntent && v.State == registry.Announced {
		_, moved := c.world.reg.Move([]registry.Move{{KID: e.KID, To: registry.Compromised}}, "olga", "drill", head.Seq, time.Now())
		err = errors.Join(err, moved)
	}
	return head, err
}

func TestAVersionClosedJustBeforeItsUploadIsNotUploaded(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		var closed string
		w.partner.down = func() error { return errors.New("no route to host") }
		w.create(weekly())
		w.pass(time.Second)
		closed = w.the(registry.Announced).KID
		w.partner.down = nil
		w.stop()
		w.change = func(cfg *rotation.Config) { cfg.Audit = closing{cfg.Audit, w} }
		w.restart()
		w.pass(time.Minute)
		if _, told := w.partner.uploads[closed]; told {
			w.t.Errorf("%s was uploaded after it had been closed", closed)
		}
	})
}

func TestAnInterruptedStepIsTakenUpAgain(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		w.partner.wait = 4 * time.Minute
		w.create(weekly())
		w.pass(time.Minute)
		w.stop() // in the middle of the upload, which takes longer than a stop may
		v := w.the(registry.Announced)
		if v.Retry.Tries != 0 {
			w.t.Errorf("an interruption counts as a failure: %+v", v.Retry)
		}
		if n := w.outcomes("key.announce", audit.ResultFailed, "cancelled"); n != 1 {
			w.t.Errorf("%d cancelled outcomes in the audit log, want 1", n)
		}
		w.restart()
		w.pass(time.Hour)
		if got := w.the(registry.Active); got.KID != v.KID {
			w.t.Errorf("another version became active")
		}
	})
}

func TestWithoutAnAuditLogNothingChanges(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		w.create(weekly())
		v := w.the(registry.Active)
		w.trail.fail(true)
		generated := w.token.Calls("generate")
		for name, op := range map[string]func() (rotation.Change, error){
			"Rotate":     func() (rotation.Change, error) { return w.engine.Rotate(w.t.Context(), operator, keyName, false) },
			"Compromise": func() (rotation.Change, error) { return w.engine.Compromise(w.t.Context(), operator, v.KID, "", false) },
			"refused":    func() (rotation.Change, error) { return w.engine.Destroy(w.t.Context(), operator, v.KID, "", false) },
		} {
			if _, err := op(); !errors.Is(err, rotation.ErrAudit) {
				w.t.Errorf("%s: %v, want ErrAudit", name, err)
			}
		}
		w.pass(3 * aDay)
		if n := len(w.versions()); n != 1 || w.token.Calls("generate") != generated {
			w.t.Errorf("something changed: %s", w.describe())
		}
		if f := finding(w.engine.Problems(), "stalled"); f.Subject != keyName {
			w.t.Errorf("Problems say %+v", f)
		}
		if next, _ := w.engine.Next(keyName); !next.At.After(time.Now()) {
			w.t.Errorf("Next = %+v, want it to say when it is tried again", next)
		}
		w.trail.fail(false)
		w.pass(2 * time.Hour)
		if w.the(registry.Active).Number != 2 {
			w.t.Errorf("it did not go on: %s", w.describe())
		}
		if f := finding(w.engine.Problems(), "stalled"); f.Code != "" {
			w.t.Errorf("Problems still say %+v", f)
		}
	})
}

func TestASickRegistryIsNoBusyLoop(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		w.create(weekly())
		w.store.ail(errors.New("no space left on device"))
		before := len(w.trail.all())
		w.pass(5 * aDay)
		if n := len(w.trail.all()) - before; n == 0 || n > 500 {
			w.t.Errorf("%d audit entries in three days of trying", n)
		}
		w.store.ail(nil)
		w.pass(2 * time.Hour)
		if w.the(registry.Active).Number != 2 {
			w.t.Errorf("it did not go on: %s", w.describe())
		}
	})
}
