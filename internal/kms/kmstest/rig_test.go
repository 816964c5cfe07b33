package kmstest_test

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"net/http"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/smithy-go"

	"keyd/internal/kms/kmstest"
)

// dial is AWS's own client on a server, without retries.
func dial(s *kmstest.Server, change ...func(*kms.Options)) *kms.Client {
	return kms.New(kms.Options{Region: "us-east-1", HTTPClient: &http.Client{Transport: s.Transport()}, Retryer: aws.NopRetryer{},
		BaseEndpoint: aws.String("http://kms.invalid"),
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: "test", SecretAccessKey: "test"}, nil
		})}, change...)
}

// create makes a key and returns its ARN.
func create(t *testing.T, c *kms.Client, spec types.KeySpec, usage types.KeyUsageType, tags ...types.Tag) string {
	t.Helper()
	out, err := c.CreateKey(t.Context(), &kms.CreateKeyInput{KeySpec: spec, KeyUsage: usage, Tags: tags})
	if err != nil {
		t.Fatalf("CreateKey: %v", err)
	}
	return *out.KeyMetadata.Arn
}

func createRSA(t *testing.T, c *kms.Client) string {
	t.Helper()
	return create(t, c, types.KeySpecRsa2048, types.KeyUsageTypeEncryptDecrypt)
}

// public reads an RSA key's public half.
func public(t *testing.T, c *kms.Client, id string) *rsa.PublicKey {
	t.Helper()
	out, err := c.GetPublicKey(t.Context(), &kms.GetPublicKeyInput{KeyId: &id})
	if err != nil {
		t.Fatalf("GetPublicKey: %v", err)
	}
	pub, err := x509.ParsePKIXPublicKey(out.PublicKey)
	if err != nil {
		t.Fatalf("parsing the public key: %v", err)
	}
	return pub.(*rsa.PublicKey)
}

func wrap(t *testing.T, pub *rsa.PublicKey, plaintext string) []byte {
	t.Helper()
	wrapped, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, pub, []byte(plaintext), nil)
	if err != nil {
		t.Fatal(err)
	}
	return wrapped
}

func decrypt(t *testing.T, c *kms.Client, id string, wrapped []byte) (*kms.DecryptOutput, error) {
	t.Helper()
	return c.Decrypt(t.Context(), &kms.DecryptInput{KeyId: &id, CiphertextBlob: wrapped,
		EncryptionAlgorithm: types.EncryptionAlgorithmSpecRsaesOaepSha256})
}

// wants holds an error to the one code it must have.
func wants(t *testing.T, err error, code string) {
	t.Helper()
	if api, ok := errors.AsType[smithy.APIError](err); !ok || api.ErrorCode() != code {
		t.Errorf("got %v, want %s", err, code)
	}
}
