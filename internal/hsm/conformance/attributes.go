package conformance

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rsa"
	"crypto/x509"
	"fmt"
	"strings"

	"github.com/miekg/pkcs11"

	"keyd/internal/boundary"
)

// attributeChecks are whether the token makes what it is asked for, and says what
// it has made.
var attributeChecks = []check{
	{"an RSA private key", withRSA(uses{decrypt: true}, func(l *lab, k *rsaPair) Check { return l.honest(k.private, pkcs11.CKA_PRIVATE_EXPONENT) })},
	{"a private key on P-256", withEC(func(l *lab, k *ecPair) Check { return l.honest(k.private, pkcs11.CKA_VALUE) })},
	{"CKA_EXTRACTABLE set afterwards", withRSA(uses{decrypt: true}, func(l *lab, k *rsaPair) Check {
		return l.after(k.private, pkcs11.CKA_EXTRACTABLE, true)
	})},
	{"CKA_SENSITIVE taken away afterwards", withRSA(uses{decrypt: true}, func(l *lab, k *rsaPair) Check {
		return l.after(k.private, pkcs11.CKA_SENSITIVE, false)
	})},
	{"a private key wrapped to be taken out", withRSA(uses{decrypt: true}, takenOut)},
	{"an AES key that was unwrapped", withRSA(uses{unwrap: true}, func(l *lab, k *rsaPair) Check {
		cek := random(32)
		block, err := wrapped(k.key, cek)
		if err != nil {
			return fail("%v", err)
		}
		o, err := l.unwrap(l.session, k.private, block)
		if err != nil {
			return skip("it does not unwrap: %s", name(err))
		}
		return l.keptIn(o, cek)
	})},
	{"a shared secret that was agreed on", withEC(func(l *lab, k *ecPair) Check {
		sh, err := agreeWith(k.key)
		if err != nil {
			return fail("%v", err)
		}
		o, err := l.agree(l.session, k.private, pkcs11.CKD_NULL, nil, sh.point, sensitive(pkcs11.CKK_GENERIC_SECRET, derives()))
		if err != nil {
			return skip("it does not agree: %s", name(err))
		}
		return l.keptIn(o, sh.z)
	})},
	{"an AES key from outside", func(l *lab) Check {
		key := random(32)
		o, err := l.create(l.session, key, decrypts())
		if err != nil {
			return skip("it takes none: %s", name(err))
		}
		return l.keptIn(o, key)
	}},
}

// asked is what every private key is made with, and what a token should say.
var asked = []struct {
	attribute uint
	name      string
	want      bool
	vital     bool
}{
	{pkcs11.CKA_SENSITIVE, "CKA_SENSITIVE", true, true},
	{pkcs11.CKA_EXTRACTABLE, "CKA_EXTRACTABLE", false, true},
	{pkcs11.CKA_PRIVATE, "CKA_PRIVATE", true, true},
	{pkcs11.CKA_ALWAYS_SENSITIVE, "CKA_ALWAYS_SENSITIVE", true, false},
	{pkcs11.CKA_NEVER_EXTRACTABLE, "CKA_NEVER_EXTRACTABLE", true, false},
	{pkcs11.CKA_LOCAL, "CKA_LOCAL", true, false},
}

// honest holds a private key against what was asked for, and tries to read it.
func (l *lab) honest(private pkcs11.ObjectHandle, secret uint) Check {
	var vital, other []string
	for _, a := range asked {
		is, told := l.flag(private, a.attribute)
		if told && is == a.want {
			continue
		}
		text := fmt.Sprintf("%s is %t", a.name, is)
		if !told {
			text = a.name + " is not told"
		}
		if a.vital {
			vital = append(vital, text)
		} else {
			other = append(other, text)
		}
	}
	v, err := l.pkcs11.GetAttributeValue(l.session, private, attributes(secret, nil))
	if err == nil && len(v) == 1 && len(v[0].Value) > 0 {
		vital = append(vital, "the private key can be read")
	} else if err != nil {
		l.said("a private key is read", err)
	}
	switch {
	case len(vital) > 0:
		return fail("%s", strings.Join(append(vital, other...), ", "))
	case len(other) > 0:
		return quirk("%s; it is in the evidence of each key", strings.Join(other, ", "))
	}
	return pass("as asked, and not to be read")
}

// after changes an attribute, which must not work.
func (l *lab) after(private pkcs11.ObjectHandle, attribute uint, value bool) Check {
	err := l.pkcs11.SetAttributeValue(l.session, private, attributes(attribute, value))
	if err != nil {
		return pass("%s", l.said("an attribute that is not to change", err))
	}
	if is, told := l.flag(private, attribute); told && is != value {
		return quirk("CKR_OK, and nothing is changed")
	}
	v, err := l.pkcs11.GetAttributeValue(l.session, private, attributes(uint(pkcs11.CKA_PRIVATE_EXPONENT), nil))
	if err == nil && len(v[0].Value) > 0 {
		return fail("it is changed, and the private key can be read")
	}
	return quirk("it is changed, and the private key cannot be read all the same")
}

// takenOut wraps a private key under a key that the asker knows.
func takenOut(l *lab, k *rsaPair) Check {
	out, err := l.wrapOut(k.private, func(plain []byte) bool {
		key, err := x509.ParsePKCS8PrivateKey(plain)
		private, isRSA := key.(*rsa.PrivateKey)
		return err == nil && isRSA && private.N.Cmp(k.key.N) == 0
	})
	switch {
	case err != nil:
		return skip("it takes no key to wrap under: %s", name(err))
	case out != "":
		return fail("whoever is logged in gets it by C_WrapKey with %s, though CKA_EXTRACTABLE is false", out)
	}
	return pass("refused: %s", l.codes[len(l.codes)-1].Code)
}

// wrapOut tries to get at a key by wrapping it, and returns with which mechanism
// that works. The error is that it cannot be tried.
func (l *lab) wrapOut(o pkcs11.ObjectHandle, is func(plain []byte) bool) (mechanism string, err error) {
	known := random(32)
	kek, err := l.create(l.session, known, pkcs11.NewAttribute(pkcs11.CKA_WRAP, true))
	if err != nil {
		return "", err
	}
	defer func() { _ = l.pkcs11.DestroyObject(l.session, kek) }()
	iv := make([]byte, aes.BlockSize)
	for _, m := range []struct {
		name      string
		mechanism []*pkcs11.Mechanism
		unwrap    func(block []byte) []byte
	}{
		{"CKM_AES_CBC_PAD", mechanism1(pkcs11.CKM_AES_CBC_PAD, iv), func(block []byte) []byte { return unwrapCBC(known, iv, block) }},
		{"CKM_AES_KEY_WRAP", mechanism1(pkcs11.CKM_AES_KEY_WRAP, nil), func(block []byte) []byte { return unwrapKW(known, block) }},
	} {
		block, err := l.pkcs11.WrapKey(l.session, m.mechanism, kek, o)
		if err != nil {
			l.said("a key wrapped with "+m.name+", which is not to come out", err)
			continue
		}
		if is(m.unwrap(block)) {
			return m.name, nil
		}
	}
	return "", nil
}

func unwrapCBC(kek, iv, block []byte) []byte {
	c, err := aes.NewCipher(kek)
	if err != nil || len(block) == 0 || len(block)%aes.BlockSize != 0 {
		return nil
	}
	plain := make([]byte, len(block))
	cipher.NewCBCDecrypter(c, iv).CryptBlocks(plain, block)
	return plain[:max(0, len(plain)-int(plain[len(plain)-1]))]
}

func unwrapKW(kek, block []byte) []byte {
	if len(block) < 24 || len(block)%8 != 0 {
		return nil
	}
	plain := make([]byte, len(block)-8)
	boundary.UnwrapAESKW(kek, block, plain)
	return plain
}

// keptIn holds a secret key against what was asked for, and tries to get at it.
func (l *lab) keptIn(o pkcs11.ObjectHandle, secret []byte) Check {
	defer func() { _ = l.pkcs11.DestroyObject(l.session, o) }()
	sensitive, told1 := l.flag(o, pkcs11.CKA_SENSITIVE)
	extractable, told2 := l.flag(o, pkcs11.CKA_EXTRACTABLE)
	value, err := l.value(l.session, o)
	if err == nil && len(value) > 0 {
		return quirk("it can be read, though it was to be kept in (CKA_SENSITIVE %t, CKA_EXTRACTABLE %t); keyd does not call that %s", sensitive, extractable, boundary.Sealed)
	}
	if !told1 || !told2 || !sensitive || extractable {
		return quirk("CKA_SENSITIVE %t, CKA_EXTRACTABLE %t; keyd does not call that %s", sensitive, extractable, boundary.Sealed)
	}
	l.said("a key that is to stay in is read", err)
	if out, _ := l.wrapOut(o, func(plain []byte) bool { return bytes.HasPrefix(plain, secret) }); out != "" {
		return fail("whoever is logged in gets it by C_WrapKey with %s, though CKA_EXTRACTABLE is false", out)
	}
	length, err := l.pkcs11.GetAttributeValue(l.session, o, attributes(uint(pkcs11.CKA_VALUE_LEN), nil))
	if err != nil || len(length[0].Value) == 0 || number(length[0].Value) != uint64(len(secret)) {
		return quirk("kept in; its length is not told, which keyd needs to know of a key that was unwrapped")
	}
	return pass("kept in, %d octets", len(secret))
}
