package partner_test

import (
	"crypto"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"keyd/internal/partner"
	"keyd/internal/partner/partnersim"
)

// spkiFingerprint is the name of a key that Mastercard gives to it.
func spkiFingerprint(key crypto.PublicKey) string {
	sum := sha256.Sum256(must(x509.MarshalPKIXPublicKey(key)))
	return hex.EncodeToString(sum[:])
}

func certificate(t *testing.T, from, till time.Time) []byte {
	t.Helper()
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "partner"}, NotBefore: from, NotAfter: till}
	der := must(x509.CreateCertificate(rand.Reader, tmpl, tmpl, &rsaKey().PublicKey, rsaKey()))
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func TestKeyOfAPartnerComesFromWhereTheConfigSays(t *testing.T) {
	public := &rsaKey().PublicKey
	now := time.Now()
	dir := t.TempDir()
	file := func(name string, content []byte) partner.KeySource {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return partner.KeySource{File: path}
	}
	text := forms(public)
	answers := routes{
		"GET /jwk":    always(200, toJSON(jwkOf(public, "k1", ""))),
		"GET /jwks":   always(200, toJSON(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{jwkOf(public, "k1", ""), jwkOf(&otherRSA().PublicKey, "k2", "")}})),
		"GET /twice":  always(200, toJSON(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{jwkOf(public, "k1", ""), jwkOf(&otherRSA().PublicKey, "k1", "")}})),
		"GET /pem":    envelope("text/plain", text["PEM"]),
		"GET /spki":   envelope("text/plain", text["base64 of DER"]+"\n"),
		"GET /own":    always(200, toJSON(map[string]any{"data": []any{map[string]any{"key": text["base64 of PEM"], "id": "k1"}}})),
		"GET /nested": always(200, toJSON(map[string]any{"jwk": jwkOf(public, "k1", "")})),
		"GET /query": func(w http.ResponseWriter, r *http.Request) {
			if r.URL.RawQuery != "format=jwk&purpose=pin" {
				t.Errorf("asked %s", r.URL)
			}
			reply(w, 200, toJSON(jwkOf(public, "k1", "")))
		},
	}
	with := func(s partner.KeySource, id, choose string) partner.KeySource {
		s.KeyID, s.Choose = id, choose
		return s
	}
	at := func(path string) partner.KeySource { return partner.KeySource{URL: "https://keys.example" + path} }
	inside := at("/own")
	inside.Member, inside.IDMember = "/data/0/key", "/data/0/id"
	nested := at("/nested")
	nested.Member = "/jwk"
	for name, tc := range map[string]struct {
		source partner.KeySource
		want   string
	}{
		"a JWK":                 {at("/jwk"), "k1"},
		"with a query":          {at("/query?purpose=pin&format=jwk"), "k1"},
		"the first of a set":    {with(at("/jwks"), "", partner.ChooseFirst), "k1"},
		"one of a set":          {with(at("/jwks"), "k1", ""), "k1"},
		"PEM":                   {with(at("/pem"), "mine", ""), "mine"},
		"base64 of DER":         {with(at("/spki"), "mine", ""), "mine"},
		"JSON of its own":       {inside, "k1"},
		"a JWK inside of it":    {nested, "k1"},
		"a fingerprint":         {with(at("/pem"), partner.KeyIDFingerprint, ""), spkiFingerprint(public)},
		"a file of PEM":         {with(file("a", []byte(text["PEM"])), "mine", ""), "mine"},
		"a file of a JWK":       {file("b", []byte(toJSON(jwkOf(public, "k1", "")))), "k1"},
		"a file of a nameless":  {with(file("c", []byte(toJSON(jwkOf(public, "", "")))), "mine", ""), "mine"},
		"a certificate":         {with(file("d", certificate(t, now.Add(-time.Hour), now.Add(time.Hour))), "mine", ""), "mine"},
		"a PKCS#1 key in a set": {with(file("e", []byte(text["PEM, PKCS#1"])), "mine", ""), "mine"},
	} {
		t.Run(name, func(t *testing.T) {
			id, version, alg, key, err := described(t, &wire{Handler: answers}, func(c *partner.JWEConfig) { c.Key = tc.source }).FetchKey(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if id != tc.want || version != 0 || alg != "RSA-OAEP-256" || !public.Equal(key) {
				t.Errorf("got %q, %d, %s, %v", id, version, alg, key)
			}
		})
	}
	for name, source := range map[string]partner.KeySource{
		"no name":         at("/pem"),
		"several":         at("/jwks"),
		"not there":       with(at("/jwks"), "k9", ""),
		"one name twice":  with(at("/twice"), "k1", partner.ChooseFirst),
		"no member":       {URL: "https://keys.example/own", Member: "/data/1/key"},
		"no id":           {URL: "https://keys.example/own", Member: "/data/0/key", IDMember: "/data/0/x"},
		"no file":         {File: filepath.Join(dir, "none")},
		"a large file":    with(file("x", []byte(text["PEM"]+strings.Repeat("\n", 1<<20))), "mine", ""),
		"an old one":      with(file("y", certificate(t, now.Add(-2*time.Hour), now.Add(-time.Hour))), "mine", ""),
		"one to come":     with(file("z", certificate(t, now.Add(time.Hour), now.Add(2*time.Hour))), "mine", ""),
		"a name of words": with(at("/pem"), "my key", ""),
	} {
		_, _, _, key, err := described(t, &wire{Handler: answers}, func(c *partner.JWEConfig) { c.Key = source }).FetchKey(t.Context())
		if !errors.Is(err, partner.ErrAnswer) || key != nil {
			t.Errorf("%s: got %v, %v", name, key, err)
		}
	}
	_, _, _, _, err := described(t, &wire{Handler: answers}, func(c *partner.JWEConfig) { c.Key, c.SealAlg = at("/jwk"), "ECDH-ES" }).FetchKey(t.Context())
	if !errors.Is(err, partner.ErrAnswer) {
		t.Errorf("an RSA key for ECDH-ES: %v", err)
	}
}

func TestKeyThatCallersAreShown(t *testing.T) {
	sim := partnersim.New(partnersim.Options{})
	j := described(t, sim.Transport(), func(c *partner.JWEConfig) {
		c.Key = partner.KeySource{URL: genericURL + "/v1/key", Authorization: partner.AuthCaller, Member: "/data/publicKey", IDMember: "/data/keyId"}
	})
	if _, _, _, _, err := j.FetchKey(t.Context()); !errors.Is(err, partner.ErrNeedsCaller) || !j.Profile().CallersKey {
		t.Errorf("got %v", err)
	}
	id, _, _, key, err := j.FetchKeyAs(t.Context(), "Bearer "+sim.NewUserToken(partnersim.Generic))
	if err != nil || id == "" || key == nil {
		t.Errorf("got %q, %v, %v", id, key, err)
	}
	if _, _, _, _, err := j.FetchKeyAs(t.Context(), ""); !errors.Is(err, partner.ErrRequest) {
		t.Errorf("got %v", err)
	}
	open := described(t, sim.Transport())
	if _, _, _, _, err := open.FetchKeyAs(t.Context(), "Bearer user-1"); err != nil {
		t.Errorf("a key for everybody: %v", err)
	}
	for _, r := range sim.Requests() {
		if r.Endpoint == partnersim.EndpointGenericJWKS && r.Header.Get("Authorization") != "" {
			t.Error("a token went where none is asked for")
		}
	}
}

func FuzzDescribedKey(f *testing.F) {
	f.Add([]byte(`{"keys":[{"kty":"EC","crv":"P-256","kid":"k","x":"AA","y":"AA"}]}`))
	f.Add([]byte(sampleKey))
	f.Add([]byte("-----BEGIN PUBLIC KEY-----\n" + sampleKey + "\n-----END PUBLIC KEY-----\n"))
	f.Add([]byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"))
	f.Add([]byte(`{"data":{"key":"` + sampleKey + `"}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		for _, alg := range []string{"RSA-OAEP-256", "ECDH-ES"} {
			for _, member := range []string{"", "/data/key"} {
				_, _, _, key, err := described(t, &wire{Handler: always(200, string(body))}, func(c *partner.JWEConfig) {
					c.SealAlg, c.Key.Member, c.Key.KeyID = alg, member, partner.KeyIDFingerprint
				}).FetchKey(t.Context())
				if err != nil {
					if !errors.Is(err, partner.ErrAnswer) {
						t.Errorf("got %v", err)
					}
					printable(t, err)
					continue
				}
				switch k := key.(type) {
				case *rsa.PublicKey:
					if alg == "ECDH-ES" || k.N.BitLen() < 2048 {
						t.Errorf("got %v", k)
					}
				case *ecdh.PublicKey:
					if alg != "ECDH-ES" {
						t.Errorf("got %v", k)
					}
				}
			}
		}
	})
}
