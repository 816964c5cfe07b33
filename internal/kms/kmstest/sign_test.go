package kmstest_test

import (
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"keyd/internal/kms/kmstest"
)

func TestSignIsVerifiedByTheStandardLibrary(t *testing.T) {
	s := kmstest.New(kmstest.Options{})
	c := dial(s)
	arn := create(t, c, types.KeySpecRsa2048, types.KeyUsageTypeSignVerify)
	pub := public(t, c, arn)
	message := []byte("client assertion")
	digest := sha256.Sum256(message)
	for name, in := range map[string]*kms.SignInput{
		"a message":       {Message: message},
		"a message, said": {Message: message, MessageType: types.MessageTypeRaw},
		"a digest":        {Message: digest[:], MessageType: types.MessageTypeDigest},
		"PKCS #1 v1.5":    {Message: digest[:], MessageType: types.MessageTypeDigest, SigningAlgorithm: types.SigningAlgorithmSpecRsassaPkcs1V15Sha256},
	} {
		if in.SigningAlgorithm == "" {
			in.SigningAlgorithm = types.SigningAlgorithmSpecRsassaPssSha256
		}
		in.KeyId = &arn
		out, err := c.Sign(t.Context(), in)
		if err != nil || *out.KeyId != arn || out.SigningAlgorithm != in.SigningAlgorithm {
			t.Fatalf("%s: Sign = %+v, %v", name, out, err)
		}
		err = rsa.VerifyPSS(pub, crypto.SHA256, digest[:], out.Signature, &rsa.PSSOptions{SaltLength: sha256.Size})
		if in.SigningAlgorithm == types.SigningAlgorithmSpecRsassaPkcs1V15Sha256 {
			err = rsa.VerifyPKCS1v15(pub, crypto.SHA256, digest[:], out.Signature)
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSignRefusals(t *testing.T) {
	s := kmstest.New(kmstest.Options{})
	c := dial(s)
	signs, decrypts := create(t, c, types.KeySpecRsa2048, types.KeyUsageTypeSignVerify), createRSA(t, c)
	onCurve := create(t, c, types.KeySpecEccNistP256, types.KeyUsageTypeSignVerify)
	disabled := create(t, c, types.KeySpecRsa2048, types.KeyUsageTypeSignVerify)
	if _, err := c.DisableKey(t.Context(), &kms.DisableKeyInput{KeyId: &disabled}); err != nil {
		t.Fatal(err)
	}
	digest := make([]byte, 32)
	const pss, ecdsa = types.SigningAlgorithmSpecRsassaPssSha256, types.SigningAlgorithmSpecEcdsaSha256
	for name, tt := range map[string]struct {
		key       string
		message   []byte
		kind      types.MessageType
		algorithm types.SigningAlgorithmSpec
		want      string
	}{
		"a key that decrypts":      {decrypts, digest, types.MessageTypeDigest, pss, "InvalidKeyUsageException"},
		"an algorithm of another":  {signs, digest, types.MessageTypeDigest, ecdsa, "InvalidKeyUsageException"},
		"a curve, which is not":    {onCurve, digest, types.MessageTypeDigest, ecdsa, "UnsupportedOperationException"},
		"a disabled key":           {disabled, digest, types.MessageTypeDigest, pss, "DisabledException"},
		"a short digest":           {signs, digest[1:], types.MessageTypeDigest, pss, "ValidationException"},
		"a digest of another hash": {signs, digest, types.MessageTypeDigest, types.SigningAlgorithmSpecRsassaPssSha512, "ValidationException"},
		"another kind of message":  {signs, digest, types.MessageTypeExternalMu, pss, "ValidationException"},
		"nothing":                  {signs, []byte{}, types.MessageTypeRaw, pss, "ValidationException"},
		"too much":                 {signs, make([]byte, 4097), types.MessageTypeRaw, pss, "ValidationException"},
		"a key that is not there":  {"1234abcd-12ab-34cd-56ef-1234567890ab", digest, types.MessageTypeDigest, pss, "NotFoundException"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := c.Sign(t.Context(), &kms.SignInput{KeyId: &tt.key, Message: tt.message, MessageType: tt.kind, SigningAlgorithm: tt.algorithm})
			wants(t, err, tt.want)
		})
	}
}

func TestCryptographicOperationsShareAQuotaByKindOfKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := kmstest.New(kmstest.Options{Quotas: map[string]int{"RSA": 2, "ECC": 1}})
		c := dial(s)
		decrypts, signs := createRSA(t, c), create(t, c, types.KeySpecRsa2048, types.KeyUsageTypeSignVerify)
		agrees := create(t, c, types.KeySpecEccNistP256, types.KeyUsageTypeKeyAgreement)
		wrapped := wrap(t, public(t, c, decrypts), "x")
		for range 2 {
			if _, err := decrypt(t, c, decrypts, wrapped); err != nil {
				t.Error(err)
			}
			sign := &kms.SignInput{KeyId: &signs, Message: []byte("x"), SigningAlgorithm: types.SigningAlgorithmSpecRsassaPssSha256}
			if _, err := c.Sign(t.Context(), sign); err != nil {
				t.Error(err)
			}
			_, err := decrypt(t, c, decrypts, wrapped)
			wants(t, err, "ThrottlingException")
			_, err = c.DeriveSharedSecret(t.Context(), &kms.DeriveSharedSecretInput{KeyId: &agrees, PublicKey: []byte{1}, KeyAgreementAlgorithm: types.KeyAgreementAlgorithmSpecEcdh})
			wants(t, err, "ValidationException") // within its own quota
			time.Sleep(time.Second)
		}
		if s.Throttled() != 2 {
			t.Errorf("the server says that %d were throttled, want 2", s.Throttled())
		}
	})
}
