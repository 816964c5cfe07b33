package jwe_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"hash"
	"slices"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"

	"keyd/internal/boundary"
	"keyd/internal/jwe"
)

func theirEncs() []jose.ContentEncryption {
	var all []jose.ContentEncryption
	for _, enc := range encs() {
		all = append(all, jose.ContentEncryption(enc))
	}
	return all
}

// theirs opens an envelope with go-jose alone, as a program without keyd would.
func theirs(compact string) ([]byte, error) {
	parsed, err := jose.ParseEncryptedCompact(compact, []jose.KeyAlgorithm{jose.RSA_OAEP_256}, theirEncs())
	if err != nil {
		return nil, err
	}
	return parsed.Decrypt(testKey())
}

// theirHeader is what go-jose reads in a header: the kid and the enc.
func theirHeader(compact string) ([2]string, bool) {
	parsed, err := jose.ParseEncryptedCompact(compact, []jose.KeyAlgorithm{jose.RSA_OAEP_256}, theirEncs())
	if err != nil {
		return [2]string{}, false
	}
	enc, _ := parsed.Header.ExtraHeaders["enc"].(string)
	return [2]string{parsed.Header.KeyID, enc}, true
}

// ours opens an envelope with keyd's parser and decryption alone.
func ours(compact string) ([]byte, error) {
	m, err := jwe.Parse([]byte(compact), everything())
	if err != nil {
		return nil, err
	}
	return open(testKey(), m)
}

// byHand seals with the standard library alone: neither go-jose nor keyd.
func byHand(tb testing.TB, header, enc string, plaintext []byte) string {
	tb.Helper()
	size, _ := boundary.CEKLen(enc)
	cek := make([]byte, size)
	rand.Read(cek)
	wrapped, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, &testKey().PublicKey, cek, nil)
	if err != nil {
		tb.Fatal(err)
	}
	aad := base64.RawURLEncoding.EncodeToString([]byte(header))
	var iv, ciphertext, tag []byte
	switch enc {
	case boundary.A128CBCHS256:
		iv, ciphertext, tag = cbc(tb, cek, aad, plaintext, sha256.New)
	case boundary.A256CBCHS512:
		iv, ciphertext, tag = cbc(tb, cek, aad, plaintext, sha512.New)
	default:
		iv, ciphertext, tag = gcm(tb, cek, aad, plaintext)
	}
	parts := []string{aad}
	for _, part := range [][]byte{wrapped, iv, ciphertext, tag} {
		parts = append(parts, base64.RawURLEncoding.EncodeToString(part))
	}
	return strings.Join(parts, ".")
}

func gcm(tb testing.TB, cek []byte, aad string, plaintext []byte) (iv, ciphertext, tag []byte) {
	tb.Helper()
	block, err := aes.NewCipher(cek)
	if err != nil {
		tb.Fatal(err)
	}
	mode, err := cipher.NewGCM(block)
	if err != nil {
		tb.Fatal(err)
	}
	iv = make([]byte, 12)
	rand.Read(iv)
	sealed := mode.Seal(nil, iv, plaintext, []byte(aad))
	return iv, sealed[:len(plaintext)], sealed[len(plaintext):]
}

func cbc(tb testing.TB, cek []byte, aad string, plaintext []byte, h func() hash.Hash) (iv, ciphertext, tag []byte) {
	tb.Helper()
	half := len(cek) / 2
	block, err := aes.NewCipher(cek[half:])
	if err != nil {
		tb.Fatal(err)
	}
	iv = make([]byte, 16)
	rand.Read(iv)
	n := 16 - len(plaintext)%16
	ciphertext = append(slices.Clone(plaintext), slices.Repeat([]byte{byte(n)}, n)...)
	cipher.NewCBCEncrypter(block, iv).CryptBlocks(ciphertext, ciphertext)
	mac := hmac.New(h, cek[:half])
	for _, part := range [][]byte{[]byte(aad), iv, ciphertext, binary.BigEndian.AppendUint64(nil, uint64(len(aad))*8)} {
		mac.Write(part)
	}
	return iv, ciphertext, mac.Sum(nil)[:half]
}

func TestGoJOSEOpensWhatIsSealed(t *testing.T) {
	for _, enc := range encs() {
		for _, size := range []int{0, 1, 15, 16, 17, 5000} {
			want := bytes.Repeat([]byte("x"), size)
			compact, err := jwe.Seal(&testKey().PublicKey, jwe.SealHeader{Alg: jwe.SealRSAOAEP256, KID: "k", URL: "/v1", Enc: enc}, want)
			if err != nil {
				t.Fatalf("%s, %d bytes: %v", enc, size, err)
			}
			if got, err := theirs(compact); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s, %d bytes: go-jose opens it to %q, %v", enc, size, got, err)
			}
		}
	}
}

func TestWhatGoJOSESealsOpens(t *testing.T) {
	for _, enc := range encs() {
		for _, size := range []int{0, 1, 15, 16, 17, 5000} {
			want := bytes.Repeat([]byte("x"), size)
			encrypter, err := jose.NewEncrypter(jose.ContentEncryption(enc),
				jose.Recipient{Algorithm: jose.RSA_OAEP_256, Key: &testKey().PublicKey, KeyID: "k"},
				(&jose.EncrypterOptions{}).WithType("JOSE").WithContentType("json").WithHeader("x", map[string]int{"y": 1}))
			if err != nil {
				t.Fatal(err)
			}
			sealed, err := encrypter.Encrypt(want)
			if err != nil {
				t.Fatal(err)
			}
			compact, err := sealed.CompactSerialize()
			if err != nil {
				t.Fatal(err)
			}
			if got, err := ours(compact); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s, %d bytes: opens to %q, %v", enc, size, got, err)
			}
		}
	}
}

// What go-jose compresses is refused before it is opened: there is nothing that
// inflates it.
func TestWhatGoJOSECompressesIsRefused(t *testing.T) {
	encrypter, err := jose.NewEncrypter(jose.A256GCM,
		jose.Recipient{Algorithm: jose.RSA_OAEP_256, Key: &testKey().PublicKey}, &jose.EncrypterOptions{Compression: jose.DEFLATE})
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := encrypter.Encrypt(make([]byte, 100_000))
	if err != nil {
		t.Fatal(err)
	}
	compact, err := sealed.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := theirs(compact); err != nil || len(got) != 100_000 {
		t.Errorf("go-jose opens it to %d bytes, %v", len(got), err)
	}
	if _, err := ours(compact); !errors.Is(err, jwe.ErrAlgorithm) {
		t.Errorf("got %v, want ErrAlgorithm", err)
	}
}

// laxities are spellings of a good envelope that go-jose opens and keyd
// refuses, each with the text it is refused with. A new go-jose that has become
// strict fails this test: then its line goes.
func laxities(tb testing.TB, enc string) map[string][2]string {
	tb.Helper()
	header := `{"alg":"RSA-OAEP-256","enc":"` + enc + `"}`
	good := byHand(tb, header, enc, []byte("a plaintext of some length"))
	loose := func(s string) string { return s[:len(s)-1] + string(s[len(s)-1]+1) }
	out := map[string][2]string{
		"a line break in the key":   {replaced(good, 1, func(s string) string { return s[:9] + "\n" + s[9:] }), "a line break at byte"},
		"a CRLF in the tag":         {replaced(good, 4, func(s string) string { return s[:9] + "\r\n" + s[9:] }), "a line break at byte"},
		"a line break after it":     {good + "\n", "a line break at the end"},
		"loose bits in the key":     {replaced(good, 1, loose), "the encrypted key is not canonical"},
		"loose bits in the tag":     {replaced(good, 4, loose), "the authentication tag is not canonical"},
		"a header of 5 KiB":         {byHand(tb, header+strings.Repeat(" ", 5<<10), enc, nil), "the header is longer than"},
		"a kid that is not Unicode": {byHand(tb, header[:len(header)-1]+`,"kid":"\ud800"}`, enc, nil), "kid in the header is not Unicode"},
		"a header nested five deep": {byHand(tb, header[:len(header)-1]+`,"x":[[[[1]]]]}`, enc, nil), "nested more than"},
		"a url that is no string":   {byHand(tb, header[:len(header)-1]+`,"url":1}`, enc, nil), "url in the header is not a string"},
	}
	if !strings.Contains(enc, "GCM") {
		return out
	}
	// The ciphertext's last byte moved over to the tag.
	parts := strings.Split(good, ".")
	ciphertext, _ := base64.RawURLEncoding.DecodeString(parts[3])
	tag, _ := base64.RawURLEncoding.DecodeString(parts[4])
	last := len(ciphertext) - 1
	parts[3] = base64.RawURLEncoding.EncodeToString(ciphertext[:last])
	parts[4] = base64.RawURLEncoding.EncodeToString(append([]byte{ciphertext[last]}, tag...))
	out["a tag of 17 bytes"] = [2]string{strings.Join(parts, "."), "the authentication tag is 17 bytes"}
	return out
}

func TestWhereGoJOSEIsLax(t *testing.T) {
	for _, enc := range encs() {
		for name, v := range laxities(t, enc) {
			if _, err := theirs(v[0]); err != nil {
				t.Errorf("%s, %s: go-jose no longer accepts it: %v", enc, name, err)
			}
			if _, err := ours(v[0]); err == nil || !strings.Contains(err.Error(), v[1]) {
				t.Errorf("%s, %s: got %v, want an error saying %q", enc, name, err, v[1])
			}
		}
	}
}
