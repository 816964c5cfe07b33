package conformance

import (
	"crypto/ecdh"
	"crypto/rsa"
	"encoding/asn1"
	"fmt"
	"math/big"
	"slices"

	"github.com/miekg/pkcs11"
)

type rsaPair struct {
	public, private pkcs11.ObjectHandle
	key             *rsa.PublicKey
}

type ecPair struct {
	public, private pkcs11.ObjectHandle
	key             *ecdh.PublicKey
}

// attributes is a template: an attribute's type, its value, and so on.
func attributes(pairs ...any) []*pkcs11.Attribute {
	var all []*pkcs11.Attribute
	for pair := range slices.Chunk(pairs, 2) {
		all = append(all, pkcs11.NewAttribute(pair[0].(uint), pair[1]))
	}
	return all
}

// uses are what a private key may be used for.
type uses struct{ decrypt, unwrap, sign, derive bool }

// generate makes a key pair. Its label and id are the lab's.
func (l *lab) generate(mechanism uint, public []*pkcs11.Attribute, u uses) (pub, priv pkcs11.ObjectHandle, err error) {
	for _, lasting := range []bool{l.lasting, true} {
		common := attributes(uint(pkcs11.CKA_TOKEN), lasting, uint(pkcs11.CKA_LABEL), l.label, uint(pkcs11.CKA_ID), l.label)
		private := attributes(uint(pkcs11.CKA_PRIVATE), true, uint(pkcs11.CKA_SENSITIVE), true, uint(pkcs11.CKA_EXTRACTABLE), false)
		for attribute, is := range map[uint]bool{pkcs11.CKA_DECRYPT: u.decrypt, pkcs11.CKA_UNWRAP: u.unwrap, pkcs11.CKA_SIGN: u.sign, pkcs11.CKA_DERIVE: u.derive} {
			if is || !lasting { // some will not be told what a key is not for
				private = append(private, pkcs11.NewAttribute(attribute, is))
			}
		}
		pub, priv, err = l.pkcs11.GenerateKeyPair(l.session, mechanism1(mechanism, nil), append(slices.Clone(common), public...), append(common, private...))
		l.lasting = lasting && err == nil || l.lasting
		if lasting || !refusedTemplate(err) {
			break
		}
	}
	if err == nil {
		l.made = append(l.made, priv, pub)
	}
	return pub, priv, err
}

func mechanism1(m uint, param any) []*pkcs11.Mechanism {
	return []*pkcs11.Mechanism{pkcs11.NewMechanism(m, param)}
}

func rsaTemplate(bits int) []*pkcs11.Attribute {
	return attributes(uint(pkcs11.CKA_KEY_TYPE), uint(pkcs11.CKK_RSA), uint(pkcs11.CKA_MODULUS_BITS), uint(bits), uint(pkcs11.CKA_PUBLIC_EXPONENT), []byte{1, 0, 1},
		uint(pkcs11.CKA_ENCRYPT), true)
}

// everything is what a throw-away RSA key is for, where a token lets one be.
var everything = uses{decrypt: true, unwrap: true, sign: true}

// rsaKey is an RSA key for one use, made once: one for everything or, where a
// token has no such keys, for that alone.
func (l *lab) rsaKey(u uses) (*rsaPair, error) {
	if k := l.rsa[everything]; k != nil {
		return k, nil
	}
	k, err := l.rsaFor(everything)
	if refusedTemplate(err) {
		if k := l.rsa[u]; k != nil {
			return k, nil
		}
		k, err = l.rsaFor(u)
	}
	return k, err
}

// rsaFor makes an RSA key for certain uses.
func (l *lab) rsaFor(u uses) (*rsaPair, error) {
	pub, priv, err := l.generate(pkcs11.CKM_RSA_PKCS_KEY_PAIR_GEN, rsaTemplate(2048), u)
	if err != nil {
		return nil, err
	}
	v, err := l.pkcs11.GetAttributeValue(l.session, priv, attributes(uint(pkcs11.CKA_MODULUS), nil))
	if err != nil {
		return nil, err
	}
	k := &rsaPair{pub, priv, &rsa.PublicKey{N: new(big.Int).SetBytes(v[0].Value), E: 65537}}
	l.rsa[u] = k
	return k, nil
}

func refusedTemplate(err error) bool {
	return is(err, pkcs11.CKR_ATTRIBUTE_VALUE_INVALID, pkcs11.CKR_ATTRIBUTE_TYPE_INVALID, pkcs11.CKR_TEMPLATE_INCONSISTENT)
}

// curves are those that keyd uses, with their CKA_EC_PARAMS.
var curves = []struct {
	name   string
	curve  ecdh.Curve
	params string
}{
	{"P-256", ecdh.P256(), "\x06\x08\x2A\x86\x48\xCE\x3D\x03\x01\x07"},
	{"P-384", ecdh.P384(), "\x06\x05\x2B\x81\x04\x00\x22"},
	{"P-521", ecdh.P521(), "\x06\x05\x2B\x81\x04\x00\x23"},
}

// ecKey is a key on a curve, made once.
func (l *lab) ecKey(name string) (*ecPair, error) {
	if k := l.curves[name]; k != nil {
		return k, nil
	}
	for _, c := range curves {
		if c.name != name {
			continue
		}
		pub, priv, err := l.generate(pkcs11.CKM_EC_KEY_PAIR_GEN, attributes(uint(pkcs11.CKA_KEY_TYPE), uint(pkcs11.CKK_EC), uint(pkcs11.CKA_EC_PARAMS), c.params), uses{derive: true})
		if err != nil {
			return nil, err
		}
		v, err := l.pkcs11.GetAttributeValue(l.session, pub, attributes(uint(pkcs11.CKA_EC_POINT), nil))
		if err != nil {
			return nil, err
		}
		raw := v[0].Value
		var inner []byte
		if rest, err := asn1.Unmarshal(raw, &inner); err == nil && len(rest) == 0 {
			raw = inner
		}
		key, err := c.curve.NewPublicKey(raw)
		if err != nil {
			return nil, fmt.Errorf("CKA_EC_POINT is no point: %d octets that begin with %x", len(v[0].Value), v[0].Value[:min(4, len(v[0].Value))])
		}
		l.curves[name] = &ecPair{pub, priv, key}
	}
	return l.curves[name], nil
}
