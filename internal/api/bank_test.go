package api_test

import (
	"context"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"testing"
	"time"

	"github.com/google/uuid"

	"keyd/internal/api"
	"keyd/internal/boundary"
	"keyd/internal/jwe"
	"keyd/internal/registry"
	"keyd/internal/rotation"
)

// bank is a partner whose values are sealed by key agreement, both ways.
type bank struct{ private *ecdh.PrivateKey }

func newBank(t testing.TB) *bank {
	t.Helper()
	private, err := ecdh.P256().GenerateKey(rand.Reader)
	check(t, err)
	return &bank{private}
}

func (b *bank) FetchKey(context.Context) (string, int, string, crypto.PublicKey, error) {
	return "bank-key-1", 0, boundary.ECDHES, b.private.PublicKey(), nil
}

// open opens a value as the bank does, and returns the kid in its header.
func (b *bank) open(t testing.TB, compact string) (kid, plaintext string) {
	t.Helper()
	msg, err := jwe.Parse([]byte(compact), jwe.Policy{Algs: []string{boundary.ECDHES}, Encs: []string{enc}, MaxSize: 1 << 16})
	check(t, err)
	z, err := b.private.ECDH(msg.Envelope.EPK)
	check(t, err)
	opened, err := boundary.OpenAgreed(&msg.Envelope, z)
	check(t, err)
	return msg.KID, string(opened)
}

// seal seals to a public key in the form in which the bank got it.
func (b *bank) seal(t testing.TB, der []byte, kid, plaintext string) string {
	t.Helper()
	public, err := x509.ParsePKIXPublicKey(der)
	check(t, err)
	key, err := public.(*ecdsa.PublicKey).ECDH()
	check(t, err)
	compact, err := jwe.Seal(key, jwe.SealHeader{Alg: jwe.SealECDHES, Enc: enc, KID: kid}, []byte(plaintext))
	check(t, err)
	return compact
}

func bankFacts(kidless api.Kidless, foreign bool) api.Partner {
	return api.Partner{Name: "bank", Type: "jackhenry", Form: api.FormFields, Seal: jwe.SealECDHES, SealEnc: enc, KID: api.KIDTheirs, KeyInBody: true,
		Algs: []string{boundary.ECDHES}, Encs: []string{enc}, Kidless: kidless, ForeignKID: foreign, Remote: remote{}}
}

// newBankRig is a daemon whose partners are a bank beside Wise. Without keys it
// has no standing key for it.
func newBankRig(t testing.TB, keys bool, kidless api.Kidless, foreign bool) (*rig, *bank) {
	t.Helper()
	b := newBank(t)
	r := newRig(t, func(s *setup) {
		s.opener.Partners = append(s.opener.Partners, bankFacts(kidless, foreign))
		s.engine["bank"] = rotation.Partner{KeySource: b}
	})
	if keys {
		check(t, r.reg.PutKey(registry.Key{Name: "bank-response", Partner: "bank", Backend: backendName, Algorithm: boundary.ECDHES, Curve: "P-256",
			NextDue: time.Now().Add(time.Hour), Policy: theKey("x", "bank").Policy}))
		r.onCurve(registry.Active)
	}
	return r, b
}

// onCurve makes a version of the bank's key.
func (r *rig) onCurve(states ...registry.State) registry.Version {
	r.t.Helper()
	kid, now := uuid.NewString(), time.Now()
	material := boundary.Material{Algorithm: boundary.ECDHES, Curve: "P-256"}
	_, err := r.reg.Begin(registry.Version{KID: kid, Key: "bank-response", Backend: backendName, Algorithm: material.Algorithm, Curve: material.Curve,
		ValidFrom: now.Add(-time.Minute), ValidTill: now.Add(time.Hour)}, "test", "test", 1, now.Add(time.Hour))
	check(r.t, err)
	made, err := r.token.Generate(context.Background(), boundary.Spec{Key: "bank-response", KID: kid, Material: material})
	check(r.t, err)
	der, err := x509.MarshalPKIXPublicKey(made.Public)
	check(r.t, err)
	_, err = r.reg.Amend(kid, func(v *registry.Version) error {
		v.Handle, v.Public, v.GeneratedAt, v.TestedAt, v.ToldAt = made.Handle, der, now, now, now
		return nil
	})
	check(r.t, err)
	r.move(kid, registry.Announced, now)
	for _, to := range states {
		r.move(kid, to, now)
	}
	return r.now(kid)
}
