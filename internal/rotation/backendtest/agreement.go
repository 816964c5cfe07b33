package backendtest

import (
	"crypto/ecdh"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/google/uuid"

	"keyd/internal/boundary"
	"keyd/internal/rotation"
)

// can reports whether the backend has keys for an algorithm.
func (s suite) can(algorithm string) bool { return !slices.Contains(s.opts.Without, algorithm) }

func curveSpec(curve string) boundary.Spec {
	return boundary.Spec{Key: "contract", KID: uuid.NewString(), Material: boundary.Material{Algorithm: boundary.ECDHES, Curve: curve}}
}

// agreeing makes a key on a curve.
func agreeing(t *testing.T, b rotation.Backend, sp boundary.Spec) (boundary.Generated, *ecdh.PublicKey) {
	t.Helper()
	g, err := b.Generate(t.Context(), sp)
	if err != nil {
		t.Fatalf("Generate on %s: %v", sp.Curve, err)
	}
	discardAfter(t, b, sp)
	pub, ok := g.Public.(*ecdh.PublicKey)
	if !ok || pub.Curve() != boundary.CurveOf(sp.Curve) {
		t.Fatalf("Generate returned a public key of type %T, want *ecdh.PublicKey on %s", g.Public, sp.Curve)
	}
	return g, pub
}

// cannot holds a backend that has no keys of a kind to saying so.
func (s suite) cannot(t *testing.T, sp boundary.Spec) {
	t.Helper()
	b := s.open(t)
	discardAfter(t, b, sp)
	if g, err := b.Generate(t.Context(), sp); !errors.Is(err, boundary.ErrUnsupported) {
		t.Errorf("Generate = %+v, %v, want boundary.ErrUnsupported", g, err)
	}
}

func (s suite) agrees(t *testing.T) {
	if !s.can(boundary.ECDHES) {
		s.cannot(t, curveSpec("P-256"))
		return
	}
	b := s.open(t)
	for _, curve := range s.opts.Curves {
		g, pub := agreeing(t, b, curveSpec(curve))
		if g.Handle == "" || !g.Evidence.Level.AtLeast("") || g.Evidence.At.IsZero() {
			t.Errorf("got handle %q and evidence %+v, want all of it filled in", g.Handle, g.Evidence)
		}
		if got, err := b.Public(t.Context(), g.Handle); err != nil || !pub.Equal(got) {
			t.Errorf("Public = %v, %v, want the key that Generate returned", got, err)
		}
		for _, alg := range agreementAlgs {
			for _, enc := range s.opts.Encs {
				for _, size := range []int{0, 1, 16, 4096} {
					want := random(size)
					got, err := b.Open(t.Context(), g.Handle, Agree(t, pub, alg, enc, want, []byte("header")))
					if err != nil || string(got.Plaintext) != string(want) || !got.Level.AtLeast("") {
						t.Fatalf("%s, %s, %s, %d bytes: Open = %v, %v", curve, alg, enc, size, got, err)
					}
				}
			}
		}
	}
}

func (s suite) agreedOracle(t *testing.T) {
	if !s.can(boundary.ECDHES) {
		t.Skip("it has no keys for ECDH-ES")
	}
	b := s.open(t)
	g, pub := agreeing(t, b, curveSpec(s.opts.Curves[0]))
	for _, alg := range agreementAlgs {
		for _, enc := range s.opts.Encs {
			good := Agree(t, pub, alg, enc, []byte("plaintext of some length"), []byte("header"))
			for name, env := range tamperedAgreement(t, good) {
				got, err := b.Open(t.Context(), g.Handle, env)
				if got != nil || !errors.Is(err, boundary.ErrOpen) {
					t.Errorf("%s, %s, %s: Open = %v, %v, want boundary.ErrOpen", alg, enc, name, got, err)
				}
			}
			if _, err := b.Open(t.Context(), g.Handle, good); err != nil {
				t.Errorf("%s, %s: the good envelope no longer opens: %v", alg, enc, err)
			}
		}
	}
}

func tamperedAgreement(t *testing.T, good *boundary.Envelope) map[string]*boundary.Envelope {
	bad := map[string]*boundary.Envelope{}
	change := func(name string, f func(env *boundary.Envelope)) {
		env := clone(good)
		f(env)
		bad[name] = env
	}
	on := func(curve ecdh.Curve) *ecdh.PublicKey {
		key, err := curve.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return key.PublicKey()
	}
	change("another epk", func(e *boundary.Envelope) { e.EPK = on(e.EPK.Curve()) })
	for _, curve := range boundary.Curves {
		if other := boundary.CurveOf(curve); other != good.EPK.Curve() {
			change("an epk on "+curve, func(e *boundary.Envelope) { e.EPK = on(other) })
		}
	}
	change("no epk", func(e *boundary.Envelope) { e.EPK = nil })
	change("another apu", func(e *boundary.Envelope) { e.APU = append(e.APU, 1) })
	change("no apv", func(e *boundary.Envelope) { e.APV = nil })
	change("apu and apv in each other's place", func(e *boundary.Envelope) { e.APU, e.APV = e.APV, e.APU })
	change("a longer encrypted key", func(e *boundary.Envelope) { e.EncryptedKey = append(e.EncryptedKey, make([]byte, 8)...) })
	if len(good.EncryptedKey) > 0 {
		change("no encrypted key", func(e *boundary.Envelope) { e.EncryptedKey = nil })
		change("an encrypted key with a bit flipped", func(e *boundary.Envelope) { e.EncryptedKey[3] ^= 1 })
		change("a shorter encrypted key", func(e *boundary.Envelope) { e.EncryptedKey = e.EncryptedKey[:len(e.EncryptedKey)-8] })
	}
	change("another iv", func(e *boundary.Envelope) { e.IV[0] ^= 1 })
	change("a shorter iv", func(e *boundary.Envelope) { e.IV = e.IV[1:] })
	change("another ciphertext", func(e *boundary.Envelope) { e.Ciphertext[0] ^= 1 })
	change("no ciphertext", func(e *boundary.Envelope) { e.Ciphertext = nil })
	change("another tag", func(e *boundary.Envelope) { e.Tag[0] ^= 1 })
	change("a shorter tag", func(e *boundary.Envelope) { e.Tag = e.Tag[:len(e.Tag)-1] })
	change("another header", func(e *boundary.Envelope) { e.AAD[0] ^= 1 })
	for _, alg := range agreementAlgs {
		if alg != good.Alg {
			change("said to be "+alg, func(e *boundary.Envelope) { e.Alg = alg })
		}
	}
	return bad
}

// otherKind: what an envelope is for is public, so which of the two errors is
// said does not matter.
func (s suite) otherKind(t *testing.T) {
	if !s.can(boundary.ECDHES) || !s.can(boundary.RSAOAEP256) {
		t.Skip("it has keys of one kind")
	}
	b := s.open(t)
	onCurve, point := agreeing(t, b, curveSpec(s.opts.Curves[0]))
	rsaKey, pub := generate(t, b, spec(s.opts.Bits[0]))
	enc := s.opts.Encs[0]
	for handle, env := range map[string]*boundary.Envelope{
		onCurve.Handle: Seal(t, pub, enc, []byte("x"), nil),
		rsaKey.Handle:  Agree(t, point, boundary.ECDHES, enc, []byte("x"), nil),
	} {
		if got, err := b.Open(t.Context(), handle, env); got != nil || !errors.Is(err, boundary.ErrOpen) && !errors.Is(err, boundary.ErrUnsupported) {
			t.Errorf("alg %s: Open = %v, %v, want boundary.ErrOpen or ErrUnsupported", env.Alg, got, err)
		}
	}
}

// floors: an envelope is opened at its floor or above, or not at all.
func (s suite) floors(t *testing.T) {
	b := s.open(t)
	type one struct {
		name, handle string
		seal         func(enc string) *boundary.Envelope
	}
	var all []one
	if s.can(boundary.RSAOAEP256) {
		g, pub := generate(t, b, spec(s.opts.Bits[0]))
		all = append(all, one{boundary.RSAOAEP256, g.Handle, func(enc string) *boundary.Envelope { return Seal(t, pub, enc, []byte("x"), nil) }})
	}
	if s.can(boundary.ECDHES) {
		g, pub := agreeing(t, b, curveSpec(s.opts.Curves[0]))
		for _, alg := range agreementAlgs {
			all = append(all, one{alg, g.Handle, func(enc string) *boundary.Envelope { return Agree(t, pub, alg, enc, []byte("x"), nil) }})
		}
	}
	for _, c := range all {
		for _, enc := range s.opts.Encs {
			opened, err := b.Open(t.Context(), c.handle, c.seal(enc))
			if err != nil {
				t.Fatalf("%s, %s: Open: %v", c.name, enc, err)
			}
			for _, floor := range []boundary.Level{boundary.Raw, boundary.Unwrap, boundary.Sealed, "unknown"} {
				env := c.seal(enc)
				env.Floor = floor
				got, err := b.Open(t.Context(), c.handle, env)
				if opened.Level.AtLeast(floor) && (err != nil || got.Level != opened.Level) {
					t.Errorf("%s, %s at %s with the floor %s: Open = %v, %v, want it opened", c.name, enc, opened.Level, floor, got, err)
				}
				if !opened.Level.AtLeast(floor) && (got != nil || !errors.Is(err, boundary.ErrBelowFloor)) {
					t.Errorf("%s, %s at %s with the floor %s: Open = %v, %v, want boundary.ErrBelowFloor", c.name, enc, opened.Level, floor, got, err)
				}
			}
		}
	}
}

func (s suite) keepsCurves(t *testing.T) {
	if !s.can(boundary.ECDHES) {
		t.Skip("it has no keys for ECDH-ES")
	}
	b := s.open(t)
	for _, curve := range s.opts.Curves {
		t.Run(curve, func(t *testing.T) {
			sp := curveSpec(curve)
			agreeing(t, b, sp)
			g, pub := agreeing(t, b, sp)
			if found := standing(t, b, sp.KID); len(found) != 1 || found[0].Handle != g.Handle || !pub.Equal(found[0].Public) {
				t.Fatalf("after two runs there stand %+v, want one key under %s", found, g.Handle)
			}
			if got, err := b.Find(t.Context(), sp.KID); err != nil || got.Handle != g.Handle || !pub.Equal(got.Public) {
				t.Errorf("Find = %+v, %v, want the generated key", got, err)
			}
			gone, err := b.Destroy(t.Context(), g.Handle)
			if err != nil || gone == s.opts.Waits {
				t.Errorf("Destroy = %v, %v, want %v and no error", gone, err, !s.opts.Waits)
			}
			env := Agree(t, pub, boundary.ECDHES, s.opts.Encs[0], []byte("x"), nil)
			if _, err := b.Open(t.Context(), g.Handle, env); !errors.Is(err, boundary.ErrNoKey) {
				t.Errorf("Open after Destroy: %v, want boundary.ErrNoKey", err)
			}
		})
	}
	for name, material := range map[string]boundary.Material{
		"no curve":      {Algorithm: boundary.ECDHES},
		"P-224":         {Algorithm: boundary.ECDHES, Curve: "P-224"},
		"bits":          {Algorithm: boundary.ECDHES, Curve: "P-256", Bits: 2048},
		"RSA on curves": {Algorithm: boundary.RSAOAEP256, Curve: "P-256"},
	} {
		sp := curveSpec("P-256")
		sp.Material = material
		discardAfter(t, b, sp)
		if g, err := b.Generate(t.Context(), sp); !errors.Is(err, boundary.ErrUnsupported) {
			t.Errorf("%s: Generate = %+v, %v, want boundary.ErrUnsupported", name, g, err)
		}
	}
}

// agreementAlgs are the algs that a key on a curve opens.
var agreementAlgs = []string{boundary.ECDHES, boundary.ECDHESA128KW, boundary.ECDHESA256KW}

// Agree makes an envelope for a key on a curve with the standard library alone.
func Agree(t testing.TB, pub *ecdh.PublicKey, alg, enc string, plaintext, aad []byte) *boundary.Envelope {
	t.Helper()
	ephemeral, err := pub.Curve().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatalf("making an ephemeral key: %v", err)
	}
	z, err := ephemeral.ECDH(pub)
	if err != nil {
		t.Fatalf("agreeing: %v", err)
	}
	apu, apv := []byte("Alice"), []byte("Bob")
	var cek, wrapped []byte
	switch alg {
	case boundary.ECDHES:
		cek = concatKDF(z, enc, apu, apv, cekLen(enc))
	case boundary.ECDHESA128KW, boundary.ECDHESA256KW:
		cek = random(cekLen(enc))
		wrapped = keyWrap(t, concatKDF(z, alg, apu, apv, map[string]int{boundary.ECDHESA128KW: 16, boundary.ECDHESA256KW: 32}[alg]), cek)
	default:
		panic(fmt.Sprintf("alg %q", alg))
	}
	env := sealUnder(t, cek, wrapped, enc, plaintext, aad)
	env.Alg, env.EPK, env.APU, env.APV = alg, ephemeral.PublicKey(), apu, apv
	return env
}
