package main

import (
	"bytes"
	"crypto"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/http"
	"testing"

	gojose "github.com/go-jose/go-jose/v4"

	"keyd/client"
	"keyd/internal/boundary"
	"keyd/internal/jwe"
)

// replier is a partner who answers under the content key of the request.
type replier struct {
	rsa *rsa.PrivateKey // or
	ec  *ecdh.PrivateKey
	alg jwe.SealAlg
	enc string
}

// newReplier has a key for the alg. public is its public half as PEM.
func newReplier(t *testing.T, alg jwe.SealAlg, enc string) (p *replier, public []byte) {
	t.Helper()
	p = &replier{alg: alg, enc: enc}
	var err error
	var half any
	if alg == jwe.SealRSAOAEP256 {
		p.rsa, err = rsa.GenerateKey(rand.Reader, 2048)
		half = p.rsa.Public()
	} else {
		p.ec, err = ecdh.P256().GenerateKey(rand.Reader)
		half = p.ec.Public()
	}
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(half)
	if err != nil {
		t.Fatal(err)
	}
	return p, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
}

// contentKey is that of a request, and the key that wraps it if there is one.
func (p *replier) contentKey(t *testing.T, compact string) (cek, kek []byte) {
	t.Helper()
	m, err := jwe.Parse([]byte(compact), jwe.Policy{Algs: []string{string(p.alg)}, Encs: []string{p.enc}, MaxSize: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	if p.rsa != nil {
		cek, err := p.rsa.Decrypt(nil, m.Envelope.EncryptedKey, &rsa.OAEPOptions{Hash: crypto.SHA256})
		if err != nil {
			t.Fatal(err)
		}
		return cek, nil
	}
	z, err := p.ec.ECDH(m.Envelope.EPK)
	if err != nil {
		t.Fatal(err)
	}
	d, err := boundary.DerivationOf(&m.Envelope)
	if err != nil {
		t.Fatal(err)
	}
	size, _ := boundary.CEKLen(p.enc)
	derived := d.Key(z)
	if p.alg == jwe.SealECDHES {
		return derived, nil
	}
	cek = make([]byte, size)
	if boundary.UnwrapAESKW(derived, m.Envelope.EncryptedKey, cek) != 1 {
		t.Fatal("the content key does not unwrap")
	}
	return cek, derived
}

func (p *replier) reply(t *testing.T, cek, plaintext []byte) []byte {
	t.Helper()
	e, err := gojose.NewEncrypter(gojose.ContentEncryption(p.enc), gojose.Recipient{Algorithm: gojose.DIRECT, Key: cek}, nil)
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := e.Encrypt(plaintext)
	if err != nil {
		t.Fatal(err)
	}
	compact, err := sealed.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return []byte(compact)
}

// exchanged is an exchange of which everything is known.
type exchanged struct {
	id                        string
	cek, kek, request, answer []byte
}

// begin has the daemon seal requests whose replies come under their own key.
func (p *replier) begin(t *testing.T, c *client.Client, n int) []exchanged {
	t.Helper()
	var all []exchanged
	for i := range n {
		x := exchanged{request: make([]byte, 100+i*300), answer: make([]byte, 100+i*300)}
		rand.Read(x.request)
		rand.Read(x.answer)
		sealed, err := c.Encrypt(t.Context(), "wise", x.request, client.EncryptOptions{URL: "/v1/direct"})
		if err != nil {
			t.Fatal(err)
		}
		x.id = sealed.Exchange.ID
		x.cek, x.kek = p.contentKey(t, sealed.JWE)
		all = append(all, x)
	}
	return all
}

// end has it open the replies.
func (p *replier) end(t *testing.T, c *client.Client, all []exchanged) {
	t.Helper()
	for _, x := range all {
		opened, err := c.DecryptReply(t.Context(), "wise", x.id, p.reply(t, x.cek, x.answer))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(opened.Plaintext, x.answer) {
			t.Errorf("got %d bytes, want %d", len(opened.Plaintext), len(x.answer))
		}
	}
}

// TestMemoryHoldsNoContentKeyOfAnExchange: the daemon makes it and seals with it,
// and has none of it left when it has answered. The library's process keeps it
// until the reply, in the token or, under CBC, in memory: there it is found.
func TestMemoryHoldsNoContentKeyOfAnExchange(t *testing.T) {
	for _, c := range []struct {
		alg      jwe.SealAlg
		enc      string
		inMemory bool
	}{
		{jwe.SealRSAOAEP256, boundary.A256GCM, false},
		{jwe.SealRSAOAEP256, boundary.A128CBCHS256, true},
		{jwe.SealECDHES, boundary.A256CBCHS512, true},
		{jwe.SealECDHESA256KW, boundary.A128GCM, false},
	} {
		t.Run(fmt.Sprintf("%s with %s", c.alg, c.enc), func(t *testing.T) {
			p, public := newReplier(t, c.alg, c.enc)
			d := startDaemon(t, http.NotFoundHandler(),
				"type: wise", fmt.Sprintf("type: jwe\n    our_key: fetched\n    algs: [RSA-OAEP-256]\n    encs: [A256GCM]\n    seal_alg: %s\n    seal_enc: %s", c.alg, c.enc),
				"    client_id: demo-client\n", fmt.Sprintf("    direct: [/v1/direct]\n    key: {file: %s, key_id: theirs}\n", write(t, "partner.pem", public)),
				"    client_secret: file:DIR/secret\n", "")
			d.activeVersion(t)
			d.exchanging(t, p, c.inMemory)
		})
	}
}

func (d *testDaemon) exchanging(t *testing.T, p *replier, inMemory bool) {
	t.Helper()
	c := client.New(d.client)
	defer c.Close()
	all := p.begin(t, c, 12)
	p.end(t, c, p.begin(t, c, 6)) // what is looked for is what stays, so others have their turn
	secrets := map[string][]byte{}
	for i, x := range all {
		half := len(x.cek) / 2
		secrets[fmt.Sprintf("content key %d", i)], secrets[fmt.Sprintf("content key %d, second half", i)] = x.cek[:half], x.cek[half:]
	}
	canary := make([]byte, 3000)
	rand.Read(canary)
	forget := d.plantCanary(t, canary)
	defer forget()
	waitFor(t, func() bool {
		return residueOf(t, d.process.Pid, map[string][]byte{"canary": canary[2976:]})["canary"] > 0
	})
	held := residueOf(t, d.workers(t)[0], secrets)
	if inMemory && len(held) != len(secrets) || !inMemory && len(held) != 0 {
		t.Errorf("while %d keys are held, their process has %v in memory", len(all), held)
	}
	for i, x := range all {
		if x.kek != nil {
			secrets[fmt.Sprintf("wrapping key %d", i)] = x.kek[:16]
		}
	}
	for name, n := range residueOf(t, d.process.Pid, secrets) {
		t.Errorf("waiting for replies, the daemon has %s in memory, %d times", name, n)
	}
	p.end(t, c, all)
	p.end(t, c, p.begin(t, c, 6))
	for i, x := range all {
		for at := 0; at+24 <= len(x.request); at += 300 {
			secrets[fmt.Sprintf("request %d, at %d", i, at)], secrets[fmt.Sprintf("reply %d, at %d", i, at)] = x.request[at:at+24], x.answer[at:at+24]
		}
	}
	for process, pid := range map[string]int{"daemon": d.process.Pid, "library's process": d.workers(t)[0]} {
		for name, n := range residueOf(t, pid, secrets) {
			t.Errorf("after the replies, the %s has %s in memory, %d times", process, name, n)
		}
	}
}
