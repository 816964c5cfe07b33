package boundary_test

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"encoding/binary"
	"io"
	"testing"

	josecipher "github.com/go-jose/go-jose/v4/cipher"

	"keyd/internal/boundary"
)

// FuzzUnwrapAESKW holds the constant-time unwrap against go-jose's. The fuzzer
// chooses what was wrapped, and then changes it.
func FuzzUnwrapAESKW(f *testing.F) {
	for _, size := range []int{16, 24, 32, 64} {
		f.Add(random(16), random(size), uint16(0), byte(0))
		f.Add(random(32), random(size), uint16(0), byte(0))
		f.Add(random(32), random(size), uint16(9), byte(0x80))
	}
	f.Add(random(32), random(40), uint16(40), byte(1))
	f.Fuzz(func(t *testing.T, kek, wrapped []byte, at uint16, flip byte) {
		if len(kek) != 16 && len(kek) != 24 && len(kek) != 32 || len(wrapped) < 16 || len(wrapped) > 1024 || len(wrapped)%8 != 0 {
			t.Skip("no key or content key")
		}
		if at%2 == 0 { // else what the fuzzer gave is itself the wrapped key
			sealed, err := josecipher.KeyWrap(newAES(t, kek), wrapped)
			if err != nil {
				t.Fatal(err)
			}
			wrapped = sealed
		}
		wrapped[int(at/2)%len(wrapped)] ^= flip
		theirs, err := josecipher.KeyUnwrap(newAES(t, kek), wrapped)
		ours := make([]byte, len(wrapped)-8)
		before := bytes.Clone(wrapped)
		ok := boundary.UnwrapAESKW(kek, wrapped, ours)
		if len(ours) < 16 { // RFC 3394 §2: at least two halves
			err = io.ErrShortBuffer
		}
		if (ok == 1) != (err == nil) || ok == 1 && !bytes.Equal(ours, theirs) {
			t.Errorf("got %d, %x; go-jose says %x, %v", ok, ours, theirs, err)
		}
		if !bytes.Equal(wrapped, before) {
			t.Error("what was wrapped was changed")
		}
		// Of another length there is none.
		if boundary.UnwrapAESKW(kek, wrapped, make([]byte, len(ours)+8)) == 1 {
			t.Error("it unwraps to something longer too")
		}
	})
}

// FuzzDerivation holds the Concat KDF against go-jose's.
func FuzzDerivation(f *testing.F) {
	f.Add(random(32), []byte("Alice"), []byte("Bob"), uint8(0), uint8(0))
	f.Add(random(66), []byte{}, []byte{0}, uint8(1), uint8(2))
	f.Add([]byte{}, []byte(nil), []byte("x"), uint8(2), uint8(4))
	f.Fuzz(func(t *testing.T, z, apu, apv []byte, whichAlg, whichEnc uint8) {
		algs := []string{boundary.ECDHES, boundary.ECDHESA128KW, boundary.ECDHESA256KW}
		env := &boundary.Envelope{Alg: algs[int(whichAlg)%len(algs)], Enc: encs()[int(whichEnc)%len(encs())], APU: apu, APV: apv}
		d, err := boundary.DerivationOf(env)
		if err != nil {
			t.Fatal(err)
		}
		id := env.Alg
		if id == boundary.ECDHES {
			id = env.Enc
		}
		prefixed := func(b []byte) []byte { return append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...) }
		theirs := make([]byte, d.Bytes)
		kdf := josecipher.NewConcatKDF(crypto.SHA256, z, prefixed([]byte(id)), prefixed(apu), prefixed(apv),
			binary.BigEndian.AppendUint32(nil, uint32(d.Bytes)*8), nil)
		if _, err := io.ReadFull(kdf, theirs); err != nil {
			t.Fatal(err)
		}
		if ours := d.Key(z); !bytes.Equal(ours, theirs) {
			t.Errorf("%s, %s: got %x, go-jose says %x", env.Alg, env.Enc, ours, theirs)
		}
		// A token that keeps the secret makes the rounds itself.
		var rounds []byte
		for n := range d.Rounds() {
			sum := sha256.Sum256(append(append(d.Prefix(n+1), z...), d.OtherInfo...))
			rounds = append(rounds, sum[:]...)
		}
		if !bytes.Equal(rounds[:d.Bytes], theirs) {
			t.Errorf("%s, %s: round by round %x, go-jose says %x", env.Alg, env.Enc, rounds[:d.Bytes], theirs)
		}
	})
}
