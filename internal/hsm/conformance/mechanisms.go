package conformance

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"math/big"

	"github.com/miekg/pkcs11"

	"keyd/internal/boundary"
)

// mechanismChecks are everything that keyd can use.
var mechanismChecks = []check{
	{"RSA-OAEP with SHA-256, decrypting", withRSA(uses{decrypt: true}, func(l *lab, k *rsaPair) Check {
		return l.does(pkcs11.CKM_RSA_PKCS_OAEP, l.rsaDecrypts(k, oaep256(), func(got, cek []byte) bool { return bytes.Equal(got, cek) }))
	})},
	{"RSA-OAEP with SHA-256, unwrapping an AES key", withRSA(uses{unwrap: true}, func(l *lab, k *rsaPair) Check {
		block, err := wrapped(k.key, random(32))
		if err != nil {
			return fail("%v", err)
		}
		return l.does(pkcs11.CKM_RSA_PKCS_OAEP, l.within(func(s pkcs11.SessionHandle) error { _, err := l.unwrap(s, k.private, block); return err }))
	})},
	{"bare RSA, decrypting", withRSA(uses{decrypt: true}, func(l *lab, k *rsaPair) Check {
		return l.does(pkcs11.CKM_RSA_X_509, l.rsaDecrypts(k, mechanism1(pkcs11.CKM_RSA_X_509, nil), func(got, cek []byte) bool {
			out := make([]byte, len(cek))
			return boundary.RemoveOAEP256(got, out) == 1 && bytes.Equal(out, cek)
		}))
	})},
	{"RSA-PSS with SHA-256 over a digest", withRSA(uses{sign: true}, func(l *lab, k *rsaPair) Check {
		digest := sha256.Sum256([]byte("message"))
		m := mechanism1(pkcs11.CKM_RSA_PKCS_PSS, pkcs11.NewPSSParams(pkcs11.CKM_SHA256, pkcs11.CKG_MGF1_SHA256, sha256.Size))
		return l.does(pkcs11.CKM_RSA_PKCS_PSS, l.within(func(s pkcs11.SessionHandle) error {
			if err := l.pkcs11.SignInit(s, m, k.private); err != nil {
				return err
			}
			signature, err := l.pkcs11.Sign(s, digest[:])
			if err == nil && rsa.VerifyPSS(k.key, crypto.SHA256, digest[:], signature, &rsa.PSSOptions{SaltLength: sha256.Size}) != nil {
				err = errWrong
			}
			return err
		}))
	})},
	{"bare RSA, signing", withRSA(uses{sign: true}, func(l *lab, k *rsaPair) Check {
		block := append([]byte{0}, random(k.key.Size()-1)...)
		return l.does(pkcs11.CKM_RSA_X_509, l.within(func(s pkcs11.SessionHandle) error {
			if err := l.pkcs11.SignInit(s, mechanism1(pkcs11.CKM_RSA_X_509, nil), k.private); err != nil {
				return err
			}
			signature, err := l.pkcs11.Sign(s, block)
			if err == nil {
				raised := new(big.Int).Exp(new(big.Int).SetBytes(signature), big.NewInt(int64(k.key.E)), k.key.N)
				if raised.Cmp(new(big.Int).SetBytes(block)) != 0 {
					err = errWrong
				}
			}
			return err
		}))
	})},
	{"AES-GCM with a header, decrypting", func(l *lab) Check { return l.does(pkcs11.CKM_AES_GCM, l.gcm([]byte("plaintext"), []byte("header"))) }},
	{"AES-GCM with nothing but a tag", func(l *lab) Check { return l.does(pkcs11.CKM_AES_GCM, l.gcm(nil, nil)) }},
	{"AES-GCM over 1 MiB", func(l *lab) Check { return l.does(pkcs11.CKM_AES_GCM, l.gcm(make([]byte, 1<<20), []byte("header"))) }},
	{"AES key wrap, unwrapping an AES key", func(l *lab) Check {
		kek, cek := random(32), random(16)
		return l.does(pkcs11.CKM_AES_KEY_WRAP, l.within(func(s pkcs11.SessionHandle) error {
			o, err := l.create(s, kek, pkcs11.NewAttribute(pkcs11.CKA_UNWRAP, true))
			if err != nil {
				return err
			}
			_, err = l.pkcs11.UnwrapKey(s, mechanism1(pkcs11.CKM_AES_KEY_WRAP, nil), o, boundary.WrapAESKW(kek, cek), sensitive(pkcs11.CKK_AES, decrypts()))
			return err
		}))
	}},
	{"ECDH on P-256", func(l *lab) Check { return l.agrees("P-256", false) }},
	{"ECDH on P-384", func(l *lab) Check { return l.agrees("P-384", false) }},
	{"ECDH on P-521", func(l *lab) Check { return l.agrees("P-521", false) }},
	{"ECDH with the point in DER", func(l *lab) Check { return l.agrees("P-256", true) }},
	{"a shared secret that begins with a zero", withEC(zeroFirst)},
	{"SHA-256 over a shared secret that stays in", withEC(digests)},
	{"Concat KDF from CONCATENATE and SHA256_KEY_DERIVATION", withEC(func(l *lab, k *ecPair) Check {
		return l.does(pkcs11.CKM_SHA256_KEY_DERIVATION, l.within(func(s pkcs11.SessionHandle) error { return l.concats(s, k) }))
	})},
	{"Concat KDF as CKD_SHA256_KDF_SP800", withEC(func(l *lab, k *ecPair) Check {
		return l.does(unlisted, l.within(func(s pkcs11.SessionHandle) error {
			sh, info, err := l.sealable(k)
			if err != nil {
				return err
			}
			o, err := l.agree(s, k.private, ckdSHA256SP800, info, sh.point, append(sensitive(pkcs11.CKK_AES, decrypts()), pkcs11.NewAttribute(pkcs11.CKA_VALUE_LEN, 32)))
			if err != nil {
				return err
			}
			return l.opensUnder(s, o, sh, info)
		}))
	})},
}

func withRSA(u uses, f func(*lab, *rsaPair) Check) func(*lab) Check {
	return func(l *lab) Check {
		k, err := l.rsaKey(u)
		if err != nil {
			return cannot(err)
		}
		return f(l, k)
	}
}

func withEC(f func(*lab, *ecPair) Check) func(*lab) Check {
	return func(l *lab) Check {
		k, err := l.ecKey("P-256")
		if err != nil {
			return cannot(err)
		}
		return f(l, k)
	}
}

func (l *lab) rsaDecrypts(k *rsaPair, m []*pkcs11.Mechanism, right func(got, cek []byte) bool) error {
	cek := random(32)
	block, err := wrapped(k.key, cek)
	if err != nil {
		return err
	}
	return l.within(func(s pkcs11.SessionHandle) error {
		got, err := l.decrypt(s, m, k.private, block)
		if err == nil && !right(got, cek) {
			err = errWrong
		}
		return err
	})
}

func (l *lab) gcm(plaintext, aad []byte) error {
	cek := random(32)
	c, err := sealContent(cek, plaintext, aad)
	if err != nil {
		return err
	}
	return l.within(func(s pkcs11.SessionHandle) error {
		o, err := l.create(s, cek, decrypts())
		if err != nil {
			return err
		}
		got, err := l.openContent(s, o, c)
		if err == nil && !bytes.Equal(got, plaintext) {
			err = errWrong
		}
		return err
	})
}
