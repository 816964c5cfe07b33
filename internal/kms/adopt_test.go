package kms_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"keyd/internal/boundary"
	"keyd/internal/kms"
	"keyd/internal/kms/kmstest"
	"keyd/internal/rotation/backendtest"
)

func TestAGeneratedKeySaysWhoseItIs(t *testing.T) {
	s := kmstest.New(kmstest.Options{})
	b := open(t, s, func(c *kms.Config) {
		c.MultiRegion, c.Policy, c.Tags = true, `{"Version":"2012-10-17"}`, map[string]string{"cost-center": "42"}
	})
	sp := spec()
	g := generate(t, b, sp)
	keys := s.Keys()
	if len(keys) != 1 {
		t.Fatalf("there are %d keys, want 1", len(keys))
	}
	k := keys[0]
	want := map[string]string{"keyd:instance": "test", "keyd:key": "wise-response", "keyd:kid": sp.KID, "cost-center": "42"}
	for name, value := range want {
		if k.Tags[name] != value {
			t.Errorf("tag %s is %q, want %q", name, k.Tags[name], value)
		}
	}
	if k.ARN != g.Handle || len(k.Aliases) != 1 || k.Aliases[0] != "alias/keyd/test/"+sp.KID || !k.MultiRegion || len(k.Tags) != len(want) {
		t.Errorf("got %+v", k)
	}
	e := g.Evidence
	if e.Level != boundary.Unwrap || e.Attributes["Origin"] != "AWS_KMS" || e.Device["account"] != "111122223333" || len(e.Problems) != 0 {
		t.Errorf("evidence %+v", e)
	}
	strict := open(t, s)
	if found, err := strict.Find(t.Context(), g.Handle); err != nil || len(found.Evidence.Problems) != 1 {
		t.Errorf("a multi-Region key where none is wanted: %+v, %v, want one problem", found.Evidence, err)
	}
}

// Every request of Generate fails before and after its effect, and its
// connection breaks; then the same process, or one that remembers nothing,
// runs again. There must be one key in the end.
func TestGenerateRunAgainAdoptsWhatTheFirstRunMade(t *testing.T) {
	for _, op := range []string{"DescribeKey", "ListAliases", "ListKeys", "CreateKey", "CreateAlias", "GetPublicKey"} {
		for _, fault := range []kmstest.Fault{{Code: "KMSInternalException"}, {Code: "AccessDeniedException"}, {Drop: true},
			{After: true, Code: "KMSInternalException"}, {After: true, Drop: true}} {
			for _, restart := range []bool{false, true} {
				synctest.Test(t, func(t *testing.T) {
					s := kmstest.New(kmstest.Options{})
					b, sp := open(t, s), spec()
					sp.Material = materials[len(op)%len(materials)] // which does not matter
					fault.Op, fault.Times = op, 3                   // as often as the SDK tries
					s.Inject(fault)
					if _, err := b.Generate(t.Context(), sp); !errors.Is(err, boundary.ErrUnavailable) {
						t.Errorf("%+v: Generate: %v, want boundary.ErrUnavailable", fault, err)
					}
					s.Heal()
					if restart {
						b = open(t, s)
					}
					g := generate(t, b, sp)
					if keys := s.Keys(); len(keys) != 1 || keys[0].ARN != g.Handle || len(keys[0].Aliases) != 1 {
						t.Errorf("%+v, restarted %t: there stand %+v, want one named key", fault, restart, keys)
					}
				})
			}
		}
	}
}

// What a kid's key was made as, it stays.
func TestGenerateAdoptsNoKeyOfAnotherKind(t *testing.T) {
	s := kmstest.New(kmstest.Options{})
	b, sp := open(t, s), spec()
	generate(t, b, sp)
	for _, other := range append(materials, boundary.Material{Algorithm: boundary.RSAOAEP256, Bits: 3072}) {
		if other == sp.Material {
			continue
		}
		sp := sp
		sp.Material = other
		if g, err := b.Generate(t.Context(), sp); err == nil {
			t.Errorf("%+v: Generate = %+v, want an error", other, g)
		}
	}
	if len(s.Keys()) != 1 {
		t.Errorf("there stand %+v", s.Keys())
	}
}

func TestCreateKeyIsAskedOnce(t *testing.T) {
	s := kmstest.New(kmstest.Options{})
	s.Inject(kmstest.Fault{Op: "CreateKey", After: true, Drop: true})
	if _, err := open(t, s).Generate(t.Context(), spec()); !errors.Is(err, kms.ErrUnreachable) {
		t.Errorf("Generate: %v, want ErrUnreachable", err)
	}
	if s.Calls("CreateKey") != 1 || len(s.Keys()) != 1 {
		t.Errorf("%d requests made %d keys, want 1 and 1", s.Calls("CreateKey"), len(s.Keys()))
	}
}

func TestGenerateAfterDiscardMakesANewKeyAndMovesTheAlias(t *testing.T) {
	s := kmstest.New(kmstest.Options{})
	b, sp := open(t, s), spec()
	first := generate(t, b, sp)
	if err := b.Discard(t.Context(), sp); err != nil {
		t.Fatal(err)
	}
	second := generate(t, b, sp)
	found, err := b.Find(t.Context(), sp.KID)
	if err != nil || second.Handle == first.Handle || found.Handle != second.Handle {
		t.Errorf("Find = %+v, %v, want the second key", found, err)
	}
}

func TestAKeyIsGoneWhenKMSNoLongerKnowsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := kmstest.New(kmstest.Options{})
		b := open(t, s, func(c *kms.Config) { c.DeletionWindowDays = 7 })
		g := generate(t, b, spec())
		s.Inject(kmstest.Fault{Op: "ScheduleKeyDeletion", After: true, Drop: true}) // the SDK repeats it
		for range 2 {
			if gone, err := b.Destroy(t.Context(), g.Handle); gone || err != nil {
				t.Errorf("Destroy = %t, %v, want not yet", gone, err)
			}
		}
		if _, err := b.Public(t.Context(), g.Handle); !errors.Is(err, kms.ErrPendingDeletion) {
			t.Errorf("Public: %v, want ErrPendingDeletion", err)
		}
		if _, err := b.Find(t.Context(), g.Handle); !errors.Is(err, boundary.ErrNoKey) {
			t.Errorf("Find: %v, want boundary.ErrNoKey", err)
		}
		time.Sleep(7*day - time.Minute)
		if gone, err := b.Destroy(t.Context(), g.Handle); gone || err != nil {
			t.Errorf("a minute early: Destroy = %t, %v", gone, err)
		}
		time.Sleep(time.Minute)
		if gone, err := b.Destroy(t.Context(), g.Handle); !gone || err != nil {
			t.Errorf("Destroy = %t, %v, want gone", gone, err)
		}
		if s.Calls("ScheduleKeyDeletion") != 2 {
			t.Errorf("deletion was asked for %d times, want twice", s.Calls("ScheduleKeyDeletion"))
		}
	})
}

func TestNothingIsGoneThatCannotBeSeen(t *testing.T) {
	s := kmstest.New(kmstest.Options{})
	b := open(t, s)
	arn := "arn:aws:kms:us-east-1:111122223333:key/" + uuid.NewString()
	for name, handle := range map[string]string{"another Region": "arn:aws:kms:eu-west-1:111122223333:key/" + uuid.NewString(),
		"a token's": "pkcs11:id=%01;object=x", "an alias": "alias/x", "a bare id": uuid.NewString(), "nothing": ""} {
		if gone, err := b.Destroy(t.Context(), handle); gone || !errors.Is(err, kms.ErrElsewhere) {
			t.Errorf("%s: Destroy = %t, %v, want ErrElsewhere", name, gone, err)
		}
	}
	if gone, err := b.Destroy(t.Context(), "arn:aws:kms:us-east-1:444455556666:key/"+uuid.NewString()); gone || !errors.Is(err, kms.ErrDenied) {
		t.Errorf("another account: Destroy = %t, %v, want ErrDenied", gone, err)
	}
	if gone, err := b.Destroy(t.Context(), arn); !gone || err != nil {
		t.Errorf("a key that is not there: Destroy = %t, %v, want gone", gone, err)
	}
}

func TestAForeignKeyIsFoundToBeAdopted(t *testing.T) {
	s := kmstest.New(kmstest.Options{})
	b := open(t, s)
	request(t, s, "CreateKey", map[string]any{"KeySpec": "RSA_2048", "KeyUsage": "ENCRYPT_DECRYPT"})
	k := s.Keys()[0]
	request(t, s, "CreateAlias", map[string]any{"AliasName": "alias/theirs", "TargetKeyId": k.ID})
	for _, query := range []string{k.ID, k.ARN, "alias/theirs", "arn:aws:kms:us-east-1:111122223333:alias/theirs"} {
		f, err := b.Find(t.Context(), query)
		if err != nil || f.Handle != k.ARN || f.Managed || f.KID != "" || f.Label != "alias/theirs" {
			t.Errorf("Find(%q) = %+v, %v", query, f, err)
		}
		env := backendtest.Seal(t, rsaOf(t, f.Public), boundary.A256GCM, []byte("x"), nil)
		if got, err := b.Open(t.Context(), f.Handle, env); err != nil || string(got.Plaintext) != "x" {
			t.Errorf("Open = %v, %v", got, err)
		}
	}
	s.Deny("ListResourceTags", "ListAliases")
	if f, err := b.Find(t.Context(), k.ARN); err != nil || f.Managed {
		t.Errorf("its tags not to be seen: Find = %+v, %v", f, err)
	}
	if all, err := open(t, s).List(t.Context()); !errors.Is(err, kms.ErrDenied) {
		t.Errorf("List = %+v, %v, want ErrDenied", all, err)
	}
	s.Heal()
	if all, err := b.List(t.Context()); err != nil || len(all) != 0 {
		t.Errorf("List = %+v, %v, want nothing: the key is not keyd's", all, err)
	}
	request(t, s, "CreateKey", map[string]any{"KeySpec": "ECC_NIST_P256", "KeyUsage": "SIGN_VERIFY"})
	if _, err := b.Find(t.Context(), s.Keys()[1].ARN); !errors.Is(err, kms.ErrUsage) || !errors.Is(err, boundary.ErrUnsupported) {
		t.Errorf("a key that signs with ECDSA: Find: %v, want ErrUsage", err)
	}
}
