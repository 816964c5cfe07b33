package worker

import (
	"context"
	"crypto"
	"fmt"
	"log/slog"
	"runtime/debug"
	"time"

	"keyd/internal/boundary"
)

// Backend is what a worker serves. It is an [hsm.Token], or stands for one.
type Backend interface {
	Open(ctx context.Context, handle string, env *boundary.Envelope) (*boundary.Opened, error)
	Public(ctx context.Context, handle string) (crypto.PublicKey, error)
	Generate(ctx context.Context, spec boundary.Spec) (boundary.Generated, error)
	Discard(ctx context.Context, spec boundary.Spec) error
	Destroy(ctx context.Context, handle string) (gone bool, err error)
	Find(ctx context.Context, query string) (boundary.Found, error)
	List(ctx context.Context) ([]boundary.Found, error)
	Health(ctx context.Context) boundary.Health
	Close() error
}

// Signer is a backend with keys that sign.
type Signer interface {
	Sign(ctx context.Context, handle string, digest []byte) (signature []byte, err error)
}

// Holder is a backend that keeps content keys.
type Holder interface {
	Hold(ctx context.Context, enc string, cek []byte) (ref string, err error)
	OpenHeld(ctx context.Context, ref string, env *boundary.Envelope) (*boundary.Opened, error)
	Release(ctx context.Context, ref string) error
}

// Measured is a backend that can be measured.
type Measured interface {
	Bare(ctx context.Context, handle string, env *boundary.Envelope, sessions int, d time.Duration) ([]time.Duration, error)
}

// do does one call. A panic is a failure of this one, and a reason to begin
// anew: nobody knows what it left behind.
func (s *server) do(ctx context.Context, k kind, d *decoder) (write func(*buffer), err error) {
	defer func() {
		if v := recover(); v != nil {
			s.logger(slog.LevelError, "").Error("a call made the worker panic", "panic", v, "stack", string(debug.Stack()))
			err = fmt.Errorf("a panic in the worker: %w", boundary.ErrUnavailable)
			s.broken(err)
		}
	}()
	if k == start {
		raw, err := s.start(ctx, d)
		return document(raw), err
	}
	s.mu.Lock()
	backend := s.backend
	s.mu.Unlock()
	if backend == nil {
		return nil, fmt.Errorf("the token is not open yet: %w", boundary.ErrUnavailable)
	}
	switch k {
	case opOpen:
		return opening(ctx, d, backend.Open)
	case opOpenHeld:
		if holder, ok := backend.(Holder); ok {
			return opening(ctx, d, holder.OpenHeld)
		}
		return nil, boundary.ErrUnsupported
	}
	raw, err := rarely(ctx, backend, k, d)
	return document(raw), err
}

func nothing(*buffer) {}

// opening is the call that there are many of.
func opening(ctx context.Context, d *decoder, open func(context.Context, string, *boundary.Envelope) (*boundary.Opened, error)) (func(*buffer), error) {
	name, env := d.string(maxHandle), d.envelope()
	if err := d.done(); err != nil {
		return nil, err
	}
	opened, err := open(ctx, name, env)
	if err != nil {
		return nil, err
	}
	return func(f *buffer) { f.appendOpened(opened) }, nil
}

// rarely is every other call.
func rarely(ctx context.Context, backend Backend, k kind, d *decoder) ([]byte, error) {
	switch k {
	case opPublic:
		return then(backend.Public(ctx, string(d.rest())))(encodePublic)
	case opGenerate:
		spec, err := decodeJSON[boundary.Spec](d.rest())
		if err != nil {
			return nil, err
		}
		return then(backend.Generate(ctx, spec))(wireGenerated)
	case opDiscard:
		spec, err := decodeJSON[boundary.Spec](d.rest())
		if err != nil {
			return nil, err
		}
		return nil, backend.Discard(ctx, spec)
	case opDestroy:
		return then(backend.Destroy(ctx, string(d.rest())))(func(gone bool) ([]byte, error) { return appendBool(nil, gone), nil })
	case opFind:
		return then(backend.Find(ctx, string(d.rest())))(wireFound)
	case opList:
		return then(backend.List(ctx))(wireList)
	case opHealth:
		return encodeJSON(backend.Health(ctx))
	case opClose:
		return nil, backend.Close()
	}
	return ifAble(ctx, backend, k, d)
}

// ifAble is what not every backend can do.
func ifAble(ctx context.Context, backend Backend, k kind, d *decoder) ([]byte, error) {
	signer, signs := backend.(Signer)
	holder, holds := backend.(Holder)
	measured, measures := backend.(Measured)
	switch {
	case k == opSign && signs:
		handle := d.string(maxHandle)
		return signer.Sign(ctx, handle, d.rest())
	case k == opHold && holds:
		enc, cek := d.string(maxName), d.rest()
		defer clear(cek)
		ref, err := holder.Hold(ctx, enc, cek)
		return []byte(ref), err
	case k == opRelease && holds:
		return nil, holder.Release(ctx, string(d.rest()))
	case k == opBare && measures:
		what, err := d.bare()
		if err != nil {
			return nil, err
		}
		took, err := measured.Bare(ctx, what.handle, what.env, what.sessions, what.d)
		return appendDurations(nil, took), err
	}
	return nil, fmt.Errorf("%s: %w", k, boundary.ErrUnsupported)
}

// then encodes an answer if there is one.
func then[T any](v T, err error) func(func(T) ([]byte, error)) ([]byte, error) {
	return func(encode func(T) ([]byte, error)) ([]byte, error) {
		if err != nil {
			return nil, err
		}
		return encode(v)
	}
}
