package kmstest_test

import (
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"keyd/internal/kms/kmstest"
)

func TestAliasesNameKeys(t *testing.T) {
	s := kmstest.New(kmstest.Options{})
	c, ctx := dial(s), t.Context()
	first, second := createRSA(t, c), createRSA(t, c)
	agrees := create(t, c, types.KeySpecEccNistP256, types.KeyUsageTypeKeyAgreement)
	name := aws.String("alias/keyd/prod/one")
	if _, err := c.CreateAlias(ctx, &kms.CreateAliasInput{AliasName: name, TargetKeyId: &first}); err != nil {
		t.Fatal(err)
	}
	_, err := c.CreateAlias(ctx, &kms.CreateAliasInput{AliasName: name, TargetKeyId: &second})
	wants(t, err, "AlreadyExistsException")
	if !public(t, c, *name).Equal(public(t, c, first)) {
		t.Error("the alias names another key")
	}
	if !public(t, c, "arn:aws:kms:us-east-1:111122223333:alias/keyd/prod/one").Equal(public(t, c, first)) {
		t.Error("the alias ARN names another key")
	}
	if _, err := c.UpdateAlias(ctx, &kms.UpdateAliasInput{AliasName: name, TargetKeyId: &second}); err != nil {
		t.Fatal(err)
	}
	if !public(t, c, *name).Equal(public(t, c, second)) {
		t.Error("the alias was not moved")
	}
	_, err = c.UpdateAlias(ctx, &kms.UpdateAliasInput{AliasName: name, TargetKeyId: &agrees})
	wants(t, err, "ValidationException")
	_, err = c.UpdateAlias(ctx, &kms.UpdateAliasInput{AliasName: aws.String("alias/none"), TargetKeyId: &agrees})
	wants(t, err, "NotFoundException")
	listed, err := c.ListAliases(ctx, &kms.ListAliasesInput{KeyId: &second})
	if err != nil || len(listed.Aliases) != 1 || *listed.Aliases[0].AliasName != *name || !strings.HasSuffix(second, *listed.Aliases[0].TargetKeyId) {
		t.Errorf("ListAliases = %+v, %v", listed, err)
	}
	_, err = c.ScheduleKeyDeletion(ctx, &kms.ScheduleKeyDeletionInput{KeyId: name})
	wants(t, err, "NotFoundException")
	for bad, code := range map[string]string{"keyd": "InvalidAliasNameException", "alias/": "InvalidAliasNameException",
		"alias/aws/x": "InvalidAliasNameException", "alias/a b": "InvalidAliasNameException", "alias/" + strings.Repeat("x", 300): "InvalidAliasNameException"} {
		_, err := c.CreateAlias(ctx, &kms.CreateAliasInput{AliasName: &bad, TargetKeyId: &first})
		wants(t, err, code)
	}
	_, err = c.CreateAlias(ctx, &kms.CreateAliasInput{AliasName: aws.String("alias/x"), TargetKeyId: name})
	wants(t, err, "ValidationException")
	if _, err := c.DeleteAlias(ctx, &kms.DeleteAliasInput{AliasName: name}); err != nil {
		t.Fatal(err)
	}
	_, err = c.DeleteAlias(ctx, &kms.DeleteAliasInput{AliasName: name})
	wants(t, err, "NotFoundException")
	_, err = c.DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: name})
	wants(t, err, "NotFoundException")
}

func TestListingsComeInPages(t *testing.T) {
	s := kmstest.New(kmstest.Options{PageSize: 2})
	c, ctx := dial(s), t.Context()
	want := map[string]bool{}
	for i := range 5 {
		arn := createRSA(t, c)
		want[arn] = true
		alias := "alias/" + strings.Repeat("a", i+1)
		if _, err := c.CreateAlias(ctx, &kms.CreateAliasInput{AliasName: &alias, TargetKeyId: &arn}); err != nil {
			t.Fatal(err)
		}
	}
	pages := kms.NewListKeysPaginator(c, &kms.ListKeysInput{Limit: aws.Int32(1000)})
	n := 0
	for ; pages.HasMorePages(); n++ {
		page, err := pages.NextPage(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, k := range page.Keys {
			delete(want, *k.KeyArn)
		}
	}
	if n != 3 || len(want) != 0 {
		t.Errorf("ListKeys took %d pages and left out %d keys, want 3 pages and none", n, len(want))
	}
	names := kms.NewListAliasesPaginator(c, &kms.ListAliasesInput{})
	found := 0
	for names.HasMorePages() {
		page, err := names.NextPage(ctx)
		if err != nil {
			t.Fatal(err)
		}
		found += len(page.Aliases)
	}
	if found != 5 {
		t.Errorf("ListAliases found %d, want 5", found)
	}
	_, err := c.ListKeys(ctx, &kms.ListKeysInput{Marker: aws.String("?")})
	wants(t, err, "InvalidMarkerException")
	_, err = c.ListKeys(ctx, &kms.ListKeysInput{Limit: aws.Int32(1001)})
	wants(t, err, "ValidationException")
}
