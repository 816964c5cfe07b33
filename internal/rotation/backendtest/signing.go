package backendtest

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"testing"

	"github.com/google/uuid"

	"keyd/internal/boundary"
	"keyd/internal/rotation"
)

func (s suite) signs(t *testing.T) {
	sp := boundary.Spec{Key: "contract", KID: uuid.NewString(), Material: boundary.Material{Algorithm: boundary.PS256, Bits: s.opts.Bits[0]}}
	if !s.can(boundary.PS256) {
		s.cannot(t, sp)
		return
	}
	b := s.open(t)
	signer, ok := b.(rotation.Signer)
	if !ok {
		t.Fatalf("a %T is no rotation.Signer", b)
	}
	g, pub := generate(t, b, sp)
	digest := sha256.Sum256([]byte("message"))
	for range 2 {
		signature, err := signer.Sign(t.Context(), g.Handle, digest[:])
		if err != nil {
			t.Fatalf("Sign: %v", err)
		}
		if err := rsa.VerifyPSS(pub, crypto.SHA256, digest[:], signature, &rsa.PSSOptions{SaltLength: sha256.Size}); err != nil {
			t.Errorf("the signature is not good: %v", err)
		}
	}
	for _, size := range []int{0, 20, 31, 33, 64} {
		if signature, err := signer.Sign(t.Context(), g.Handle, make([]byte, size)); err == nil {
			t.Errorf("a digest of %d bytes: Sign = %x, want an error", size, signature)
		}
	}
	if got, err := b.Open(t.Context(), g.Handle, Seal(t, pub, s.opts.Encs[0], []byte("x"), nil)); err == nil {
		t.Errorf("a signing key opens an envelope: %v", got)
	}
	other, _ := generate(t, b, spec(s.opts.Bits[0]))
	if signature, err := signer.Sign(t.Context(), other.Handle, digest[:]); err == nil {
		t.Errorf("a key that opens envelopes signs: %x", signature)
	}
	if _, err := b.Destroy(t.Context(), g.Handle); err != nil {
		t.Errorf("Destroy: %v", err)
	}
	if _, err := signer.Sign(t.Context(), g.Handle, digest[:]); !errors.Is(err, boundary.ErrNoKey) {
		t.Errorf("Sign after Destroy: %v, want boundary.ErrNoKey", err)
	}
}

func (s suite) holds(t *testing.T) {
	b := s.open(t)
	holder, ok := b.(rotation.Holder)
	if ok == s.opts.HoldsNothing {
		t.Fatalf("a %T is a rotation.Holder: %v", b, ok)
	}
	if !ok {
		return
	}
	for _, enc := range s.opts.Encs {
		cek := random(cekLen(enc))
		answer := sealUnder(t, cek, nil, enc, []byte("answer"), []byte("header"))
		answer.Alg = boundary.Direct
		ref, err := holder.Hold(t.Context(), enc, cek)
		if err != nil {
			t.Fatalf("%s: Hold: %v", enc, err)
		}
		clear(cek) // the caller's copy
		for range 2 {
			got, err := holder.OpenHeld(t.Context(), ref, answer)
			if err != nil || string(got.Plaintext) != "answer" || !got.Level.AtLeast("") {
				t.Errorf("%s: OpenHeld = %v, %v", enc, got, err)
			}
		}
		s.heldOracle(t, holder, ref, answer)
		for range 2 {
			if err := holder.Release(t.Context(), ref); err != nil {
				t.Errorf("%s: Release: %v", enc, err)
			}
		}
		if got, err := holder.OpenHeld(t.Context(), ref, answer); !errors.Is(err, boundary.ErrNoKey) {
			t.Errorf("%s: after Release: OpenHeld = %v, %v, want boundary.ErrNoKey", enc, got, err)
		}
	}
	for _, ref := range []string{"", "x", uuid.NewString()} {
		if _, err := holder.OpenHeld(t.Context(), ref, &boundary.Envelope{Alg: boundary.Direct, Enc: boundary.A256GCM}); !errors.Is(err, boundary.ErrNoKey) {
			t.Errorf("ref %q: OpenHeld: %v, want boundary.ErrNoKey", ref, err)
		}
	}
	for enc, size := range map[string]int{boundary.A256GCM: 16, boundary.A128GCM: 32, boundary.A256CBCHS512: 0, "A256KW": 32} {
		if ref, err := holder.Hold(t.Context(), enc, random(size)); err == nil {
			t.Errorf("%d bytes for %s: Hold = %q, want an error", size, enc, ref)
		}
	}
}

// heldOracle: what does not open under a held key is one error too.
func (s suite) heldOracle(t *testing.T, holder rotation.Holder, ref string, good *boundary.Envelope) {
	t.Helper()
	for name, change := range map[string]func(*boundary.Envelope){
		"tag":              func(e *boundary.Envelope) { e.Tag[0] ^= 1 },
		"a shorter tag":    func(e *boundary.Envelope) { e.Tag = e.Tag[1:] },
		"iv":               func(e *boundary.Envelope) { e.IV[0] ^= 1 },
		"ciphertext":       func(e *boundary.Envelope) { e.Ciphertext[0] ^= 1 },
		"aad":              func(e *boundary.Envelope) { e.AAD = bytes.ToUpper(e.AAD) },
		"an encrypted key": func(e *boundary.Envelope) { e.EncryptedKey = []byte{1} },
	} {
		env := clone(good)
		change(env)
		if got, err := holder.OpenHeld(t.Context(), ref, env); got != nil || !errors.Is(err, boundary.ErrOpen) {
			t.Errorf("%s, %s: OpenHeld = %v, %v, want boundary.ErrOpen", good.Enc, name, got, err)
		}
	}
	for name, change := range map[string]func(*boundary.Envelope){
		"another enc": func(e *boundary.Envelope) {
			e.Enc = map[bool]string{true: boundary.A128GCM, false: boundary.A256GCM}[good.Enc == boundary.A256GCM]
		},
		"another alg": func(e *boundary.Envelope) { e.Alg = boundary.RSAOAEP256 },
	} {
		env := clone(good)
		change(env)
		if got, err := holder.OpenHeld(t.Context(), ref, env); got != nil || err == nil {
			t.Errorf("%s, %s: OpenHeld = %v, %v, want an error", good.Enc, name, got, err)
		}
	}
}
