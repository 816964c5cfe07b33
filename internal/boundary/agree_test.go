package boundary_test

import (
	"bytes"
	"crypto/aes"
	"crypto/ecdh"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"testing"

	"keyd/internal/boundary"
)

// RFC 7518 appendix C: Alice agrees on a key with Bob.
func TestAppendixCOfRFC7518(t *testing.T) {
	b64 := func(s string) []byte {
		b, err := base64.RawURLEncoding.DecodeString(s)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	point := func(x, y string) *ecdh.PublicKey {
		key, err := ecdh.P256().NewPublicKey(append(append([]byte{4}, b64(x)...), b64(y)...))
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	alice := point("gI0GAILBdu7T53akrFmMyGcsF3n5dO7MmwNBHKW5SV0", "SLW_xSffzlPWrHEVI30DHM_4egVwt3NQqeUD7nMFpps")
	bob, err := ecdh.P256().NewPrivateKey(b64("VEmDZpDXXK8p8N0Cndsxs924q6nS1RXFASRl6BfUqdw"))
	if err != nil {
		t.Fatal(err)
	}
	z, err := bob.ECDH(alice)
	if err != nil {
		t.Fatal(err)
	}
	env := &boundary.Envelope{Alg: boundary.ECDHES, Enc: boundary.A128GCM, EPK: alice, APU: []byte("Alice"), APV: []byte("Bob")}
	d, err := boundary.DerivationOf(env)
	if err != nil {
		t.Fatal(err)
	}
	info := "\x00\x00\x00\x07A128GCM\x00\x00\x00\x05Alice\x00\x00\x00\x03Bob\x00\x00\x00\x80"
	if string(d.OtherInfo) != info || d.Bytes != 16 || d.Rounds() != 1 {
		t.Errorf("got OtherInfo %q, %d bytes in %d rounds, want %q, 16 in 1", d.OtherInfo, d.Bytes, d.Rounds(), info)
	}
	if got := base64.RawURLEncoding.EncodeToString(d.Key(z)); got != "VqqN6vgjbSBcIijNcacQGg" {
		t.Errorf("derived %s, want VqqN6vgjbSBcIijNcacQGg", got)
	}
}

// RFC 3394 §4.1, §4.3, §4.6.
func TestKeyWrapVectorsOfRFC3394(t *testing.T) {
	for _, v := range []struct{ kek, cek, wrapped string }{
		{"000102030405060708090A0B0C0D0E0F", "00112233445566778899AABBCCDDEEFF",
			"1FA68B0A8112B447AEF34BD8FB5A7B829D3E862371D2CFE5"},
		{"000102030405060708090A0B0C0D0E0F101112131415161718191A1B1C1D1E1F", "00112233445566778899AABBCCDDEEFF",
			"64E8C3F9CE0F5BA263E9777905818A2A93C8191E7D6E8AE7"},
		{"000102030405060708090A0B0C0D0E0F101112131415161718191A1B1C1D1E1F", "00112233445566778899AABBCCDDEEFF000102030405060708090A0B0C0D0E0F",
			"28C9F404C4B810F4CBCCB35CFB87F8263F5786E2D80ED326CBC7F0E71A99F43BFB988B9B7A02DD21"},
	} {
		kek, want, wrapped := unhex(t, v.kek), unhex(t, v.cek), unhex(t, v.wrapped)
		cek := make([]byte, len(want))
		if ok := boundary.UnwrapAESKW(kek, wrapped, cek); ok != 1 || !bytes.Equal(cek, want) {
			t.Errorf("%s: got %x, %d, want %x", v.wrapped, cek, ok, want)
		}
		if !bytes.Equal(keyWrap(t, kek, want), wrapped) {
			t.Errorf("%s: the tests wrap it otherwise", v.wrapped)
		}
		for i := range wrapped {
			wrapped[i] ^= 1
			if ok := boundary.UnwrapAESKW(kek, wrapped, cek); ok != 0 {
				t.Errorf("%s with byte %d changed unwraps", v.wrapped, i)
			}
			wrapped[i] ^= 1
		}
	}
}

func TestKeyWrapRefusesLengthsThatCannotBe(t *testing.T) {
	for _, n := range []struct{ kek, wrapped, cek int }{{15, 24, 16}, {16, 23, 16}, {16, 25, 16}, {16, 16, 8}, {16, 0, 16}, {16, 20, 12}, {16, 24, 32}} {
		cek := random(n.cek)
		if ok := boundary.UnwrapAESKW(random(n.kek), random(n.wrapped), cek); ok != 0 || !bytes.Equal(cek, make([]byte, n.cek)) {
			t.Errorf("%+v: got %d and %x, want 0 and nothing", n, ok, cek)
		}
	}
}

func TestAgreedEnvelopesOpen(t *testing.T) {
	for _, alg := range []string{boundary.ECDHES, boundary.ECDHESA128KW, boundary.ECDHESA256KW} {
		for _, curve := range boundary.Curves {
			for _, enc := range encs() {
				t.Run(fmt.Sprint(alg, " ", curve, " ", enc), func(t *testing.T) {
					env, z := agreed(t, alg, curve, enc, "plaintext")
					got, err := boundary.OpenAgreed(env, z)
					if err != nil || string(got) != "plaintext" {
						t.Fatalf("got %q, %v", got, err)
					}
				})
			}
		}
	}
}

func TestAgreedEnvelopesThatWereTamperedWithAreOneError(t *testing.T) {
	for _, alg := range []string{boundary.ECDHES, boundary.ECDHESA128KW, boundary.ECDHESA256KW} {
		for name, change := range map[string]func(env *boundary.Envelope, z *[]byte){
			"another secret":          func(_ *boundary.Envelope, z *[]byte) { (*z)[0] ^= 1 },
			"no secret":               func(_ *boundary.Envelope, z *[]byte) { *z = nil },
			"another apu":             func(env *boundary.Envelope, _ *[]byte) { env.APU = []byte("Alice") },
			"another apv":             func(env *boundary.Envelope, _ *[]byte) { env.APV = append(env.APV, 0) },
			"another tag":             func(env *boundary.Envelope, _ *[]byte) { env.Tag[0] ^= 1 },
			"an encrypted key longer": func(env *boundary.Envelope, _ *[]byte) { env.EncryptedKey = append(env.EncryptedKey, 0) },
			"another algorithm": func(env *boundary.Envelope, _ *[]byte) {
				env.Alg = map[string]string{boundary.ECDHES: boundary.ECDHESA128KW, boundary.ECDHESA128KW: boundary.ECDHESA256KW, boundary.ECDHESA256KW: boundary.ECDHES}[env.Alg]
			},
		} {
			env, z := agreed(t, alg, "P-256", boundary.A256GCM, "plaintext")
			change(env, &z)
			if got, err := boundary.OpenAgreed(env, z); got != nil || err != boundary.ErrOpen { //nolint:errorlint // bare, or it says more than it may
				t.Errorf("%s, %s: got %q, %v, want the bare ErrOpen", alg, name, got, err)
			}
		}
		env, _ := agreed(t, alg, "P-256", boundary.A256GCM, "plaintext")
		if _, err := boundary.OpenDerived(env, nil); err != boundary.ErrOpen { //nolint:errorlint // see above
			t.Errorf("%s, no derived key: got %v, want the bare ErrOpen", alg, err)
		}
	}
}

func TestNothingIsDerivedForOtherAlgorithms(t *testing.T) {
	for _, env := range []boundary.Envelope{{Alg: boundary.RSAOAEP256, Enc: boundary.A256GCM}, {Alg: "", Enc: boundary.A256GCM},
		{Alg: "ECDH-ES+A192KW", Enc: boundary.A256GCM}, {Alg: boundary.ECDHES, Enc: "A256KW"}} {
		if _, err := boundary.DerivationOf(&env); !errors.Is(err, boundary.ErrUnsupported) {
			t.Errorf("%s %s: DerivationOf: %v, want ErrUnsupported", env.Alg, env.Enc, err)
		}
		if _, err := boundary.OpenAgreed(&env, random(32)); !errors.Is(err, boundary.ErrUnsupported) {
			t.Errorf("%s %s: OpenAgreed: %v, want ErrUnsupported", env.Alg, env.Enc, err)
		}
		if _, err := boundary.OpenDerived(&env, random(32)); !errors.Is(err, boundary.ErrUnsupported) {
			t.Errorf("%s %s: OpenDerived: %v, want ErrUnsupported", env.Alg, env.Enc, err)
		}
	}
}

// agreed seals to a fresh key and returns the secret that its holder computes.
func agreed(t *testing.T, alg, curve, enc, plaintext string) (*boundary.Envelope, []byte) {
	t.Helper()
	ephemeral, err := boundary.CurveOf(curve).GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ours, err := boundary.CurveOf(curve).GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	z, err := ours.ECDH(ephemeral.PublicKey())
	if err != nil {
		t.Fatal(err)
	}
	env := &boundary.Envelope{Alg: alg, Enc: enc, EPK: ephemeral.PublicKey(), APU: []byte("u"), APV: []byte{}}
	d, err := boundary.DerivationOf(env)
	if err != nil {
		t.Fatal(err)
	}
	key := d.Key(z)
	if alg == boundary.ECDHES {
		return sealed(t, env, key, plaintext), z
	}
	size, _ := boundary.CEKLen(enc)
	cek := random(size)
	env.EncryptedKey = keyWrap(t, key, cek)
	return sealed(t, env, cek, plaintext), z
}

// sealed adds the content to an envelope.
func sealed(t *testing.T, env *boundary.Envelope, cek []byte, plaintext string) *boundary.Envelope {
	t.Helper()
	content := seal(t, env.Enc, cek, []byte(plaintext), []byte("header"))
	env.IV, env.Ciphertext, env.Tag, env.AAD = content.IV, content.Ciphertext, content.Tag, content.AAD
	return env
}

// keyWrap is RFC 3394 §2.2.1, written from its other form than the code's.
func keyWrap(t testing.TB, kek, cek []byte) []byte {
	t.Helper()
	block, err := aes.NewCipher(kek)
	if err != nil {
		t.Fatal(err)
	}
	a, r := bytes.Repeat([]byte{0xA6}, 8), bytes.Clone(cek)
	for step := uint64(1); step <= uint64(6*len(r)/8); step++ {
		b := append(bytes.Clone(a), r[:8]...)
		block.Encrypt(b, b)
		copy(a, b[:8])
		binary.BigEndian.PutUint64(a, binary.BigEndian.Uint64(a)^step)
		r = append(r[8:], b[8:]...)
	}
	return append(a, r...)
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
