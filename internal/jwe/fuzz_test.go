package jwe_test

import (
	"bytes"
	"encoding/base64"
	"errors"
	"strings"
	"testing"

	"keyd/internal/boundary"
	"keyd/internal/jwe"
)

// FuzzParse: what parses is written back byte for byte; everything else is
// refused with one of three errors, each fit to be shown.
func FuzzParse(f *testing.F) {
	for _, compact := range []string{
		wiseRequest, wiseCases, wiseResponse, wiseDirect, rfc7516A1, rfc7516A2, rfc7520,
		build(plainHeader), build(plainHeader) + "\n", build(`{` + algAndEnc + `,"kid":"\u00e9"}`), build(`{"alg":"RSA-OAEP-256","enc":"A256CBC-HS512"}`, 512, 16, 32, 32),
		build(`{` + algAndEnc + `,"crit":["x"]}`), build(`{` + algAndEnc + `,"x":{"y":[1,{"z":null}]}}`), "{}", "....", "a.b.c", "",
	} {
		f.Add([]byte(compact), 4096)
	}
	f.Add([]byte(wiseCases), 100)
	f.Fuzz(func(t *testing.T, compact []byte, limit int) {
		p := everything()
		p.MaxSize = limit
		m, err := jwe.Parse(compact, p)
		if err != nil {
			known := errors.Is(err, jwe.ErrMalformed) || errors.Is(err, jwe.ErrTooLarge) || errors.Is(err, jwe.ErrAlgorithm)
			if m != nil || !known {
				t.Errorf("got %v, %v, want one of the three errors", m, err)
			}
			presentable(t, err)
			return
		}
		if len(compact) > limit {
			t.Errorf("%d bytes parsed, %d are allowed", len(compact), limit)
		}
		if got := serialize(m); got != string(compact) {
			t.Errorf("%q\nreads back as\n%q", compact, got)
		}
		shape, known := boundary.ContentOf(m.Envelope.Enc)
		if !known || m.Envelope.Alg != boundary.RSAOAEP256 || len(m.Envelope.IV) != shape.IV || len(m.Envelope.Tag) != shape.Tag ||
			!m.Fits(rsaOf(2048)) && !m.Fits(rsaOf(3072)) && !m.Fits(rsaOf(4096)) {
			t.Errorf("parsed to %+v", m)
		}
		if all := members(t, m); all["zip"] != nil || all["crit"] != nil {
			t.Errorf("parsed with the header %q", all)
		}
	})
}

// FuzzHeader is FuzzParse with the base64 and the other parts taken care of.
func FuzzHeader(f *testing.F) {
	for _, header := range []string{plainHeader, `{` + algAndEnc + `,"kid":"\ud83d\udd11"}`, `{` + algAndEnc + `,"a":{"b":[1e9]}}`,
		`{` + algAndEnc + `,"alg":"dir"}`, `{"\u0061lg":"x"}`, `null`, `{` + algAndEnc + `,"":[[]],"zip":0}`} {
		f.Add([]byte(header))
	}
	f.Fuzz(func(t *testing.T, header []byte) {
		compact := base64.RawURLEncoding.EncodeToString(header) + build("")
		m, err := jwe.Parse([]byte(compact), everything())
		if err != nil {
			presentable(t, err)
			return
		}
		// go-jose must agree about what the header says, or refuse it.
		if want, ok := theirHeader(compact); ok && want != [2]string{m.KID, m.Envelope.Enc} {
			t.Errorf("%s: got kid %q, enc %q, go-jose says %q", header, m.KID, m.Envelope.Enc, want)
		}
	})
}

// FuzzSealOpen: whatever is sealed opens to the same, here and in go-jose.
func FuzzSealOpen(f *testing.F) {
	f.Add("", "", []byte{}, uint8(0))
	f.Add("6da49495-1632-43cd-9a03-dd324603ecd7", "/v1/cases", []byte(`{"message":"hello"}`), uint8(2))
	f.Add("é\"\\\n", "/?a=<b>&c", bytes.Repeat([]byte{0}, 1000), uint8(4))
	f.Add("\xff", "\ufffd", []byte("x"), uint8(3))
	f.Fuzz(func(t *testing.T, kid, url string, plaintext []byte, i uint8) {
		enc := encs()[int(i)%len(encs())]
		compact, err := jwe.Seal(&testKey().PublicKey, jwe.SealHeader{Alg: jwe.SealRSAOAEP256, KID: kid, URL: url, Enc: enc}, plaintext)
		if err != nil {
			if !errors.Is(err, jwe.ErrMalformed) && !errors.Is(err, jwe.ErrTooLarge) {
				t.Errorf("Seal: %v", err)
			}
			return
		}
		m, err := jwe.Parse([]byte(compact), everything())
		if err != nil {
			t.Fatalf("what was sealed does not parse: %v", err)
		}
		if m.KID != kid || m.Envelope.Enc != enc {
			t.Errorf("got kid %q, enc %s, want %q, %s", m.KID, m.Envelope.Enc, kid, enc)
		}
		if got, err := open(testKey(), m); err != nil || !bytes.Equal(got, plaintext) {
			t.Errorf("opens to %q, %v, want %q", got, err, plaintext)
		}
		if got, err := theirs(compact); err != nil || !bytes.Equal(got, plaintext) {
			t.Errorf("go-jose opens it to %q, %v, want %q", got, err, plaintext)
		}
	})
}

// FuzzAgainstGoJOSE changes one thing about a good envelope and holds keyd
// against go-jose: what keyd opens go-jose opens to the same, and what go-jose
// alone opens is one of the known laxities.
func FuzzAgainstGoJOSE(f *testing.F) {
	for part := range 5 {
		f.Add(uint8(part), uint8(part), uint16(3), byte(1), uint8(part))
		f.Add(uint8(2), uint8(part), uint16(0xffff), byte('\n'), uint8(1))
	}
	f.Add(uint8(2), uint8(3), uint16(0), byte('.'), uint8(3))
	f.Fuzz(func(t *testing.T, i, part uint8, at uint16, b byte, how uint8) {
		enc := encs()[int(i)%len(encs())]
		good := byHand(t, `{"alg":"RSA-OAEP-256","enc":"`+enc+`"}`, enc, []byte("a plaintext of some length"))
		bad := replaced(good, int(part)%5, func(s string) string {
			n := int(at) % len(s)
			switch how % 4 {
			case 0: // another character
				return s[:n] + string([]byte{s[n] ^ b}) + s[n+1:]
			case 1: // one more
				return s[:n] + string([]byte{b}) + s[n:]
			case 2: // one less
				return s[:n] + s[n+1:]
			}
			return s[:n] // cut
		})
		want, theirErr := theirs(bad)
		got, ourErr := ours(bad)
		switch {
		case ourErr == nil && (theirErr != nil || !bytes.Equal(got, want)):
			t.Errorf("%s: opens to %q, go-jose says %q, %v", bad, got, want, theirErr)
		case ourErr == nil && bad != good:
			t.Errorf("%s: opens, and is not what was sealed", bad)
		case ourErr != nil && theirErr == nil && !lax(bad, ourErr):
			t.Errorf("%s: go-jose opens it, refused with %v", bad, ourErr)
		}
	})
}

// lax reports whether a refusal is for one of the laxities of go-jose.
func lax(compact string, err error) bool {
	return strings.ContainsAny(compact, "\r\n") || strings.Contains(err.Error(), "is not canonical base64url") ||
		strings.Contains(err.Error(), "the authentication tag is 17 bytes")
}
