package hsm_test

import (
	"errors"
	"testing"

	"github.com/google/uuid"
	"github.com/miekg/pkcs11"

	"keyd/internal/boundary"
	"keyd/internal/hsm"
)

// An adopted key's name was given by somebody who knew nothing of keyd, and so
// were the names of its neighbours.
func TestDestroyOfAnAdoptedKeyLeavesEveryOther(t *testing.T) {
	kid := uuid.New()
	half := "keyd/test/no-kid-at-the-end"
	for name, c := range map[string]struct {
		destroyed [2]string
		kept      [][2]string
	}{
		"whole name":           {[2]string{"\x01", "legacy-wise"}, [][2]string{{"\x01", ""}, {"", "legacy-wise"}}},
		"no label":             {[2]string{"\x01", ""}, [][2]string{{"\x01", "legacy-wise"}, {"", "legacy-wise"}, {"\x02", ""}}},
		"no id":                {[2]string{"", "legacy-wise"}, [][2]string{{"\x01", "legacy-wise"}, {"\x01", ""}, {"", "other"}}},
		"another instance's":   {[2]string{string(kid[:]), "keyd/other/wise/" + kid.String()}, [][2]string{{string(kid[:]), ""}}},
		"only keyd's prefix":   {[2]string{"\x01", half}, [][2]string{{"\x01", ""}, {"", half}}},
		"another kid as an id": {[2]string{"\x01", "keyd/test/wise/" + kid.String()}, [][2]string{{"\x01", ""}}},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := softHSM(t)
			outside(t, cfg, func(ctx *pkcs11.Ctx, s pkcs11.SessionHandle) {
				for _, n := range append(c.kept, c.destroyed) {
					plant(t, ctx, s, n[0], n[1], true)
				}
			})
			token := open(t, cfg)
			gone, err := token.Destroy(t.Context(), hsm.FormatHandle(c.destroyed[0], c.destroyed[1]))
			if !gone || err != nil {
				t.Fatalf("Destroy = %v, %v, want gone", gone, err)
			}
			for _, n := range c.kept {
				handle := hsm.FormatHandle(n[0], n[1])
				found, err := token.Find(t.Context(), handle)
				if err != nil {
					t.Errorf("somebody else's key %s: %v", handle, err)
					continue
				}
				opens(t, token, boundary.Generated{Handle: handle, Public: found.Public})
			}
			if left := objects(t, cfg); len(left) != 2*len(c.kept) {
				t.Errorf("left in the token: %q, want %d pairs", left, len(c.kept))
			}
		})
	}
}

// kill -9 between the attributes of one object leaves it without the later ones.
func TestHalfNamedRemainsOfKeydsOwnKeysAreCleared(t *testing.T) {
	cfg := softHSM(t)
	spec := newSpec()
	id := uuid.MustParse(spec.KID)
	outside(t, cfg, func(ctx *pkcs11.Ctx, s pkcs11.SessionHandle) {
		plant(t, ctx, s, string(id[:]), "", true)
		plant(t, ctx, s, "", "keyd/test/wise-response/"+spec.KID, true)
	})
	must(t, open(t, cfg).Discard(t.Context(), spec))
	if left := objects(t, cfg); len(left) != 0 {
		t.Errorf("left in the token: %q", left)
	}
}

func TestDestroyOfAnAdoptedKeyTakesItsOwnPublicHalfOnly(t *testing.T) {
	cfg := softHSM(t)
	outside(t, cfg, func(ctx *pkcs11.Ctx, s pkcs11.SessionHandle) {
		plant(t, ctx, s, "x", "x", true)
		_, private := plant(t, ctx, s, "x", "x", true)
		must(t, ctx.DestroyObject(s, private))
	})
	f := withFaults(t, &cfg)
	token := open(t, cfg)
	handle := hsm.FormatHandle("x", "x")
	// It fails after the first object, and is finished by the next try.
	f.fail("C_DestroyObject after 0x30")
	if gone, err := token.Destroy(t.Context(), handle); gone || !errors.Is(err, boundary.ErrUnavailable) {
		t.Errorf("Destroy = %v, %v, want boundary.ErrUnavailable", gone, err)
	}
	f.heal()
	for range 2 {
		if gone, err := token.Destroy(t.Context(), handle); !gone || err != nil {
			t.Errorf("Destroy = %v, %v, want gone", gone, err)
		}
	}
	if left := objects(t, cfg); len(left) != 1 {
		t.Errorf("left in the token: %q, want the public key that belonged to another", left)
	}
}
