package kms_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"keyd/internal/kms"
	"keyd/internal/kms/kmstest"
)

// crowd puts keys of somebody else's there, some of them without an alias.
func crowd(t *testing.T, s *kmstest.Server, n, unnamed int) {
	t.Helper()
	for range n {
		request(t, s, "CreateKey", map[string]any{"KeySpec": "ECC_NIST_P256", "KeyUsage": "KEY_AGREEMENT",
			"Tags": []map[string]string{{"TagKey": "team", "TagValue": "other"}}})
	}
	for i, k := range s.Keys()[unnamed:] {
		request(t, s, "CreateAlias", map[string]any{"AliasName": fmt.Sprintf("alias/their-%d", i), "TargetKeyId": k.ID})
	}
}

// calls counts the requests that something makes, by operation.
func calls(s *kmstest.Server, do func()) map[string]int {
	ops := []string{"ListKeys", "ListAliases", "ListResourceTags", "DescribeKey", "GetPublicKey", "CreateKey", "ScheduleKeyDeletion"}
	before := map[string]int{}
	for _, op := range ops {
		before[op] = s.Calls(op)
	}
	do()
	made := map[string]int{}
	for _, op := range ops {
		if n := s.Calls(op) - before[op]; n > 0 {
			made[op] = n
		}
	}
	return made
}

func TestASweepOfAFullAccountCostsFewCalls(t *testing.T) {
	s := kmstest.New(kmstest.Options{})
	const foreign, unnamed = 10_000, 500
	crowd(t, s, foreign, unnamed)
	b := open(t, s)
	own := generate(t, b, spec())
	stray := uuid.NewString()
	create(t, s, stray, "keyd/test/wise-response/"+stray, false)
	b = open(t, s) // knows nothing yet
	sweep := func() map[string]int {
		return calls(s, func() {
			all, err := b.List(t.Context())
			if err != nil || len(all) != 2 || all[0].Handle != own.Handle && all[1].Handle != own.Handle {
				t.Errorf("List = %+v, %v, want keyd's two", all, err)
			}
		})
	}
	first, second := sweep(), sweep()
	// A page has 1,000 keys or 100 aliases.
	if first["ListKeys"] != 11 || first["ListAliases"] != 96 || first["ListResourceTags"] != unnamed+2 || first["GetPublicKey"] != 2 || first["DescribeKey"] != 2 {
		t.Errorf("the first sweep made %v", first)
	}
	if second["ListResourceTags"] != 2 || second["ListKeys"] != 11 || len(second) != 5 {
		t.Errorf("the second sweep made %v, want it to have learnt whose the %d keys without an alias are", second, unnamed)
	}
	if made := calls(s, func() { generate(t, b, spec()) }); made["ListResourceTags"] != 1 || made["CreateKey"] != 1 || made["DescribeKey"] > 2 {
		t.Errorf("making a key made %v", made)
	}
	if s.Calls("ScheduleKeyDeletion") != 0 {
		t.Error("a sweep only looks")
	}
}

// Nor do tags: an operator who tidies up would delete somebody else's key.
func TestAListTakesNoKeyForKeydsByItsTagsAlone(t *testing.T) {
	s := kmstest.New(kmstest.Options{})
	theirs := create(t, s, uuid.NewString(), "payroll", false)
	all, err := open(t, s).List(t.Context())
	if err != nil || len(all) != 1 || all[0].Handle != theirs.ARN || all[0].Managed || all[0].KID != "" {
		t.Errorf("List = %+v, %v, want it told apart", all, err)
	}
}

// Whoever may make aliases can put one of keyd's on a key of somebody else's,
// and wait for an operator who tidies up.
func TestAnAliasMakesNoKeyKeyds(t *testing.T) {
	s := kmstest.New(kmstest.Options{})
	crowd(t, s, 1, 1)
	theirs := s.Keys()[0]
	request(t, s, "CreateAlias", map[string]any{"AliasName": "alias/keyd/test/" + uuid.NewString(), "TargetKeyId": theirs.ID})
	b := open(t, s)
	own := generate(t, b, spec())
	all, err := b.List(t.Context())
	if err != nil || len(all) != 2 {
		t.Fatalf("List = %+v, %v, want both", all, err)
	}
	for _, f := range all {
		if f.Managed != (f.Handle == own.Handle) || !f.Managed && f.KID != "" {
			t.Errorf("List says %+v", f)
		}
	}
	s.Deny("ListResourceTags")
	if all, err := open(t, s).List(t.Context()); err != nil || len(all) != 2 || all[0].Managed || all[1].Managed {
		t.Errorf("tags that may not be read: List = %+v, %v, want nothing taken for keyd's", all, err)
	}
}

func TestAForeignKeyIsLookedAtAgainSomeDay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := kmstest.New(kmstest.Options{})
		crowd(t, s, 1, 1)
		b := open(t, s)
		look := func(want int) {
			t.Helper()
			all, err := b.List(t.Context())
			if err != nil || len(all) != want {
				t.Errorf("List = %+v, %v, want %d", all, err, want)
			}
		}
		s.Deny("ListResourceTags")
		look(0)
		s.Heal()
		look(0) // not asked again at once
		if n := s.Calls("ListResourceTags"); n != 1 {
			t.Errorf("a key that is denied was looked at %d times, want once", n)
		}
		time.Sleep(11 * time.Minute) // permissions by tag are effective now
		look(0)
		if n := s.Calls("ListResourceTags"); n != 2 {
			t.Errorf("after ten minutes it was looked at %d times, want twice", n)
		}
		request(t, s, "TagResource", map[string]any{"KeyId": s.Keys()[0].ID, "Tags": []map[string]string{{"TagKey": "keyd:instance", "TagValue": "test"}}})
		look(0)
		time.Sleep(25 * time.Hour)
		look(1)
	})
}

// What a process made itself it finds before AWS shows it to everybody.
func TestAKeyJustMadeIsNotTakenForForeign(t *testing.T) {
	s := kmstest.New(kmstest.Options{})
	b, sp := open(t, s), spec()
	s.Inject(kmstest.Fault{Op: "CreateAlias", Code: "KMSInternalException", Times: 3})
	if _, err := b.Generate(t.Context(), sp); err == nil {
		t.Fatal("Generate: no error")
	}
	other := open(t, s, func(c *kms.Config) { c.Instance = "other" })
	if all, err := other.List(t.Context()); err != nil || len(all) != 0 {
		t.Errorf("another instance lists %+v, %v", all, err)
	}
	if g := generate(t, b, sp); len(s.Keys()) != 1 || s.Keys()[0].ARN != g.Handle {
		t.Errorf("there stand %+v", s.Keys())
	}
}
