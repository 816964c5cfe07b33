package jwe_test

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"

	"keyd/internal/boundary"
	"keyd/internal/jwe"
)

const plainHeader = `{"alg":"RSA-OAEP-256","enc":"A256GCM"}`

// refused holds Parse to an error and to what it says of it.
func refused(t *testing.T, name, compact string, want error, says string) {
	t.Helper()
	m, err := jwe.Parse([]byte(compact), everything())
	if m != nil || !errors.Is(err, want) || !strings.Contains(err.Error(), says) {
		t.Errorf("%s: got %v, %v, want %v saying %q", name, m, err, want, says)
		return
	}
	presentable(t, err)
}

func TestParseGivesTheBackendWhatWasSent(t *testing.T) {
	for _, enc := range encs() {
		shape, _ := boundary.ContentOf(enc)
		for _, key := range []int{256, 384, 512} {
			for _, size := range []int{0, 1, 2, 3, 1000} {
				compact := build(`{"enc":"`+enc+`","alg":"RSA-OAEP-256","kid":"k"}`, key, shape.IV, size, shape.Tag)
				m, err := jwe.Parse([]byte(compact), everything())
				if err != nil {
					t.Fatalf("%s, %d, %d: %v", enc, key, size, err)
				}
				if got := serialize(m); got != compact {
					t.Errorf("%s, %d, %d: reads back as\n%s, want\n%s", enc, key, size, got, compact)
				}
				if m.KID != "k" || m.Envelope.Enc != enc || m.Envelope.Alg != boundary.RSAOAEP256 || !m.Fits(rsaOf(8*key)) {
					t.Errorf("%s, %d, %d: got %+v", enc, key, size, m)
				}
			}
		}
	}
}

func TestParseSharesNoMemoryWithItsInput(t *testing.T) {
	compact := []byte(build(`{` + algAndEnc + `,"kid":"k"}`))
	want := string(compact)
	m, err := jwe.Parse(compact, everything())
	if err != nil {
		t.Fatal(err)
	}
	clear(compact)
	if got := serialize(m); got != want {
		t.Errorf("after the input was wiped the message is\n%s", got)
	}
	if m.KID != "k" || m.Envelope.Alg != boundary.RSAOAEP256 || m.Envelope.Enc != boundary.A256GCM {
		t.Errorf("after the input was wiped it is kid %q, alg %q, enc %q", m.KID, m.Envelope.Alg, m.Envelope.Enc)
	}
}

func TestOnlyFivePartsAndNothingElseAreParsed(t *testing.T) {
	good := build(plainHeader)
	for _, v := range []struct{ name, compact, says string }{
		{"nothing", "", "nothing there"},
		{"one part", "eyJ9", "cut by dots into 1, want five"},
		{"three parts", "a.b.c", "three parts make a JWS"},
		{"four parts", good[:strings.LastIndexByte(good, '.')], "cut by dots into 4, want five"},
		{"six parts", good + ".", "cut by dots into 6, want five"},
		{"dots", strings.Repeat(".", 1<<10), "cut by dots into 1025"},
		{"four dots", "....", "the header is not a JSON object"},
		{"the JSON serialization", `{"protected":"e30","tag":""}`, "JSON serialization"},
		{"a line break at the end", good + "\n", "line break at the end"},
		{"a CRLF at the end", good + "\r\n", "line break at the end"},
		{"nothing but line breaks", "\n\n", "line break at the end"},
		{"a line break before it", "\n" + good, "line break at byte 0"},
		{"a line break in the middle", good[:10] + "\n" + good[10:], "line break at byte 10"},
		{"a CR in the middle", good[:10] + "\r" + good[10:] + "\n", "line break at byte 10"},
		{"a space at the end", good + " ", "the authentication tag is not canonical base64url"},
		{"a space before it", " " + good, "the header"},
		{"a byte order mark", "\xef\xbb\xbf" + good, "the header"},
		{"a zero byte", good + "\x00", "the authentication tag is not canonical base64url"},
	} {
		refused(t, v.name, v.compact, jwe.ErrMalformed, v.says)
	}
}

// Base64url has one spelling for the same bytes; every other one is refused, in
// each of the five parts.
func TestEveryPartIsCanonicalBase64URL(t *testing.T) {
	good := build(`{"enc":"A256GCM","alg":"RSA-OAEP-256"} `, 256, 12, 20, 16)
	names := []string{"header", "encrypted key", "initialization vector", "ciphertext", "authentication tag"}
	for i, name := range names {
		for _, v := range []struct {
			name, says string
			with       func(string) string
		}{
			{"padding", "has base64 padding", func(s string) string { return s + "=" }},
			{"twice padding", "has base64 padding", func(s string) string { return s + "==" }},
			{"the other alphabet", "is not canonical base64url", func(s string) string { return "+/" + s[2:] }},
			{"a space", "is not canonical base64url", func(s string) string { return s[:4] + " " + s[5:] }},
			{"a letter beyond ASCII", "is not canonical base64url", func(s string) string { return s[:4] + "é" + s[6:] }},
			{"an impossible length", "has", func(s string) string { return strings.Repeat("A", len(s)/4*4+1) }},
		} {
			refused(t, v.name+" in the "+name, replaced(good, i, v.with), jwe.ErrMalformed, "the "+name+" "+v.says)
		}
		if last := strings.Split(good, ".")[i]; len(last)%4 != 0 {
			loose := func(s string) string { return s[:len(s)-1] + string(s[len(s)-1]+1) }
			refused(t, "loose bits in the "+name, replaced(good, i, loose), jwe.ErrMalformed, "the "+name+" is not canonical base64url")
		}
	}
}

func TestPartsHaveTheLengthsOfTheirAlgorithms(t *testing.T) {
	for _, v := range []struct {
		enc       string
		iv, tag   int
		otherIV   []int
		otherTags []int
	}{
		{boundary.A256GCM, 12, 16, []int{0, 11, 13, 16}, []int{0, 4, 12, 15, 17, 18, 32}},
		{boundary.A128CBCHS256, 16, 16, []int{0, 12, 15, 17}, []int{0, 15, 17, 32}},
		{boundary.A256CBCHS512, 16, 32, []int{0, 12, 15, 17}, []int{0, 16, 31, 33, 64}},
	} {
		header := `{"alg":"RSA-OAEP-256","enc":"` + v.enc + `"}`
		for _, n := range v.otherIV {
			refused(t, v.enc, build(header, 256, n, 32, v.tag), jwe.ErrMalformed, "the initialization vector is ")
		}
		for _, n := range v.otherTags {
			refused(t, v.enc, build(header, 256, v.iv, 32, n), jwe.ErrMalformed, "the authentication tag is ")
		}
		for _, n := range []int{0, 1, 32, 128, 255, 257, 383, 385, 511, 513, 1024} {
			refused(t, v.enc, build(header, n, v.iv, 32, v.tag), jwe.ErrMalformed, "RSA-OAEP-256 has 256, 384 or 512")
		}
	}
}

func TestParseRefusesWhatIsTooLarge(t *testing.T) {
	good := build(plainHeader)
	p := everything()
	p.MaxSize = len(good)
	if _, err := jwe.Parse([]byte(good), p); err != nil {
		t.Errorf("as long as allowed: %v", err)
	}
	p.MaxSize--
	if m, err := jwe.Parse([]byte(good), p); m != nil || !errors.Is(err, jwe.ErrTooLarge) {
		t.Errorf("a byte too long: got %v, %v, want ErrTooLarge", m, err)
	}
	fill := func(n int) string { return plainHeader + strings.Repeat(" ", n-len(plainHeader)) }
	if _, err := jwe.Parse([]byte(build(fill(4096))), everything()); err != nil {
		t.Errorf("a header of 4096 bytes: %v", err)
	}
	refused(t, "a header of 4097 bytes", build(fill(4097)), jwe.ErrTooLarge, "the header is longer than 4096 bytes")
}

// The size is looked at before anything else is: what is refused for it costs
// the same however long it is.
func TestWhatIsTooLargeCostsNothing(t *testing.T) {
	work := func(size int) float64 {
		junk := bytes.Repeat([]byte("."), size)
		return testing.AllocsPerRun(1000, func() { _, _ = jwe.Parse(junk, jwe.Policy{MaxSize: 1 << 10}) })
	}
	// An error's text costs more where fmt's pool has just been emptied: one, on average.
	if small, large := work(1<<11), work(1<<24); large > small+1 {
		t.Errorf("%v allocations for 16 MiB, %v for 2 KiB", large, small)
	}
}

func TestTheZeroPolicyRefusesEverything(t *testing.T) {
	for _, compact := range []string{build(plainHeader), wiseRequest} {
		if m, err := jwe.Parse([]byte(compact), jwe.Policy{}); m != nil || !errors.Is(err, jwe.ErrTooLarge) {
			t.Errorf("got %v, %v, want ErrTooLarge", m, err)
		}
		if m, err := jwe.Parse([]byte(compact), jwe.Policy{MaxSize: 1 << 20}); m != nil || !errors.Is(err, jwe.ErrAlgorithm) {
			t.Errorf("with a size: got %v, %v, want ErrAlgorithm", m, err)
		}
		for _, half := range []jwe.Policy{{Algs: everything().Algs}, {Encs: everything().Encs}} {
			half.MaxSize = 1 << 20
			if m, err := jwe.Parse([]byte(compact), half); m != nil || !errors.Is(err, jwe.ErrAlgorithm) {
				t.Errorf("with half a policy: got %v, %v, want ErrAlgorithm", m, err)
			}
		}
	}
}

// No policy, however it was filled in, lets an algorithm in that keyd does not
// open in hardware.
func TestNoPolicyAllowsAWeakAlgorithm(t *testing.T) {
	weak := []string{"RSA1_5", "dir", "none", "RSA-OAEP", "RSA-OAEP-512", "ECDH-ES+A192KW", "ECDH-1PU", "A256KW", "PBES2-HS256+A128KW", "rsa-oaep-256", "RSA-OAEP-256 "}
	p := jwe.Policy{Algs: append(slices.Clone(weak), boundary.RSAOAEP256), Encs: append(encs(), "A192CBC-HS384", "none"), MaxSize: 1 << 20}
	for _, alg := range weak {
		m, err := jwe.Parse([]byte(build(`{"alg":"`+alg+`","enc":"A256GCM"}`)), p)
		if m != nil || !errors.Is(err, jwe.ErrAlgorithm) || !strings.Contains(err.Error(), alg) {
			t.Errorf("alg %s: got %v, %v, want ErrAlgorithm naming it", alg, m, err)
		}
	}
	for _, enc := range []string{"A192CBC-HS384", "none", "A256gcm"} {
		m, err := jwe.Parse([]byte(build(`{"alg":"RSA-OAEP-256","enc":"`+enc+`"}`)), p)
		if m != nil || !errors.Is(err, jwe.ErrAlgorithm) || !strings.Contains(err.Error(), enc) {
			t.Errorf("enc %s: got %v, %v, want ErrAlgorithm naming it", enc, m, err)
		}
	}
}

func TestThePolicyPinsTheContentEncryption(t *testing.T) {
	for _, pinned := range encs() {
		p := everything()
		p.Encs = []string{pinned}
		for _, enc := range encs() {
			shape, _ := boundary.ContentOf(enc)
			_, err := jwe.Parse([]byte(build(`{"alg":"RSA-OAEP-256","enc":"`+enc+`"}`, 256, shape.IV, 32, shape.Tag)), p)
			if allowed := err == nil; allowed != (enc == pinned) || !allowed && !errors.Is(err, jwe.ErrAlgorithm) {
				t.Errorf("%s where %s is pinned: %v", enc, pinned, err)
			}
		}
	}
}
