package kms_test

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"

	"keyd/internal/boundary"
	"keyd/internal/kms"
	"keyd/internal/kms/kmstest"

	"github.com/google/uuid"
)

func TestGenerateRefusesAnAliasThatLies(t *testing.T) {
	s := kmstest.New(kmstest.Options{})
	b, sp := open(t, s), spec()
	theirs := generate(t, open(t, s, func(c *kms.Config) { c.Instance = "other" }), sp)
	request(t, s, "CreateAlias", map[string]any{"AliasName": "alias/keyd/test/" + sp.KID, "TargetKeyId": theirs.Handle})
	if g, err := b.Generate(t.Context(), sp); err == nil {
		t.Errorf("Generate = %+v, want an error: the key is another instance's", g)
	}
	if err := b.Discard(t.Context(), sp); err != nil {
		t.Errorf("Discard: %v", err)
	}
	if alive(s) != 1 {
		t.Error("Discard deleted another instance's key")
	}
}

// create has somebody make a key with keyd's tags.
func create(t *testing.T, s *kmstest.Server, kid, description string, multiRegion bool) kmstest.Key {
	t.Helper()
	request(t, s, "CreateKey", map[string]any{"KeySpec": "RSA_2048", "KeyUsage": "ENCRYPT_DECRYPT", "Description": description, "MultiRegion": multiRegion,
		"Tags": []map[string]string{{"TagKey": "keyd:instance", "TagValue": "test"}, {"TagKey": "keyd:kid", "TagValue": kid}}})
	keys := s.Keys()
	return keys[len(keys)-1]
}

// Whoever may set tags would have keyd announce a key of theirs, or delete one
// that they may not delete.
func TestTagsAloneMakeNoKeyKeyds(t *testing.T) {
	sp := spec()
	for _, description := range []string{"", "payroll", "keyd/other/wise-response/" + sp.KID, "keyd/test/wise-response/" + uuid.NewString()} {
		s := kmstest.New(kmstest.Options{})
		b := open(t, s)
		theirs := create(t, s, sp.KID, description, false)
		if g := generate(t, b, sp); g.Handle == theirs.ARN {
			t.Errorf("%q: Generate adopted somebody's key", description)
		}
		if err := b.Discard(t.Context(), sp); err != nil {
			t.Fatal(err)
		}
		if keys := s.Keys(); len(keys) != 2 || keys[0].State != kmstest.Enabled || keys[1].State != kmstest.PendingDeletion {
			t.Errorf("%q: after Discard there stand %+v, want somebody's key untouched", description, keys)
		}
	}
}

func TestGenerateAdoptsNoKeyWhosePrivateHalfMayBeElsewhere(t *testing.T) {
	for name, c := range map[string]struct {
		multiRegion bool
		change      func(metadata map[string]any)
	}{
		"replicated": {multiRegion: true, change: func(map[string]any) {}},
		"imported":   {change: func(m map[string]any) { m["Origin"] = "EXTERNAL" }},
	} {
		t.Run(name, func(t *testing.T) {
			s := kmstest.New(kmstest.Options{})
			f := &forger{next: s.Transport(), op: "DescribeKey", change: func(a map[string]any) {
				if m, described := a["KeyMetadata"].(map[string]any); described {
					c.change(m)
				}
			}}
			b, sp := open(t, s, func(c *kms.Config) { c.HTTPClient = &http.Client{Transport: f} }), spec()
			theirs := create(t, s, sp.KID, "keyd/test/wise-response/"+sp.KID, c.multiRegion)
			request(t, s, "CreateAlias", map[string]any{"AliasName": "alias/keyd/test/" + sp.KID, "TargetKeyId": theirs.ID})
			if g, err := b.Generate(t.Context(), sp); err == nil || !strings.Contains(err.Error(), theirs.ARN) {
				t.Errorf("Generate = %+v, %v, want an error that names the key", g, err)
			}
			if err := b.Discard(t.Context(), sp); err != nil || alive(s) != 1 {
				t.Errorf("Discard: %v; %d keys are alive, want theirs", err, alive(s))
			}
		})
	}
}

// AWS takes a while to show a new key to everybody.
func TestAKeyThatKMSDoesNotShowYetIsNotMadeTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := kmstest.New(kmstest.Options{})
		b, sp := open(t, s), spec()
		s.Inject(kmstest.Fault{Op: "CreateAlias", Code: "NotFoundException"})
		if _, err := b.Generate(t.Context(), sp); err == nil {
			t.Fatal("Generate named a key that KMS does not show")
		}
		for name, again := range map[string]func() error{
			"Generate": func() error { _, err := b.Generate(t.Context(), sp); return err },
			"Discard":  func() error { return b.Discard(t.Context(), sp) },
		} {
			s.Inject(kmstest.Fault{Op: "DescribeKey", Code: "NotFoundException", Times: 2}) // the alias, and the key
			if err := again(); !errors.Is(err, boundary.ErrUnavailable) {
				t.Errorf("%s: %v, want boundary.ErrUnavailable", name, err)
			}
		}
		if generate(t, b, sp); len(s.Keys()) != 1 {
			t.Errorf("there stand %d keys, want 1", len(s.Keys()))
		}
	})
}

func TestDiscardFindsEveryKeyOfAKid(t *testing.T) {
	s := kmstest.New(kmstest.Options{})
	sp := spec()
	generate(t, open(t, s), sp)
	for range 2 { // strays: made, never named
		create(t, s, sp.KID, "keyd/test/wise-response/"+sp.KID, false)
	}
	other := generate(t, open(t, s), spec())
	b := open(t, s)
	if all, err := b.List(t.Context()); err != nil || len(all) != 4 {
		t.Errorf("List = %+v, %v, want 4 keys", all, err)
	}
	if err := b.Discard(t.Context(), sp); err != nil {
		t.Fatal(err)
	}
	all, err := b.List(t.Context())
	if err != nil || len(all) != 1 || all[0].Handle != other.Handle {
		t.Errorf("List = %+v, %v, want the other key alone", all, err)
	}
}

func TestAKeyThatWasMadeIsOneOfThisRegion(t *testing.T) {
	for name, change := range map[string]func(answer, metadata map[string]any){
		"no key":             func(a, _ map[string]any) { delete(a, "KeyMetadata") },
		"no ARN":             func(_, m map[string]any) { delete(m, "Arn") },
		"no id":              func(_, m map[string]any) { delete(m, "KeyId") },
		"one of elsewhere":   func(_, m map[string]any) { m["Arn"] = "arn:aws:kms:eu-west-1:111122223333:key/" + uuid.NewString() },
		"an alias for a key": func(_, m map[string]any) { m["Arn"] = "arn:aws:kms:us-east-1:111122223333:alias/x" },
	} {
		s := kmstest.New(kmstest.Options{})
		f := &forger{next: s.Transport(), op: "CreateKey", change: func(a map[string]any) { change(a, a["KeyMetadata"].(map[string]any)) }}
		b, sp := open(t, s, func(c *kms.Config) { c.HTTPClient = &http.Client{Transport: f} }), spec()
		if g, err := b.Generate(t.Context(), sp); !errors.Is(err, kms.ErrUnreachable) {
			t.Errorf("%s: Generate = %+v, %v, want ErrUnreachable", name, g, err)
		}
		f.op = ""
		if generate(t, b, sp); len(s.Keys()) != 1 {
			t.Errorf("%s: there stand %d keys, want the one that was made", name, len(s.Keys()))
		}
	}
}

// first has somebody do something just before an operation is asked for.
type first struct {
	next http.RoundTripper
	op   string
	do   func()
}

func (f *first) RoundTrip(r *http.Request) (*http.Response, error) {
	if strings.HasSuffix(r.Header.Get("X-Amz-Target"), "."+f.op) {
		f.do()
	}
	return f.next.RoundTrip(r)
}

func TestAnAliasThatSomebodyTookMeanwhileNamesNoKeyOfOurs(t *testing.T) {
	s := kmstest.New(kmstest.Options{})
	sp := spec()
	theirs := generate(t, open(t, s, func(c *kms.Config) { c.Instance = "other" }), spec())
	taking := &first{s.Transport(), "CreateAlias", func() {
		request(t, s, "CreateAlias", map[string]any{"AliasName": "alias/keyd/test/" + sp.KID, "TargetKeyId": theirs.Handle})
	}}
	b := open(t, s, func(c *kms.Config) { c.HTTPClient = &http.Client{Transport: taking} })
	if g, err := b.Generate(t.Context(), sp); err == nil {
		t.Errorf("Generate = %+v, want an error", g)
	}
}
