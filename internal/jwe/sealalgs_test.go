package jwe_test

import (
	"bytes"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/go-jose/go-jose/v4"

	"keyd/internal/boundary"
	"keyd/internal/jwe"
)

// onCurves are a key of each curve, for all tests.
var onCurves = sync.OnceValue(func() []*ecdsa.PrivateKey {
	var keys []*ecdsa.PrivateKey
	for _, curve := range []elliptic.Curve{elliptic.P256(), elliptic.P384(), elliptic.P521()} {
		key, err := ecdsa.GenerateKey(curve, rand.Reader)
		if err != nil {
			panic(err)
		}
		keys = append(keys, key)
	}
	return keys
})

func onCurve(t testing.TB, key *ecdsa.PrivateKey) *ecdh.PrivateKey {
	t.Helper()
	private, err := key.ECDH()
	if err != nil {
		t.Fatal(err)
	}
	return private
}

// sealable is a public key to seal to with an alg, and its private half as
// go-jose takes it.
type sealable struct {
	name    string
	alg     jwe.SealAlg
	public  crypto.PublicKey
	private any
}

func sealables(t testing.TB) []sealable {
	t.Helper()
	all := []sealable{{"RSA-OAEP-256", jwe.SealRSAOAEP256, &testKey().PublicKey, testKey()}, {"RSA1_5", jwe.SealRSA15, &testKey().PublicKey, testKey()}}
	for _, alg := range []jwe.SealAlg{jwe.SealECDHES, jwe.SealECDHESA128KW, jwe.SealECDHESA256KW} {
		for i, key := range onCurves() {
			all = append(all, sealable{string(alg) + " " + boundary.Curves[i], alg, onCurve(t, key).PublicKey(), key})
		}
	}
	return all
}

// joseOpens has go-jose alone open an envelope of an alg.
func joseOpens(compact string, alg jwe.SealAlg, private any) ([]byte, jose.Header, error) {
	parsed, err := jose.ParseEncryptedCompact(compact, []jose.KeyAlgorithm{jose.KeyAlgorithm(alg)}, theirEncs())
	if err != nil {
		return nil, jose.Header{}, err
	}
	got, err := parsed.Decrypt(private)
	return got, parsed.Header, err
}

func TestGoJOSEOpensEveryAlgAndEncThatIsSealed(t *testing.T) {
	for _, s := range sealables(t) {
		for _, enc := range encs() {
			for _, size := range []int{0, 1, 15, 16, 17, 3000} {
				want := bytes.Repeat([]byte("x"), size)
				compact, err := jwe.Seal(s.public, jwe.SealHeader{Alg: s.alg, Enc: enc, KID: "their-key"}, want)
				if err != nil {
					t.Fatalf("%s, %s, %d bytes: %v", s.name, enc, size, err)
				}
				got, header, err := joseOpens(compact, s.alg, s.private)
				if err != nil || !bytes.Equal(got, want) || header.KeyID != "their-key" {
					t.Errorf("%s, %s, %d bytes: go-jose opens it to %d bytes under %q, %v", s.name, enc, size, len(got), header.KeyID, err)
				}
			}
		}
	}
}

func TestWhatIsSealedByKeyAgreementParsesAndOpens(t *testing.T) {
	for _, alg := range []jwe.SealAlg{jwe.SealECDHES, jwe.SealECDHESA128KW, jwe.SealECDHESA256KW} {
		for i, key := range onCurves() {
			for _, enc := range encs() {
				name := fmt.Sprint(alg, " ", boundary.Curves[i], " ", enc)
				compact, err := jwe.Seal(onCurve(t, key).PublicKey(), jwe.SealHeader{Alg: alg, Enc: enc, APU: []byte("Alice"), APV: []byte("Bob\x00")}, []byte("plaintext"))
				if err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				m, err := jwe.Parse([]byte(compact), agreements())
				if err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				if string(m.Envelope.APU) != "Alice" || string(m.Envelope.APV) != "Bob\x00" || m.KID != "" {
					t.Errorf("%s: got %+v", name, m)
				}
				if got, err := agree(onCurve(t, key), m); err != nil || string(got) != "plaintext" {
					t.Errorf("%s: opens to %q, %v", name, got, err)
				}
				if got, _, err := joseOpens(compact, alg, key); err != nil || string(got) != "plaintext" {
					t.Errorf("%s: go-jose opens it to %q, %v", name, got, err)
				}
				if got, err := agree(onCurve(t, onCurves()[(i+1)%3]), m); err == nil {
					t.Errorf("%s: opens under another key to %q", name, got)
				}
			}
		}
	}
}

// RSA1_5 can be sealed with and never opened, whatever a policy says.
func TestWhatIsSealedWithRSA15IsRefusedByEveryPolicy(t *testing.T) {
	compact, err := jwe.Seal(&testKey().PublicKey, jwe.SealHeader{Alg: jwe.SealRSA15, Enc: boundary.A256GCM}, []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	p := everything()
	for _, alg := range jwe.SealAlgs {
		p.Algs = append(p.Algs, string(alg))
	}
	p.Algs = append(p.Algs, boundary.Direct, "none")
	if m, err := jwe.Parse([]byte(compact), p); m != nil || !errors.Is(err, jwe.ErrAlgorithm) || !strings.Contains(err.Error(), "never accepted") {
		t.Errorf("got %v, %v", m, err)
	}
}

func TestTheHeaderSaysWhatItWasGiven(t *testing.T) {
	compact, err := jwe.Seal(&testKey().PublicKey, jwe.SealHeader{Alg: jwe.SealRSAOAEP256, Enc: boundary.A128GCM, KID: `k"é`, URL: "/v1?a=<1>&b",
		Extra: map[string]any{"iat": int64(1764028800123), "cty": "application/json", "typ": "JOSE"}}, []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	m, err := jwe.Parse([]byte(compact), everything())
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"alg": `"RSA-OAEP-256"`, "enc": `"A128GCM"`, "kid": `"k\"é"`, "url": `"/v1?a=<1>&b"`, "iat": "1764028800123", "cty": `"application/json"`, "typ": `"JOSE"`}
	got := members(t, m)
	for name, value := range want {
		if string(got[name]) != value {
			t.Errorf("%s: got %s, want %s", name, got[name], value)
		}
	}
	if len(got) != len(want) {
		t.Errorf("got the members %q", got)
	}
}

func TestSealRefusesWhatDoesNotGoTogether(t *testing.T) {
	rsaKey, ecKey := &testKey().PublicKey, onCurve(t, onCurves()[0]).PublicKey()
	x25519, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	with := func(change func(*jwe.SealHeader)) jwe.SealHeader {
		h := jwe.SealHeader{Alg: jwe.SealRSAOAEP256, Enc: boundary.A256GCM}
		change(&h)
		return h
	}
	extra := func(name string, value any) jwe.SealHeader {
		return with(func(h *jwe.SealHeader) { h.Extra = map[string]any{name: value} })
	}
	agreed := with(func(h *jwe.SealHeader) { h.Alg = jwe.SealECDHES })
	for name, v := range map[string]struct {
		pub  crypto.PublicKey
		h    jwe.SealHeader
		want error
		says string
	}{
		"no alg":               {rsaKey, with(func(h *jwe.SealHeader) { h.Alg = "" }), jwe.ErrAlgorithm, `alg ""`},
		"an unknown alg":       {rsaKey, with(func(h *jwe.SealHeader) { h.Alg = "RSA-OAEP" }), jwe.ErrAlgorithm, `alg "RSA-OAEP"`},
		"dir":                  {rsaKey, with(func(h *jwe.SealHeader) { h.Alg = boundary.Direct }), jwe.ErrAlgorithm, `alg "dir"`},
		"RSA to an EC key":     {ecKey, with(func(*jwe.SealHeader) {}), jwe.ErrAlgorithm, "needs an RSA key"},
		"ECDH to an RSA key":   {rsaKey, agreed, jwe.ErrAlgorithm, "needs an EC key"},
		"ECDH to X25519":       {x25519.PublicKey(), agreed, jwe.ErrAlgorithm, "X25519"},
		"ECDH to an ECDSA key": {&onCurves()[0].PublicKey, agreed, jwe.ErrAlgorithm, "needs an EC key"},
		"ECDH to no key":       {(*ecdh.PublicKey)(nil), agreed, nil, "no public key"},
		"RSA to no key":        {(*rsa.PublicKey)(nil), with(func(*jwe.SealHeader) {}), nil, "no public key"},
		"apu with RSA":         {rsaKey, with(func(h *jwe.SealHeader) { h.APU = []byte("x") }), jwe.ErrAlgorithm, "apu and apv"},
		"alg again":            {rsaKey, extra("alg", "dir"), jwe.ErrAlgorithm, `"alg"`},
		"kid again":            {rsaKey, extra("kid", "x"), jwe.ErrAlgorithm, `"kid"`},
		"zip":                  {rsaKey, extra("zip", "DEF"), jwe.ErrAlgorithm, `"zip"`},
		"crit":                 {rsaKey, extra("crit", []string{"x"}), jwe.ErrAlgorithm, `"crit"`},
		"jku":                  {rsaKey, extra("jku", "https://evil.example"), jwe.ErrAlgorithm, `"jku"`},
		"no name":              {rsaKey, extra("", 1), jwe.ErrAlgorithm, `""`},
		"a name not Unicode":   {rsaKey, extra("\xff", 1), jwe.ErrAlgorithm, "member"},
		"a value that is none": {rsaKey, extra("x", func() {}), jwe.ErrMalformed, "encoding the header"},
		"apu without end": {ecKey, with(func(h *jwe.SealHeader) { h.Alg, h.APU = jwe.SealECDHES, make([]byte, 4<<10) }),
			jwe.ErrTooLarge, "longer than"},
	} {
		compact, cek, err := jwe.SealKeeping(v.pub, v.h, []byte("x"))
		if compact != "" || cek != nil || err == nil || !strings.Contains(err.Error(), v.says) || v.want != nil && !errors.Is(err, v.want) {
			t.Errorf("%s: got %q, %v, want an error saying %q", name, compact, err, v.says)
			continue
		}
		presentable(t, err)
	}
}

func TestEveryMemberThatKeydReadsIsReserved(t *testing.T) {
	for _, name := range []string{"alg", "enc", "kid", "url", "zip", "crit", "epk", "apu", "apv"} {
		if jwe.CheckExtra(name) == nil {
			t.Errorf("%s may be added", name)
		}
	}
	for _, name := range []string{"typ", "cty", "iat", "x-method"} {
		if err := jwe.CheckExtra(name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// RFC 7518 Appendix C: what is derived is the content key that is handed out.
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
