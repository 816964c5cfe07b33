package registry_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	bolt "go.etcd.io/bbolt"

	"keyd/internal/registry"
)

// populated makes a registry file with some lives in it.
func populated(t testing.TB, path string) content {
	t.Helper()
	r, err := registry.Open(path, registry.Options{})
	must(t, err)
	must(t, r.PutKey(newKey(keyID)))
	for i, s := range []registry.State{registry.Destroyed, registry.Draining, registry.Active, registry.Announced} {
		bring(t, r, fmt.Sprintf("kid-%d", i), s)
	}
	_, err = r.SawPartnerKey(registry.PartnerKey{Partner: "wise", Public: []byte("theirs")}, at)
	must(t, err)
	c := contents(r)
	must(t, r.Close())
	return c
}

func TestSecondOpenIsLockedOut(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keyd.db")
	r := openFile(t, path)
	_, err := registry.Open(path, registry.Options{Timeout: time.Millisecond})
	wantErr(t, err, registry.ErrLocked)
	if want := "opening the registry " + path + ": another keyd has it open"; err == nil || err.Error() != want {
		t.Errorf("got %q, want %q", err, want)
	}
	must(t, r.PutKey(newKey(keyID))) // the first is none the worse
}

func TestLockIsFreeAfterARefusedOpen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keyd.db")
	want := populated(t, path)
	sound, err := os.ReadFile(path)
	must(t, err)
	for _, spoil := range []func([]byte) []byte{
		func(b []byte) []byte { return make([]byte, len(b)) },
		func(b []byte) []byte { return b[:2*os.Getpagesize()] },
		func(b []byte) []byte { return append([]byte("not a database at all"), b[21:]...) },
	} {
		must(t, os.WriteFile(path, spoil(bytes.Clone(sound)), 0o600))
		if r, err := registry.Open(path, registry.Options{Check: true}); err == nil {
			must(t, r.Close()) // one meta page of two is enough
		}
		must(t, os.WriteFile(path, sound, 0o600))
		if diff := cmp.Diff(want, contents(openOnce(t, path))); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
}

func openOnce(t *testing.T, path string) *registry.Registry {
	t.Helper()
	r, err := registry.Open(path, registry.Options{Check: true})
	must(t, err)
	must(t, r.Close())
	return r
}

func TestNewerSchemaChangesNothingInTheFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keyd.db")
	populated(t, path)
	engine, err := registry.OpenBolt(path, registry.Options{})
	must(t, err)
	must(t, engine.Update(func(tx registry.Tx) error { return tx.Put("meta", "schema", []byte("2")) }))
	must(t, engine.Close())
	before, err := os.ReadFile(path)
	must(t, err)
	for range 2 { // the refusal lets go of the lock
		_, err = registry.Open(path, registry.Options{Check: true})
		wantErr(t, err, registry.ErrNewerSchema)
		if !strings.Contains(err.Error(), path) {
			t.Errorf("error %q does not name the file", err)
		}
	}
	after, err := os.ReadFile(path)
	must(t, err)
	if !bytes.Equal(before, after) {
		t.Error("the file was changed")
	}
}

func TestDamagedFileIsCorrupt(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keyd.db")
	populated(t, path)
	sound, err := os.ReadFile(path)
	must(t, err)
	page := os.Getpagesize()
	for name, spoil := range map[string]func([]byte) []byte{
		"zeros":              func(b []byte) []byte { clear(b); return b },
		"text":               func([]byte) []byte { return []byte(strings.Repeat("not a database\n", 1000)) },
		"a few bytes":        func(b []byte) []byte { return b[:100] },
		"both meta pages":    func(b []byte) []byte { clear(b[:2*page]); return b },
		"only meta pages":    func(b []byte) []byte { return b[:2*page] },
		"the end is missing": func(b []byte) []byte { return b[:len(bytes.TrimRight(b, "\x00"))-page] },
		"all but the meta":   func(b []byte) []byte { clear(b[2*page:]); return b },
	} {
		t.Run(name, func(t *testing.T) {
			must(t, os.WriteFile(path, spoil(bytes.Clone(sound)), 0o600))
			for _, check := range []bool{false, true} {
				_, err := registry.Open(path, registry.Options{Check: check})
				wantErr(t, err, registry.ErrCorrupt)
				if err != nil && !strings.Contains(err.Error(), "restore it from a backup") {
					t.Errorf("error %q does not say what to do", err)
				}
			}
		})
	}
}

// A page that leads back to itself must not be followed for ever.
func TestPagesInACircleAreCorrupt(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keyd.db")
	stock(t, path, 100)
	file, err := os.ReadFile(path)
	must(t, err)
	circles, page := 0, os.Getpagesize()
	for at := 2 * page; at < len(file); at += page {
		if binary.NativeEndian.Uint16(file[at+8:]) == 1 { // a branch; its first element's page is at 16+8
			copy(file[at+24:at+32], file[at:at+8])
			circles++
		}
	}
	must(t, os.WriteFile(path, file, 0o600))
	_, err = registry.Open(path, registry.Options{})
	wantErr(t, err, registry.ErrCorrupt)
	if circles == 0 {
		t.Error("the file has no branches")
	}
}

// Whatever byte is wrong, opening ends in an answer and not in a crash.
func TestNoSingleByteCrashesOpening(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keyd.db")
	populated(t, path)
	sound, err := os.ReadFile(path)
	must(t, err)
	used := bytes.TrimRight(sound, "\x00")
	page, refused := os.Getpagesize(), 0
	for i := range used {
		if i%page >= 96 && i%97 != 0 { // all of each page's head, some of the rest
			continue
		}
		spoiled := bytes.Clone(sound)
		spoiled[i] ^= 0xFF
		must(t, os.WriteFile(path, spoiled, 0o600))
		r, err := registry.Open(path, registry.Options{Check: true})
		if err != nil {
			refused++
			if !errors.Is(err, registry.ErrCorrupt) && !errors.Is(err, registry.ErrNewerSchema) {
				t.Errorf("byte %d: %v", i, err)
			}
			continue
		}
		r.Check()
		must(t, r.Close())
	}
	if refused == 0 {
		t.Error("no damage was noticed")
	}
	t.Logf("%d damaged files refused", refused)
}

func TestForeignDatabaseIsNotTouched(t *testing.T) {
	path := filepath.Join(t.TempDir(), "other.db")
	db, err := bolt.Open(path, 0o600, nil)
	must(t, err)
	must(t, db.Update(func(tx *bolt.Tx) error { _, err := tx.CreateBucket([]byte("theirs")); return err }))
	must(t, db.Close())
	before, _ := os.ReadFile(path)
	_, err = registry.Open(path, registry.Options{})
	wantErr(t, err, registry.ErrCorrupt)
	if after, _ := os.ReadFile(path); !bytes.Equal(before, after) {
		t.Error("the file was changed")
	}
}

func TestPathsThatCannotBeOpened(t *testing.T) {
	dir := t.TempDir()
	for _, path := range []string{dir, filepath.Join(dir, "no", "such", "folder"), os.DevNull} {
		if r, err := registry.Open(path, registry.Options{}); err == nil {
			t.Errorf("%s: got no error", path)
			must(t, r.Close())
		} else if errors.Is(err, registry.ErrCorrupt) {
			t.Errorf("%s: got %v, which a backup would not mend", path, err)
		}
	}
}

func TestFileIsPrivate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keyd.db")
	want := func() {
		t.Helper()
		info, err := os.Stat(path)
		must(t, err)
		if got := info.Mode().Perm(); got != 0o600 {
			t.Errorf("got mode %o, want 600", got)
		}
	}
	populated(t, path)
	want()
	must(t, os.Chmod(path, 0o644)) // what a careless restore leaves
	openOnce(t, path)
	want()
}

func TestBackupOpensWithTheSameContent(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "keyd.db")
	want := populated(t, path)
	r := openFile(t, path)
	copied, err := os.Create(filepath.Join(dir, "copy.db"))
	must(t, err)
	// Writes during the copy are either in it as a whole or not at all.
	stop := make(chan struct{})
	var writer sync.WaitGroup
	writer.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
				if err := r.SetDue(keyID, at.AddDate(0, 0, i)); err != nil {
					t.Error(err)
					return
				}
			}
		}
	})
	for range 20 {
		must(t, copied.Truncate(0))
		_, err = copied.Seek(0, 0)
		must(t, err)
		must(t, r.Backup(copied))
		c := openOnce(t, copied.Name())
		got := contents(c)
		got.Keys[0].NextDue = want.Keys[0].NextDue
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("the copy differs (-want +got):\n%s", diff)
		}
	}
	close(stop)
	writer.Wait()
	must(t, copied.Close())
}

// A reader of a backup that takes its time holds up nobody.
func TestSlowBackupDoesNotStopWrites(t *testing.T) {
	r := openFile(t, filepath.Join(t.TempDir(), "keyd.db"))
	must(t, r.PutKey(newKey(keyID)))
	begin(t, r, "kid")
	slow := &gate{entered: make(chan struct{}), leave: make(chan struct{})}
	done := make(chan error, 1)
	go func() { done <- r.Backup(slow) }()
	<-slow.entered
	for i := range 20 { // enough that the file must grow
		_, err := r.Amend("kid", func(v *registry.Version) error {
			v.Retry.Last = strings.Repeat("x", 200_000+i)
			return nil
		})
		must(t, err)
	}
	close(slow.leave)
	must(t, <-done)
	if err := r.Backup(fullWriter{}); err == nil || !strings.Contains(err.Error(), "no space left") {
		t.Errorf("a copy to a full disk: got %v", err)
	}
}

type gate struct {
	once           sync.Once
	entered, leave chan struct{}
}

func (g *gate) Write(p []byte) (int, error) {
	g.once.Do(func() { close(g.entered) })
	<-g.leave
	return len(p), nil
}

type fullWriter struct{}

func (fullWriter) Write([]byte) (int, error) { return 0, syscall.ENOSPC }

// A real disk that is really full.
func TestFullDiskChangesNothing(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("keyd-test", dir, "tmpfs", 0, "size=256k"); err != nil {
		t.Skipf("a small disk cannot be mounted here: %v", err)
	}
	t.Cleanup(func() { must(t, syscall.Unmount(dir, 0)) })
	r := openFile(t, filepath.Join(dir, "keyd.db"))
	must(t, r.PutKey(newKey(keyID)))
	begin(t, r, "kid")
	grow := func(n int) error {
		_, err := r.Amend("kid", func(v *registry.Version) error { v.Retry.Last = strings.Repeat("x", n); return nil })
		return err
	}
	before := contents(r)
	err := grow(1 << 20)
	wantErr(t, err, syscall.ENOSPC)
	if err != nil && !strings.Contains(err.Error(), "the disk is full") {
		t.Errorf("got %q", err)
	}
	if diff := cmp.Diff(before, contents(r)); diff != "" {
		t.Errorf("(-before +after):\n%s", diff)
	}
	must(t, grow(10)) // what fits is still written
	if v := r.Check(); len(v) != 0 {
		t.Errorf("Check: %+v", v)
	}
}
