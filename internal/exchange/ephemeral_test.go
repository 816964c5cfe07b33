package exchange_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"testing"

	"github.com/go-jose/go-jose/v4"

	"keyd/internal/boundary"
	"keyd/internal/exchange"
	"keyd/internal/jwe"
)

func TestAReplyToAKeyMadeForItOpensOnce(t *testing.T) {
	for _, curve := range boundary.Curves {
		for _, alg := range []jwe.SealAlg{jwe.SealECDHES, jwe.SealECDHESA128KW, jwe.SealECDHESA256KW} {
			for _, enc := range encs {
				tab := newTable(t)
				ticket, public, err := tab.Ephemeral(owner, curve, algs, encs)
				if err != nil || ticket.Kind != exchange.Ephemeral || ticket.Held != exchange.Host {
					t.Fatalf("%s: got %+v, %v", curve, ticket, err)
				}
				compact := answer(t, public, alg, enc, "card")
				tab.opens(owner, ticket.ID, compact, "card")
				tab.refuses(owner, ticket.ID, compact, exchange.ErrUnknown)
			}
		}
	}
}

// A reply may hold several values that are sealed each by itself.
func TestSeveralEnvelopesOfOneReplyOpenTogetherOrNotAtAll(t *testing.T) {
	tab := newTable(t)
	token := &slow{Holder: memoryToken()}
	ticket, cek := tab.seal(owner, token, boundary.A256GCM)
	one, two := reply(t, cek, boundary.A256GCM, "one"), reply(t, cek, boundary.A256GCM, "two")
	bad := reply(t, make([]byte, 32), boundary.A256GCM, "x")
	if got, err := tab.Open(t.Context(), owner, ticket.ID, most, one, bad); got != nil || !errors.Is(err, boundary.ErrOpen) {
		t.Errorf("got %v, %v", got, err)
	}
	if got, err := tab.Open(t.Context(), owner, ticket.ID, most, two, []byte("x")); got != nil || !errors.Is(err, jwe.ErrMalformed) {
		t.Errorf("got %v, %v", got, err)
	}
	if got, err := tab.Open(t.Context(), owner, ticket.ID, most); got != nil || !errors.Is(err, jwe.ErrMalformed) {
		t.Errorf("no envelope at all: got %v, %v", got, err)
	}
	if last := token.opened.Load(); bytes.Contains(last.Plaintext, []byte("two")) {
		t.Error("what had opened was not wiped")
	}
	got, err := tab.Open(t.Context(), owner, ticket.ID, most, one, two)
	if err != nil || len(got) != 2 || string(got[0].Plaintext)+string(got[1].Plaintext) != "onetwo" {
		t.Errorf("got %v, %v", got, err)
	}
	tab.refuses(owner, ticket.ID, one, exchange.ErrUnknown)
}

func TestAnEphemeralExchangeOpensNothingElse(t *testing.T) {
	tab := newTable(t, func(c *exchange.Config) { c.PerPartner, c.PerUser = 100, 100 })
	ticket, public, err := tab.Ephemeral(owner, "P-256", []string{boundary.ECDHES, boundary.RSAOAEP256, boundary.Direct}, []string{boundary.A256GCM})
	if err != nil {
		t.Fatal(err)
	}
	other, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	onP384, err := other.ECDH()
	if err != nil {
		t.Fatal(err)
	}
	_, cek := tab.seal(owner, nil, boundary.A256GCM)
	tab.refuses(owner, ticket.ID, reply(t, cek, boundary.A256GCM, "x"), jwe.ErrAlgorithm)
	tab.refuses(owner, ticket.ID, answer(t, public, jwe.SealECDHESA256KW, boundary.A256GCM, "x"), jwe.ErrAlgorithm)
	tab.refuses(owner, ticket.ID, answer(t, public, jwe.SealECDHES, boundary.A128GCM, "x"), jwe.ErrAlgorithm)
	tab.refuses(owner, ticket.ID, answer(t, onP384.PublicKey(), jwe.SealECDHES, boundary.A256GCM, "x"), boundary.ErrOpen)
	rsaKey := jose.Recipient{Algorithm: jose.RSA_OAEP_256, Key: &theirs().PublicKey}
	tab.refuses(owner, ticket.ID, sealed(t, rsaKey, boundary.A256GCM, "x"), boundary.ErrOpen)
	tab.opens(owner, ticket.ID, answer(t, public, jwe.SealECDHES, boundary.A256GCM, "x"), "x")
	for _, curve := range []string{"", "P-224", "X25519"} {
		if _, _, err := tab.Ephemeral(owner, curve, algs, encs); !errors.Is(err, boundary.ErrUnsupported) {
			t.Errorf("a key on %q: %v", curve, err)
		}
	}
}
