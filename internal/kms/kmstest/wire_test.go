package kmstest_test

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"keyd/internal/kms/kmstest"
)

func TestAKeyAndItsAliasesGoWhenTheWaitingPeriodEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := kmstest.New(kmstest.Options{})
		c, ctx := dial(s), t.Context()
		arn, name := createRSA(t, c), aws.String("alias/x")
		if _, err := c.CreateAlias(ctx, &kms.CreateAliasInput{AliasName: name, TargetKeyId: &arn}); err != nil {
			t.Fatal(err)
		}
		out, err := c.ScheduleKeyDeletion(ctx, &kms.ScheduleKeyDeletionInput{KeyId: &arn})
		if err != nil || !out.DeletionDate.Equal(time.Now().AddDate(0, 0, 30)) {
			t.Fatalf("ScheduleKeyDeletion = %+v, %v, want 30 days", out, err)
		}
		time.Sleep(30*24*time.Hour - time.Second)
		if _, err := c.DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: name}); err != nil {
			t.Errorf("a second before the end: %v", err)
		}
		time.Sleep(time.Second)
		_, err = c.DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: &arn})
		wants(t, err, "NotFoundException")
		listed, err := c.ListAliases(ctx, &kms.ListAliasesInput{})
		if err != nil || len(listed.Aliases) != 0 {
			t.Errorf("ListAliases = %+v, %v, want none", listed, err)
		}
	})
}

func TestFaultsComeBeforeAndAfterTheEffect(t *testing.T) {
	s := kmstest.New(kmstest.Options{})
	c := dial(s)
	in := &kms.CreateKeyInput{KeySpec: types.KeySpecRsa2048, KeyUsage: types.KeyUsageTypeEncryptDecrypt}
	for i, f := range []kmstest.Fault{
		{Op: "CreateKey", Code: "KMSInternalException"}, {Op: "CreateKey", After: true, Code: "KMSInternalException"},
		{Op: "CreateKey", Drop: true}, {Op: "CreateKey", After: true, Drop: true},
	} {
		before := len(s.Keys())
		s.Inject(f)
		if _, err := c.CreateKey(t.Context(), in); err == nil {
			t.Errorf("fault %d: no error", i)
		} else if f.Code != "" {
			wants(t, err, f.Code)
		}
		if made := len(s.Keys()) - before; made != map[bool]int{false: 0, true: 1}[f.After] {
			t.Errorf("fault %d made %d keys", i, made)
		}
	}
	s.Inject(kmstest.Fault{Delay: time.Hour})
	short, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := c.CreateKey(short, in); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a slow answer: %v, want context.DeadlineExceeded", err)
	}
	s.Inject(kmstest.Fault{Op: "CreateKey", Code: "KMSInternalException", Times: 9})
	s.Deny("CreateKey")
	_, err := c.CreateKey(t.Context(), in)
	wants(t, err, "AccessDeniedException")
	s.Heal()
	if _, err := c.CreateKey(t.Context(), in); err != nil {
		t.Errorf("healed: %v", err)
	}
	if got := s.Calls("CreateKey"); got != 7 {
		t.Errorf("Calls = %d, want 7", got)
	}
}

func TestQuotasThrottle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := kmstest.New(kmstest.Options{Quotas: map[string]int{"ListKeys": 2}})
		c := dial(s)
		for range 2 {
			for range 2 {
				if _, err := c.ListKeys(t.Context(), &kms.ListKeysInput{}); err != nil {
					t.Fatal(err)
				}
			}
			_, err := c.ListKeys(t.Context(), &kms.ListKeysInput{})
			wants(t, err, "ThrottlingException")
			time.Sleep(time.Second)
		}
	})
}

func TestRequestsMustBeWellFormedAndSigned(t *testing.T) {
	s := kmstest.New(kmstest.Options{})
	_, err := dial(s, func(o *kms.Options) { o.Region = "eu-west-1" }).ListKeys(t.Context(), &kms.ListKeysInput{})
	wants(t, err, "InvalidSignatureException")
	signature := strings.Repeat("0", 64)
	good := "AWS4-HMAC-SHA256 Credential=AK/20260101/us-east-1/kms/aws4_request, SignedHeaders=host;x-amz-date;x-amz-target, Signature=" + signature
	for name, tt := range map[string]struct {
		change func(*http.Request)
		want   string
	}{
		"as it should be": {func(*http.Request) {}, `{"Keys":[],"Truncated":false}`},
		"not signed":      {func(r *http.Request) { r.Header.Del("Authorization") }, "MissingAuthenticationTokenException"},
		"half signed":     {func(r *http.Request) { r.Header.Set("Authorization", "Basic x") }, "IncompleteSignatureException"},
		"no date":         {func(r *http.Request) { r.Header.Del("X-Amz-Date") }, "IncompleteSignatureException"},
		"target not signed": {func(r *http.Request) {
			r.Header.Set("Authorization", strings.Replace(good, ";x-amz-target", "", 1))
		}, "InvalidSignatureException"},
		"unknown operation": {func(r *http.Request) { r.Header.Set("X-Amz-Target", "TrentService.Verify") }, "UnknownOperationException"},
		"another service":   {func(r *http.Request) { r.Header.Set("X-Amz-Target", "Other.ListKeys") }, "UnknownOperationException"},
		"a GET":             {func(r *http.Request) { r.Method = http.MethodGet }, "UnknownOperationException"},
		"another type":      {func(r *http.Request) { r.Header.Set("Content-Type", "text/plain") }, "UnknownOperationException"},
	} {
		t.Run(name, func(t *testing.T) {
			r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", strings.NewReader("{}"))
			r.Header.Set("Content-Type", "application/x-amz-json-1.1")
			r.Header.Set("X-Amz-Target", "TrentService.ListKeys")
			r.Header.Set("X-Amz-Date", "20260101T000000Z")
			r.Header.Set("Authorization", good)
			tt.change(r)
			w := httptest.NewRecorder()
			s.ServeHTTP(w, r)
			if !strings.Contains(w.Body.String(), tt.want) || w.Header().Get("X-Amzn-RequestId") == "" {
				t.Errorf("got %d %s, want %s", w.Code, w.Body, tt.want)
			}
		})
	}
}

func TestAServerOnASocketDropsConnectionsForReal(t *testing.T) {
	var lines strings.Builder
	s := kmstest.New(kmstest.Options{Logger: slog.New(slog.NewTextHandler(&lines, nil))})
	listening := httptest.NewServer(s)
	defer listening.Close()
	c := dial(s, func(o *kms.Options) { o.BaseEndpoint, o.HTTPClient = &listening.URL, listening.Client() })
	arn := createRSA(t, c)
	out, err := decrypt(t, c, arn, wrap(t, public(t, c, arn), "not for logs"))
	if err != nil || string(out.Plaintext) != "not for logs" {
		t.Errorf("Decrypt = %+v, %v", out, err)
	}
	s.Inject(kmstest.Fault{Op: "Decrypt", Drop: true})
	if _, err := decrypt(t, c, arn, []byte{1}); err == nil {
		t.Error("the connection was to be cut")
	}
	if got := lines.String(); !strings.Contains(got, "operation=Decrypt status=200") || strings.Contains(got, "not for logs") {
		t.Errorf("the log holds %q", got)
	}
}
