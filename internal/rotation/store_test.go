package rotation_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"slices"
	"sync"
	"testing"

	"keyd/internal/registry"
)

// store is a storage engine in memory whose commits the power can be cut at.
// It outlives the registries that are opened on it.
type store struct {
	power *power

	mu      sync.RWMutex
	buckets map[string]map[string][]byte
	sick    error // what every commit fails with
}

func newStore(p *power) *store {
	return &store{power: p, buckets: map[string]map[string][]byte{}}
}

func (s *store) View(f func(registry.Tx) error) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return f(&tx{buckets: s.buckets, readOnly: true})
}

// Update commits all of what f does or, if f or the power fails, nothing.
func (s *store) Update(f func(registry.Tx) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	draft := map[string]map[string][]byte{}
	for name, bucket := range s.buckets {
		draft[name] = maps.Clone(bucket)
	}
	if err := f(&tx{buckets: draft}); err != nil {
		return err
	}
	return s.power.do("commit", func() error {
		if s.sick != nil {
			return s.sick
		}
		s.buckets = draft
		return nil
	})
}

func (s *store) Backup(w io.Writer) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return json.NewEncoder(w).Encode(s.buckets)
}

// Close closes nothing: the file outlives the daemon.
func (s *store) Close() error { return nil }

func (s *store) ail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sick = err
}

// editVersion changes what is stored of a version, as whoever can write the
// file can.
func (s *store) editVersion(t *testing.T, kid string, edit func(*registry.Version)) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	var v registry.Version
	if err := json.Unmarshal(s.buckets["versions"][kid], &v); err != nil {
		t.Fatal(err)
	}
	edit(&v)
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	s.buckets["versions"][kid] = raw
}

type tx struct {
	buckets  map[string]map[string][]byte
	readOnly bool
}

func (t *tx) Get(bucket, key string) []byte { return t.buckets[bucket][key] }

func (t *tx) Put(bucket, key string, value []byte) error {
	if t.readOnly {
		return errors.New("a read-only transaction")
	}
	if t.buckets[bucket] == nil {
		t.buckets[bucket] = map[string][]byte{}
	}
	t.buckets[bucket][key] = bytes.Clone(value)
	return nil
}

func (t *tx) Each(bucket string, f func(key string, value []byte) error) error {
	for _, key := range slices.Sorted(maps.Keys(t.buckets[bucket])) {
		if err := f(key, t.buckets[bucket][key]); err != nil {
			return err
		}
	}
	return nil
}
