package hsm_test

import (
	"encoding/hex"
	"testing"

	"github.com/miekg/pkcs11"

	"keyd/internal/hsm"
	"keyd/internal/rotation"
	"keyd/internal/rotation/backendtest"
)

var _ rotation.Backend = (*hsm.Token)(nil)

func TestSoftHSMFulfilsTheContract(t *testing.T) { contract(t, softHSM(t)) }

func TestNSSFulfilsTheContract(t *testing.T) { contract(t, nss(t)) }

func contract(t *testing.T, cfg hsm.Config) {
	token := open(t, cfg)
	backendtest.Run(t, func(*testing.T) rotation.Backend { return token }, backendtest.Options{
		Plant: func(t *testing.T, _ rotation.Backend, label, id string) {
			raw, err := hex.DecodeString(id)
			must(t, err)
			outside(t, cfg, func(ctx *pkcs11.Ctx, s pkcs11.SessionHandle) { plant(t, ctx, s, string(raw), label, true) })
		},
	})
}

// plant makes a key pair as another application would.
func plant(t testing.TB, ctx *pkcs11.Ctx, s pkcs11.SessionHandle, id, label string, sensitive bool) (public, private pkcs11.ObjectHandle) {
	t.Helper()
	public, private, err := ctx.GenerateKeyPair(s, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_RSA_PKCS_KEY_PAIR_GEN, nil)},
		[]*pkcs11.Attribute{
			pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true), pkcs11.NewAttribute(pkcs11.CKA_ID, id),
			pkcs11.NewAttribute(pkcs11.CKA_LABEL, label), pkcs11.NewAttribute(pkcs11.CKA_MODULUS_BITS, 2048),
			pkcs11.NewAttribute(pkcs11.CKA_PUBLIC_EXPONENT, []byte{1, 0, 1}),
		},
		[]*pkcs11.Attribute{
			pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true), pkcs11.NewAttribute(pkcs11.CKA_ID, id),
			pkcs11.NewAttribute(pkcs11.CKA_LABEL, label), pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, true),
			pkcs11.NewAttribute(pkcs11.CKA_DECRYPT, true), pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, sensitive),
			pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, !sensitive),
		})
	must(t, err)
	return public, private
}
