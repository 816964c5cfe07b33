package rotation_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"keyd/internal/boundary"
	"keyd/internal/registry"
	"keyd/internal/rotation"
	"keyd/internal/rotation/backendtest"
)

// expected are the answers that an operator may get to an operation that has
// no fault of its own.
var expected = []error{rotation.ErrState, rotation.ErrNeeded, rotation.ErrAudit, rotation.ErrSelfTest, rotation.ErrInvalid,
	registry.ErrInFlight, registry.ErrLastOpenable, registry.ErrExists, registry.ErrTransition, registry.ErrSecondActive,
	boundary.ErrUnavailable, boundary.ErrNoKey, boundary.ErrUnsupported, errCut}

// walk reads two bytes at a time as something that happens to a world, and
// holds the world to its invariants after each.
func walk(w *world, tape []byte) {
	w.start()
	w.create(weekly())
	var log []string
	for i := 0; i+1 < len(tape) && !w.t.Failed(); i += 2 {
		log = append(log, w.happen(tape[i], tape[i+1]))
		w.pass(time.Minute)
		if w.power.isCut() {
			w.restart()
			w.pass(0)
		}
		w.power.restore()
		w.token.Heal()
		w.cloud.Heal()
		w.check()
		if n := len(w.versions(registry.Pending, registry.Announced)); n > 1 {
			w.t.Errorf("%d versions are in flight", n)
		}
	}
	w.partner.set(func(p *partner) { p.down, p.silent = nil, nil })
	w.pass(2 * aDay)
	if f := finding(w.engine.Problems(), "never_active"); f.Code != "" {
		_, err := w.engine.Compromise(w.t.Context(), operator, f.Subject, "as the hint says", false)
		w.must(err)
		w.pass(2 * time.Hour)
	}
	w.check()
	if len(w.versions(registry.Active)) != 1 {
		w.t.Errorf("when all is well again, there is no active version: %s", w.describe())
	}
	if w.t.Failed() {
		w.t.Logf("what happened: %q", log)
	}
}

// happen does one thing, and says what.
func (w *world) happen(what, how byte) string {
	ctx, n := w.t.Context(), int(how)
	versions := w.versions()
	v := versions[n%len(versions)]
	var err error
	var name string
	switch what % 16 {
	case 0:
		name = "rotate"
		_, err = w.engine.Rotate(ctx, operator, keyName, false)
	case 1:
		name = fmt.Sprintf("confirm %d", v.Number)
		if w.partner.known()[v.KID].times > 0 { // an operator does not lie
			_, err = w.engine.Confirm(ctx, operator, v.KID, "", false)
		}
	case 2:
		name = fmt.Sprintf("activate %d", v.Number)
		_, err = w.engine.Activate(ctx, operator, v.KID, "", false)
	case 3:
		name = fmt.Sprintf("compromise %d", v.Number)
		_, err = w.engine.Compromise(ctx, operator, v.KID, "", false)
	case 4:
		name = fmt.Sprintf("destroy %d", v.Number)
		_, err = w.engine.Destroy(ctx, operator, v.KID, "", false)
	case 5:
		name = "adopt"
		err = w.adoptSome(how)
	case 6:
		name = "the partner goes down or comes back"
		w.partner.set(func(p *partner) { p.down = toggle(p.down == nil, func() error { return errDown }) })
	case 7:
		name = "the playground goes down or comes back"
		w.partner.set(func(p *partner) { p.silent = toggle(p.silent == nil, errDown) })
	case 8:
		ops := []string{"generate", "open", "public", "destroy", "discard", "find", "health", "disable", "rescue"}
		f := backendtest.Fault{Op: ops[n%len(ops)], After: n&64 != 0, Times: 1 + n%3}
		name = fmt.Sprintf("a fault %+v", f)
		w.token.Inject(f)
		w.cloud.Inject(f)
		_, err = w.engine.Rotate(ctx, operator, keyName, false)
	case 9:
		name = fmt.Sprintf("a power cut in %d effects", 1+n%32)
		w.power.cutAfter(1+n%32, n&64 != 0)
		_, err = w.engine.Rotate(ctx, operator, keyName, false)
		w.pass(time.Hour)
	case 10:
		name = "a restart"
		w.restart()
	case 11:
		name = fmt.Sprintf("%d hours pass", n)
		w.pass(time.Duration(n) * time.Hour)
	case 12:
		name = fmt.Sprintf("%d hours without the daemon", n)
		w.stop()
		w.pass(time.Duration(n) * time.Hour)
		w.start()
	case 13:
		name = "another policy"
		key := theKey(weekly())
		key.Policy.Rotate = fmt.Sprintf("0 %d * * %d", n%24, n%7)
		if old, err := w.reg.Key(keyName); err == nil {
			key.Backend = old.Backend
		}
		err = w.engine.EnsureKeys(ctx, []registry.Key{key})
		w.engine.Wake()
	case 14:
		name = "the config names the other backend"
		err = w.move()
	case 15:
		name = fmt.Sprintf("rescue %d", v.Number)
		_, err = w.engine.Rescue(ctx, operator, v.KID, "", false)
	}
	if err != nil && !slices.ContainsFunc(expected, func(e error) bool { return errors.Is(err, e) }) {
		w.t.Errorf("%s: %v", name, err)
	}
	return name
}

// move names the other backend in the config.
func (w *world) move() error {
	key, err := w.reg.Key(keyName)
	if err != nil {
		return err
	}
	key.Backend = toggle(key.Backend == backendName, cloudName) + toggle(key.Backend == cloudName, backendName)
	return w.engine.EnsureKeys(w.t.Context(), []registry.Key{key})
}

func toggle[T any](on bool, value T) T {
	if on {
		return value
	}
	var off T
	return off
}

// adoptSome adopts a key pair that somebody made by hand; the partner may have
// it already.
func (w *world) adoptSome(how byte) error {
	kid := uuid.NewSHA1(uuid.Nil, binary.BigEndian.AppendUint64([]byte{how}, uint64(len(w.versions()))))
	key, err := w.reg.Key(keyName)
	if err != nil {
		return err
	}
	found, err := w.home(registry.Version{Backend: key.Backend}).Plant("by hand "+kid.String(), "", 2048)
	if err != nil {
		return err
	}
	_, err = w.engine.Adopt(w.t.Context(), operator, keyName, rotation.Adoption{KID: kid.String(), Find: found.Handle,
		ValidTill: time.Now().Add(time.Duration(1+how%200) * time.Hour), Told: how&1 == 0}, false)
	return err
}

func TestARandomWalkKeepsEveryInvariant(t *testing.T) {
	for seed := range uint64(16) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				dice := rand.New(rand.NewPCG(seed, 42))
				tape := make([]byte, 80)
				for i := range tape {
					tape[i] = byte(dice.Uint32())
				}
				walk(newWorld(t), tape)
			})
		})
	}
}

func FuzzOperations(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{0, 0, 2, 0, 3, 1, 4, 1})                                                               // rotate, roll back, compromise, destroy
	f.Add([]byte{6, 0, 3, 0, 11, 250, 4, 1})                                                            // the only version compromised while the partner is down
	f.Add([]byte{5, 0, 5, 1, 11, 200, 2, 1})                                                            // adopted twice, activated
	f.Add([]byte{9, 7, 9, 71, 9, 13, 12, 240})                                                          // power cuts
	f.Add([]byte{8, 66, 8, 3, 13, 5, 0, 0, 10})                                                         // token faults, another policy
	f.Add([]byte{14, 0, 0, 0, 2, 0, 14, 0, 9, 9, 3, 0, 4, 0, 12, 255})                                  // moved, rolled back, moved back, cut
	f.Add([]byte{14, 0, 0, 0, 3, 1, 4, 1, 15, 1, 11, 99, 9, 5, 15, 1, 4, 1, 12, 255, 12, 255, 12, 255}) // compromised in the cloud, rescued
	f.Fuzz(func(t *testing.T, tape []byte) {
		if len(tape) > 64 {
			t.Skip("long enough is long enough")
		}
		synctest.Test(t, func(t *testing.T) { walk(newWorld(t), tape) })
	})
}
