package backendtest

import (
	"errors"
	"testing"

	"keyd/internal/boundary"
	"keyd/internal/rotation"
)

// disables: a key that is put out of use is still there, and is no failure of
// the envelope.
func (s suite) disables(t *testing.T) {
	b := s.open(t)
	disabler, ok := b.(rotation.Disabler)
	if !ok {
		t.Skip("it disables nothing")
	}
	sp := spec(s.opts.Bits[0])
	g, pub := generate(t, b, sp)
	other, otherPub := generate(t, b, spec(s.opts.Bits[0]))
	for run := range 2 {
		if err := disabler.Disable(t.Context(), g.Handle); err != nil {
			t.Fatalf("run %d: Disable: %v", run+1, err)
		}
	}
	if got, err := b.Open(t.Context(), g.Handle, Seal(t, pub, s.opts.Encs[0], []byte("x"), nil)); !errors.Is(err, boundary.ErrDisabled) {
		t.Errorf("Open = %v, %v, want boundary.ErrDisabled", got, err)
	}
	if _, err := b.Public(t.Context(), g.Handle); err != nil && !errors.Is(err, boundary.ErrDisabled) {
		t.Errorf("Public: %v, want the key or boundary.ErrDisabled", err)
	}
	if found := standing(t, b, sp.KID); len(found) != 1 || found[0].Handle != g.Handle {
		t.Errorf("there stand %+v, want the disabled key", found)
	}
	if _, err := b.Open(t.Context(), other.Handle, Seal(t, otherPub, s.opts.Encs[0], []byte("x"), nil)); err != nil {
		t.Errorf("Disable touched another key: %v", err)
	}
	if gone, err := b.Destroy(t.Context(), g.Handle); err != nil || gone == s.opts.Waits {
		t.Errorf("Destroy = %v, %v, want %v and no error", gone, err, !s.opts.Waits)
	}
}

// rescues: what waits to be deleted can be had back.
func (s suite) rescues(t *testing.T) {
	b := s.open(t)
	rescuer, ok := b.(rotation.Rescuer)
	if ok != s.opts.Waits {
		t.Fatalf("a %T calls deletions off: %v, and waits with them: %v", b, ok, s.opts.Waits)
	}
	if !ok {
		return
	}
	g, pub := generate(t, b, spec(s.opts.Bits[0]))
	env := Seal(t, pub, s.opts.Encs[0], []byte("x"), nil)
	destroy := func() {
		t.Helper()
		if gone, err := b.Destroy(t.Context(), g.Handle); gone || err != nil {
			t.Fatalf("Destroy = %v, %v, want not yet", gone, err)
		}
	}
	destroy()
	keep := func() {
		t.Helper()
		if err := rescuer.Rescue(t.Context(), g.Handle, false); err != nil {
			t.Fatalf("Rescue: %v", err)
		}
		if got, err := b.Open(t.Context(), g.Handle, env); !errors.Is(err, boundary.ErrDisabled) {
			t.Errorf("kept, and not to be used: Open = %v, %v, want boundary.ErrDisabled", got, err)
		}
	}
	keep()
	destroy()
	for run := range 2 {
		if err := rescuer.Rescue(t.Context(), g.Handle, true); err != nil {
			t.Fatalf("run %d: Rescue: %v", run+1, err)
		}
	}
	if got, err := b.Open(t.Context(), g.Handle, env); err != nil || string(got.Plaintext) != "x" {
		t.Errorf("to be used: Open = %v, %v", got, err)
	}
	if got, err := b.Public(t.Context(), g.Handle); err != nil || !pub.Equal(got) {
		t.Errorf("Public = %v, %v, want the same key", got, err)
	}
	keep() // somebody was faster, and enabled it
}
