package rotation_test

import (
	"context"
	"crypto"
	"crypto/ecdh"
	"crypto/rsa"
	"errors"
	"testing"
	"time"

	"keyd/internal/boundary"
	"keyd/internal/registry"
	"keyd/internal/rotation"
	"keyd/internal/rotation/backendtest"
)

// inBand is a partner that finds our key in each request.
type inBand struct{ told map[string]crypto.PublicKey }

func (p *inBand) Announce(_ context.Context, kid string, public crypto.PublicKey, _, _ time.Time) error {
	p.told[kid] = public
	return nil
}

func TestKeysOfOtherKindsLiveTheSameLife(t *testing.T) {
	for name, key := range map[string]registry.Key{
		"on P-256":      {Algorithm: boundary.ECDHES, Curve: "P-256"},
		"on P-521":      {Algorithm: boundary.ECDHES, Curve: "P-521"},
		"on some curve": {Algorithm: boundary.ECDHES},
		"that signs":    {Algorithm: boundary.PS256, Bits: 2048},
	} {
		t.Run(name, func(t *testing.T) {
			told := &inBand{told: map[string]crypto.PublicKey{}}
			inWorld(t, func(w *world) {
				w.change = func(c *rotation.Config) { c.Partners[partnerName] = rotation.Partner{Announcer: told, Verifier: told} }
			}, func(w *world) {
				key.Name, key.Partner, key.Backend, key.Policy = keyName, partnerName, backendName, weekly()
				if _, err := w.engine.Create(w.t.Context(), operator, key, false); err != nil {
					w.t.Fatalf("Create: %v", err)
				}
				w.pass(0)
				first := w.the(registry.Active)
				material := boundary.Material{Algorithm: key.Algorithm, Bits: key.Bits, Curve: key.Curve}.Usual()
				public, err := boundary.ParsePublic(first.Public)
				if got := boundary.MaterialOf(key.Algorithm, public); err != nil || got != material || first.Bits != material.Bits || first.Curve != material.Curve {
					w.t.Errorf("it is made of %+v (%v), want %+v", got, err, material)
				}
				w.pass(8 * aDay)
				if second := w.the(registry.Active); second.KID == first.KID || len(told.told) != 2 {
					w.t.Errorf("%d versions were announced: %s", len(told.told), w.describe())
				}
				w.uses(first)
				w.pass(3 * aDay)
				if v, _ := w.reg.Version(first.KID); v.State != registry.Destroyed {
					w.t.Errorf("the first is %s", v.State)
				}
			})
		})
	}
}

// uses does with a version what it is for.
func (w *world) uses(v registry.Version) {
	w.t.Helper()
	public, err := boundary.ParsePublic(v.Public)
	if err != nil {
		w.t.Fatal(err)
	}
	switch public := public.(type) {
	case *ecdh.PublicKey:
		env := backendtest.Agree(w.t, public, boundary.ECDHESA256KW, boundary.A256GCM, []byte("x"), nil)
		if opened, err := w.token.Open(w.t.Context(), v.Handle, env); err != nil || string(opened.Plaintext) != "x" {
			w.t.Errorf("the draining version: Open = %v, %v", opened, err)
		}
	case *rsa.PublicKey:
		if _, err := w.token.Sign(w.t.Context(), v.Handle, make([]byte, 32)); err != nil {
			w.t.Errorf("the draining version: Sign: %v", err)
		}
	}
}

func TestAPartnerHasOneKeyOfEachUse(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		w.create(weekly())
		make := func(name, algorithm string) error {
			_, err := w.engine.Create(w.t.Context(), operator, registry.Key{Name: name, Partner: partnerName, Backend: backendName, Algorithm: algorithm, Policy: weekly()}, false)
			return err
		}
		if err := make("second", boundary.ECDHES); !errors.Is(err, rotation.ErrInvalid) {
			w.t.Errorf("a second key that opens: %v, want ErrInvalid", err)
		}
		if err := make("signing", boundary.PS256); err != nil {
			w.t.Errorf("a key that signs, beside one that opens: %v", err)
		}
		if err := make("signing-too", boundary.PS256); !errors.Is(err, rotation.ErrInvalid) {
			w.t.Errorf("a second key that signs: %v, want ErrInvalid", err)
		}
	})
}

func TestABackendWithoutTheKindIsNotAsked(t *testing.T) {
	inWorld(t, func(w *world) {
		w.token = backendtest.NewMemory(backendtest.MemoryOptions{Without: []string{boundary.ECDHES}})
	}, func(w *world) {
		key := registry.Key{Name: keyName, Partner: partnerName, Backend: backendName, Algorithm: boundary.ECDHES, Policy: weekly()}
		if _, err := w.engine.Create(w.t.Context(), operator, key, false); err != nil {
			w.t.Fatal(err)
		}
		w.pass(time.Minute)
		v := w.the(registry.Pending)
		if w.token.Calls("generate") != 0 || v.Retry.Last == "" {
			w.t.Errorf("asked %d times; %+v", w.token.Calls("generate"), v.Retry)
		}
		if f := finding(w.engine.Check(w.t.Context()), "boundary_low"); f.Subject != keyName {
			w.t.Errorf("Check says %+v", f)
		}
		w.stop()
		w.token = backendtest.NewMemory(backendtest.MemoryOptions{})
		w.restart()
		w.pass(2 * time.Hour)
		if len(w.trail.all()) == 0 || w.versions()[0].GeneratedAt.IsZero() {
			w.t.Errorf("it is not made in a backend that has the kind: %s", w.describe())
		}
	})
}

func TestASignatureThatIsNotGoodIsNoProof(t *testing.T) {
	inWorld(t, func(w *world) {
		w.change = func(c *rotation.Config) { c.Backends[backendName] = &forger{w.token} }
	}, func(w *world) {
		key := registry.Key{Name: keyName, Partner: partnerName, Backend: backendName, Algorithm: boundary.PS256, Policy: weekly()}
		if _, err := w.engine.Create(w.t.Context(), operator, key, false); err != nil {
			w.t.Fatal(err)
		}
		w.pass(time.Minute)
		if v := w.the(registry.Pending); v.GeneratedAt.IsZero() || !v.TestedAt.IsZero() || !contains(errors.New(v.Retry.Last), "signature") {
			w.t.Errorf("it passed its self-test: %+v", v)
		}
	})
}

// forger signs with a bit too many.
type forger struct{ *backendtest.Memory }

func (f *forger) Sign(ctx context.Context, handle string, digest []byte) ([]byte, error) {
	signature, err := f.Memory.Sign(ctx, handle, digest)
	if err == nil {
		signature[7] ^= 1
	}
	return signature, err
}
