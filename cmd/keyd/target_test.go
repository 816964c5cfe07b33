package main

import (
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"strings"
	"testing"

	"keyd/internal/jwe"
	"keyd/internal/partner/partnersim"
)

// target is what is measured: a daemon in a process of its own, the
// public key of its active version, and an envelope sealed to that.
type target struct {
	*testDaemon
	kid      string
	handle   string
	rsa      *rsa.PublicKey
	public   []byte // the same as DER SPKI
	envelope []byte
}

// wrapped is the envelope's encrypted key.
func (d *target) wrapped(b *testing.B) []byte {
	block, err := base64.RawURLEncoding.DecodeString(strings.Split(string(d.envelope), ".")[1])
	if err != nil {
		b.Fatal(err)
	}
	return block
}

const benchPlaintext = 1024

func newTarget(b testing.TB, edits ...string) *target {
	sim := partnersim.New(partnersim.Options{ClientID: "demo-client", ClientSecret: testSecret})
	d := &target{testDaemon: startDaemon(b, sim, edits...)}
	v := d.activeVersion(b)
	d.handle = v.Handle
	block, _ := pem.Decode([]byte(v.PublicPEM))
	public, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		b.Fatal(err)
	}
	sealed, err := jwe.Seal(public.(*rsa.PublicKey), jwe.SealHeader{Alg: jwe.SealRSAOAEP256, KID: v.KID, Enc: "A256GCM"}, make([]byte, benchPlaintext))
	if err != nil {
		b.Fatal(err)
	}
	d.kid, d.rsa, d.public, d.envelope = v.KID, public.(*rsa.PublicKey), block.Bytes, []byte(sealed)
	return d
}
