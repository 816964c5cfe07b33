package hsm

import (
	"context"
	"errors"
	"fmt"

	"keyd/internal/boundary"
)

// Open opens an envelope with the private key under a handle. Whatever is wrong
// with the envelope is [boundary.ErrOpen].
func (t *Token) Open(ctx context.Context, handle string, env *boundary.Envelope) (*boundary.Opened, error) {
	k, w, err := t.chosen(handle, env)
	if err != nil {
		return nil, fmt.Errorf("opening an envelope: %w", err)
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("opening an envelope: %w", err)
	}
	if !fits(env, k) {
		_, err := boundary.OpenWithCEK(env, nil, 0)
		return nil, t.doubt(ctx, w, k, err)
	}
	a, err := t.ask(ctx, handle, env)
	if err != nil {
		return nil, fmt.Errorf("opening an envelope: %w", err)
	}
	plaintext, err := a.way.finish(env, a)
	if err != nil {
		return nil, t.doubt(ctx, a.way, a.key, err)
	}
	return &boundary.Opened{Plaintext: plaintext, Level: a.way.level, InToken: a.inToken}, nil
}

// chosen finds the key and how to open the envelope with it, and holds that
// against the floors.
func (t *Token) chosen(handle string, env *boundary.Envelope) (*key, *way, error) {
	if boundary.KeyAlgorithm(env.Alg) == "" {
		return nil, nil, fmt.Errorf("the algorithm %+.32q: %w", env.Alg, boundary.ErrUnsupported)
	}
	k, err := t.keys.get(handle)
	if err != nil {
		return nil, nil, err
	}
	if (boundary.KeyAlgorithm(env.Alg) == boundary.ECDHES) != (k.curve != nil) {
		return nil, nil, fmt.Errorf("the algorithm %s with a key of another kind: %w", env.Alg, boundary.ErrUnsupported)
	}
	w, err := t.mode.Load().pick(env, k)
	if err != nil {
		return nil, nil, err
	}
	if !w.level.AtLeast(t.cfg.MinBoundary) {
		return nil, nil, fmt.Errorf("%w: the token opens %s with %s at %q, and the backend's min_boundary is %s",
			boundary.ErrBelowFloor, env.Alg, env.Enc, w.level, t.cfg.MinBoundary)
	}
	return k, w, env.CheckFloor(w.level)
}

// fits reports whether an envelope has the shape of one for this key, as far as
// whoever made it knows that. What does not fit never reaches the token; what the
// token would make of a longer tag or another IV is not found out.
func fits(env *boundary.Envelope, k *key) bool {
	c, _ := boundary.ContentOf(env.Enc)
	if len(env.IV) != c.IV || len(env.Tag) != c.Tag {
		return false
	}
	if k.rsa != nil {
		return sound(env.EncryptedKey, k)
	}
	wrapped := 0
	if env.Alg != boundary.ECDHES {
		wrapped = c.CEK + 8 // RFC 3394 §2.2.1
	}
	return env.EPK != nil && env.EPK.Curve() == k.curve && len(env.EncryptedKey) == wrapped
}

// ask has the token do its part.
func (t *Token) ask(ctx context.Context, handle string, env *boundary.Envelope) (answer, error) {
	return run(ctx, t, t.pool, "decrypt", func(u *use) (answer, error) {
		// What they were before the turn came may be another object, and another
		// way, now.
		k, w, err := t.chosen(handle, env)
		if err != nil {
			return answer{}, err
		}
		a, err := w.ask(t, u, k, env)
		if errors.Is(err, boundary.ErrNoKey) {
			if k, err = t.again(u.session, handle, k, err); err == nil {
				a, err = w.ask(t, u, k, env)
			}
		}
		if err != nil {
			return answer{}, err
		}
		u.spoiled = !a.ok && !w.sturdy
		a.way, a.key = w, k
		return a, nil
	}, func(a answer) { clear(a.block) })
}

// doubt asks a token that has one code for a bad envelope and for its own faults
// whether it is well, and has it open an envelope of keyd's own - for every one
// that did not open, since to do it after some of them only would tell those from
// the others.
func (t *Token) doubt(ctx context.Context, w *way, k *key, err error) error {
	if !w.vague || !errors.Is(err, boundary.ErrOpen) {
		return err
	}
	_, down := run(ctx, t, t.pool, "doubt", func(u *use) (struct{}, error) {
		if err := t.ready(u.session); err != nil {
			return struct{}{}, err
		}
		return struct{}{}, t.opensOwn(u, w, k)
	}, nil)
	if down != nil {
		return fmt.Errorf("opening an envelope: %w", down)
	}
	return err
}

// opensOwn has a private key open an envelope that was just sealed to it.
func (t *Token) opensOwn(u *use, w *way, k *key) error {
	if k == nil || k.rsa == nil {
		return nil // the public half is not known here
	}
	env, err := boundary.Seal(k.rsa, boundary.RSAOAEP256, boundary.A256GCM, nil, nil)
	if err != nil {
		return err
	}
	a, err := w.ask(t, u, k, env)
	if err != nil {
		return err
	}
	u.spoiled = !a.ok && !w.sturdy
	if _, err := w.finish(env, a); err != nil {
		return t.breaks(fmt.Errorf("the token does not open an envelope of keyd's own either: %w", boundary.ErrUnavailable))
	}
	return nil
}
