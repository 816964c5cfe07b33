package registry_test

import (
	"errors"
	"io"
	"maps"
	"slices"
	"sync"
	"testing"

	"keyd/internal/registry"
)

// memory is an engine that keeps records in maps: what a registry is without a
// disk, and the proof that the rules need none.
type memory struct {
	mu      sync.Mutex
	buckets map[string]map[string][]byte
}

func newMemory() *memory { return &memory{buckets: map[string]map[string][]byte{}} }

func (m *memory) View(f func(registry.Tx) error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return f(memoryTx(m.buckets))
}

func (m *memory) Update(f func(registry.Tx) error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	next := map[string]map[string][]byte{}
	for name, bucket := range m.buckets {
		next[name] = maps.Clone(bucket)
	}
	if err := f(memoryTx(next)); err != nil {
		return err
	}
	m.buckets = next
	return nil
}

func (m *memory) Backup(io.Writer) error { return errors.ErrUnsupported }
func (m *memory) Close() error           { return nil }

// raw changes what is stored behind the registry's back.
func (m *memory) raw(t testing.TB, bucket, key, value string) {
	t.Helper()
	if err := m.Update(func(tx registry.Tx) error { return tx.Put(bucket, key, []byte(value)) }); err != nil {
		t.Fatal(err)
	}
}

type memoryTx map[string]map[string][]byte

func (tx memoryTx) Get(bucket, key string) []byte { return tx[bucket][key] }

func (tx memoryTx) Put(bucket, key string, value []byte) error {
	if tx[bucket] == nil {
		tx[bucket] = map[string][]byte{}
	}
	tx[bucket][key] = value
	return nil
}

func (tx memoryTx) Each(bucket string, f func(string, []byte) error) error {
	for _, key := range slices.Sorted(maps.Keys(tx[bucket])) {
		if err := f(key, tx[bucket][key]); err != nil {
			return err
		}
	}
	return nil
}

// faulty is an engine whose commits fail on demand, before or after they
// happened, and whose reads may fail as well.
type faulty struct {
	registry.Engine
	mu sync.Mutex
	faults
	view error // of every View
}

func (f *faulty) set(change func(*faulty)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(f)
}

// faults are for one commit.
type faults struct {
	before error  // nothing is committed
	after  error  // it is committed all the same
	put    error  // of the first Put
	panics bool   // after the commit
	during func() // runs when the transaction has been prepared
}

func (f *faulty) take() faults {
	f.mu.Lock()
	defer f.mu.Unlock()
	next := f.faults
	f.faults = faults{}
	return next
}

func (f *faulty) View(g func(registry.Tx) error) error {
	f.mu.Lock()
	err := f.view
	f.mu.Unlock()
	if err != nil {
		return err
	}
	return f.Engine.View(g)
}

func (f *faulty) Update(g func(registry.Tx) error) error {
	now := f.take()
	err := f.Engine.Update(func(tx registry.Tx) error {
		if refused := g(faultyTx{tx, now.put}); refused != nil {
			return refused
		}
		if now.during != nil {
			now.during()
		}
		return now.before
	})
	if now.panics {
		panic("the commit went wrong")
	}
	if err == nil {
		err = now.after
	}
	return err
}

type faultyTx struct {
	registry.Tx
	put error
}

func (tx faultyTx) Put(bucket, key string, value []byte) error {
	if tx.put != nil {
		return tx.put
	}
	return tx.Tx.Put(bucket, key, value)
}
