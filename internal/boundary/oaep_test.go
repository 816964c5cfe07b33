package boundary_test

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"fmt"
	"math/big"
	"slices"
	"testing"

	"keyd/internal/boundary"
)

func TestOAEPGivesBackWhatCryptoRSAWrapped(t *testing.T) {
	for _, bits := range []int{2048, 3072, 4096} {
		key := newKey(t, bits)
		for _, size := range []int{0, 1, 16, 24, 32, 48, 64, key.Size() - 66} {
			want := random(size)
			em := bare(key, wrap(t, &key.PublicKey, want))
			before := slices.Clone(em)
			got := make([]byte, size)
			if ok := boundary.RemoveOAEP256(em, got); ok != 1 || !bytes.Equal(got, want) {
				t.Errorf("%d bits, %d bytes: got %d, %x, want 1, %x", bits, size, ok, got, want)
			}
			if !bytes.Equal(em, before) {
				t.Errorf("%d bits, %d bytes: em was changed", bits, size)
			}
		}
	}
}

// Every single byte of an encoding counts, on its own and in every bit of it.
func TestOAEPRefusesEveryOneByteMutation(t *testing.T) {
	const size, k = 32, 256
	seed, cek := random(32), random(size)
	good := block(k-33, cek)
	refuse := func(name string, em []byte) {
		t.Helper()
		got := bytes.Repeat([]byte{0xaa}, size)
		if ok := boundary.RemoveOAEP256(em, got); ok != 0 || !bytes.Equal(got, make([]byte, size)) {
			t.Errorf("%s: got %d, %x, want 0 and zeros", name, ok, got)
		}
	}
	for b := 1; b < 256; b++ {
		refuse(fmt.Sprintf("first byte %#02x", b), encode(byte(b), seed, good))
	}
	for i := range len(good) - size { // lHash, zeros and the 0x01
		for bit := range 8 {
			db := slices.Clone(good)
			db[i] ^= 1 << bit
			refuse(fmt.Sprintf("bit %d of db[%d] flipped", bit, i), encode(0, seed, db))
		}
	}
	em := encode(0, seed, good)
	for i := range em { // any other change of the encoding spoils the masks
		mutated := slices.Clone(em)
		mutated[i] ^= 0x80
		if ok := boundary.RemoveOAEP256(mutated, make([]byte, size)); ok != 0 && i <= k-size-1 {
			t.Errorf("em[%d] changed: ok = %d", i, ok)
		}
	}
	got := make([]byte, size)
	if ok := boundary.RemoveOAEP256(em, got); ok != 1 || !bytes.Equal(got, cek) {
		t.Errorf("the encoding itself: got %d, %x, want 1, %x", ok, got, cek)
	}
}

func TestOAEPRefusesAMessageOfAnotherLength(t *testing.T) {
	const k = 256
	for _, want := range []int{16, 24, 32, 64} {
		for size := range k - 65 {
			em := encode(0, random(32), block(k-33, slices.Repeat([]byte{1}, size)))
			got := make([]byte, want)
			if ok := boundary.RemoveOAEP256(em, got); (ok == 1) != (size == want) {
				t.Errorf("a message of %d bytes, %d wanted: ok = %d", size, want, ok)
			}
		}
	}
}

func TestOAEPRefusesOtherPaddings(t *testing.T) {
	key := newKey(t, 2048)
	cek := random(32)
	for name, encrypt := range map[string]func() ([]byte, error){
		"OAEP with SHA-1": func() ([]byte, error) { return rsa.EncryptOAEP(sha1.New(), rand.Reader, &key.PublicKey, cek, nil) },
		"OAEP with a label": func() ([]byte, error) {
			return rsa.EncryptOAEP(sha256.New(), rand.Reader, &key.PublicKey, cek, []byte("x"))
		},
		"PKCS #1 v1.5": func() ([]byte, error) {
			return rsa.EncryptPKCS1v15(rand.Reader, &key.PublicKey, cek) //nolint:staticcheck // SA1019: what must be refused
		},
	} {
		encrypted, err := encrypt()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if ok := boundary.RemoveOAEP256(bare(key, encrypted), make([]byte, 32)); ok != 0 {
			t.Errorf("%s: ok = %d", name, ok)
		}
	}
}

func TestOAEPRefusesAnEncodingTooShortToHoldOne(t *testing.T) {
	for size := range 2*32 + 2 + 32 {
		got := bytes.Repeat([]byte{0xaa}, 32)
		if ok := boundary.RemoveOAEP256(make([]byte, size), got); ok != 0 || !bytes.Equal(got, make([]byte, 32)) {
			t.Errorf("%d bytes: got %d, %x, want 0 and zeros", size, ok, got)
		}
	}
	shortest := encode(0, random(32), block(32+1+32, random(32)))
	if ok := boundary.RemoveOAEP256(shortest, make([]byte, 32)); ok != 1 {
		t.Error("the shortest encoding there is: refused")
	}
}

// FuzzRemoveOAEP256 holds the decoder against crypto/rsa: the fuzzer chooses
// the encoding, the public exponent takes it where the private one brings it
// back from.
func FuzzRemoveOAEP256(f *testing.F) {
	key := newKey(f, 2048)
	const k = 256
	f.Add(byte(0), random(32), block(k-33, random(32)), uint8(32))
	f.Add(byte(1), random(32), block(k-33, random(32)), uint8(32))
	f.Add(byte(0), random(32), block(k-33, random(31)), uint8(32))
	f.Add(byte(0), random(32), block(k-33, nil), uint8(0))
	f.Add(byte(0), random(32), make([]byte, k-33), uint8(16))
	f.Add(byte(0), random(32), block(k-33, random(190)), uint8(190))
	f.Fuzz(func(t *testing.T, first byte, seed, db []byte, want uint8) {
		if len(seed) != 32 || len(db) != k-33 {
			t.Skip("no encoding of this modulus")
		}
		em := encode(first, seed, db)
		m := new(big.Int).SetBytes(em)
		if m.Cmp(key.N) >= 0 {
			t.Skip("not below the modulus")
		}
		encrypted := m.Exp(m, big.NewInt(int64(key.E)), key.N).FillBytes(make([]byte, k))
		theirs, err := rsa.DecryptOAEP(sha256.New(), nil, key, encrypted, nil)
		ours := make([]byte, want)
		ok := boundary.RemoveOAEP256(em, ours)
		if accepted := err == nil && len(theirs) == int(want); (ok == 1) != accepted {
			t.Fatalf("got %d for %d bytes, crypto/rsa says %x, %v", ok, want, theirs, err)
		}
		if ok == 1 && !bytes.Equal(ours, theirs) {
			t.Errorf("got %x, crypto/rsa says %x", ours, theirs)
		}
		if ok == 0 && !bytes.Equal(ours, make([]byte, want)) {
			t.Errorf("refused, and left %x behind", ours)
		}
	})
}
