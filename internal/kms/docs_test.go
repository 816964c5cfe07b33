package kms_test

import (
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

	"keyd/internal/boundary"
	"keyd/internal/kms"
	"keyd/internal/kms/kmstest"
	"keyd/internal/rotation/backendtest"
)

// policies reads the policies of docs/kms.md: that of the role, and that of the
// keys.
func policies(t *testing.T) (role, keys []string, roleText string) {
	t.Helper()
	page, err := os.ReadFile("../../docs/kms.md")
	if err != nil {
		t.Fatal(err)
	}
	var all [][]string
	var texts []string
	for _, block := range regexp.MustCompile("(?s)```json\n(.*?)```").FindAllSubmatch(page, -1) {
		var policy struct {
			Statement []struct {
				Effect    string
				Action    any
				Condition map[string]map[string]any
				Principal any
			}
		}
		if err := json.Unmarshal(block[1], &policy); err != nil {
			t.Fatalf("a policy of the page is no JSON: %v", err)
		}
		var actions []string
		for _, s := range policy.Statement {
			if s.Principal != nil && len(actions) > 0 {
				break // the second statement of the key policy is for people
			}
			switch a := s.Action.(type) {
			case string:
				actions = append(actions, a)
			case []any:
				for _, one := range a {
					actions = append(actions, one.(string))
				}
			}
		}
		slices.Sort(actions)
		all, texts = append(all, slices.Compact(actions)), append(texts, string(block[1]))
	}
	if len(all) != 2 {
		t.Fatalf("the page has %d policies, want two", len(all))
	}
	return all[0], all[1], texts[0]
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
	if !slices.Equal(role, want) {
		t.Errorf("the role may %v,\nkeyd asks for %v", role, want)
	}
	// CreateKey and ListKeys are of no key.
	of := slices.DeleteFunc(slices.Clone(want), func(a string) bool { return a == "kms:CreateKey" || a == "kms:ListKeys" })
	if !slices.Equal(keys, of) {
		t.Errorf("the key policy allows keyd %v,\nkeyd asks for %v", keys, of)
	}
	for _, value := range []string{"RSAES_OAEP_SHA_256", "RSASSA_PSS_SHA_256", `"ECDH"`, `"DIGEST"`, "RSA_2048", "RSA_3072", "RSA_4096",
		"ECC_NIST_P256", "ECC_NIST_P384", "ECC_NIST_P521", "ENCRYPT_DECRYPT", "KEY_AGREEMENT", "SIGN_VERIFY"} {
		if !strings.Contains(text, value) {
			t.Errorf("the role's policy does not name %s", value)
		}
	}
}
