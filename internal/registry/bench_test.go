package registry_test

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"keyd/internal/registry"
)

// stock writes a registry with n versions of one key, the last of them active,
// in one transaction.
func stock(b testing.TB, path string, n int) {
	b.Helper()
	engine, err := registry.OpenBolt(path, registry.Options{})
	must(b, err)
	r := open(b, engine)
	must(b, r.PutKey(newKey(keyID)))
	must(b, engine.Update(func(tx registry.Tx) error {
		for i := range n {
			states := []registry.State{registry.Announced, registry.Active, registry.Draining, registry.Destroying, registry.Destroyed}
			if i == n-1 {
				states = states[:2]
			}
			v := lived(kidOf(i), i+1, states...)
			v.Public = make([]byte, 294) // DER of an RSA-2048 key
			v.Evidence = json.RawMessage(`{"attributes":"` + strings.Repeat("x", 400) + `"}`)
			raw, err := json.Marshal(v)
			if err != nil {
				return err
			}
			if err := tx.Put("versions", v.KID, raw); err != nil {
				return err
			}
		}
		return nil
	}))
	must(b, r.Close())
}

func kidOf(i int) string { return fmt.Sprintf("%08x-0000-4000-8000-000000000000", i) }

func TestTenThousandVersionsOpen(t *testing.T) {
	const n = 10_000
	path := filepath.Join(t.TempDir(), "keyd.db")
	stock(t, path, n)
	start := time.Now()
	r := openFile(t, path)
	t.Logf("opened in %s, with every page looked at", time.Since(start))
	v, err := r.Version(kidOf(n - 1))
	must(t, err)
	if v.State != registry.Active || v.Number != n {
		t.Errorf("got %+v", v)
	}
	if found := r.Check(); len(found) != 0 {
		t.Errorf("Check: %+v", found[0])
	}
	start = time.Now()
	must(t, r.SetDue(keyID, at))
	t.Logf("a write took %s", time.Since(start))
}

func BenchmarkVersion(b *testing.B) {
	for _, n := range []int{10, 10_000} {
		b.Run(fmt.Sprintf("of=%d", n), func(b *testing.B) {
			path := filepath.Join(b.TempDir(), "keyd.db")
			stock(b, path, n)
			r := openFile(b, path)
			kid := kidOf(n - 1)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := r.Version(kid); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkGlance(b *testing.B) {
	for _, n := range []int{10, 10_000} {
		b.Run(fmt.Sprintf("of=%d", n), func(b *testing.B) {
			path := filepath.Join(b.TempDir(), "keyd.db")
			stock(b, path, n)
			r := openFile(b, path)
			kid := kidOf(n - 1)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := r.Glance(kid); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkOpen(b *testing.B) {
	for _, n := range []int{10, 10_000} {
		b.Run(fmt.Sprintf("of=%d", n), func(b *testing.B) {
			path := filepath.Join(b.TempDir(), "keyd.db")
			stock(b, path, n)
			for b.Loop() {
				r, err := registry.Open(path, registry.Options{})
				must(b, err)
				must(b, r.Close())
			}
		})
	}
}

func BenchmarkAmend(b *testing.B) {
	for _, n := range []int{10, 10_000} {
		b.Run(fmt.Sprintf("of=%d", n), func(b *testing.B) {
			path := filepath.Join(b.TempDir(), "keyd.db")
			stock(b, path, n)
			r := openFile(b, path)
			for b.Loop() {
				_, err := r.Amend(kidOf(n-1), func(v *registry.Version) error { v.Retry.Tries++; return nil })
				must(b, err)
			}
		})
	}
}
