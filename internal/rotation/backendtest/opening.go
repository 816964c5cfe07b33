package backendtest

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"testing"

	"keyd/internal/boundary"
)

func (s suite) opens(t *testing.T) {
	b := s.open(t)
	for _, bits := range s.opts.Bits {
		t.Run(fmt.Sprint(bits), func(t *testing.T) {
			g, pub := generate(t, b, spec(bits))
			if pub.N.BitLen() != bits {
				t.Errorf("the modulus has %d bits, want %d", pub.N.BitLen(), bits)
			}
			if g.Handle == "" || g.Evidence.Backend == "" || !g.Evidence.Level.AtLeast("") || g.Evidence.At.IsZero() {
				t.Errorf("got handle %q and evidence %+v, want all of it filled in", g.Handle, g.Evidence)
			}
			if got, err := b.Public(t.Context(), g.Handle); err != nil || !pub.Equal(got) {
				t.Errorf("Public = %v, %v, want the key that Generate returned", got, err)
			}
			for _, enc := range s.opts.Encs {
				for _, size := range []int{0, 1, 15, 16, 17, 4096} {
					want := random(size)
					env := Seal(t, pub, enc, want, []byte("header"))
					got, err := b.Open(t.Context(), g.Handle, env)
					if err != nil {
						t.Fatalf("%s, %d bytes: Open: %v", enc, size, err)
					}
					if !bytes.Equal(got.Plaintext, want) {
						t.Errorf("%s, %d bytes: got %x, want %x", enc, size, got.Plaintext, want)
					}
					if !got.Level.AtLeast("") {
						t.Errorf("%s: opened at the level %q, which is none", enc, got.Level)
					}
				}
			}
		})
	}
}

// oracle: RFC 7516 §11.5. Whoever sends envelopes must learn nothing from how
// they are refused.
func (s suite) oracle(t *testing.T) {
	b := s.open(t)
	g, pub := generate(t, b, spec(s.opts.Bits[0]))
	said := map[string][]string{}
	for _, enc := range s.opts.Encs {
		good := Seal(t, pub, enc, []byte("plaintext of some length"), []byte("header"))
		for name, env := range tampered(t, pub, good) {
			name = enc + ", " + name
			got, err := b.Open(t.Context(), g.Handle, env)
			if got != nil || !errors.Is(err, boundary.ErrOpen) {
				t.Errorf("%s: Open = %v, %v, want boundary.ErrOpen", name, got, err)
				continue
			}
			said[err.Error()] = append(said[err.Error()], name)
		}
		if _, err := b.Open(t.Context(), g.Handle, good); err != nil {
			t.Errorf("%s: the good envelope no longer opens: %v", enc, err)
		}
	}
	if len(said) > 1 {
		t.Errorf("refusals can be told apart: %q", said)
	}
}

// tampered makes everything that must not open out of what does.
func tampered(t *testing.T, pub *rsa.PublicKey, good *boundary.Envelope) map[string]*boundary.Envelope {
	bad := map[string]*boundary.Envelope{}
	change := func(name string, f func(env *boundary.Envelope)) {
		env := clone(good)
		f(env)
		bad[name] = env
	}
	for name, part := range map[string]func(*boundary.Envelope) *[]byte{
		"key":        func(e *boundary.Envelope) *[]byte { return &e.EncryptedKey },
		"iv":         func(e *boundary.Envelope) *[]byte { return &e.IV },
		"ciphertext": func(e *boundary.Envelope) *[]byte { return &e.Ciphertext },
		"tag":        func(e *boundary.Envelope) *[]byte { return &e.Tag },
		"aad":        func(e *boundary.Envelope) *[]byte { return &e.AAD },
	} {
		change(name+" with its first bit flipped", func(e *boundary.Envelope) { (*part(e))[0] ^= 0x80 })
		change(name+" with its last bit flipped", func(e *boundary.Envelope) { p := *part(e); p[len(p)-1] ^= 1 })
		change(name+" cut by a byte", func(e *boundary.Envelope) { p := part(e); *p = (*p)[:len(*p)-1] })
		change(name+" longer by a byte", func(e *boundary.Envelope) { p := part(e); *p = append(*p, 0) })
		change(name+" empty", func(e *boundary.Envelope) { *part(e) = nil })
	}
	change("key above the modulus", func(e *boundary.Envelope) { e.EncryptedKey = bytes.Repeat([]byte{0xff}, pub.Size()) })
	change("key of zeros", func(e *boundary.Envelope) { e.EncryptedKey = make([]byte, pub.Size()) })
	change("random key", func(e *boundary.Envelope) { e.EncryptedKey = append([]byte{0}, random(pub.Size()-1)...) })
	size := cekLen(good.Enc)
	for _, n := range []int{0, 1, 16, size - 1, size + 1, 2 * size, pub.Size() - 66} {
		if n == size {
			continue
		}
		change(fmt.Sprintf("content key of %d bytes", n), func(e *boundary.Envelope) { e.EncryptedKey = wrap(t, pub, random(n)) })
	}
	change("another content key", func(e *boundary.Envelope) { e.EncryptedKey = wrap(t, pub, random(size)) })
	change("OAEP with SHA-1", func(e *boundary.Envelope) {
		e.EncryptedKey = must(rsa.EncryptOAEP(sha1.New(), rand.Reader, pub, random(size), nil))
	})
	change("OAEP with a label", func(e *boundary.Envelope) {
		e.EncryptedKey = must(rsa.EncryptOAEP(sha256.New(), rand.Reader, pub, random(size), []byte("x")))
	})
	change("PKCS #1 v1.5 padding", func(e *boundary.Envelope) {
		e.EncryptedKey = must(rsa.EncryptPKCS1v15(rand.Reader, pub, random(size))) //nolint:staticcheck // SA1019: what must not open
	})
	return bad
}

func must(b []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return b
}

func (s suite) otherKey(t *testing.T) {
	b := s.open(t)
	g1, pub1 := generate(t, b, spec(s.opts.Bits[0]))
	g2, pub2 := generate(t, b, spec(s.opts.Bits[0]))
	if pub1.Equal(pub2) {
		t.Fatal("two generated keys are the same")
	}
	env := Seal(t, pub1, s.opts.Encs[0], []byte("x"), nil)
	if got, err := b.Open(t.Context(), g2.Handle, env); !errors.Is(err, boundary.ErrOpen) {
		t.Errorf("under another key: Open = %v, %v, want boundary.ErrOpen", got, err)
	}
	first, err := b.Open(t.Context(), g1.Handle, env)
	if err != nil {
		t.Fatalf("under its own key: %v", err)
	}
	clear(first.Plaintext) // the caller owns it
	if again, err := b.Open(t.Context(), g1.Handle, env); err != nil || string(again.Plaintext) != "x" {
		t.Errorf("opened again: %v, %v, want the same plaintext", again, err)
	}
}

func (s suite) algorithms(t *testing.T) {
	b := s.open(t)
	g, pub := generate(t, b, spec(s.opts.Bits[0]))
	for _, name := range []string{"", "A256KW", "none", strings.Repeat("A", 1<<16)} {
		env := Seal(t, pub, s.opts.Encs[0], []byte("x"), nil)
		env.Enc = name
		if got, err := b.Open(t.Context(), g.Handle, env); err == nil {
			t.Errorf("enc %.20q: Open = %v, want an error", name, got)
		}
		env = Seal(t, pub, s.opts.Encs[0], []byte("x"), nil)
		env.Alg = name
		if got, err := b.Open(t.Context(), g.Handle, env); err == nil {
			t.Errorf("alg %.20q: Open = %v, want an error", name, got)
		}
	}
}
