package kms_test

import (
	"context"
	"crypto/ecdh"
	"encoding/json"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"keyd/internal/audit"
	"keyd/internal/boundary"
	"keyd/internal/kms"
	"keyd/internal/kms/kmstest"
	"keyd/internal/registry"
	"keyd/internal/rotation"
	"keyd/internal/rotation/backendtest"
)

// statement is one of a policy.
type statement struct {
	Action    actions
	Resource  any
	Condition map[string]map[string]any
	Principal any
}

// actions are one or several.
type actions []string

func (a *actions) UnmarshalJSON(raw []byte) error {
	if json.Unmarshal(raw, (*[]string)(a)) == nil {
		return nil
	}
	*a = actions{""}
	return json.Unmarshal(raw, &(*a)[0])
}

// policies reads the policies of docs/kms.md: that of the role, and what that of
// the keys says of the role.
func policies(t *testing.T) (role, keys []statement, roleText string) {
	t.Helper()
	page, err := os.ReadFile("../../docs/kms.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)```json\n(.*?)```").FindAllSubmatch(page, -1)
	if len(blocks) != 2 {
		t.Fatalf("the page has %d policies, want two", len(blocks))
	}
	var all [2]struct{ Statement []statement }
	for i, block := range blocks {
		if err := json.Unmarshal(block[1], &all[i]); err != nil {
			t.Fatalf("a policy of the page is no JSON: %v", err)
		}
	}
	return all[0].Statement, all[1].Statement[:1], string(blocks[0][1]) // the second of the keys is for people
}

// allowed are the actions of statements, sorted.
func allowed(policy []statement) []string {
	var all []string
	for _, s := range policy {
		all = append(all, s.Action...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// byTag are the operations that the role may only ask for of a key with keyd's
// tag.
func byTag(policy []statement) []string {
	var tagged []string
	for _, s := range policy {
		if _, conditional := s.Condition["StringEquals"]["aws:ResourceTag/keyd:instance"]; conditional {
			for _, action := range s.Action {
				tagged = append(tagged, strings.TrimPrefix(action, "kms:"))
			}
		}
	}
	return tagged
}

// everything a backend ever asks of KMS.
func everything(t *testing.T) []string {
	t.Helper()
	var mu sync.Mutex
	seen := map[string]bool{"kms:TagResource": true} // for the tags of CreateKey
	s := kmstest.New(kmstest.Options{})
	b := open(t, s, func(c *kms.Config) {
		c.Observe = func(op string, _, _ time.Duration, _ error) {
			mu.Lock()
			defer mu.Unlock()
			seen["kms:"+op] = true
		}
	})
	do := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, prepare := range uses {
		do(prepare(t, b)(t.Context()))
	}
	g := generate(t, b, specFor(materials[1]))
	_, err := b.Open(t.Context(), g.Handle, backendtest.Agree(t, g.Public.(*ecdh.PublicKey), boundary.ECDHES, boundary.A256GCM, nil, nil))
	do(err)
	do(b.Disable(t.Context(), g.Handle))
	_, err = b.Destroy(t.Context(), g.Handle)
	do(err)
	do(b.Rescue(t.Context(), g.Handle, true))
	sp := spec()
	generate(t, b, sp)
	do(b.Discard(t.Context(), sp))
	generate(t, b, sp) // moves the alias
	_, err = b.List(t.Context())
	do(err)
	b.Health(t.Context())
	return slices.Sorted(maps.Keys(seen))
}

func TestThePoliciesOfThePageAllowWhatKeydAsksForAndNoMore(t *testing.T) {
	role, keys, text := policies(t)
	want := everything(t)
	if got := allowed(role); !slices.Equal(got, want) {
		t.Errorf("the role may %v,\nkeyd asks for %v", got, want)
	}
	// CreateKey and ListKeys are of no key.
	of := slices.DeleteFunc(slices.Clone(want), func(a string) bool { return a == "kms:CreateKey" || a == "kms:ListKeys" })
	if got := allowed(keys); !slices.Equal(got, of) {
		t.Errorf("the key policy allows keyd %v,\nkeyd asks for %v", got, of)
	}
	for _, value := range []string{"RSAES_OAEP_SHA_256", "RSASSA_PSS_SHA_256", `"ECDH"`, `"DIGEST"`, "RSA_2048", "RSA_3072", "RSA_4096",
		"ECC_NIST_P256", "ECC_NIST_P384", "ECC_NIST_P521", "ENCRYPT_DECRYPT", "KEY_AGREEMENT", "SIGN_VERIFY"} {
		if !strings.Contains(text, value) {
			t.Errorf("the role's policy does not name %s", value)
		}
	}
}

// What is allowed by a tag is not allowed for minutes after the tag was set, nor
// of a key that is not there, which has none.
func TestAKeyLivesAndDiesUnderTheRolesPolicy(t *testing.T) {
	role, _, _ := policies(t)
	inKMS(t, func(l *life) {
		l.server.Tagged("keyd:instance", "test", 5*time.Minute, byTag(role)...)
		l.create()
		if n := len(l.server.Keys()); n != 3 {
			l.Fatalf("%d keys were made for three", n)
		}
		v := l.reg.Versions("opens")[0]
		for _, operate := range []func(context.Context, audit.Actor, string, string, bool) (rotation.Change, error){
			l.engine.Compromise, l.engine.Destroy, l.engine.Rescue, l.engine.Destroy} {
			if _, err := operate(l.Context(), audit.System, v.KID, "drill", false); err != nil {
				l.Fatal(err)
			}
			l.pass(time.Hour)
		}
		l.pass(31 * day)
		if got, _ := l.reg.Version(v.KID); got.State != registry.Destroyed {
			l.Errorf("its window has ended, and it is %s: %s", got.State, got.Retry.Last)
		}
		l.check()
	})
}
