package worker

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"keyd/internal/boundary"
	"keyd/internal/hsm"
)

// Config is that of the token, and how its module is run.
type Config struct {
	hsm.Config
	// Command starts a worker: it must come to Serve with the pipe at PipeFD.
	// Command[0] is the program, the rest its arguments, the first of which is
	// its name.
	Command []string
	// Env are variables ("NAME=value") for the module, beside those in the
	// daemon's own environment that modules are known to read. They are in the
	// config and no secrets.
	Env []string
	// SeparateKeyGeneration has each key made by another process, which is started
	// for that: for modules that do one call of a process at a time.
	SeparateKeyGeneration bool
	// LogLevel is what the worker logs from.
	LogLevel slog.Level
}

// Open starts a worker and has it open the token, as [hsm.Open] does; the errors
// are the same. From then on another worker takes the place of one that is gone.
func Open(ctx context.Context, cfg Config) (*Token, error) {
	t := newToken(cfg)
	w, err := t.launch(ctx)
	if err != nil {
		return nil, err
	}
	t.serving(w)
	go t.supervise(w)
	return t, nil
}

// Open opens an envelope with the private key under a handle.
func (t *Token) Open(ctx context.Context, handle string, env *boundary.Envelope) (*boundary.Opened, error) {
	return t.open(ctx, opOpen, handle, env)
}

// OpenHeld opens an envelope with a content key that is held. It is gone with
// the worker that held it.
func (t *Token) OpenHeld(ctx context.Context, ref string, env *boundary.Envelope) (*boundary.Opened, error) {
	return t.open(ctx, opOpenHeld, ref, env)
}

func (t *Token) open(ctx context.Context, k kind, name string, env *boundary.Envelope) (*boundary.Opened, error) {
	raw, err := t.ask(ctx, k, func(f *buffer) {
		f.reserve(len(name) + sizeOf(env))
		f.b = appendEnvelope(appendString(f.b, name), env)
	})
	if err != nil {
		return nil, err
	}
	d := decoder{b: raw}
	return d.opened()
}

// Hold takes a content key in.
func (t *Token) Hold(ctx context.Context, enc string, cek []byte) (ref string, err error) {
	raw, err := t.ask(ctx, opHold, func(f *buffer) {
		f.reserve(64 + len(enc) + len(cek))
		f.b = append(appendString(f.b, enc), cek...)
	})
	return string(raw), err
}

// Release forgets a content key.
func (t *Token) Release(ctx context.Context, ref string) error {
	_, err := t.ask(ctx, opRelease, text(ref))
	return err
}

// Sign signs a SHA-256 digest with the private key under a handle.
func (t *Token) Sign(ctx context.Context, handle string, digest []byte) (signature []byte, err error) {
	return t.ask(ctx, opSign, func(f *buffer) { f.b = append(appendString(f.b, handle), digest...) })
}

// Bare has the token do its part of opening an envelope again and again, with
// nothing around it, not even the pipe.
func (t *Token) Bare(ctx context.Context, handle string, env *boundary.Envelope, sessions int, d time.Duration) ([]time.Duration, error) {
	return read(durations)(t.ask(ctx, opBare, bare{handle, env, sessions, d}.append))
}

// Public reads a private key's public half from the token.
func (t *Token) Public(ctx context.Context, handle string) (crypto.PublicKey, error) {
	return read(decodePublic)(t.ask(ctx, opPublic, text(handle)))
}

// Generate makes a key pair.
func (t *Token) Generate(ctx context.Context, spec boundary.Spec) (boundary.Generated, error) {
	raw, err := encodeJSON(spec)
	if err != nil {
		return boundary.Generated{}, err
	}
	if t.cfg.SeparateKeyGeneration {
		return t.generateApart(ctx, raw)
	}
	return read(readGenerated)(t.ask(ctx, opGenerate, document(raw)))
}

// Discard destroys whatever stands under a spec's name.
func (t *Token) Discard(ctx context.Context, spec boundary.Spec) error {
	raw, err := encodeJSON(spec)
	if err != nil {
		return err
	}
	_, err = t.ask(ctx, opDiscard, document(raw))
	return err
}

// Destroy destroys a key pair and reports that it is gone.
func (t *Token) Destroy(ctx context.Context, handle string) (gone bool, err error) {
	raw, err := t.ask(ctx, opDestroy, text(handle))
	if err != nil {
		return false, err
	}
	d := decoder{b: raw}
	gone = d.bool()
	return gone, d.done()
}

// Find looks for one whole private key.
func (t *Token) Find(ctx context.Context, query string) (boundary.Found, error) {
	return read(readFound)(t.ask(ctx, opFind, text(query)))
}

// List returns every private key in the token.
func (t *Token) List(ctx context.Context) ([]boundary.Found, error) {
	return read(readList)(t.ask(ctx, opList, nothing))
}

// Health asks the token how it is, or says why there is nobody to ask.
func (t *Token) Health(ctx context.Context) boundary.Health {
	w, err := t.serves()
	var raw []byte
	if err == nil {
		raw, err = w.peer.call(ctx, opHealth, nothing)
	}
	h, err := read(decodeJSON[boundary.Health])(raw, err)
	if err != nil {
		return t.silent(err)
	}
	return t.told(h)
}

// ask has the worker do one thing. What changes nothing is asked once more if
// the worker goes meanwhile and another one comes in time.
func (t *Token) ask(ctx context.Context, k kind, write func(*buffer)) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("%s: %w", k, err)
	}
	for try := 1; ; try++ {
		w, err := t.ready(ctx)
		if err != nil {
			return nil, err
		}
		began := time.Now()
		raw, err := w.peer.call(ctx, k, write)
		if err == nil || !errors.Is(err, errLost) {
			return raw, err
		}
		t.lost(w, err)
		t.tell(observation{op: k.String(), inToken: time.Since(began), err: err})
		if try > 1 || !k.harmless() || ctx.Err() != nil {
			return nil, fmt.Errorf("%s: %w", k, err)
		}
	}
}

func text(s string) func(*buffer) { return func(f *buffer) { f.b = append(f.b, s...) } }

func document(raw []byte) func(*buffer) { return func(f *buffer) { f.b = append(f.b, raw...) } }

// read decodes an answer if there is one.
func read[T any](decode func([]byte) (T, error)) func([]byte, error) (T, error) {
	return func(raw []byte, err error) (T, error) {
		if err != nil {
			var none T
			return none, err
		}
		return decode(raw)
	}
}
