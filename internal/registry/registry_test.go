package registry_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"keyd/internal/registry"
)

const (
	by    = "root(0) operator"
	keyID = "wise-response"
)

var at = time.Date(2026, 3, 1, 2, 0, 0, 0, time.UTC)

// open opens a registry over an engine, and checks it when the test ends.
func open(t testing.TB, engine registry.Engine) *registry.Registry {
	t.Helper()
	r, err := registry.New(engine)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// checked is a registry in memory, with one key, that must hold every rule when
// the test ends and say the same after it is opened again.
func checked(t testing.TB) *registry.Registry {
	t.Helper()
	engine := newMemory()
	r := open(t, engine)
	must(t, r.PutKey(newKey(keyID)))
	t.Cleanup(func() { consistent(t, r, engine) })
	return r
}

// consistent holds a registry to its own rules, and its memory to what another
// finds in the same engine.
func consistent(t testing.TB, r *registry.Registry, engine registry.Engine) {
	t.Helper()
	for _, v := range r.Check() {
		t.Errorf("Check: %+v", v)
	}
	if diff := cmp.Diff(contents(open(t, engine)), contents(r)); diff != "" {
		t.Errorf("memory differs from what is stored (-stored +memory):\n%s", diff)
	}
}

// content is all that a registry answers.
type content struct {
	Keys        []registry.Key
	Versions    map[string][]registry.Version
	PartnerKeys map[string][]registry.PartnerKey
}

func contents(r *registry.Registry) content {
	c := content{r.Keys(), map[string][]registry.Version{}, map[string][]registry.PartnerKey{}}
	for _, k := range c.Keys {
		c.Versions[k.Name] = r.Versions(k.Name)
		c.PartnerKeys[k.Partner] = r.PartnerKeys(k.Partner)
	}
	return c
}

func newKey(name string) registry.Key {
	return registry.Key{Name: name, Partner: "wise", Backend: "hsm", Algorithm: "RSA-OAEP-256", Bits: 2048,
		Policy: registry.Policy{Rotate: "0 2 1 */3 *", DrainFor: registry.Duration(30 * 24 * time.Hour)}}
}

func newVersion(kid string) registry.Version {
	return registry.Version{KID: kid, Key: keyID, Backend: "hsm", Algorithm: "RSA-OAEP-256", Bits: 2048,
		ValidFrom: at, ValidTill: at.AddDate(1, 0, 0)}
}

// withMaterial is a version as Adopt wants it.
func withMaterial(kid string) registry.Version {
	v := newVersion(kid)
	v.Handle, v.Public, v.TestedAt = "pkcs11:object="+kid, []byte("public "+kid), at
	return v
}

func begin(t testing.TB, r *registry.Registry, kid string) {
	t.Helper()
	_, err := r.Begin(newVersion(kid), by, "due", 1, at)
	must(t, err)
}

// equip gives a pending version what Announced asks for.
func equip(v *registry.Version) error {
	v.Handle, v.Public, v.TestedAt = "pkcs11:object="+v.KID, []byte("public "+v.KID), at
	return nil
}

// to is the move of a version to a state.
func to(kid string, s registry.State) registry.Move {
	m := registry.Move{KID: kid, To: s}
	if s == registry.Draining {
		m.DrainUntil = at.AddDate(0, 1, 0)
	}
	return m
}

func move(r *registry.Registry, moves ...registry.Move) error {
	_, err := r.Move(moves, by, "because", 2, at)
	return err
}

// paths says how a version comes to each state.
var paths = map[registry.State][]registry.State{
	registry.Pending:     {},
	registry.Announced:   {registry.Announced},
	registry.Active:      {registry.Announced, registry.Active},
	registry.Draining:    {registry.Announced, registry.Active, registry.Draining},
	registry.Compromised: {registry.Announced, registry.Active, registry.Compromised},
	registry.Destroying:  {registry.Announced, registry.Destroying},
	registry.Destroyed:   {registry.Announced, registry.Destroying, registry.Destroyed},
}

// bring begins a version and takes it to a state.
func bring(t testing.TB, r *registry.Registry, kid string, s registry.State) {
	t.Helper()
	begin(t, r, kid)
	_, err := r.Amend(kid, equip)
	must(t, err)
	for _, next := range paths[s] {
		must(t, move(r, to(kid, next)))
	}
}

func state(t testing.TB, r *registry.Registry, kid string) registry.State {
	t.Helper()
	v, err := r.Version(kid)
	must(t, err)
	return v.State
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantErr(t testing.TB, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("got error %v, want %v", err, want)
	}
}

func TestWhatIsNotThereIsNotFound(t *testing.T) {
	r := checked(t)
	_, err := r.Key("nobody")
	wantErr(t, err, registry.ErrNotFound)
	_, err = r.Version("nobody")
	wantErr(t, err, registry.ErrNotFound)
	_, err = r.PartnerKey("nobody")
	wantErr(t, err, registry.ErrNotFound)
	_, err = r.Amend("nobody", func(*registry.Version) error { return nil })
	wantErr(t, err, registry.ErrNotFound)
	wantErr(t, move(r, to("nobody", registry.Active)), registry.ErrNotFound)
	wantErr(t, r.SetDue("nobody", at), registry.ErrNotFound)
	v := newVersion("kid")
	v.Key = "nobody"
	_, err = r.Begin(v, by, "", 1, at)
	wantErr(t, err, registry.ErrNotFound)
	if got := len(r.Versions("nobody")) + len(r.PartnerKeys("nobody")); got != 0 {
		t.Errorf("got %d versions and partner keys of nobody, want none", got)
	}
}

func TestAGlanceIsTheVersionWithoutItsDocumentsAndTheActiveOneIsFound(t *testing.T) {
	r := checked(t)
	for _, kid := range []string{"old", "kid"} { // one after the other is active
		bring(t, r, kid, map[string]registry.State{"old": registry.Draining, "kid": registry.Active}[kid])
		whole, err := r.Version(kid)
		must(t, err)
		whole.Public, whole.Evidence, whole.SelfTest, whole.History = nil, nil, nil, nil
		if got, err := r.Glance(kid); err != nil || !reflect.DeepEqual(got, whole) {
			t.Errorf("got %+v, %v, want %+v", got, err, whole)
		}
	}
	if v, ok := r.Active(keyID); !ok || v.KID != "kid" || len(v.History) == 0 {
		t.Errorf("the active version is %+v, %t", v, ok)
	}
	must(t, move(r, to("kid", registry.Compromised)))
	if v, ok := r.Active(keyID); ok {
		t.Errorf("%+v is still active", v)
	}
	if _, err := r.Glance("no-such"); !errors.Is(err, registry.ErrNotFound) {
		t.Errorf("got %v", err)
	}
	if v, ok := r.Active("no-such"); ok {
		t.Errorf("a key that is none has %+v", v)
	}
	if n := testing.AllocsPerRun(100, func() { _, _ = r.Glance("kid") }); n != 0 {
		t.Errorf("a glance makes %v allocations", n)
	}
}

func TestAnswersAreTheCallersOwn(t *testing.T) {
	r := checked(t)
	bring(t, r, "kid", registry.Active)
	_, err := r.SawPartnerKey(registry.PartnerKey{Partner: "wise", Public: []byte("theirs")}, at)
	must(t, err)
	_, err = r.Adopt(withMaterial("other"), by, "", 1)
	must(t, err)
	moved, err := r.Move([]registry.Move{to("kid", registry.Draining), to("other", registry.Active)}, by, "", 3, at)
	must(t, err)
	amended, err := r.Amend("kid", func(v *registry.Version) error { v.Evidence = json.RawMessage(`{"local":true}`); return nil })
	must(t, err)
	before, err := json.Marshal(contents(r)) // shares nothing
	must(t, err)

	spoil := func(v registry.Version) {
		v.Public[0], v.History[0].By = 'X', "mallory"
		clear(v.Evidence)
		_ = append(v.History[:1], registry.Event{})
	}
	v, err := r.Version("kid")
	must(t, err)
	spoil(v)
	spoil(r.Versions(keyID)[0])
	spoil(moved[0])
	spoil(amended)
	_, err = r.Amend("kid", func(v *registry.Version) error {
		spoil(*v)
		return errors.New("changed its mind")
	})
	if err == nil {
		t.Error("Amend returned nil where its function returned an error")
	}
	pk, err := r.PartnerKey("wise")
	must(t, err)
	pk.Public[0] = 'X'
	r.PartnerKeys("wise")[0].Public[0] = 'X'
	r.Keys()[0].Name = "X"

	after, err := json.Marshal(contents(r))
	must(t, err)
	if diff := cmp.Diff(string(before), string(after)); diff != "" {
		t.Errorf("the registry changed (-before +after):\n%s", diff)
	}
}

func TestWhatIsPassedInStaysTheCallersOwn(t *testing.T) {
	r := checked(t)
	v := withMaterial("kid")
	_, err := r.Adopt(v, by, "", 1)
	must(t, err)
	v.Public[0] = 'X'
	pk := registry.PartnerKey{Partner: "wise", Public: []byte("theirs")}
	_, err = r.SawPartnerKey(pk, at)
	must(t, err)
	pk.Public[0] = 'X'
	// checked compares memory with what is stored
}

func TestContentSurvivesReopening(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keyd.db")
	r := openFile(t, path)
	for i := range 3 {
		name := fmt.Sprintf("key-%d", i)
		must(t, r.PutKey(newKey(name)))
		v := newVersion(fmt.Sprintf("kid-%d", i))
		v.Key = name
		_, err := r.Begin(v, by, "due", 1, at.AddDate(0, 3, 0))
		must(t, err)
	}
	_, err := r.SawPartnerKey(registry.PartnerKey{Partner: "wise", ID: "1", Version: 2, Algorithm: "RSA-OAEP-256", Public: []byte("theirs")}, at)
	must(t, err)
	before := contents(r)
	must(t, r.Close())
	must(t, r.Close())

	again := openFile(t, path)
	if diff := cmp.Diff(before, contents(again)); diff != "" {
		t.Errorf("after reopening (-before +after):\n%s", diff)
	}
	if v := again.Check(); len(v) != 0 {
		t.Errorf("Check: %+v", v)
	}
}

func TestClosedRegistryRefusesWritesAndStillReads(t *testing.T) {
	r, err := registry.Open(filepath.Join(t.TempDir(), "keyd.db"), registry.Options{})
	must(t, err)
	must(t, r.PutKey(newKey(keyID)))
	must(t, r.Close())
	wantErr(t, r.PutKey(newKey("another")), registry.ErrClosed)
	if _, err := r.Key(keyID); err != nil {
		t.Errorf("reading after Close: %v", err)
	}
	if got := r.Check(); len(got) != 1 || got[0].Code != "unreadable" {
		t.Errorf("Check after Close: got %+v, want unreadable", got)
	}
	if err := r.Backup(nil); err == nil {
		t.Error("Backup after Close: got nil, want an error")
	}
}

// openFile opens a file and closes it when the test ends.
func openFile(t testing.TB, path string) *registry.Registry {
	t.Helper()
	r, err := registry.Open(path, registry.Options{Check: true})
	must(t, err)
	t.Cleanup(func() { must(t, r.Close()) })
	return r
}
