package boundary_test

import (
	"bytes"
	"crypto/ecdh"
	"crypto/rand"
	"errors"
	"testing"

	"keyd/internal/boundary"
)

func TestWhatIsSealedToAKeyOpensUnderIt(t *testing.T) {
	key := newKey(t, 2048)
	for _, enc := range []string{boundary.A128GCM, boundary.A192GCM, boundary.A256GCM, boundary.A128CBCHS256, boundary.A256CBCHS512} {
		env, err := boundary.Seal(&key.PublicKey, boundary.RSAOAEP256, enc, []byte("plaintext"), []byte("header"))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := boundary.OpenRaw(env, bare(key, env.EncryptedKey)); err != nil || string(got) != "plaintext" {
			t.Errorf("RSA, %s: got %q, %v", enc, got, err)
		}
		for _, name := range boundary.Curves {
			private, err := boundary.CurveOf(name).GenerateKey(rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			for _, alg := range []string{boundary.ECDHES, boundary.ECDHESA128KW, boundary.ECDHESA256KW} {
				env, err := boundary.Seal(private.PublicKey(), alg, enc, []byte("plaintext"), []byte("header"))
				if err != nil {
					t.Fatal(err)
				}
				z, err := private.ECDH(env.EPK)
				if err != nil {
					t.Fatal(err)
				}
				if got, err := boundary.OpenAgreed(env, z); err != nil || string(got) != "plaintext" {
					t.Errorf("%s, %s, %s: got %q, %v", name, alg, enc, got, err)
				}
			}
		}
	}
}

func TestNothingIsSealedToWhatDoesNotFit(t *testing.T) {
	key := newKey(t, 2048)
	private, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		public   any
		alg, enc string
	}{
		"RSA with ECDH-ES":      {&key.PublicKey, boundary.ECDHES, boundary.A256GCM},
		"an unknown enc":        {&key.PublicKey, boundary.RSAOAEP256, "A256"},
		"a curve with RSA-OAEP": {private.PublicKey(), boundary.RSAOAEP256, boundary.A256GCM},
		"no key":                {nil, boundary.RSAOAEP256, boundary.A256GCM},
	} {
		if env, err := boundary.Seal(c.public, c.alg, c.enc, nil, nil); !errors.Is(err, boundary.ErrUnsupported) {
			t.Errorf("%s: Seal = %+v, %v, want boundary.ErrUnsupported", name, env, err)
		}
	}
	for _, size := range []int{0, 16, 31, 33} {
		env := &boundary.Envelope{Enc: boundary.A256GCM}
		if err := env.SealContent(make([]byte, size), nil); !errors.Is(err, boundary.ErrUnsupported) || env.Ciphertext != nil || env.Tag != nil {
			t.Errorf("sealing under %d bytes: %+v, %v, want boundary.ErrUnsupported", size, env, err)
		}
	}
	other, err := ecdh.P384().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if env, err := boundary.SealFrom(other, private.PublicKey(), boundary.ECDHES, boundary.A256GCM, nil, nil); err == nil {
		t.Errorf("an ephemeral key on another curve: %+v", env)
	}
}

func TestKeyWrapIsTheInverseOfUnwrapping(t *testing.T) {
	for _, kek := range []int{16, 24, 32} {
		for _, size := range []int{16, 24, 32, 64} {
			key, want := random(kek), random(size)
			wrapped, got := boundary.WrapAESKW(key, want), make([]byte, size)
			if ok := boundary.UnwrapAESKW(key, wrapped, got); ok != 1 || !bytes.Equal(got, want) {
				t.Errorf("%d bytes under %d: %d", size, kek, ok)
			}
			if !bytes.Equal(wrapped, keyWrap(t, key, want)) {
				t.Errorf("%d bytes under %d: the tests wrap it otherwise", size, kek)
			}
		}
	}
}

func TestFloorIsHeldAgainstALevel(t *testing.T) {
	for _, c := range []struct {
		floor, level boundary.Level
		opens        bool
	}{
		{"", boundary.Raw, true}, {"", "", false}, {boundary.Raw, boundary.Raw, true}, {boundary.Unwrap, boundary.Raw, false},
		{boundary.Sealed, boundary.Unwrap, false}, {boundary.Sealed, boundary.Sealed, true}, {"deep", boundary.Sealed, false},
	} {
		err := (&boundary.Envelope{Floor: c.floor}).CheckFloor(c.level)
		if (err == nil) != c.opens || err != nil && !errors.Is(err, boundary.ErrBelowFloor) {
			t.Errorf("floor %q, level %q: %v", c.floor, c.level, err)
		}
	}
}
