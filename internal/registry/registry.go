// Package registry remembers every key, every version of it, the state each
// version is in and how it came there, and the public keys of partners.
//
// It is where the rules are: the transition table is applied here and nowhere
// else, inside the transaction that appends to the version's history. Whether a
// version may move on is decided here; whether it should, and when, is not.
//
// What is stored is also held in memory, as an index that nobody changes: each
// commit puts a new one in its place. A read costs no transaction and no
// decoding, and what it returns is the caller's own copy. Memory follows the
// disk, never the other way: after a commit that failed, or may have failed,
// the index is read anew before it is used again.
package registry

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Registry is an open registry. It is safe for concurrent use.
type Registry struct {
	engine Engine

	mu     sync.Mutex            // one write at a time, and no reload beside it
	closed bool                  // guarded by mu
	index  atomic.Pointer[index] // nil: what is stored must be read first; set under mu

	touches touches
}

// Open opens the registry in a file, or makes one. An error wraps ErrLocked,
// ErrNewerSchema or ErrCorrupt where it is one of these.
func Open(path string, opts Options) (*Registry, error) {
	engine, err := OpenBolt(path, opts)
	if err != nil {
		return nil, err
	}
	r, err := New(engine)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("opening the registry %s: %w", path, err), engine.Close())
	}
	return r, nil
}

// New reads what an engine stores, after bringing it to SchemaVersion. The
// registry closes the engine; after an error the caller does.
func New(engine Engine) (*Registry, error) {
	if err := prepare(engine); err != nil {
		return nil, err
	}
	r := &Registry{engine: engine}
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, err := r.reload(); err != nil {
		return nil, err
	}
	return r, nil
}

// Close writes what TouchOpened still holds back and closes the engine. Reads
// still answer from memory; writes answer ErrClosed.
func (r *Registry) Close() error {
	flushed := r.flush()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil
	}
	r.closed = true
	if err := errors.Join(flushed, r.engine.Close()); err != nil {
		return fmt.Errorf("closing the registry: %w", err)
	}
	return nil
}

// Backup writes a copy to w that Open opens, while reads and writes go on.
func (r *Registry) Backup(w io.Writer) error {
	if err := r.engine.Backup(w); err != nil {
		return fmt.Errorf("copying the registry: %w", err)
	}
	return nil
}

// Key returns a key by its name.
func (r *Registry) Key(name string) (Key, error) {
	ix, err := r.current()
	if err != nil {
		return Key{}, err
	}
	k, ok := ix.keys[name]
	if !ok {
		return Key{}, fmt.Errorf("key %q: %w", name, ErrNotFound)
	}
	return *k, nil
}

// Keys returns every key by name; none if the registry cannot be read.
func (r *Registry) Keys() []Key {
	ix, err := r.current()
	if err != nil {
		return nil
	}
	keys := make([]Key, 0, len(ix.keys))
	for _, k := range ix.keys {
		keys = append(keys, *k)
	}
	slices.SortFunc(keys, func(a, b Key) int { return cmp.Compare(a.Name, b.Name) })
	return keys
}

// Version returns the version with a kid. Its cost does not depend on how many
// there are.
func (r *Registry) Version(kid string) (Version, error) {
	ix, err := r.current()
	if err != nil {
		return Version{}, err
	}
	v, ok := ix.versions[kid]
	if !ok {
		return Version{}, fmt.Errorf("version %q: %w", kid, ErrNotFound)
	}
	return v.clone(), nil
}

// Glance returns the version with a kid without its public key, evidence,
// self-test and history. Nothing is copied but what stands in the version itself:
// it is for the way of every envelope.
func (r *Registry) Glance(kid string) (Version, error) {
	ix, err := r.current()
	if err != nil {
		return Version{}, err
	}
	v, ok := ix.versions[kid]
	if !ok {
		return Version{}, fmt.Errorf("version %q: %w", kid, ErrNotFound)
	}
	return v.glance(), nil
}

// Active returns a key's active version, if there is one. The others are only
// looked at.
func (r *Registry) Active(key string) (Version, bool) {
	ix, err := r.current()
	if err != nil {
		return Version{}, false
	}
	for _, v := range slices.Backward(ix.series[key]) {
		if v.State == Active {
			return v.clone(), true
		}
	}
	return Version{}, false
}

// Versions returns a key's versions by their numbers; none if there is no such
// key or the registry cannot be read.
func (r *Registry) Versions(key string) []Version {
	ix, err := r.current()
	if err != nil {
		return nil
	}
	versions := make([]Version, 0, len(ix.series[key]))
	for _, v := range ix.series[key] {
		versions = append(versions, v.clone())
	}
	return versions
}

// current returns the index. If it was lost in a failed commit and could not be
// read anew then, it is tried again: better no answer than one that the disk
// may contradict.
func (r *Registry) current() (*index, error) {
	if ix := r.index.Load(); ix != nil {
		return ix, nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if ix := r.index.Load(); ix != nil {
		return ix, nil
	}
	return r.reload()
}

// reload reads the index. The caller holds mu.
func (r *Registry) reload() (*index, error) {
	ix, err := r.stored()
	if err != nil {
		return nil, fmt.Errorf("reading the registry: %w", err)
	}
	r.index.Store(ix)
	return ix, nil
}

// stored is what the engine has.
func (r *Registry) stored() (ix *index, err error) {
	err = r.engine.View(func(tx Tx) error {
		ix, err = load(tx)
		return err
	})
	return ix, err
}

// update is the way of every write: f applies the rules to a draft, and what it
// put is committed. It returns the index that the commit made.
func (r *Registry) update(f func(*draft) error) (*index, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil, ErrClosed
	}
	var base *index
	var d *draft
	var refused error
	ended := false
	defer func() {
		if !ended { // a panic; who knows what stands
			r.index.Store(nil)
		}
	}()
	err := r.engine.Update(func(tx Tx) (err error) {
		if base, err = r.base(tx); err != nil {
			return err
		}
		d = base.draft()
		if refused = f(d); refused != nil {
			return refused
		}
		return d.write(tx)
	})
	ended = true
	switch {
	case err == nil:
		r.index.Store(&d.index)
		return &d.index, nil
	case refused != nil && errors.Is(err, refused):
		r.index.Store(base)
		return nil, err
	}
	return nil, r.failed(base, err)
}

// base is the state that a transaction starts from: the index, unless what is
// stored has moved on.
func (r *Registry) base(tx Tx) (*index, error) {
	revision, err := number(tx, revisionKey)
	if err != nil {
		return nil, err
	}
	if ix := r.index.Load(); ix != nil && ix.revision == revision {
		return ix, nil
	}
	return load(tx)
}

// failed makes memory what is stored after a commit that was not reported as
// done, and says which of the two it was.
func (r *Registry) failed(base *index, err error) error {
	r.index.Store(nil)
	what := "writing the registry"
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		what += ": the disk is full"
	}
	now, unread := r.reload()
	switch {
	case unread != nil:
		return fmt.Errorf("%s: %w; whether the change stands is not known: %w", what, err, unread)
	case base != nil && now.revision != base.revision:
		return fmt.Errorf("%s: %w; the change stands, but may not outlive a power cut", what, err)
	}
	return fmt.Errorf("%s: %w; nothing was changed", what, err)
}

// event is one change of state as a caller reports it.
func event(at time.Time, by, reason string, audit uint64) (Event, error) {
	var errs []error
	if by == "" {
		errs = append(errs, fmt.Errorf("%w: nobody is named who does it", ErrInvalid))
	}
	if at.IsZero() {
		errs = append(errs, fmt.Errorf("%w: no time is given", ErrInvalid))
	}
	return Event{At: at.UTC(), By: by, Reason: reason, Audit: audit}, errors.Join(errs...)
}
