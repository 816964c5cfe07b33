package boundary_test

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"keyd/internal/boundary"
)

func TestContentOpens(t *testing.T) {
	for _, enc := range encs() {
		for _, size := range []int{0, 1, 15, 16, 17, 255, 4096} {
			cek, want := random(cekLen(t, enc)), random(size)
			env := seal(t, enc, cek, want, []byte("header"))
			before, keyBefore := clone(env), slices.Clone(cek)
			got, err := boundary.OpenWithCEK(env, cek, 1)
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s, %d bytes: got %x, %v, want %x", enc, size, got, err, want)
			}
			for i, pair := range [][2][]byte{{env.IV, before.IV}, {env.Ciphertext, before.Ciphertext},
				{env.Tag, before.Tag}, {env.AAD, before.AAD}, {cek, keyBefore}} {
				if !bytes.Equal(pair[0], pair[1]) {
					t.Errorf("%s, %d bytes: input %d was changed by opening", enc, size, i)
				}
			}
		}
	}
}

// failures is every cause there is for an envelope not to open, in the hands of
// whoever holds the bare em.
func failures(tb testing.TB, enc string) map[string]func() ([]byte, error) {
	tb.Helper()
	const k = 256
	cek := random(cekLen(tb, enc))
	good := seal(tb, enc, cek, random(1000), []byte("header"))
	seed, db := random(32), block(k-33, cek)
	out := map[string]func() ([]byte, error){}
	changed := func(name string, change func(env *boundary.Envelope)) {
		env := clone(good)
		change(env)
		em := encode(0, seed, db)
		out[name] = func() ([]byte, error) { return boundary.OpenRaw(env, em) }
	}
	encoded := func(name string, em []byte) {
		out[name] = func() ([]byte, error) { return boundary.OpenRaw(good, em) }
	}
	flip := func(i int) []byte { d := slices.Clone(db); d[i] ^= 1; return d }
	encoded("first byte", encode(1, seed, db))
	encoded("lHash", encode(0, seed, flip(0)))
	encoded("padding", encode(0, seed, flip(40)))
	encoded("no 0x01", encode(0, seed, flip(len(db)-len(cek)-1)))
	encoded("content key too short", encode(0, seed, block(k-33, cek[1:])))
	encoded("content key too long", encode(0, seed, block(k-33, append([]byte{1}, cek...))))
	encoded("no content key", encode(0, seed, block(k-33, nil)))
	encoded("another content key", encode(0, seed, block(k-33, random(len(cek)))))
	changed("tag", func(e *boundary.Envelope) { e.Tag[0] ^= 1 })
	changed("last bit of the tag", func(e *boundary.Envelope) { e.Tag[len(e.Tag)-1] ^= 1 })
	changed("ciphertext", func(e *boundary.Envelope) { e.Ciphertext[0] ^= 1 })
	changed("iv", func(e *boundary.Envelope) { e.IV[0] ^= 1 })
	changed("aad", func(e *boundary.Envelope) { e.AAD[0] ^= 1 })
	changed("tag too short", func(e *boundary.Envelope) { e.Tag = e.Tag[:len(e.Tag)-1] })
	changed("tag too long", func(e *boundary.Envelope) { e.Tag = append(e.Tag, 0) })
	changed("iv too short", func(e *boundary.Envelope) { e.IV = e.IV[:len(e.IV)-1] })
	changed("iv too long", func(e *boundary.Envelope) { e.IV = append(e.IV, 0) })
	return out
}

// RFC 7516 §11.5: which of the causes it was does not show in the answer, nor in
// the work done: equal errors, nothing beside them, equal allocations.
func TestEveryCauseOfFailureLooksTheSame(t *testing.T) {
	for _, enc := range encs() {
		causes := failures(t, enc)
		allocs := map[float64][]string{}
		for name, open := range causes {
			got, err := open()
			if got != nil || err != boundary.ErrOpen { //nolint:errorlint // not even wrapped: the texts must be the same
				t.Errorf("%s, %s: got %x, %v, want the bare ErrOpen", enc, name, got, err)
			}
			n := testing.AllocsPerRun(10, func() { _, _ = open() })
			allocs[n] = append(allocs[n], name)
		}
		if len(allocs) != 1 {
			t.Errorf("%s: causes can be told apart by their work: %v", enc, allocs)
		}
	}
}

func TestAnEmptyOrTruncatedEnvelopeDoesNotOpen(t *testing.T) {
	for _, enc := range encs() {
		cek := random(cekLen(t, enc))
		for _, env := range []*boundary.Envelope{
			{Enc: enc},
			{Enc: enc, Ciphertext: random(16)},
			{Enc: enc, Ciphertext: random(64), IV: random(1 << 10), Tag: random(1 << 10)},
		} {
			for _, em := range [][]byte{nil, {0}, random(256), make([]byte, 256)} {
				if got, err := boundary.OpenRaw(env, em); got != nil || !errors.Is(err, boundary.ErrOpen) {
					t.Errorf("%s: OpenRaw = %x, %v, want ErrOpen", enc, got, err)
				}
			}
			if got, err := boundary.OpenWithCEK(env, cek, 1); got != nil || !errors.Is(err, boundary.ErrOpen) {
				t.Errorf("%s: OpenWithCEK = %x, %v, want ErrOpen", enc, got, err)
			}
		}
	}
}

func TestTheRightKeyDoesNotOpenWhenItsPaddingWasWrong(t *testing.T) {
	for _, enc := range encs() {
		cek := random(cekLen(t, enc))
		env := seal(t, enc, cek, []byte("x"), nil)
		for _, ok := range []int{0, -1, 2, 256} {
			if got, err := boundary.OpenWithCEK(env, cek, ok); got != nil || !errors.Is(err, boundary.ErrOpen) {
				t.Errorf("%s, ok = %d: got %x, %v, want ErrOpen", enc, ok, got, err)
			}
		}
		for _, wrong := range [][]byte{nil, {}, cek[:len(cek)-1], append(slices.Clone(cek), 0), make([]byte, 1<<12)} {
			if got, err := boundary.OpenWithCEK(env, wrong, 1); got != nil || !errors.Is(err, boundary.ErrOpen) {
				t.Errorf("%s, a key of %d bytes: got %x, %v, want ErrOpen", enc, len(wrong), got, err)
			}
		}
	}
}

// A content key that is missing must not become a key someone can guess: an
// envelope sealed under zeros, or under part of the key and zeros, stays shut.
func TestTheSubstitutedKeyIsNotGuessable(t *testing.T) {
	for _, enc := range encs() {
		size := cekLen(t, enc)
		short := random(size - 1)
		env := seal(t, enc, make([]byte, size), []byte("x"), nil)
		for name, open := range map[string]func() ([]byte, error){
			"no key":         func() ([]byte, error) { return boundary.OpenWithCEK(env, nil, 0) },
			"an empty key":   func() ([]byte, error) { return boundary.OpenWithCEK(env, nil, 1) },
			"a key of zeros": func() ([]byte, error) { return boundary.OpenWithCEK(env, make([]byte, size), 0) },
			"wrong padding":  func() ([]byte, error) { return boundary.OpenRaw(env, make([]byte, 256)) },
			"a key filled up with a zero": func() ([]byte, error) {
				return boundary.OpenWithCEK(seal(t, enc, append(slices.Clone(short), 0), []byte("x"), nil), short, 1)
			},
		} {
			if got, err := open(); got != nil || !errors.Is(err, boundary.ErrOpen) {
				t.Errorf("%s, %s: got %x, %v, want ErrOpen", enc, name, got, err)
			}
		}
	}
}

func TestAnUnknownContentEncryptionIsUnsupported(t *testing.T) {
	for _, enc := range []string{"", "A256gcm", "A192CBC-HS384", "none", strings.Repeat("A\n", 1<<16)} {
		if size, known := boundary.CEKLen(enc); known || size != 0 {
			t.Errorf("CEKLen(%.20q) = %d, %v, want 0, false", enc, size, known)
		}
		if c, known := boundary.ContentOf(enc); known {
			t.Errorf("ContentOf(%.20q) = %+v, want none", enc, c)
		}
		env := &boundary.Envelope{Enc: enc}
		_, raw := boundary.OpenRaw(env, random(256))
		_, given := boundary.OpenWithCEK(env, random(32), 1)
		for _, err := range []error{raw, given} {
			if !errors.Is(err, boundary.ErrUnsupported) || len(err.Error()) > 200 || strings.Contains(err.Error(), "\n") {
				t.Errorf("enc %.20q: got %.300q, want a short ErrUnsupported", enc, err)
			}
		}
	}
}

func TestCBCPaddingIsCheckedAfterATrueMAC(t *testing.T) {
	last := func(n, b byte) []byte { return append(make([]byte, n-1), b) }
	for name, padded := range map[string][]byte{
		"no block at all":           {},
		"half a block":              make([]byte, 8),
		"a block and a half":        make([]byte, 24),
		"padding of 0":              last(16, 0),
		"padding of 17":             last(32, 17),
		"padding of 255":            last(32, 255),
		"2 and before it no 2":      last(16, 2),
		"16 and before them no 16s": append([]byte{15}, bytes.Repeat([]byte{16}, 15)...),
	} {
		for _, enc := range []string{boundary.A128CBCHS256, boundary.A256CBCHS512} {
			h := sha256.New
			if enc == boundary.A256CBCHS512 {
				h = sha512.New
			}
			cek := random(cekLen(t, enc))
			env := &boundary.Envelope{Enc: enc, AAD: []byte("header")}
			sealCBC(t, env, cek, padded, h)
			if got, err := boundary.OpenWithCEK(env, cek, 1); got != nil || err != boundary.ErrOpen { //nolint:errorlint // not even wrapped
				t.Errorf("%s, %s: got %x, %v, want the bare ErrOpen", enc, name, got, err)
			}
		}
	}
}

func TestOpenRawOpensWhatCryptoRSASealed(t *testing.T) {
	key := newKey(t, 2048)
	for _, enc := range encs() {
		cek, want := random(cekLen(t, enc)), random(77)
		env := seal(t, enc, cek, want, []byte("header"))
		got, err := boundary.OpenRaw(env, bare(key, wrap(t, &key.PublicKey, cek)))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: got %x, %v, want %x", enc, got, err, want)
		}
	}
}

// FuzzOpenContent: nothing opens but what was sealed, and nothing panics.
func FuzzOpenContent(f *testing.F) {
	for i, enc := range encs() {
		cek := random(cekLen(f, enc))
		env := seal(f, enc, cek, []byte("plaintext"), []byte("header"))
		f.Add(i, cek, 1, env.IV, env.Ciphertext, env.Tag, env.AAD)
		f.Add(i, cek, 0, env.IV, env.Ciphertext, env.Tag, env.AAD)
		f.Add(i, cek[:1], 1, []byte{}, []byte{}, []byte{}, []byte{})
	}
	f.Fuzz(func(t *testing.T, i int, cek []byte, ok int, iv, ciphertext, tag, aad []byte) {
		enc := encs()[uint(i)%5]
		env := &boundary.Envelope{Enc: enc, IV: iv, Ciphertext: ciphertext, Tag: tag, AAD: aad}
		got, err := boundary.OpenWithCEK(env, cek, ok)
		if err != nil {
			if err != boundary.ErrOpen || got != nil { //nolint:errorlint // not even wrapped
				t.Fatalf("got %x, %v, want the bare ErrOpen", got, err)
			}
			return
		}
		if ok != 1 {
			t.Fatalf("opened with ok = %d", ok)
		}
		// Authenticated encryption: whatever is changed, it no longer opens.
		for _, part := range []*[]byte{&env.IV, &env.Ciphertext, &env.Tag, &env.AAD} {
			whole := *part
			*part = append(slices.Clone(whole), 0)
			if _, err := boundary.OpenWithCEK(env, cek, 1); err == nil {
				t.Fatalf("%s still opens with a part one byte longer", enc)
			}
			*part = whole
		}
	})
}

// BenchmarkOpenRaw: the failing causes next to each other. They should cost the
// same to within the noise; good GCM costs the same too, good CBC the
// decryption on top.
func BenchmarkOpenRaw(b *testing.B) {
	for _, enc := range []string{boundary.A256GCM, boundary.A256CBCHS512} {
		cek := random(cekLen(b, enc))
		env, em := seal(b, enc, cek, random(1000), []byte("header")), encode(0, random(32), block(256-33, cek))
		causes := failures(b, enc)
		causes["good"] = func() ([]byte, error) { return boundary.OpenRaw(env, em) }
		for _, name := range slices.Sorted(maps.Keys(causes)) {
			open := causes[name]
			b.Run(fmt.Sprintf("%s/%s", enc, name), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					_, _ = open()
				}
			})
		}
	}
}

func BenchmarkOpenWithCEK(b *testing.B) {
	for _, enc := range encs() {
		for _, size := range []int{256, 16 << 10, 1 << 20} {
			cek := random(cekLen(b, enc))
			env := seal(b, enc, cek, random(size), []byte("header"))
			b.Run(fmt.Sprintf("%s/%d", enc, size), func(b *testing.B) {
				b.SetBytes(int64(size))
				b.ReportAllocs()
				for b.Loop() {
					if _, err := boundary.OpenWithCEK(env, cek, 1); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
