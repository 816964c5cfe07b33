package kmstest_test

import (
	"bytes"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/x509"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/google/go-cmp/cmp"

	"keyd/internal/kms/kmstest"
)

func TestDecryptUndoesOAEPWithTheNamedKeyAndAlgorithm(t *testing.T) {
	s := kmstest.New(kmstest.Options{})
	c := dial(s)
	for spec, size := range map[types.KeySpec]int{types.KeySpecRsa2048: 256, types.KeySpecRsa3072: 384, types.KeySpecRsa4096: 512} {
		arn := create(t, c, spec, types.KeyUsageTypeEncryptDecrypt)
		pub := public(t, c, arn)
		if pub.Size() != size {
			t.Errorf("%s: the modulus has %d bytes, want %d", spec, pub.Size(), size)
		}
		out, err := decrypt(t, c, arn, wrap(t, pub, "content key"))
		if err != nil || string(out.Plaintext) != "content key" || *out.KeyId != arn {
			t.Errorf("%s: Decrypt = %+v, %v", spec, out, err)
		}
	}
}

func TestDecryptRefusals(t *testing.T) {
	s := kmstest.New(kmstest.Options{})
	c := dial(s)
	arn := createRSA(t, c)
	other, agrees := createRSA(t, c), create(t, c, types.KeySpecEccNistP256, types.KeyUsageTypeKeyAgreement)
	signs := create(t, c, types.KeySpecRsa2048, types.KeyUsageTypeSignVerify)
	good := wrap(t, public(t, c, arn), "x")
	tampered := bytes.Clone(good)
	tampered[7] ^= 1
	const oaep256, oaep1 = types.EncryptionAlgorithmSpecRsaesOaepSha256, types.EncryptionAlgorithmSpecRsaesOaepSha1
	for name, tt := range map[string]struct {
		key       string
		blob      []byte
		algorithm types.EncryptionAlgorithmSpec
		want      string
	}{
		"tampered":                {arn, tampered, oaep256, "InvalidCiphertextException"},
		"too short":               {arn, good[1:], oaep256, "InvalidCiphertextException"},
		"too long":                {arn, append(bytes.Clone(good), 0), oaep256, "InvalidCiphertextException"},
		"for another key":         {other, good, oaep256, "InvalidCiphertextException"},
		"other hash":              {arn, good, oaep1, "InvalidCiphertextException"},
		"no algorithm":            {arn, good, "", "InvalidKeyUsageException"},
		"symmetric algorithm":     {arn, good, types.EncryptionAlgorithmSpecSymmetricDefault, "InvalidKeyUsageException"},
		"a key for agreement":     {agrees, good, oaep256, "InvalidKeyUsageException"},
		"a key for signing":       {signs, good, oaep256, "InvalidKeyUsageException"},
		"empty":                   {arn, []byte{}, oaep256, "ValidationException"},
		"larger than KMS takes":   {arn, make([]byte, 6145), oaep256, "ValidationException"},
		"no key":                  {"", good, oaep256, "InvalidCiphertextException"},
		"a key that is not there": {"1234abcd-12ab-34cd-56ef-1234567890ab", good, oaep256, "NotFoundException"},
		"another Region":          {strings.Replace(arn, "us-east-1", "eu-west-1", 1), good, oaep256, "NotFoundException"},
		"another account":         {strings.Replace(arn, "111122223333", "444455556666", 1), good, oaep256, "AccessDeniedException"},
		"an ARN of nothing":       {"arn:aws:kms:us-east-1:111122223333:thing/x", good, oaep256, "InvalidArnException"},
		"a piece of an ARN":       {"arn:aws:kms:us-east-1", good, oaep256, "InvalidArnException"},
	} {
		t.Run(name, func(t *testing.T) {
			in := &kms.DecryptInput{CiphertextBlob: tt.blob, EncryptionAlgorithm: tt.algorithm}
			if tt.key != "" {
				in.KeyId = &tt.key
			}
			_, err := c.Decrypt(t.Context(), in)
			wants(t, err, tt.want)
		})
	}
}

func TestDeriveSharedSecretIsTheBareX(t *testing.T) {
	s := kmstest.New(kmstest.Options{})
	c := dial(s)
	for spec, curve := range map[types.KeySpec]ecdh.Curve{types.KeySpecEccNistP256: ecdh.P256(), types.KeySpecEccNistP384: ecdh.P384(), types.KeySpecEccNistP521: ecdh.P521()} {
		arn := create(t, c, spec, types.KeyUsageTypeKeyAgreement)
		out, err := c.GetPublicKey(t.Context(), &kms.GetPublicKeyInput{KeyId: &arn})
		if err != nil || len(out.KeyAgreementAlgorithms) != 1 || len(out.EncryptionAlgorithms) != 0 {
			t.Fatalf("%s: GetPublicKey = %+v, %v", spec, out, err)
		}
		parsed, err := x509.ParsePKIXPublicKey(out.PublicKey)
		if err != nil {
			t.Fatal(err)
		}
		theirs, err := parsed.(interface {
			ECDH() (*ecdh.PublicKey, error)
		}).ECDH()
		if err != nil {
			t.Fatal(err)
		}
		mine, _ := curve.GenerateKey(rand.Reader)
		want, _ := mine.ECDH(theirs)
		der, _ := x509.MarshalPKIXPublicKey(mine.PublicKey())
		derive := &kms.DeriveSharedSecretInput{KeyId: &arn, KeyAgreementAlgorithm: types.KeyAgreementAlgorithmSpecEcdh, PublicKey: der}
		got, err := c.DeriveSharedSecret(t.Context(), derive)
		if err != nil || !bytes.Equal(got.SharedSecret, want) {
			t.Errorf("%s: DeriveSharedSecret = %+v, %v, want %x", spec, got, err, want)
		}
		elsewhere, _ := ecdh.X25519().GenerateKey(rand.Reader)
		for name, pub := range map[string][]byte{"another curve": must(x509.MarshalPKIXPublicKey(elsewhere.PublicKey())),
			"RSA": must(x509.MarshalPKIXPublicKey(public(t, c, createRSA(t, c)))), "no key": {1, 2, 3}} {
			derive.PublicKey = pub
			_, err := c.DeriveSharedSecret(t.Context(), derive)
			t.Run(string(spec)+" with "+name, func(t *testing.T) { wants(t, err, "ValidationException") })
		}
		derive.PublicKey, derive.KeyAgreementAlgorithm = der, "X"
		_, err = c.DeriveSharedSecret(t.Context(), derive)
		wants(t, err, "ValidationException")
	}
	rsaKey := createRSA(t, c)
	_, err := c.DeriveSharedSecret(t.Context(), &kms.DeriveSharedSecretInput{KeyId: &rsaKey, PublicKey: []byte{1},
		KeyAgreementAlgorithm: types.KeyAgreementAlgorithmSpecEcdh})
	wants(t, err, "InvalidKeyUsageException")
}

func must(b []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return b
}

func TestCreateKeyRefusals(t *testing.T) {
	s := kmstest.New(kmstest.Options{})
	c := dial(s)
	ok := func() *kms.CreateKeyInput {
		return &kms.CreateKeyInput{KeySpec: types.KeySpecRsa2048, KeyUsage: types.KeyUsageTypeEncryptDecrypt}
	}
	pair := func(k, v string) types.Tag { return types.Tag{TagKey: &k, TagValue: &v} }
	many := make([]types.Tag, 51)
	for i := range many {
		many[i] = pair(strings.Repeat("k", i+1), "v")
	}
	for name, tt := range map[string]struct {
		change func(*kms.CreateKeyInput)
		want   string
	}{
		"no usage":         {func(in *kms.CreateKeyInput) { in.KeyUsage = "" }, "ValidationException"},
		"usage of another": {func(in *kms.CreateKeyInput) { in.KeyUsage = types.KeyUsageTypeKeyAgreement }, "ValidationException"},
		"symmetric":        {func(in *kms.CreateKeyInput) { in.KeySpec = types.KeySpecSymmetricDefault }, "UnsupportedOperationException"},
		"imported":         {func(in *kms.CreateKeyInput) { in.Origin = types.OriginTypeExternal }, "UnsupportedOperationException"},
		"custom key store": {func(in *kms.CreateKeyInput) {
			in.CustomKeyStoreId, in.Origin = aws.String("cks-1"), types.OriginTypeAwsCloudhsm
		}, "UnsupportedOperationException"},
		"a broken policy": {func(in *kms.CreateKeyInput) { in.Policy = aws.String("{") }, "MalformedPolicyDocumentException"},
		"a long tale":     {func(in *kms.CreateKeyInput) { in.Description = aws.String(strings.Repeat("x", 8193)) }, "ValidationException"},
		"the same tag":    {func(in *kms.CreateKeyInput) { in.Tags = []types.Tag{pair("a", "1"), pair("a", "2")} }, "TagException"},
		"a reserved tag":  {func(in *kms.CreateKeyInput) { in.Tags = []types.Tag{pair("aws:x", "1")} }, "TagException"},
		"an overlong tag": {func(in *kms.CreateKeyInput) { in.Tags = []types.Tag{pair("a", strings.Repeat("v", 257))} }, "ValidationException"},
		"too many tags":   {func(in *kms.CreateKeyInput) { in.Tags = many }, "LimitExceededException"},
	} {
		t.Run(name, func(t *testing.T) {
			in := ok()
			tt.change(in)
			_, err := c.CreateKey(t.Context(), in)
			wants(t, err, tt.want)
		})
	}
	if keys := s.Keys(); len(keys) != 0 {
		t.Errorf("refused requests made %+v", keys)
	}
}

func TestDescribeKeyTellsWhatWasMade(t *testing.T) {
	s := kmstest.New(kmstest.Options{})
	c := dial(s)
	out, err := c.CreateKey(t.Context(), &kms.CreateKeyInput{KeySpec: types.KeySpecRsa2048, KeyUsage: types.KeyUsageTypeEncryptDecrypt,
		MultiRegion: aws.Bool(true), Policy: aws.String(`{"Version":"2012-10-17"}`), Description: aws.String("mine"),
		Tags: []types.Tag{{TagKey: aws.String("a"), TagValue: aws.String("b")}}})
	if err != nil {
		t.Fatal(err)
	}
	described, err := c.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: out.KeyMetadata.Arn})
	if err != nil {
		t.Fatal(err)
	}
	m := described.KeyMetadata
	if diff := cmp.Diff(out.KeyMetadata, m, cmp.FilterPath(func(p cmp.Path) bool { return p.Last().String() == ".noSmithyDocumentSerde" }, cmp.Ignore())); diff != "" {
		t.Errorf("CreateKey and DescribeKey disagree:\n%s", diff)
	}
	if !m.Enabled || m.KeyState != types.KeyStateEnabled || m.Origin != types.OriginTypeAwsKms || m.KeyManager != types.KeyManagerTypeCustomer ||
		!*m.MultiRegion || m.MultiRegionConfiguration.MultiRegionKeyType != types.MultiRegionKeyTypePrimary || !strings.HasPrefix(*m.KeyId, "mrk-") ||
		*m.Description != "mine" || m.CreationDate.IsZero() || m.DeletionDate != nil || len(m.EncryptionAlgorithms) != 2 {
		t.Errorf("got %+v", m)
	}
	tags, err := c.ListResourceTags(t.Context(), &kms.ListResourceTagsInput{KeyId: m.KeyId})
	if err != nil || len(tags.Tags) != 1 || *tags.Tags[0].TagKey != "a" || *tags.Tags[0].TagValue != "b" {
		t.Errorf("ListResourceTags = %+v, %v", tags, err)
	}
}

func TestStatesDecideWhatAKeyMayDo(t *testing.T) {
	s := kmstest.New(kmstest.Options{})
	c, ctx := dial(s), t.Context()
	arn := createRSA(t, c)
	wrapped := wrap(t, public(t, c, arn), "x")
	id := &kms.DisableKeyInput{KeyId: &arn}
	if _, err := c.DisableKey(ctx, id); err != nil {
		t.Fatal(err)
	}
	_, err := decrypt(t, c, arn, wrapped)
	wants(t, err, "DisabledException")
	_, err = c.GetPublicKey(ctx, &kms.GetPublicKeyInput{KeyId: &arn})
	wants(t, err, "DisabledException")
	if _, err := c.EnableKey(ctx, &kms.EnableKeyInput{KeyId: &arn}); err != nil {
		t.Fatal(err)
	}
	if _, err := decrypt(t, c, arn, wrapped); err != nil {
		t.Errorf("enabled again: %v", err)
	}
	_, err = c.CancelKeyDeletion(ctx, &kms.CancelKeyDeletionInput{KeyId: &arn})
	wants(t, err, "KMSInvalidStateException")
	for _, days := range []int32{0, 6, 31} {
		_, err = c.ScheduleKeyDeletion(ctx, &kms.ScheduleKeyDeletionInput{KeyId: &arn, PendingWindowInDays: &days})
		wants(t, err, "ValidationException")
	}
	out, err := c.ScheduleKeyDeletion(ctx, &kms.ScheduleKeyDeletionInput{KeyId: &arn, PendingWindowInDays: aws.Int32(7)})
	if err != nil || out.KeyState != types.KeyStatePendingDeletion || *out.PendingWindowInDays != 7 {
		t.Fatalf("ScheduleKeyDeletion = %+v, %v", out, err)
	}
	_, err = decrypt(t, c, arn, wrapped)
	wants(t, err, "KMSInvalidStateException")
	_, err = c.ScheduleKeyDeletion(ctx, &kms.ScheduleKeyDeletionInput{KeyId: &arn})
	wants(t, err, "KMSInvalidStateException")
	_, err = c.EnableKey(ctx, &kms.EnableKeyInput{KeyId: &arn})
	wants(t, err, "KMSInvalidStateException")
	_, err = c.TagResource(ctx, &kms.TagResourceInput{KeyId: &arn, Tags: []types.Tag{{TagKey: aws.String("a"), TagValue: aws.String("b")}}})
	wants(t, err, "KMSInvalidStateException")
	_, err = c.CreateAlias(ctx, &kms.CreateAliasInput{AliasName: aws.String("alias/x"), TargetKeyId: &arn})
	wants(t, err, "KMSInvalidStateException")
	if _, err := c.CancelKeyDeletion(ctx, &kms.CancelKeyDeletionInput{KeyId: &arn}); err != nil {
		t.Fatal(err)
	}
	described, err := c.DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: &arn})
	if err != nil || described.KeyMetadata.KeyState != types.KeyStateDisabled || described.KeyMetadata.DeletionDate != nil {
		t.Errorf("after CancelKeyDeletion: %+v, %v, want a disabled key", described, err)
	}
	if _, err := c.TagResource(ctx, &kms.TagResourceInput{KeyId: &arn, Tags: []types.Tag{{TagKey: aws.String("a"), TagValue: aws.String("b")}}}); err != nil {
		t.Errorf("tagging a disabled key: %v", err)
	}
	if got := s.Keys(); len(got) != 1 || got[0].Tags["a"] != "b" || got[0].State != kmstest.Disabled {
		t.Errorf("Keys = %+v", got)
	}
}

// As an IAM policy with aws:ResourceTag: what is not there has no tags.
func TestAPermissionByTagIsForKeysThatHaveIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := kmstest.New(kmstest.Options{})
		c := dial(s)
		ours := create(t, c, types.KeySpecRsa2048, types.KeyUsageTypeEncryptDecrypt, types.Tag{TagKey: aws.String("team"), TagValue: aws.String("a")})
		theirs := create(t, c, types.KeySpecRsa2048, types.KeyUsageTypeEncryptDecrypt, types.Tag{TagKey: aws.String("team"), TagValue: aws.String("b")})
		s.Tagged("team", "a", time.Minute, "DescribeKey", "CreateAlias")
		describe := func(id string) error {
			_, err := c.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: &id})
			return err
		}
		wants(t, describe(ours), "AccessDeniedException") // AWS is still to apply its tags
		time.Sleep(time.Minute)
		if err := describe(ours); err != nil {
			t.Error(err)
		}
		for _, id := range []string{theirs, "alias/none", "11111111-2222-4333-8444-555555555555"} {
			wants(t, describe(id), "AccessDeniedException")
		}
		_, err := c.CreateAlias(t.Context(), &kms.CreateAliasInput{AliasName: aws.String("alias/x"), TargetKeyId: &theirs})
		wants(t, err, "AccessDeniedException")
		if _, err := c.GetPublicKey(t.Context(), &kms.GetPublicKeyInput{KeyId: &theirs}); err != nil {
			t.Errorf("an operation without a condition: %v", err)
		}
		s.Heal()
		wants(t, describe("alias/none"), "NotFoundException")
	})
}
