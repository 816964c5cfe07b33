package conformance

import (
	"crypto/rand"

	"github.com/miekg/pkcs11"

	"keyd/internal/boundary"
)

// dangerChecks are what has been seen to take a process with it. keyd does none of
// it, but for what it cannot know beforehand.
var dangerChecks = []check{
	{"a private key without a curve", func(l *lab) Check {
		// What a crash leaves in the middle of a key generation.
		o, err := l.pkcs11.CreateObject(l.session, attributes(uint(pkcs11.CKA_CLASS), uint(pkcs11.CKO_PRIVATE_KEY), uint(pkcs11.CKA_KEY_TYPE), uint(pkcs11.CKK_EC),
			uint(pkcs11.CKA_TOKEN), false, uint(pkcs11.CKA_LABEL), l.label, uint(pkcs11.CKA_DERIVE), true,
			uint(pkcs11.CKA_EC_PARAMS), []byte{}, uint(pkcs11.CKA_VALUE), random(32)))
		if err != nil {
			return pass("not taken: %s", l.said(l.check, err))
		}
		point, err := agreeWithAny()
		if err != nil {
			return fail("%v", err)
		}
		_, err = l.agree(l.session, o, pkcs11.CKD_NULL, nil, point, sensitive(pkcs11.CKK_GENERIC_SECRET, derives()))
		return l.mustRefuse(l.check, err)
	}},
	{"an encrypted key of zeros", withRSA(uses{decrypt: true}, func(l *lab, k *rsaPair) Check {
		r := refusals{l: l}
		for _, c := range []struct {
			when  string
			block []byte
		}{{"zeros to decrypt", make([]byte, 256)}, {"the modulus to decrypt", k.key.N.FillBytes(make([]byte, 256))}, {"nothing to decrypt", nil}} {
			r.note(c.when, l.within(func(s pkcs11.SessionHandle) error { _, err := l.decrypt(s, oaep256(), k.private, c.block); return err }))
		}
		return r.check()
	})},
	{"1 MiB where a block belongs", withRSA(uses{decrypt: true}, func(l *lab, k *rsaPair) Check {
		return l.mustRefuse("1 MiB to decrypt", l.within(func(s pkcs11.SessionHandle) error {
			_, err := l.decrypt(s, mechanism1(pkcs11.CKM_RSA_X_509, nil), k.private, make([]byte, 1<<20))
			return err
		}))
	})},
}

func agreeWithAny() ([]byte, error) {
	k, err := curves[0].curve.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	return k.PublicKey().Bytes(), nil
}

// wrapAES is the AES key wrap of RFC 3394.
func wrapAES(kek, cek []byte) []byte { return boundary.WrapAESKW(kek, cek) }
