package jwe_test

import (
	"crypto/rand"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"

	"keyd/internal/boundary"
	"keyd/internal/jwe"
)

// With ECDH-ES it is what both sides derive (RFC 7518 §4.6).
func TestTheContentKeyThatIsKeptOpensTheRequestAndItsReply(t *testing.T) {
	for _, s := range sealables(t) {
		for _, enc := range encs() {
			request, cek, err := jwe.SealKeeping(s.public, jwe.SealHeader{Alg: s.alg, Enc: enc}, []byte("request"))
			if err != nil {
				t.Fatalf("%s, %s: %v", s.name, enc, err)
			}
			if size, _ := boundary.CEKLen(enc); len(cek) != size {
				t.Errorf("%s, %s: a content key of %d bytes, want %d", s.name, enc, len(cek), size)
			}
			parts := strings.Split(request, ".")
			asDirect := build(`{"alg":"dir","enc":"`+enc+`"}`, 0) // only its parts are of use
			asDirect = strings.Join(append(strings.Split(asDirect, ".")[:2], parts[2:]...), ".")
			m, err := jwe.ParseDirect([]byte(asDirect), enc, 1<<20)
			if err != nil {
				t.Fatalf("%s, %s: %v", s.name, enc, err)
			}
			m.Envelope.AAD = []byte(parts[0])
			if got, err := boundary.OpenWithCEK(&m.Envelope, cek, 1); err != nil || string(got) != "request" {
				t.Errorf("%s, %s: the request opens to %q, %v", s.name, enc, got, err)
			}
			reply := direct(t, cek, enc, "", []byte("reply"))
			if m, err = jwe.ParseDirect([]byte(reply), enc, 1<<20); err != nil {
				t.Fatalf("%s, %s: %v", s.name, enc, err)
			}
			if got, err := boundary.OpenWithCEK(&m.Envelope, cek, 1); err != nil || string(got) != "reply" {
				t.Errorf("%s, %s: the reply opens to %q, %v", s.name, enc, got, err)
			}
		}
	}
}

// direct has go-jose seal under a content key that both sides have.
func direct(t testing.TB, cek []byte, enc, kid string, plaintext []byte) string {
	t.Helper()
	encrypter, err := jose.NewEncrypter(jose.ContentEncryption(enc), jose.Recipient{Algorithm: jose.DIRECT, Key: slices.Clone(cek), KeyID: kid}, nil)
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := encrypter.Encrypt(plaintext)
	if err != nil {
		t.Fatal(err)
	}
	compact, err := sealed.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return compact
}

func TestNothingButADirectReplyIsReadAsOne(t *testing.T) {
	cek := make([]byte, 32)
	rand.Read(cek)
	good := direct(t, cek, boundary.A256GCM, "some-kid", []byte("reply"))
	m, err := jwe.ParseDirect([]byte(good), boundary.A256GCM, len(good))
	if err != nil || m.KID != "some-kid" || m.Envelope.Alg != boundary.Direct || serialize(m) != good {
		t.Fatalf("the good one: %+v, %v", m, err)
	}
	if _, err := jwe.Parse([]byte(good), everything()); !errors.Is(err, jwe.ErrAlgorithm) {
		t.Errorf("Parse: %v, want ErrAlgorithm", err)
	}
	p := everything()
	p.Algs = []string{boundary.Direct}
	if m, err := jwe.Parse([]byte(good), p); m != nil || !errors.Is(err, jwe.ErrAlgorithm) || !strings.Contains(err.Error(), "never") {
		t.Errorf("Parse under a policy that names dir: %v, %v", m, err)
	}
	for name, v := range map[string]struct {
		compact string
		max     int
		want    error
		says    string
	}{
		"too long":                {good, len(good) - 1, jwe.ErrTooLarge, "at most"},
		"RSA":                     {byHand(t, plainHeader, boundary.A256GCM, []byte("x")), 4096, jwe.ErrAlgorithm, `alg "RSA-OAEP-256", the reply of an exchange has dir`},
		"ECDH-ES":                 {rfc7520at55, 4096, jwe.ErrAlgorithm, `alg "ECDH-ES"`},
		"none":                    {build(`{"alg":"none","enc":"A256GCM"}`, 0), 4096, jwe.ErrAlgorithm, `alg "none"`},
		"another enc":             {direct(t, cek, boundary.A128CBCHS256, "", []byte("x")), 4096, jwe.ErrAlgorithm, "the request had A256GCM"},
		"an encrypted key":        {build(`{"alg":"dir","enc":"A256GCM"}`, 8), 4096, jwe.ErrMalformed, "the encrypted key is 8 bytes, dir has none"},
		"zip":                     {build(`{"alg":"dir","enc":"A256GCM","zip":"DEF"}`, 0), 4096, jwe.ErrAlgorithm, "zip"},
		"crit":                    {build(`{"alg":"dir","enc":"A256GCM","crit":["x"]}`, 0), 4096, jwe.ErrAlgorithm, "crit"},
		"Wise's example, damaged": {wiseDirect, 4096, jwe.ErrMalformed, "the authentication tag is 18 bytes"},
		"a line break":            {good + "\n", 4096, jwe.ErrMalformed, "a line break at the end"},
		"an error in clear":       {`{"error":"x"}`, 4096, jwe.ErrMalformed, "JSON serialization"},
		"nothing":                 {"", 4096, jwe.ErrMalformed, "nothing there"},
	} {
		m, err := jwe.ParseDirect([]byte(v.compact), boundary.A256GCM, v.max)
		if m != nil || !errors.Is(err, v.want) || !strings.Contains(err.Error(), v.says) {
			t.Errorf("%s: got %v, %v, want %v saying %q", name, m, err, v.want, v.says)
			continue
		}
		presentable(t, err)
	}
	if m, err = jwe.ParseDirect([]byte(strings.TrimSuffix(wiseDirect, "04")), boundary.A256GCM, 4096); err != nil || len(m.Envelope.Ciphertext) != 117 {
		t.Errorf("Wise's example, repaired: %v, %v", m, err)
	}
}

// FuzzParseDirect: the two parsers share no envelope.
func FuzzParseDirect(f *testing.F) {
	for _, compact := range []string{wiseDirect, strings.TrimSuffix(wiseDirect, "04"), wiseRequest, rfc7520at55, build(`{"alg":"dir","enc":"A256GCM","kid":"x"}`, 0)} {
		f.Add([]byte(compact))
	}
	f.Fuzz(func(t *testing.T, compact []byte) {
		m, err := jwe.ParseDirect(compact, boundary.A256GCM, 4096)
		if err != nil {
			presentable(t, err)
			return
		}
		if got := serialize(m); got != string(compact) || m.Envelope.Alg != boundary.Direct || len(m.Envelope.EncryptedKey) != 0 {
			t.Errorf("%q\nreads back as\n%q", compact, got)
		}
		for _, p := range []jwe.Policy{everything(), agreements()} {
			if other, err := jwe.Parse(compact, p); err == nil {
				t.Errorf("Parse reads it too: %+v", other)
			}
		}
		if part, err := jose.ParseEncryptedCompact(string(compact), []jose.KeyAlgorithm{jose.DIRECT}, theirEncs()); err != nil || part.Header.KeyID != m.KID {
			t.Errorf("go-jose reads the kid %q, %v, keyd %q", part.Header.KeyID, err, m.KID)
		}
	})
}
