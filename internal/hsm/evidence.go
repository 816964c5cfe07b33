package hsm

import (
	"encoding/hex"
	"fmt"
	"strconv"
	"time"

	"github.com/miekg/pkcs11"

	"keyd/internal/boundary"
)

// flags are the attributes that make the evidence, with the value that keyd
// asks for. Where it can do without, that is said.
var flags = []struct {
	attribute uint
	name      string
	want      bool
	meaning   string // what it means if it is not so
}{
	{pkcs11.CKA_TOKEN, "CKA_TOKEN", true, "the key is gone when the session ends"},
	{pkcs11.CKA_PRIVATE, "CKA_PRIVATE", true, "the key can be used without a PIN"},
	{pkcs11.CKA_SENSITIVE, "CKA_SENSITIVE", true, "the token shows the private key in plain text"},
	{pkcs11.CKA_EXTRACTABLE, "CKA_EXTRACTABLE", false, "the private key can be wrapped and taken out"},
	{pkcs11.CKA_ALWAYS_SENSITIVE, "CKA_ALWAYS_SENSITIVE", true, "the private key may have been seen outside"},
	{pkcs11.CKA_NEVER_EXTRACTABLE, "CKA_NEVER_EXTRACTABLE", true, "the private key may have been taken out"},
	{pkcs11.CKA_LOCAL, "CKA_LOCAL", true, "the token does not say that it made the key (NSS never does)"},
	{pkcs11.CKA_DECRYPT, "CKA_DECRYPT", true, "the token will not decrypt with the key"},
	{pkcs11.CKA_SIGN, "CKA_SIGN", false, "the key can sign too"},
	{pkcs11.CKA_SIGN_RECOVER, "CKA_SIGN_RECOVER", false, "the key can sign too"},
	{pkcs11.CKA_UNWRAP, "CKA_UNWRAP", false, "the key can unwrap other keys into the token"},
	{pkcs11.CKA_ALWAYS_AUTHENTICATE, "CKA_ALWAYS_AUTHENTICATE", false, "the token wants the PIN for every operation"},
}

// evidence reads a private key's attributes back. An attribute that is absent
// is false, except where the standard lets a token leave it out.
func (t *Token) evidence(s pkcs11.SessionHandle, o object) (boundary.Evidence, error) {
	types := []uint{pkcs11.CKA_KEY_GEN_MECHANISM}
	for _, f := range flags {
		types = append(types, f.attribute)
	}
	values, err := t.attributes(s, o.handle, types...)
	if err != nil {
		return boundary.Evidence{}, err
	}
	e := boundary.Evidence{
		At: time.Now().UTC(), Backend: "pkcs11", Device: t.slot.device, Level: t.mode.level,
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
	switch {
	case o.public != nil:
		e.Attributes["CKA_KEY_TYPE"] = "CKK_RSA"
		e.Attributes["CKA_MODULUS"] = fmt.Sprintf("%d bits", o.public.N.BitLen())
		e.Attributes["CKA_PUBLIC_EXPONENT"] = strconv.Itoa(o.public.E)
	case o.keyType == pkcs11.CKK_RSA:
		e.Problems = append(e.Problems, "the key has no whole modulus and public exponent: it is half made and not used")
	default:
		e.Attributes["CKA_KEY_TYPE"] = fmt.Sprintf("0x%X", o.keyType)
		e.Problems = append(e.Problems, "it is not an RSA key, and not used")
	}
	return e, nil
}

// mechanismName names what made a key, as far as keyd cares.
func mechanismName(v []byte) string {
	switch m := number(v); m {
	case pkcs11.CKM_RSA_PKCS_KEY_PAIR_GEN:
		return "CKM_RSA_PKCS_KEY_PAIR_GEN"
	case pkcs11.CKM_RSA_X9_31_KEY_PAIR_GEN:
		return "CKM_RSA_X9_31_KEY_PAIR_GEN"
	case pkcs11.CK_UNAVAILABLE_INFORMATION: // and what the attribute is where the key was imported
		return ""
	default:
		return fmt.Sprintf("0x%X", m)
	}
}
