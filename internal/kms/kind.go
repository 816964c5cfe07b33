package kms

import (
	"crypto"
	"fmt"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"keyd/internal/boundary"
)

// The one algorithm of KMS for each of ours. It is named in every request and
// must stand in every answer; what a key could do besides is never used.
const (
	// oaep256 is RSAES-OAEP with SHA-256 and MGF1-SHA-256 (RFC 7518 §4.3).
	oaep256 = types.EncryptionAlgorithmSpecRsaesOaepSha256
	// agree is the x-coordinate of the agreed point and nothing more: the key
	// derivation of RFC 7518 §4.6 is ours.
	agree = types.KeyAgreementAlgorithmSpecEcdh
	// pss256 is RSASSA-PSS with SHA-256, MGF1-SHA-256 and a salt as long as the
	// digest (RFC 7518 §3.5).
	pss256 = types.SigningAlgorithmSpecRsassaPssSha256
)

// levels are where each kind of key works, by what the operation answers:
// Decrypt the content key, DeriveSharedSecret the bare secret, Sign a
// signature, which is none.
var levels = map[string]boundary.Level{
	boundary.RSAOAEP256: boundary.Unwrap,
	boundary.ECDHES:     boundary.Raw,
	boundary.PS256:      boundary.Sealed,
}

var usages = map[string]types.KeyUsageType{
	boundary.RSAOAEP256: types.KeyUsageTypeEncryptDecrypt,
	boundary.ECDHES:     types.KeyUsageTypeKeyAgreement,
	boundary.PS256:      types.KeyUsageTypeSignVerify,
}

var (
	rsaSpecs   = map[int]types.KeySpec{2048: types.KeySpecRsa2048, 3072: types.KeySpecRsa3072, 4096: types.KeySpecRsa4096}
	curveSpecs = map[string]types.KeySpec{"P-256": types.KeySpecEccNistP256, "P-384": types.KeySpecEccNistP384, "P-521": types.KeySpecEccNistP521}
)

// specOf is KMS's name for the material of a key.
func specOf(m boundary.Material) types.KeySpec {
	if m.Curve != "" {
		return curveSpecs[m.Curve]
	}
	return rsaSpecs[m.Bits]
}

// ability is what KMS says a key can do.
type ability struct {
	usage   types.KeyUsageType
	encrypt []types.EncryptionAlgorithmSpec
	agree   []types.KeyAgreementAlgorithmSpec
	sign    []types.SigningAlgorithmSpec
}

func abilityOf(key *types.KeyMetadata) ability {
	return ability{key.KeyUsage, key.EncryptionAlgorithms, key.KeyAgreementAlgorithms, key.SigningAlgorithms}
}

func abilityOfPublic(out *kms.GetPublicKeyOutput) ability {
	return ability{out.KeyUsage, out.EncryptionAlgorithms, out.KeyAgreementAlgorithms, out.SigningAlgorithms}
}

// algorithm is what keyd can use the key for, or "".
func (a ability) algorithm() string {
	switch {
	case a.usage == types.KeyUsageTypeEncryptDecrypt && slices.Contains(a.encrypt, oaep256):
		return boundary.RSAOAEP256
	case a.usage == types.KeyUsageTypeKeyAgreement && slices.Contains(a.agree, agree):
		return boundary.ECDHES
	case a.usage == types.KeyUsageTypeSignVerify && slices.Contains(a.sign, pss256):
		return boundary.PS256
	}
	return ""
}

// attributes are those of the evidence.
func (a ability) attributes() map[string]string {
	all := map[string]string{"KeyUsage": string(a.usage)}
	for name, list := range map[string]string{"EncryptionAlgorithms": join(a.encrypt), "KeyAgreementAlgorithms": join(a.agree), "SigningAlgorithms": join(a.sign)} {
		if list != "" {
			all[name] = list
		}
	}
	return all
}

func join[T ~string](list []T) string {
	var names []string
	for _, item := range list {
		names = append(names, string(item))
	}
	return strings.Join(names, " ")
}

// parsePublic reads the public half of a key that keyd can use.
func parsePublic(out *kms.GetPublicKeyOutput) (crypto.PublicKey, error) {
	algorithm := abilityOfPublic(out).algorithm()
	if algorithm == "" {
		return nil, fmt.Errorf("%w: %s, %s", ErrUsage, out.KeySpec, out.KeyUsage)
	}
	public, err := boundary.ParsePublic(out.PublicKey)
	if err != nil {
		return nil, fmt.Errorf("parsing the public key of %s: %w", deref(out.KeyId), err)
	}
	if m := boundary.MaterialOf(algorithm, public); m.Check() != nil || specOf(m) != out.KeySpec {
		return nil, fmt.Errorf("%w: %s with a public key of %s", ErrUsage, out.KeySpec, m.Size())
	}
	return public, nil
}
