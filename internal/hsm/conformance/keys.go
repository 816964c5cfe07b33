package conformance

import (
	"fmt"
	"time"

	"github.com/miekg/pkcs11"
)

// keyChecks are what keys can be made.
var keyChecks = func() []check {
	var all []check
	for _, bits := range []int{2048, 3072, 4096} {
		all = append(all, check{fmt.Sprintf("RSA-%d", bits), func(l *lab) Check { return l.makesRSA(bits) }})
	}
	for _, c := range curves {
		all = append(all, check{c.name, func(l *lab) Check {
			began := time.Now()
			if _, err := l.ecKey(c.name); err != nil {
				return l.does(unlisted, err)
			}
			return pass("%s", time.Since(began).Round(time.Millisecond))
		}})
	}
	return append(all,
		check{"key pairs of a session", func(l *lab) Check {
			if _, err := l.rsaKey(uses{decrypt: true}); err != nil {
				return cannot(err)
			}
			if l.lasting {
				return quirk("it makes lasting ones only; keyd makes its throw-away keys so, and destroys them")
			}
			return pass("throw-away keys go with their session")
		}},
		check{"AES keys made in the token", func(l *lab) Check {
			o, err := l.pkcs11.GenerateKey(l.session, mechanism1(pkcs11.CKM_AES_KEY_GEN, nil), append(sensitive(pkcs11.CKK_AES, decrypts()), pkcs11.NewAttribute(pkcs11.CKA_VALUE_LEN, 32))[2:])
			if err == nil {
				err = l.pkcs11.DestroyObject(l.session, o)
			}
			return l.does(pkcs11.CKM_AES_KEY_GEN, err)
		}},
		check{"AES keys from outside", func(l *lab) Check {
			o, err := l.create(l.session, random(32), decrypts())
			if err == nil {
				err = l.pkcs11.DestroyObject(l.session, o)
			}
			if err != nil {
				return l.lacks(l.check, err)
			}
			return pass("")
		}},
	)
}()

func (l *lab) makesRSA(bits int) Check {
	began := time.Now()
	_, priv, err := l.generate(pkcs11.CKM_RSA_PKCS_KEY_PAIR_GEN, rsaTemplate(bits), uses{decrypt: true})
	if err != nil {
		return l.does(unlisted, err)
	}
	took := time.Since(began).Round(time.Millisecond)
	v, err := l.pkcs11.GetAttributeValue(l.session, priv, attributes(uint(pkcs11.CKA_MODULUS), nil))
	if err != nil || len(v[0].Value) != bits/8 {
		return fail("asked for %d bits, and got a modulus of %d octets (%s)", bits, len(v[0].Value), name(err))
	}
	return pass("%s", took)
}
