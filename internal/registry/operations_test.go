package registry_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"keyd/internal/registry"
)

// script does what the bytes say, and holds the registry to its rules after
// each step. Every byte sequence is a script.
type script struct {
	bytes  []byte
	r      *registry.Registry
	engine *faulty
	now    time.Time
	audit  uint64
	kids   []string
}

func (s *script) next(n int) int {
	if len(s.bytes) == 0 {
		return 0
	}
	b := int(s.bytes[0])
	s.bytes = s.bytes[1:]
	return b % n
}

func (s *script) key() string { return fmt.Sprintf("key-%d", s.next(3)) }

func (s *script) kid() string {
	if len(s.kids) == 0 {
		return "nobody"
	}
	return s.kids[s.next(len(s.kids))]
}

func (s *script) version() registry.Version {
	kid := fmt.Sprintf("kid-%d", len(s.kids))
	if s.next(8) == 0 {
		kid = s.kid()
	} else {
		s.kids = append(s.kids, kid)
	}
	v := newVersion(kid)
	v.Key = s.key()
	return v
}

// fault makes the next commit fail, in one of the ways commits do.
func (s *script) fault() {
	kind := s.next(12)
	s.engine.set(func(f *faulty) {
		f.before, f.after, f.put = nil, nil, nil
		switch kind {
		case 1:
			f.before = errCrash
		case 2:
			f.after = errCrash
		case 3:
			f.put = errCrash
		}
	})
}

func (s *script) step() error {
	s.fault()
	s.now = s.now.Add(time.Duration(s.next(5)-1) * time.Hour) // now and then back
	s.audit++
	switch s.next(9) {
	case 0:
		k := newKey(s.key())
		k.Bits = 2048 + 1024*s.next(2)
		return s.r.PutKey(k)
	case 1:
		_, err := s.r.Begin(s.version(), by, "", s.audit, s.now)
		return err
	case 2:
		v := s.version()
		v.Handle, v.Public, v.TestedAt = "h-"+s.kid(), []byte("p"), s.now
		_, err := s.r.Adopt(v, by, "", s.audit)
		return err
	case 3:
		_, err := s.r.Amend(s.kid(), func(v *registry.Version) error {
			v.Handle, v.Public, v.TestedAt = "h-"+v.KID, []byte("p"), s.now
			return nil
		})
		return err
	case 4:
		_, err := s.r.Amend(s.kid(), func(v *registry.Version) error {
			v.State = registry.States[s.next(len(registry.States))]
			v.Retry.Tries++
			return nil
		})
		return err
	case 5:
		_, err := s.r.SawPartnerKey(registry.PartnerKey{Partner: "wise", Public: []byte{byte(s.next(3))}}, s.now)
		return err
	case 6:
		return s.r.SetDue(s.key(), s.now)
	}
	moves := make([]registry.Move, 1+s.next(3))
	for i := range moves {
		moves[i] = to(s.kid(), registry.States[s.next(len(registry.States))])
	}
	_, err := s.r.Move(moves, by, "", s.audit, s.now)
	return err
}

// run returns how many steps were done, and how many refused.
func (s *script) run(t *testing.T) (done, refused int) {
	for len(s.bytes) > 0 {
		err := s.step()
		switch {
		case err == nil:
			done++
		case errors.Is(err, errCrash):
		case isRule(err):
			refused++
		default:
			t.Fatalf("an error of no kind: %v", err)
		}
		for _, v := range s.r.Check() {
			t.Fatalf("after %v: %+v", err, v)
		}
	}
	return done, refused
}

func isRule(err error) bool {
	return ignore(err, registry.ErrNotFound, registry.ErrExists, registry.ErrTransition, registry.ErrSecondActive,
		registry.ErrInFlight, registry.ErrLastOpenable, registry.ErrImmutable, registry.ErrInvalid) == nil
}

func newScript(t *testing.T, engine registry.Engine, bytes []byte) *script {
	f := &faulty{Engine: engine}
	return &script{bytes: bytes, r: open(t, f), engine: f, now: at}
}

// randomBytes are a long script that is the same every time.
func randomBytes(seed byte, n int) []byte {
	b := make([]byte, n)
	source := rand.NewChaCha8([32]byte{seed})
	_, _ = source.Read(b)
	return b
}

func FuzzOperations(f *testing.F) {
	for seed := range byte(16) {
		f.Add(randomBytes(seed, 50*int(seed+1)))
	}
	f.Fuzz(func(t *testing.T, bytes []byte) {
		if len(bytes) > 1000 {
			return // Check after each step would take too long
		}
		s := newScript(t, newMemory(), bytes)
		s.run(t)
		consistent(t, s.r, s.engine.Engine)
	})
}

// The same on disk: what memory says is what another process finds.
func TestRandomOperationsOnDisk(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keyd.db")
	engine, err := registry.OpenBolt(path, registry.Options{})
	must(t, err)
	s := newScript(t, engine, randomBytes(42, 1200))
	done, refused := s.run(t)
	if done < 20 || refused < 20 {
		t.Errorf("%d operations done and %d refused: the script tries too little", done, refused)
	}
	want := contents(s.r)
	must(t, s.r.Close())
	if diff := cmp.Diff(want, contents(openOnce(t, path))); diff != "" {
		t.Errorf("memory differs from the file (-memory +file):\n%s", diff)
	}
	t.Logf("%d done, %d refused, %d versions", done, refused, len(s.kids))
}
