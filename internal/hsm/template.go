package hsm

import (
	"slices"

	"github.com/miekg/pkcs11"

	"keyd/internal/boundary"
)

// publicExponent is 65537 (FIPS 186-5 §5.1 wants it odd and above 2^16).
var publicExponent = []byte{1, 0, 1}

// template describes a key pair to C_GenerateKeyPair.
type template struct {
	material boundary.Material
	uses     purpose // of the private key
	token    bool    // a token object, which lasts; else one of the session
	name     name
}

func (k template) mechanism() uint {
	if k.material.Curve != "" {
		return pkcs11.CKM_EC_KEY_PAIR_GEN
	}
	return pkcs11.CKM_RSA_PKCS_KEY_PAIR_GEN
}

func (k template) common() []*pkcs11.Attribute {
	keyType := uint(pkcs11.CKK_RSA)
	if k.material.Curve != "" {
		keyType = pkcs11.CKK_EC
	}
	return []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, keyType),
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, k.token),
		pkcs11.NewAttribute(pkcs11.CKA_ID, k.name.id),
		pkcs11.NewAttribute(pkcs11.CKA_LABEL, k.name.label),
	}
}

func (k template) public() []*pkcs11.Attribute {
	all := append(k.common(),
		pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, false),
		pkcs11.NewAttribute(pkcs11.CKA_ENCRYPT, k.uses.decrypt),
		pkcs11.NewAttribute(pkcs11.CKA_WRAP, k.uses.unwrap),
		pkcs11.NewAttribute(pkcs11.CKA_VERIFY, k.uses.sign),
		pkcs11.NewAttribute(pkcs11.CKA_VERIFY_RECOVER, false))
	if k.material.Curve != "" {
		return append(all, pkcs11.NewAttribute(pkcs11.CKA_EC_PARAMS, curveParams[k.material.Curve]))
	}
	return append(all,
		pkcs11.NewAttribute(pkcs11.CKA_MODULUS_BITS, k.material.Bits),
		pkcs11.NewAttribute(pkcs11.CKA_PUBLIC_EXPONENT, publicExponent))
}

func (k template) private() []*pkcs11.Attribute {
	return append(k.common(),
		pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, true),      // not without the PIN
		pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, true),    // never shown in plain text
		pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, false), // never wrapped to be taken out
		// Every use is given: SoftHSM sets those it is not told to true.
		pkcs11.NewAttribute(pkcs11.CKA_DECRYPT, k.uses.decrypt),
		pkcs11.NewAttribute(pkcs11.CKA_UNWRAP, k.uses.unwrap),
		pkcs11.NewAttribute(pkcs11.CKA_SIGN, k.uses.sign),
		pkcs11.NewAttribute(pkcs11.CKA_SIGN_RECOVER, false),
		pkcs11.NewAttribute(pkcs11.CKA_DERIVE, k.uses.derive))
}

// leaveOut are the uses that some tokens will not be told false, in the order in
// which they are left out: tpm2-pkcs11 refuses those of signing, others what a key
// of that type cannot do anyway.
var leaveOut = [][]uint{
	nil,
	{pkcs11.CKA_SIGN, pkcs11.CKA_SIGN_RECOVER, pkcs11.CKA_VERIFY, pkcs11.CKA_VERIFY_RECOVER},
	{pkcs11.CKA_SIGN, pkcs11.CKA_SIGN_RECOVER, pkcs11.CKA_VERIFY, pkcs11.CKA_VERIFY_RECOVER, pkcs11.CKA_DERIVE,
		pkcs11.CKA_DECRYPT, pkcs11.CKA_ENCRYPT, pkcs11.CKA_UNWRAP, pkcs11.CKA_WRAP},
}

// without returns a template without those of some attributes that are false.
func without(template []*pkcs11.Attribute, types []uint) []*pkcs11.Attribute {
	return slices.DeleteFunc(template, func(a *pkcs11.Attribute) bool { return slices.Contains(types, a.Type) && !isTrue(a.Value) })
}

// generatePair calls C_GenerateKeyPair. A token that refuses the template is asked
// again with less of it, and from then on at once: tpm2-pkcs11 loses memory over
// each refusal.
func (t *Token) generatePair(s pkcs11.SessionHandle, k template) (public, private pkcs11.ObjectHandle, err error) {
	mechanism := []*pkcs11.Mechanism{pkcs11.NewMechanism(k.mechanism(), nil)}
	taken := &t.taken[0]
	if k.material.Curve != "" {
		taken = &t.taken[1]
	}
	for n := int(taken.Load()); n < len(leaveOut); n++ {
		types := leaveOut[n]
		public, private, err = t.module.ctx.GenerateKeyPair(s, mechanism, without(k.public(), types), without(k.private(), types))
		if err == nil {
			taken.Store(int32(n))
		}
		if !inTemplate(err) && !is(err, pkcs11.CKR_GENERAL_ERROR, pkcs11.CKR_FUNCTION_FAILED) { // tpm2-pkcs11 says the former
			break
		}
	}
	if err != nil {
		return 0, 0, meaning("C_GenerateKeyPair", err)
	}
	return public, private, nil
}

// inTemplate reports whether a token refused what a new key is to be.
func inTemplate(err error) bool {
	return is(err, pkcs11.CKR_ATTRIBUTE_VALUE_INVALID, pkcs11.CKR_ATTRIBUTE_TYPE_INVALID, pkcs11.CKR_TEMPLATE_INCONSISTENT)
}
