package conformance

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/binary"
	"runtime"
	"unsafe"

	"github.com/miekg/pkcs11"
)

// ckdSHA256SP800 is CKD_SHA256_KDF_SP800 (PKCS #11 v3.0 §2.3.17).
const ckdSHA256SP800 = 0x10

func oaep256() []*pkcs11.Mechanism {
	return mechanism1(pkcs11.CKM_RSA_PKCS_OAEP, pkcs11.NewOAEPParams(pkcs11.CKM_SHA256, pkcs11.CKG_MGF1_SHA256, pkcs11.CKZ_DATA_SPECIFIED, nil))
}

func random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

// wrapped encrypts a content key as RSA-OAEP-256 does.
func wrapped(pub *rsa.PublicKey, cek []byte) ([]byte, error) {
	return rsa.EncryptOAEP(sha256.New(), rand.Reader, pub, cek, nil)
}

func (l *lab) decrypt(s pkcs11.SessionHandle, m []*pkcs11.Mechanism, key pkcs11.ObjectHandle, block []byte) ([]byte, error) {
	if err := l.pkcs11.DecryptInit(s, m, key); err != nil {
		return nil, err
	}
	return l.pkcs11.Decrypt(s, block)
}

// sensitive is the template of a secret key that is to be kept in.
func sensitive(keyType uint, more ...*pkcs11.Attribute) []*pkcs11.Attribute {
	return append(attributes(uint(pkcs11.CKA_CLASS), uint(pkcs11.CKO_SECRET_KEY), uint(pkcs11.CKA_KEY_TYPE), keyType, uint(pkcs11.CKA_TOKEN), false,
		uint(pkcs11.CKA_PRIVATE), true, uint(pkcs11.CKA_SENSITIVE), true, uint(pkcs11.CKA_EXTRACTABLE), false), more...)
}

func decrypts() *pkcs11.Attribute { return pkcs11.NewAttribute(pkcs11.CKA_DECRYPT, true) }
func derives() *pkcs11.Attribute  { return pkcs11.NewAttribute(pkcs11.CKA_DERIVE, true) }

// unwrap has the token unwrap a content key.
func (l *lab) unwrap(s pkcs11.SessionHandle, key pkcs11.ObjectHandle, block []byte) (pkcs11.ObjectHandle, error) {
	return l.pkcs11.UnwrapKey(s, oaep256(), key, block, sensitive(pkcs11.CKK_AES, decrypts()))
}

// sealedContent is plaintext under AES-GCM.
type sealedContent struct{ iv, aad, sealed []byte }

func sealContent(cek, plaintext, aad []byte) (sealedContent, error) {
	block, err := aes.NewCipher(cek)
	if err != nil {
		return sealedContent{}, err
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		return sealedContent{}, err
	}
	c := sealedContent{iv: random(12), aad: aad}
	c.sealed = gcm.Seal(nil, c.iv, plaintext, aad)
	return c, nil
}

func (l *lab) openContent(s pkcs11.SessionHandle, key pkcs11.ObjectHandle, c sealedContent) ([]byte, error) {
	params := pkcs11.NewGCMParams(c.iv, c.aad, 128)
	defer params.Free()
	return l.decrypt(s, mechanism1(pkcs11.CKM_AES_GCM, params), key, c.sealed)
}

// create makes a secret key with a value from here.
func (l *lab) create(s pkcs11.SessionHandle, value []byte, more ...*pkcs11.Attribute) (pkcs11.ObjectHandle, error) {
	return l.pkcs11.CreateObject(s, sensitive(pkcs11.CKK_AES, append(more, pkcs11.NewAttribute(pkcs11.CKA_VALUE, value))...))
}

// agree derives the shared secret with a point, bare.
func (l *lab) agree(s pkcs11.SessionHandle, key pkcs11.ObjectHandle, kdf uint, shared, point []byte, template []*pkcs11.Attribute) (pkcs11.ObjectHandle, error) {
	return l.pkcs11.DeriveKey(s, mechanism1(pkcs11.CKM_ECDH1_DERIVE, pkcs11.NewECDH1DeriveParams(kdf, shared, point)), key, template)
}

// derive derives from a secret key, with CK_KEY_DERIVATION_STRING_DATA, which the
// binding does not know.
func (l *lab) derive(s pkcs11.SessionHandle, m uint, base pkcs11.ObjectHandle, data []byte, template []*pkcs11.Attribute) (pkcs11.ObjectHandle, error) {
	if data == nil {
		return l.pkcs11.DeriveKey(s, mechanism1(m, nil), base, template)
	}
	var pin runtime.Pinner
	defer pin.Unpin()
	pin.Pin(&data[0])
	param := binary.NativeEndian.AppendUint64(nil, uint64(uintptr(unsafe.Pointer(&data[0])))) // #nosec G103 -- pinned for the length of the call
	param = binary.NativeEndian.AppendUint64(param, uint64(len(data)))
	return l.pkcs11.DeriveKey(s, mechanism1(m, param), base, template)
}

// shared is what the token and an ephemeral key agree on.
type shared struct {
	point, z []byte
}

func agreeWith(public *ecdh.PublicKey) (shared, error) {
	ephemeral, err := public.Curve().GenerateKey(rand.Reader)
	if err != nil {
		return shared{}, err
	}
	z, err := ephemeral.ECDH(public)
	return shared{ephemeral.PublicKey().Bytes(), z}, err
}

// value reads CKA_VALUE.
func (l *lab) value(s pkcs11.SessionHandle, o pkcs11.ObjectHandle) ([]byte, error) {
	v, err := l.pkcs11.GetAttributeValue(s, o, attributes(uint(pkcs11.CKA_VALUE), nil))
	if err != nil {
		return nil, err
	}
	return v[0].Value, nil
}

// flag reads a boolean attribute.
func (l *lab) flag(o pkcs11.ObjectHandle, attribute uint) (is, told bool) {
	v, err := l.pkcs11.GetAttributeValue(l.session, o, attributes(attribute, nil))
	if err != nil || len(v) != 1 || len(v[0].Value) != 1 {
		return false, false
	}
	return v[0].Value[0] != 0, true
}
