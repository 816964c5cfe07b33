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
