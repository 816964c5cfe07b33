package boundary_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"testing"

	"keyd/internal/boundary"
)

func TestEveryAlgOfAnEnvelopeHasOneKind(t *testing.T) {
	for alg, want := range map[string]string{
		boundary.RSAOAEP256: boundary.RSAOAEP256, boundary.ECDHES: boundary.ECDHES, boundary.ECDHESA128KW: boundary.ECDHES,
		boundary.ECDHESA256KW: boundary.ECDHES, "ECDH-ES+A192KW": "", boundary.PS256: "", "dir": "", "RSA1_5": "", "": "",
	} {
		if got := boundary.KeyAlgorithm(alg); got != want {
			t.Errorf("%q is opened by a key for %q, want %q", alg, got, want)
		}
	}
}

func TestMaterialIsOfTheSizesThereAre(t *testing.T) {
	for _, good := range []boundary.Material{
		{Algorithm: boundary.RSAOAEP256, Bits: 2048}, {Algorithm: boundary.RSAOAEP256, Bits: 4096}, {Algorithm: boundary.PS256, Bits: 3072},
		{Algorithm: boundary.ECDHES, Curve: "P-256"}, {Algorithm: boundary.ECDHES, Curve: "P-384"}, {Algorithm: boundary.ECDHES, Curve: "P-521"},
		boundary.Material{}.Usual(), boundary.Material{Algorithm: boundary.ECDHES}.Usual(), boundary.Material{Algorithm: boundary.PS256}.Usual(),
	} {
		if err := good.Check(); err != nil {
			t.Errorf("%+v: %v", good, err)
		}
	}
	for _, bad := range []boundary.Material{
		{}, {Algorithm: "RSA1_5", Bits: 2048}, {Algorithm: boundary.RSAOAEP256}, {Algorithm: boundary.RSAOAEP256, Bits: 1024},
		{Algorithm: boundary.RSAOAEP256, Bits: 2048, Curve: "P-256"}, {Algorithm: boundary.ECDHES}, {Algorithm: boundary.ECDHES, Curve: "P-224"},
		{Algorithm: boundary.ECDHES, Curve: "P-256", Bits: 2048}, {Algorithm: boundary.PS256, Curve: "P-256"}, boundary.Material{Algorithm: "x"}.Usual(),
	} {
		if err := bad.Check(); !errors.Is(err, boundary.ErrUnsupported) {
			t.Errorf("%+v: got %v, want ErrUnsupported", bad, err)
		}
	}
}

func TestPublicKeysSurviveTheirEncoding(t *testing.T) {
	keys := map[boundary.Material]crypto.PublicKey{{Algorithm: boundary.RSAOAEP256, Bits: 2048}: newKey(t, 2048).Public()}
	for _, curve := range boundary.Curves {
		key, err := boundary.CurveOf(curve).GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		keys[boundary.Material{Algorithm: boundary.ECDHES, Curve: curve}] = key.PublicKey()
	}
	for material, key := range keys {
		if got := boundary.MaterialOf(material.Algorithm, key); got != material {
			t.Errorf("MaterialOf: got %+v, want %+v", got, material)
		}
		der, err := material.MarshalPublic(key)
		if err != nil {
			t.Fatalf("%+v: %v", material, err)
		}
		back, err := boundary.ParsePublic(der)
		if err != nil || !back.(interface{ Equal(crypto.PublicKey) bool }).Equal(key) {
			t.Errorf("%+v: got %v, %v, want the same key back", material, back, err)
		}
		for other := range keys {
			if _, err := other.MarshalPublic(key); (err == nil) != (other == material) {
				t.Errorf("a key of %+v as one of %+v: %v", material, other, err)
			}
		}
	}
}

func TestPublicKeysOfOtherKindsAreRefused(t *testing.T) {
	small, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	edwards, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []crypto.PublicKey{small.Public(), edwards} {
		der, err := x509.MarshalPKIXPublicKey(key)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := boundary.ParsePublic(der); err == nil {
			t.Errorf("%T: got %v, want an error", key, got)
		}
	}
	if _, err := boundary.ParsePublic([]byte("x")); err == nil {
		t.Error("garbage was read as a key")
	}
	for _, key := range []crypto.PublicKey{nil, edwards, "x"} {
		if der, err := (boundary.Material{Algorithm: boundary.RSAOAEP256, Bits: 2048}).MarshalPublic(key); err == nil {
			t.Errorf("%T: got %x, want an error", key, der)
		}
	}
}
