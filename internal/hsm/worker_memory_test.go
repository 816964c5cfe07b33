package hsm_test

import (
	"crypto/ecdh"
	"crypto/rand"
	"fmt"
	"testing"

	"github.com/google/uuid"

	"keyd/internal/boundary"
	"keyd/internal/hsm"
	"keyd/internal/residue"
)

// agreed is an envelope for a key on a curve, with all that its sender knows.
type agreed struct {
	env               *boundary.Envelope
	z, derived, cek   []byte
	plaintext, header []byte
}

func sealAgreed(t *testing.T, pub *ecdh.PublicKey, alg string, size int) agreed {
	t.Helper()
	a := agreed{plaintext: make([]byte, size), header: []byte("header")}
	rand.Read(a.plaintext)
	ephemeral, err := pub.Curve().GenerateKey(rand.Reader)
	must(t, err)
	a.env, err = boundary.SealFrom(ephemeral, pub, alg, boundary.A256GCM, a.plaintext, a.header)
	must(t, err)
	a.z, err = ephemeral.ECDH(pub)
	must(t, err)
	d, err := boundary.DerivationOf(a.env)
	must(t, err)
	a.derived = d.Key(a.z)
	a.cek = a.derived
	if alg != boundary.ECDHES {
		a.cek = make([]byte, 32)
		if boundary.UnwrapAESKW(a.derived, a.env.EncryptedKey, a.cek) != 1 {
			t.Fatal("the content key does not unwrap")
		}
	}
	return a
}

// TestWorkerHasNoContentKeyInMemoryAfterwards: nor what was derived from a shared
// secret, nor that if it came out of the token, nor a content key that was held
// and released. The daemon's side, and RSA, are under the same test in cmd/keyd.
func TestWorkerHasNoContentKeyInMemoryAfterwards(t *testing.T) {
	atRaw := func(t testing.TB) hsm.Config {
		cfg := softHSM(t)
		withFaults(t, &cfg).fail("C_DigestKey 0x54") // CKR_FUNCTION_NOT_SUPPORTED: the shared secret has to come out
		return cfg
	}
	for name, c := range map[string]struct {
		make  func(testing.TB) hsm.Config
		level boundary.Level
	}{"SoftHSM": {softHSM, boundary.Unwrap}, "NSS": {nss, boundary.Sealed}, "a token at raw": {atRaw, boundary.Raw}} {
		t.Run(name, func(t *testing.T) {
			token := openInWorker(t, c.make(t))
			secrets := map[string][]byte{}
			note := func(name string, secret []byte) {
				secrets[name] = secret[:len(secret)/2]
				secrets[name+", second half"] = secret[len(secret)/2:]
			}
			for round, curve := range []string{"P-256", "P-521", "P-384"} {
				g, err := token.Generate(t.Context(), boundary.Spec{Key: "k", KID: uuid.NewString(), Material: boundary.Material{Algorithm: boundary.ECDHES, Curve: curve}})
				must(t, err)
				for i := range 12 {
					alg := []string{boundary.ECDHES, boundary.ECDHESA128KW, boundary.ECDHESA256KW}[i%3]
					a := sealAgreed(t, g.Public.(*ecdh.PublicKey), alg, 100+i*1000)
					got, err := token.Open(t.Context(), g.Handle, a.env)
					if err != nil || string(got.Plaintext) != string(a.plaintext) || got.Level != c.level {
						t.Fatalf("Open = %+v, %v, want it at %s", got, err, c.level)
					}
					if round == 2 {
						continue // others have had their turn since the ones that are looked for
					}
					of := fmt.Sprintf(" of envelope %d with %s on %s, opened at %s", i, alg, curve, got.Level)
					if got.Level == boundary.Raw {
						note("the shared secret"+of, a.z) // else it is the token's, which is in this process here
					}
					note("the derived key"+of, a.derived)
					note("the content key"+of, a.cek)
					note("the plaintext"+of, a.plaintext[len(a.plaintext)-32:])
				}
			}
			held := []byte(rand.Text() + rand.Text())[:32]
			ref, err := token.Hold(t.Context(), boundary.A256GCM, held)
			must(t, err)
			must(t, token.Release(t.Context(), ref))
			note("a content key that was held", held)
			for range 20 { // and others again
				token.Health(t.Context())
			}
			found, err := residue.Find(workerPIDs(t)[0], secrets)
			must(t, err)
			for name, n := range found {
				t.Errorf("%s is in memory, %d times", name, n)
			}
			// One that is held in memory is found, or the search does not work.
			canary := []byte(rand.Text() + rand.Text())[:32]
			ref, err = token.Hold(t.Context(), boundary.A128CBCHS256, canary)
			must(t, err)
			found, err = residue.Find(workerPIDs(t)[0], map[string][]byte{"canary": canary})
			must(t, err)
			if found["canary"] == 0 {
				t.Error("the canary was not found")
			}
			must(t, token.Release(t.Context(), ref))
			if found, err = residue.Find(workerPIDs(t)[0], map[string][]byte{"canary": canary}); err != nil || found["canary"] != 0 {
				t.Errorf("the canary is still there after its release: %v, %v", found, err)
			}
		})
	}
}
