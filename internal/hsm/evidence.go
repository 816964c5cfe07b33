package hsm

import (
	"encoding/hex"
	"fmt"
	"strconv"
	"time"

	"github.com/miekg/pkcs11"

	"keyd/internal/boundary"
)

// flag is an attribute that makes the evidence, with the value that keyd asks
// for. Where it can do without, that is said.
type flag struct {
	attribute uint
	name      string
	want      bool
	meaning   string // what it means if it is not so
}

// protections are asked of every private key.
var protections = []flag{
	{pkcs11.CKA_TOKEN, "CKA_TOKEN", true, "the key is gone when the session ends"},
	{pkcs11.CKA_PRIVATE, "CKA_PRIVATE", true, "the key can be used without a PIN"},
	{pkcs11.CKA_SENSITIVE, "CKA_SENSITIVE", true, "the token shows the private key in plain text"},
	{pkcs11.CKA_EXTRACTABLE, "CKA_EXTRACTABLE", false, "the private key can be wrapped and taken out"},
	{pkcs11.CKA_ALWAYS_SENSITIVE, "CKA_ALWAYS_SENSITIVE", true, "the private key may have been seen outside"},
	{pkcs11.CKA_NEVER_EXTRACTABLE, "CKA_NEVER_EXTRACTABLE", true, "the private key may have been taken out"},
	{pkcs11.CKA_LOCAL, "CKA_LOCAL", true, "the token does not say that it made the key (NSS never does)"},
	{pkcs11.CKA_ALWAYS_AUTHENTICATE, "CKA_ALWAYS_AUTHENTICATE", false, "the token wants the PIN for every operation"},
	{pkcs11.CKA_SIGN_RECOVER, "CKA_SIGN_RECOVER", false, "the key can sign in a way that keyd does not use"},
}

// uses are what a private key may be used for, and whether it is to be.
func uses(want purpose) []flag {
	meaning := func(want bool, able, unable string) string {
		if want {
			return unable
		}
		return able
	}
	return []flag{
		{pkcs11.CKA_DECRYPT, "CKA_DECRYPT", want.decrypt, meaning(want.decrypt, "the key gives out content keys to whoever has the PIN", "the token will not decrypt with the key")},
		{pkcs11.CKA_UNWRAP, "CKA_UNWRAP", want.unwrap, meaning(want.unwrap, "the key can unwrap other keys into the token", "the token will not keep content keys in, so with this key it opens at unwrap at best")},
		{pkcs11.CKA_SIGN, "CKA_SIGN", want.sign, meaning(want.sign, "the key can sign too", "the token will not sign with the key")},
		{pkcs11.CKA_DERIVE, "CKA_DERIVE", want.derive, meaning(want.derive, "the key can agree on secrets too", "the token will not agree on secrets with the key")},
	}
}

// evidence reads a private key's attributes back. An attribute that is absent
// is false, except where the standard lets a token leave it out.
func (t *Token) evidence(s pkcs11.SessionHandle, o object) (boundary.Evidence, error) {
	m := t.mode.Load()
	flags := append(uses(m.wants(o.algorithm(), t.cfg.MinBoundary)), protections...)
	types := []uint{pkcs11.CKA_KEY_GEN_MECHANISM}
	for _, f := range flags {
		types = append(types, f.attribute)
	}
	values, err := t.attributes(s, o.handle, types...)
	if err != nil {
		return boundary.Evidence{}, err
	}
	e := boundary.Evidence{
		At: time.Now().UTC(), Backend: "pkcs11", Device: t.slot.device, Level: m.level(o),
		Attributes: map[string]string{"CKA_ID": hex.EncodeToString([]byte(o.name.id)), "CKA_LABEL": o.name.label},
	}
	for _, f := range flags {
		value, told := values[f.attribute]
		if told {
			e.Attributes[f.name] = strconv.FormatBool(isTrue(value))
		}
		switch {
		case told && isTrue(value) != f.want:
			e.Problems = append(e.Problems, fmt.Sprintf("%s is %t: %s", f.name, !f.want, f.meaning))
		case !told && f.want:
			e.Problems = append(e.Problems, fmt.Sprintf("%s is not told: %s", f.name, f.meaning))
		}
	}
	e.Mechanism = mechanismName(values[pkcs11.CKA_KEY_GEN_MECHANISM])
	describeKind(&e, o)
	return e, nil
}

// describeKind says what kind of key it is, and whether keyd can use it at all.
func describeKind(e *boundary.Evidence, o object) {
	problem := func(text string) { e.Problems = append(e.Problems, text) }
	switch {
	case o.rsa != nil:
		e.Attributes["CKA_KEY_TYPE"] = "CKK_RSA"
		e.Attributes["CKA_MODULUS"] = fmt.Sprintf("%d bits", o.rsa.N.BitLen())
		e.Attributes["CKA_PUBLIC_EXPONENT"] = strconv.Itoa(o.rsa.E)
	case o.curve != nil:
		e.Attributes["CKA_KEY_TYPE"] = "CKK_EC"
		e.Attributes["CKA_EC_PARAMS"] = fmt.Sprint(o.curve)
	case o.keyType == pkcs11.CKK_RSA:
		problem("the key has no whole modulus and public exponent: it is half made and not used")
	case o.keyType == pkcs11.CKK_EC:
		problem("the key has no CKA_EC_PARAMS of a curve that keyd knows: it is half made, or of another kind, and not used")
	default:
		e.Attributes["CKA_KEY_TYPE"] = fmt.Sprintf("0x%X", o.keyType)
		problem("it is neither an RSA key nor one on a curve, and not used")
	}
}

// mechanismName names what made a key, as far as keyd cares.
func mechanismName(v []byte) string {
	switch m := number(v); m {
	case pkcs11.CKM_RSA_PKCS_KEY_PAIR_GEN:
		return "CKM_RSA_PKCS_KEY_PAIR_GEN"
	case pkcs11.CKM_EC_KEY_PAIR_GEN:
		return "CKM_EC_KEY_PAIR_GEN"
	case pkcs11.CKM_RSA_X9_31_KEY_PAIR_GEN:
		return "CKM_RSA_X9_31_KEY_PAIR_GEN"
	case pkcs11.CK_UNAVAILABLE_INFORMATION: // and what the attribute is where the key was imported
		return ""
	default:
		return fmt.Sprintf("0x%X", m)
	}
}
