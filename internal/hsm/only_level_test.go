package hsm_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"keyd/internal/boundary"
	"keyd/internal/hsm"
	"keyd/internal/rotation/backendtest"
)

// A token that is to be measured at one level does everything at it, or says at
// which it could.
func TestTokenOpensAtTheOneLevelThatIsAskedFor(t *testing.T) {
	const sealed, unwrap, raw = boundary.Sealed, boundary.Unwrap, boundary.Raw
	for name, c := range map[string]struct {
		make      func(testing.TB) hsm.Config
		only      boundary.Level
		rsa, ecdh string // "" is that it opens, else what is said
	}{
		"NSS, sealed":     {nss, sealed, "", ""},
		"NSS, unwrap":     {nss, unwrap, "", ""},
		"NSS, raw":        {nss, raw, "", ""},
		"SoftHSM, sealed": {softHSM, sealed, "cannot use at sealed, only at raw", "cannot use at sealed, only at unwrap and raw"},
		"SoftHSM, unwrap": {softHSM, unwrap, "cannot use at unwrap, only at raw", ""},
		"SoftHSM, raw":    {softHSM, raw, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := c.make(t)
			cfg.OnlyLevel = c.only
			token := open(t, cfg)
			for algorithm, want := range map[string]string{boundary.RSAOAEP256: c.rsa, boundary.ECDHES: c.ecdh} {
				got, can := token.Health(t.Context()).Levels[algorithm]
				if want == "" {
					if got != c.only {
						t.Errorf("%s is said to be at %q", algorithm, got)
					}
					continue
				}
				spec := newSpec()
				if algorithm == boundary.ECDHES {
					spec.Material = boundary.Material{Algorithm: algorithm, Curve: "P-256"}
				}
				if _, err := token.Generate(t.Context(), spec); can || !errors.Is(err, boundary.ErrUnsupported) || !strings.Contains(err.Error(), want) {
					t.Errorf("%s is said to be at %q, and Generate: %v, want %q in it", algorithm, got, err, want)
				}
			}
			for _, enc := range []string{boundary.A256GCM, boundary.A128CBCHS256} {
				if enc != boundary.A256GCM && c.only == sealed {
					continue // for GCM only
				}
				for alg, level := range opensAt(t, token, enc) {
					if level != c.only {
						t.Errorf("%s, %s: opened at %s", alg, enc, level)
					}
				}
			}
		})
	}
}

// What is measured are the calls of that level: it fails where the token refuses
// one of them, and not where it refuses those of the others.
func TestBareAtOneLevelMakesTheCallsOfThatLevel(t *testing.T) {
	const oaep, bareRSA, gcm = "mechanism 0x9", "mechanism 0x3", "mechanism 0x1087"
	const unwrapKey, digestKey, read = "C_UnwrapKey 0x70", "C_DigestKey 0x70", "C_GetAttributeValue 0x70"
	for level, c := range map[boundary.Level]struct{ rsa, notRSA, ecdh, notECDH []string }{
		boundary.Sealed: {[]string{unwrapKey, gcm}, []string{bareRSA}, []string{gcm}, []string{digestKey}},
		boundary.Unwrap: {[]string{oaep}, []string{unwrapKey, gcm, bareRSA}, []string{digestKey}, []string{gcm, read}},
		boundary.Raw:    {[]string{bareRSA}, []string{unwrapKey, gcm, oaep}, []string{read}, []string{gcm, digestKey}},
	} {
		t.Run(string(level), func(t *testing.T) {
			cfg := nss(t)
			cfg.OnlyLevel = level
			f := withFaults(t, &cfg)
			token := open(t, cfg)
			g := generate(t, token)
			onP, pub := onCurve(t, token, "P-256")
			bare := func(handle string, env *boundary.Envelope, fails bool, faults ...string) {
				t.Helper()
				f.fail(faults...)
				defer f.heal()
				took, err := token.Bare(t.Context(), handle, env, 1, 50*time.Millisecond)
				if fails != (err != nil) || !fails && len(took) == 0 {
					t.Errorf("%s with %s: %d times, %v", env.Alg, faults, len(took), err)
				}
			}
			agreed := backendtest.Agree(t, pub, boundary.ECDHES, boundary.A256GCM, []byte("x"), nil)
			bare(g.Handle, seal(t, g), false, c.notRSA...)
			bare(onP.Handle, agreed, false, c.notECDH...)
			for _, fault := range c.rsa {
				bare(g.Handle, seal(t, g), true, fault)
			}
			for _, fault := range c.ecdh {
				bare(onP.Handle, agreed, true, fault)
			}
		})
	}
}

// A key that is made for a level may do what that takes.
func TestKeyThatIsToOpenAtALessDeepLevelUnwrapsNothing(t *testing.T) {
	for level, unwraps := range map[boundary.Level]string{boundary.Sealed: "true", boundary.Unwrap: "false", boundary.Raw: "false"} {
		t.Run(string(level), func(t *testing.T) {
			cfg := nss(t)
			cfg.OnlyLevel = level
			e := generate(t, open(t, cfg)).Evidence
			if e.Attributes["CKA_UNWRAP"] != unwraps || e.Attributes["CKA_DECRYPT"] != "true" || e.Level != level {
				t.Errorf("its evidence: %+v", e)
			}
		})
	}
}

// The floor is the backend's, whatever is to be measured.
func TestOneLevelIsNotBelowTheFloor(t *testing.T) {
	cfg := softHSM(t)
	cfg.OnlyLevel = "deep"
	refused(t, cfg, nil, `OnlyLevel "deep"`)
	cfg.MinBoundary, cfg.OnlyLevel = boundary.Unwrap, boundary.Raw
	refused(t, cfg, nil, `OnlyLevel "raw"`, `not below MinBoundary "unwrap"`)
	cfg.OnlyLevel = boundary.Unwrap
	open(t, cfg)
}
