package hsm

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/miekg/pkcs11"

	"keyd/internal/boundary"
)

// maxHeld is how many content keys are held at once. One is held for as long as
// a partner takes to answer.
const maxHeld = 1024

// holding is the content keys of exchanges. Where the token does AES-GCM with a
// key from outside, they are keys of a session and cannot be read out again
// (sealed); elsewhere, and for CBC with a MAC, they are in locked memory of this
// process (raw: for longer than one operation).
type holding struct {
	mu     sync.Mutex
	keys   map[string]heldKey // by ref; guarded by mu
	memory locked             // guarded by mu
	lost   int                // how often those in the token were lost; guarded by mu
}

type heldKey struct {
	enc    string
	object pkcs11.ObjectHandle // in the token; 0 is in memory
	slot   int
	lost   int // holding.lost when it was made
}

func (k heldKey) level() boundary.Level {
	if k.object != 0 {
		return boundary.Sealed
	}
	return boundary.Raw
}

var errHeldFull = fmt.Errorf("%d content keys are held already: %w", maxHeld, boundary.ErrBusy)

// Hold takes a content key in. The caller wipes its own copy.
func (t *Token) Hold(ctx context.Context, enc string, cek []byte) (ref string, err error) {
	c, known := boundary.ContentOf(enc)
	switch {
	case !known || c.CEK != len(cek):
		err = fmt.Errorf("%d bytes for %+.32q: %w", len(cek), enc, boundary.ErrUnsupported)
	case c.AEAD() && t.mode.Load().held != nil:
		ref, err = run(ctx, t, t.hold, "hold", func(u *use) (string, error) { return t.holdInToken(u, enc, cek) }, func(ref string) {
			_ = t.Release(context.Background(), ref) // nobody knows of it
		})
	case !boundary.Raw.AtLeast(t.cfg.MinBoundary):
		err = fmt.Errorf("%w: the token keeps no key for %s, and the backend's min_boundary is %s", boundary.ErrBelowFloor, enc, t.cfg.MinBoundary)
	case t.closed.Load():
		err = fmt.Errorf("the token is closed: %w", boundary.ErrUnavailable)
	default:
		ref, err = t.holding.putInMemory(enc, cek)
	}
	if err != nil {
		return "", fmt.Errorf("holding a content key: %w", err)
	}
	return ref, nil
}

func (t *Token) holdInToken(u *use, enc string, cek []byte) (string, error) {
	if t.holding.full() {
		return "", errHeldFull
	}
	object, err := t.module.calls.create(u.session, contentKey(), cek)
	if err != nil {
		return "", err
	}
	f, err := t.module.calls.facts(u.session, object)
	if err == nil && (!f.sensitive || f.extractable) {
		err = fmt.Errorf("the token made a content key that can be taken out: %w", boundary.ErrUnavailable)
	}
	if err != nil {
		u.leave(object)
		return "", inner(err)
	}
	ref, err := t.holding.add(heldKey{enc: enc, object: object})
	if err != nil {
		u.leave(object)
	}
	return ref, err
}

// OpenHeld opens an envelope's content with a key that is held.
func (t *Token) OpenHeld(ctx context.Context, ref string, env *boundary.Envelope) (*boundary.Opened, error) {
	opened, err := t.openHeld(ctx, ref, env)
	if err != nil && !errors.Is(err, boundary.ErrOpen) {
		return nil, fmt.Errorf("opening an answer: %w", err)
	}
	return opened, err
}

func (t *Token) openHeld(ctx context.Context, ref string, env *boundary.Envelope) (*boundary.Opened, error) {
	k, cek, err := t.holding.get(ref)
	if err != nil {
		return nil, err
	}
	defer clear(cek)
	level := k.level()
	switch {
	case env.Alg != boundary.Direct || env.Enc != k.enc:
		return nil, fmt.Errorf("%+.32q and %+.32q: %w", env.Alg, env.Enc, boundary.ErrUnsupported)
	case !level.AtLeast(t.cfg.MinBoundary):
		return nil, fmt.Errorf("%w: the key is held at %q, and the backend's min_boundary is %s", boundary.ErrBelowFloor, level, t.cfg.MinBoundary)
	}
	if err := errors.Join(env.CheckFloor(level), ctx.Err()); err != nil {
		return nil, err
	}
	c, _ := boundary.ContentOf(env.Enc)
	if len(env.EncryptedKey) != 0 || len(env.IV) != c.IV || len(env.Tag) != c.Tag {
		return nil, boundary.ErrOpen // its shape is the sender's to know
	}
	start := time.Now()
	var plaintext []byte
	if k.object != 0 {
		plaintext, err = t.openHeldInToken(ctx, ref, env)
	} else {
		plaintext, err = boundary.OpenWithCEK(env, cek, 1)
	}
	if err != nil {
		return nil, err
	}
	return &boundary.Opened{Plaintext: plaintext, Level: level, InToken: time.Since(start)}, nil
}

func (t *Token) openHeldInToken(ctx context.Context, ref string, env *boundary.Envelope) ([]byte, error) {
	a, err := run(ctx, t, t.pool, "decrypt", func(u *use) (answer, error) {
		w := t.mode.Load().held
		k, cek, err := t.holding.get(ref) // it may have gone while this turn was waited for
		clear(cek)
		switch {
		case err != nil:
			return answer{}, err
		case w == nil || k.object == 0:
			return answer{}, fmt.Errorf("the token keeps no content keys any more: %w", boundary.ErrNoKey)
		}
		a, err := w.ask(t, u, &key{object: k.object}, env)
		if errors.Is(err, boundary.ErrNoKey) {
			if down := t.ready(u.session); down != nil {
				return a, down
			}
			t.holding.take(ref)
		}
		u.spoiled = err == nil && !a.ok && !w.sturdy
		a.way = w
		return a, err
	}, func(a answer) { clear(a.block) })
	if err != nil {
		return nil, err
	}
	plaintext, err := a.way.finish(env, a)
	return plaintext, t.doubt(ctx, a.way, nil, err)
}

// Release forgets a content key. One that is not held is no error.
func (t *Token) Release(ctx context.Context, ref string) error {
	k, held := t.holding.take(ref)
	if !held || k.object == 0 {
		return nil
	}
	_, err := run(ctx, t, t.hold, "release", func(u *use) (struct{}, error) {
		if !t.holding.current(k) {
			return struct{}{}, nil // gone, and its handle may be another key's
		}
		err := t.module.ctx.DestroyObject(u.session, k.object)
		if err != nil && !is(err, pkcs11.CKR_OBJECT_HANDLE_INVALID) { // gone with its session
			return struct{}{}, meaning("C_DestroyObject", err)
		}
		return struct{}{}, nil
	}, nil)
	if err != nil {
		return fmt.Errorf("releasing a content key: %w", err)
	}
	return nil
}

func (h *holding) full() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.keys) >= maxHeld
}

// add gives a key its name, which nobody can guess.
func (h *holding) add(k heldKey) (ref string, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.added(k)
}

func (h *holding) added(k heldKey) (string, error) {
	if len(h.keys) >= maxHeld {
		return "", errHeldFull
	}
	if h.keys == nil {
		h.keys = map[string]heldKey{}
	}
	ref := uuid.NewString()
	k.lost = h.lost
	h.keys[ref] = k
	return ref, nil
}

func (h *holding) putInMemory(enc string, cek []byte) (ref string, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.keys) >= maxHeld {
		return "", errHeldFull
	}
	slot, err := h.memory.put(cek)
	if err != nil {
		return "", err
	}
	return h.added(heldKey{enc: enc, slot: slot})
}

// get returns a key, and a copy of it where it is in memory.
func (h *holding) get(ref string) (heldKey, []byte, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	k, held := h.keys[ref]
	if !held {
		return k, nil, fmt.Errorf("no content key is held under this reference: %w", boundary.ErrNoKey)
	}
	if k.object != 0 {
		return k, nil, nil
	}
	size, _ := boundary.CEKLen(k.enc)
	return k, append([]byte(nil), h.memory.at(k.slot)[:size]...), nil
}

// take forgets a key, and wipes it where it is in memory.
func (h *holding) take(ref string) (heldKey, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	k, held := h.keys[ref]
	delete(h.keys, ref)
	if held && k.object == 0 {
		h.memory.wipe(k.slot)
	}
	return k, held
}

// current reports whether a key's object handle still stands for it.
func (h *holding) current(k heldKey) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return k.lost == h.lost
}

// loseToken forgets the keys that were in the token. Token.handles is held.
func (h *holding) loseToken() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lost++
	maps.DeleteFunc(h.keys, func(_ string, k heldKey) bool { return k.object != 0 })
}

// close forgets every key. Those in the token go with their session.
func (h *holding) close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.keys = nil
	return h.memory.unmap()
}
