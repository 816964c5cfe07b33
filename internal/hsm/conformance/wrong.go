package conformance

import (
	"crypto/rand"
	"errors"
	"slices"
	"strings"

	"github.com/miekg/pkcs11"
)

// badPoints are what an attacker sends to learn a private key (NIST SP 800-56A
// rev. 3 §5.6.2.3). keyd hands on none of them.
func badPoints(l *lab, k *ecPair) Check {
	sh, err := agreeWith(k.key)
	if err != nil {
		return fail("%v", err)
	}
	if err := l.within(func(s pkcs11.SessionHandle) error { return l.secretIs(s, k, sh.point, sh.z) }); err != nil && !errors.Is(err, errWrong) {
		return skip("it does not agree with right ones: %s", name(err))
	}
	off := slices.Clone(sh.point)
	off[len(off)-1] ^= 1
	other, err := curves[1].curve.GenerateKey(rand.Reader)
	if err != nil {
		return fail("%v", err)
	}
	zero := make([]byte, len(sh.point))
	zero[0] = 4
	r := refusals{l: l}
	for _, c := range []struct {
		when  string
		point []byte
	}{
		{"a point off the curve", off}, {"a point of P-384", other.PublicKey().Bytes()}, {"the point (0,0)", zero},
		{"the point at infinity", []byte{0}}, {"a point that is cut", sh.point[:len(sh.point)-1]},
	} {
		r.note(c.when, l.within(func(s pkcs11.SessionHandle) error {
			_, err := l.agree(s, k.private, pkcs11.CKD_NULL, nil, c.point, sensitive(pkcs11.CKK_GENERIC_SECRET, derives()))
			return err
		}))
	}
	return r.check()
}

func wrongType(l *lab) Check {
	k, err := l.rsaKey(uses{decrypt: true})
	if err != nil {
		return cannot(err)
	}
	r := refusals{l: l}
	public := l.within(func(s pkcs11.SessionHandle) error {
		_, err := l.decrypt(s, mechanism1(pkcs11.CKM_RSA_X_509, nil), k.public, append([]byte{0}, random(255)...))
		return err
	})
	if public != nil {
		r.note("decrypting with a public key", public)
	}
	r.note("ECDH with an RSA key", l.within(func(s pkcs11.SessionHandle) error {
		point := append([]byte{4}, random(64)...)
		_, err := l.agree(s, k.private, pkcs11.CKD_NULL, nil, point, sensitive(pkcs11.CKK_GENERIC_SECRET, derives()))
		return err
	}))
	r.note("decrypting with a handle of no object", l.within(func(s pkcs11.SessionHandle) error {
		_, err := l.decrypt(s, mechanism1(pkcs11.CKM_RSA_X_509, nil), 0x7E7E7E7, random(256))
		return err
	}))
	if ec, err := l.ecKey("P-256"); err == nil {
		r.note("RSA with a key on a curve", l.within(func(s pkcs11.SessionHandle) error {
			_, err := l.decrypt(s, mechanism1(pkcs11.CKM_RSA_X_509, nil), ec.private, random(256))
			return err
		}))
	}
	if c := r.check(); c.Verdict != Pass || public != nil {
		return c
	}
	return quirk("a public key decrypts; keyd uses private keys only")
}

// wrongUse: what a key is not for, the token should not do. keyd looks at the
// attributes itself.
func wrongUse(l *lab) Check {
	signs, err := l.rsaFor(uses{sign: true})
	if err != nil {
		return cannot(err)
	}
	block := make([]byte, 256)
	block[255] = 2
	err1 := l.within(func(s pkcs11.SessionHandle) error {
		_, err := l.decrypt(s, mechanism1(pkcs11.CKM_RSA_X_509, nil), signs.private, block)
		return err
	})
	opens, err := l.rsaFor(uses{decrypt: true})
	if err != nil {
		return cannot(err)
	}
	err2 := l.within(func(s pkcs11.SessionHandle) error {
		if err := l.pkcs11.SignInit(s, mechanism1(pkcs11.CKM_RSA_X_509, nil), opens.private); err != nil {
			return err
		}
		_, err := l.pkcs11.Sign(s, block)
		return err
	})
	var taken []string
	if err1 == nil {
		taken = append(taken, "a key that signs decrypts")
	}
	if err2 == nil {
		taken = append(taken, "a key that decrypts signs")
	}
	if len(taken) > 0 {
		return quirk("%s; keyd asks the attributes itself", strings.Join(taken, ", "))
	}
	return pass("%s, %s", l.said("decrypting with a key that signs", err1), l.said("signing with a key that decrypts", err2))
}
