package hsm

import (
	"context"
	"crypto/ecdh"
	"crypto/rsa"
	"errors"
	"fmt"
	"sync"

	"github.com/miekg/pkcs11"

	"keyd/internal/boundary"
)

// cache knows the object handle of every private key that can open, so that no
// request searches the token: a search takes 0.6 s in SoftHSM with 10,000 keys.
type cache struct {
	mu   sync.RWMutex
	keys map[string]*key // by handle; guarded by mu, as is the next
	// filling are the handles that were put there since findAll began.
	filling map[string]bool
}

// key is a whole private key in the token.
type key struct {
	object pkcs11.ObjectHandle
	rsa    *rsa.PublicKey // or
	curve  ecdh.Curve     // this
	uses   purpose
	twice  bool // several keys have the same name: none of them is used
}

func keyOf(o object) *key { return &key{object: o.handle, rsa: o.rsa, curve: o.curve, uses: o.uses} }

// same reports whether it can be the other key. Of one on a curve the public half
// is not known here.
func (k *key) same(other *key) bool {
	if k.rsa == nil || other.rsa == nil {
		return k.rsa == other.rsa && k.curve == other.curve
	}
	return k.rsa.Equal(other.rsa)
}

// get returns the key under a handle.
func (c *cache) get(handle string) (*key, error) {
	c.mu.RLock()
	k := c.keys[handle]
	c.mu.RUnlock()
	switch {
	case k == nil:
		return nil, fmt.Errorf("the handle %+.120q: %w", handle, boundary.ErrNoKey)
	case k.twice:
		return nil, fmt.Errorf("the handle %+.120q: %w", handle, boundary.ErrAmbiguous)
	}
	return k, nil
}

// put remembers what stands under one name, which may be nothing.
func (c *cache) put(handle string, objects []object) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.filling != nil {
		c.filling[handle] = true
	}
	delete(c.keys, handle)
	for _, o := range objects {
		c.add(handle, o)
	}
}

// learned remembers what a turn of management has found under a name, unless the
// object handles in it are of before a login: they may be other keys' by now.
func (t *Token) learned(u *use, n name, objects []object) error {
	t.handles.RLock()
	defer t.handles.RUnlock()
	if u.logins != t.logins.Load() {
		return errRenumbered
	}
	t.keys.put(n.handle(), objects)
	return nil
}

// add remembers one more object. Half-made keys are never remembered and so
// never used: one of them can crash the module that is asked to.
func (c *cache) add(handle string, o object) {
	if !o.whole() {
		return
	}
	if c.keys == nil {
		c.keys = map[string]*key{}
	}
	if k := c.keys[handle]; k != nil {
		c.keys[handle] = &key{twice: true}
		return
	}
	c.keys[handle] = keyOf(o)
}

// filled ends findAll, well or not.
func (c *cache) filled() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.filling = nil
}

func (c *cache) size() int {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return len(c.keys)
}

// some returns up to n keys, whichever.
func (c *cache) some(n int) []*key {
	c.mu.RLock()
	defer c.mu.RUnlock()
	var keys []*key
	for _, k := range c.keys {
		if len(keys) == n {
			break
		}
		if !k.twice {
			keys = append(keys, k)
		}
	}
	return keys
}

// takeIn finds out what the token can do and, meanwhile, which keys it has: with
// ten thousand of them each takes half a second.
func (t *Token) takeIn(ctx context.Context) error {
	if t.cfg.ForKeys {
		return t.learn(ctx)
	}
	swept := make(chan error, 1)
	go func() { swept <- t.sweep(ctx) }()
	return errors.Join(t.learn(ctx), <-swept)
}

// sweep fills the cache with every private key in the token. It is for a start,
// when nobody else wants a session for opening envelopes.
func (t *Token) sweep(ctx context.Context) error {
	_, err := run(ctx, t, t.pool, "sweep", func(u *use) (struct{}, error) { return struct{}{}, t.findAll(u.session) }, nil)
	if err != nil {
		return fmt.Errorf("looking for the keys in token %s: %w", t.slot, err)
	}
	return nil
}

// findAll looks for every private key, and forgets what it knew of them but for
// what others learn meanwhile.
func (t *Token) findAll(s pkcs11.SessionHandle) error {
	t.keys.mu.Lock()
	t.keys.filling = map[string]bool{}
	t.keys.mu.Unlock()
	defer t.keys.filled()
	all, err := t.readAll(s, ofClass(pkcs11.CKO_PRIVATE_KEY))
	if err := errors.Join(err, t.ready(s)); err != nil {
		return err
	}
	t.keys.mu.Lock()
	defer t.keys.mu.Unlock()
	for handle := range t.keys.keys {
		if !t.keys.filling[handle] {
			delete(t.keys.keys, handle)
		}
	}
	for _, o := range all {
		if o.name == t.probeName() {
			continue // a throw-away key of this moment
		}
		if handle := o.name.handle(); !t.keys.filling[handle] {
			t.keys.add(handle, o)
		}
	}
	return nil
}
