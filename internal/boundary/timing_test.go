package boundary_test

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"flag"
	"maps"
	"math"
	"slices"
	"testing"

	"keyd/internal/boundary"
	"keyd/internal/boundary/oaeptest"
	"keyd/internal/dudect"
)

// How often each class is measured. `make timing` asks for a million; a quick
// run finds what is grossly different and cannot be wrong by chance.
var samples = flag.Int("timing-samples", 3000, "measurements of each class in the timing tests")

const (
	// equal is the |t| that two equal classes stay under.
	equal = 4.5
	// gross is the |t| that a quick run finds wrong, three times in a row.
	gross  = 25
	rounds = 3
	// thorough is how many measurements it takes for equal to be asked.
	thorough = 100_000
)

// path is a way of opening an envelope, with everything that can be wrong with
// one that only the holder of the private key could tell apart.
type path struct {
	name    string
	classes []dudect.Class
	open    func(input []byte)
}

func paths(tb testing.TB) []path {
	return []path{
		oaepPath(), rawPath(tb, boundary.A256GCM), rawPath(tb, boundary.A128CBCHS256),
		unwrappedPath(tb), agreedPath(tb), keyWrapPath(tb),
	}
}

// TestRefusalsTakeTheSameTime: from how long a refusal takes, nobody learns what
// was wrong (RFC 7516 §11.5; Manger's attack).
func TestRefusalsTakeTheSameTime(t *testing.T) {
	for _, p := range paths(t) {
		t.Run(p.name, func(t *testing.T) {
			found := dudect.Measure(p.classes, *samples, p.open)
			t.Logf("t of each pair, at its worst over 101 crops:\n%s", found)
			if *samples >= thorough {
				if first, second, worst := found.Worst(); math.Abs(worst) >= equal {
					t.Errorf("%s and %s differ: t = %.2f, want less than %.1f", first, second, worst, equal)
				}
				return
			}
			first, second, worst := found.Worst()
			for range rounds - 1 {
				if math.Abs(worst) < gross {
					return // at least once it could not be told
				}
				found = dudect.Measure(p.classes, *samples, p.open)
				first, second, worst = found.Worst()
			}
			if math.Abs(worst) >= gross {
				t.Errorf("%s and %s differ: t = %.2f, each time\n%s", first, second, worst, found)
			}
		})
	}
}

// TestALeakIsFound: the same measurement finds code that does leak, or it would
// say nothing.
func TestALeakIsFound(t *testing.T) {
	raw := rawPath(t, boundary.A256GCM)
	env := &boundary.Envelope{Enc: boundary.A256GCM, AAD: []byte("header")}
	leaks := map[string]func(input []byte){
		"content left alone after a bad padding": func(input []byte) {
			into(env, input)
			cek := make([]byte, 32)
			if boundary.RemoveOAEP256(input[:modulus], cek) == 1 {
				_, _ = boundary.OpenWithCEK(env, cek, 1)
			}
		},
		"a first byte looked at first": func(input []byte) {
			if input[0] == 0 {
				raw.open(input)
			}
		},
	}
	if *samples >= thorough {
		leaks["an lHash looked at before the rest"] = func(input []byte) {
			into(env, input)
			cek := make([]byte, 32)
			_, _ = boundary.OpenWithCEK(env, cek, branching(input[:modulus], cek))
		}
	}
	for name, leak := range leaks {
		t.Run(name, func(t *testing.T) {
			least := float64(gross)
			if *samples >= thorough {
				least = equal
			}
			for range 10 { // a machine that is busy enough hides it for a while
				found := dudect.Measure(raw.classes, *samples, leak)
				if first, second, worst := found.Worst(); math.Abs(worst) > least {
					t.Logf("%s and %s: t = %.1f\n%s", first, second, worst, found)
					return
				}
			}
			t.Error("it is not found")
		})
	}
}

func xor(a, b []byte) []byte {
	out := make([]byte, len(a))
	subtle.XORBytes(out, a, b)
	return out
}

// branching is RemoveOAEP256 as one must not write it: it stops at a bad lHash.
func branching(em, cek []byte) int {
	seed := xor(em[1:33], oaeptest.MGF1(em[33:], 32))
	db := xor(em[33:], oaeptest.MGF1(seed, len(em)-33))
	lHash := sha256.Sum256(nil)
	if !bytes.Equal(db[:32], lHash[:]) {
		return 0
	}
	at := bytes.IndexByte(db[32:], 1)
	if em[0] != 0 || at < 0 || len(db)-33-at != len(cek) {
		return 0
	}
	return copy(cek, db[33+at:]) / len(cek)
}

const (
	modulus = 256 // bytes of RSA-2048
	payload = 64  // bytes of ciphertext; 16 more of tag
	cekSize = 32
)

// oaepPath is the padding alone; what is right must not show either.
func oaepPath() path {
	out := make([]byte, cekSize)
	p := path{name: "OAEP removal", open: func(em []byte) { boundary.RemoveOAEP256(em, out) }}
	all := oaeptest.Wrong(modulus)
	all["right"] = func(cek []byte) []byte { return oaeptest.Right(modulus, cek) }
	for _, name := range slices.Sorted(maps.Keys(all)) {
		p.classes = append(p.classes, dudect.Class{Name: name, Make: func() []byte { return all[name](random(cekSize)) }})
	}
	return p
}

// forged is the content of an input: IV, ciphertext and tag that belong to a
// content key but for a bit of the tag.
func forged(tb testing.TB, enc string, cek []byte) []byte {
	env := seal(tb, enc, cek, random(payload-1), []byte("header")) // CBC pads it to payload
	if len(env.Ciphertext) < payload {
		env = seal(tb, enc, cek, random(payload), []byte("header"))
	}
	env.Tag[int(random(1)[0])%len(env.Tag)] ^= 1 << (random(1)[0] % 8)
	return slices.Concat(env.IV, env.Ciphertext, env.Tag)
}

// into makes an envelope of the content at the end of an input.
func into(env *boundary.Envelope, input []byte) {
	shape, _ := boundary.ContentOf(env.Enc)
	content := input[len(input)-shape.IV-payload-shape.Tag:]
	env.IV, env.Ciphertext, env.Tag = content[:shape.IV], content[shape.IV:shape.IV+payload], content[shape.IV+payload:]
}

// rawPath is a token that gives out the bare result of the exponentiation.
func rawPath(tb testing.TB, enc string) path {
	env := &boundary.Envelope{Alg: boundary.RSAOAEP256, Enc: enc, AAD: []byte("header")}
	p := path{name: "raw, " + enc, open: func(input []byte) {
		into(env, input)
		_, _ = boundary.OpenRaw(env, input[:modulus])
	}}
	all := oaeptest.Wrong(modulus)
	all["bad tag"] = func(cek []byte) []byte { return oaeptest.Right(modulus, cek) }
	for _, name := range slices.Sorted(maps.Keys(all)) {
		p.classes = append(p.classes, dudect.Class{Name: name, Make: func() []byte {
			cek := random(cekSize)
			return slices.Concat(all[name](cek), forged(tb, enc, cek))
		}})
	}
	return p
}

// unwrappedPath is a token that removes the padding: it gives a content key, of
// whatever length, or none. The input begins with the length.
func unwrappedPath(tb testing.TB) path {
	env := &boundary.Envelope{Alg: boundary.RSAOAEP256, Enc: boundary.A256GCM, AAD: []byte("header")}
	class := func(name string, length byte) dudect.Class {
		return dudect.Class{Name: name, Make: func() []byte {
			cek := random(cekSize)
			return slices.Concat([]byte{length}, cek, forged(tb, boundary.A256GCM, cek))
		}}
	}
	return path{name: "unwrap, A256GCM",
		classes: []dudect.Class{class("bad tag", cekSize), class("content key too short", 16), class("no content key", 0)},
		open: func(input []byte) {
			into(env, input)
			n := input[0]
			ok := int((n + 31) >> 5) // 1, or 0 for a length of 0
			_, _ = boundary.OpenWithCEK(env, input[1:1+n], ok)
		}}
}

// agreedPath is a token that gives out the shared secret of ECDH-ES.
func agreedPath(tb testing.TB) path {
	return agreement(tb, "agreed, ECDH-ES", boundary.ECDHES, 0)
}

// keyWrapPath is the same with a wrapped content key.
func keyWrapPath(tb testing.TB) path {
	return agreement(tb, "agreed, ECDH-ES+A256KW", boundary.ECDHESA256KW, cekSize+8)
}

// agreement has inputs of a shared secret, a wrapped key and the content.
func agreement(tb testing.TB, name, alg string, wrapped int) path {
	env := &boundary.Envelope{Alg: alg, Enc: boundary.A256GCM, AAD: []byte("header")}
	input := func(rightSecret, rightWrap bool) func() []byte {
		return func() []byte {
			z := random(32)
			d, err := boundary.DerivationOf(env)
			if err != nil {
				tb.Fatal(err)
			}
			cek, encrypted := d.Key(z), []byte{}
			if wrapped > 0 {
				kek := cek
				cek = random(cekSize)
				encrypted = keyWrap(tb, kek, cek)
			}
			content := forged(tb, boundary.A256GCM, cek)
			if !rightSecret {
				z = random(32)
			}
			if !rightWrap {
				encrypted[int(random(1)[0])%len(encrypted)] ^= 1
			}
			return slices.Concat(z, encrypted, content)
		}
	}
	p := path{name: name, classes: []dudect.Class{{Name: "bad tag", Make: input(true, true)}, {Name: "another secret", Make: input(false, true)}},
		open: func(input []byte) {
			into(env, input)
			env.EncryptedKey = input[32 : 32+wrapped]
			_, _ = boundary.OpenAgreed(env, input[:32])
		}}
	if wrapped > 0 {
		p.classes = append(p.classes, dudect.Class{Name: "does not unwrap", Make: input(true, false)})
	}
	return p
}
