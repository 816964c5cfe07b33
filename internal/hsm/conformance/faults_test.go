package conformance_test

import (
	"strings"
	"testing"
	"time"

	"keyd/internal/hsm/conformance"
	"keyd/softhsm/softhsmtest"
)

// What a module does badly is found, and nothing else is said to be bad.
func TestFaultsAreFound(t *testing.T) {
	type found map[string]conformance.Verdict // by check
	for name, c := range map[string]struct {
		fault []string
		group string
		want  found
		seen  string // of the first of them
	}{
		"it crashes": {[]string{"C_DigestKey segv"}, "mechanisms", found{"SHA-256 over a shared secret that stays in": "crash"}, "SIGSEGV"},
		"it hangs":   {[]string{"C_DigestKey hang"}, "mechanisms/SHA-256 over a shared secret that stays in", found{"SHA-256 over a shared secret that stays in": "hang"}, "did not come back"},
		"a result is wrong": {[]string{"wrong"}, "mechanisms", found{
			"bare RSA, decrypting": "fail", "AES-GCM with a header, decrypting": "fail", "AES-GCM over 1 MiB": "fail"}, "the result is wrong"},
		"a result is wrong when several ask": {[]string{"wrong"}, "threads", found{"RSA in separate sessions at once": "fail"}, "the result is wrong"},
		"what was changed is taken": {[]string{"C_Decrypt map 0x5 0x0"}, "refusals", found{
			"AES-GCM, what was changed": "fail", "a session after a wrong block": "fail"}, "another tag"},
		"a bad point is taken": {[]string{"C_DeriveKey map 0x5 0x0"}, "refusals", found{"points that are none of the curve": "fail"}, "a point off the curve"},
		"an object that is destroyed is there": {[]string{"C_DecryptInit map 0x82 0x0"}, "sessions", found{
			"a key that is destroyed in another session": "fail"}, "taken"},
		"a private key may be taken out": {[]string{"loose"}, "attributes", found{
			"an RSA private key": "fail", "a private key on P-256": "fail", "CKA_EXTRACTABLE set afterwards": "fail", "CKA_SENSITIVE taken away afterwards": "fail",
			"a private key wrapped to be taken out": "fail"}, "CKA_EXTRACTABLE is true"},
		"a private key may be taken out, and it says not": {[]string{"loose", "attribute 0x103 1", "attribute 0x162 0", "attribute 0x164 1", "attribute 0x165 1"}, "attributes", found{
			"an RSA private key": "fail", "a private key on P-256": "fail", "a private key wrapped to be taken out": "fail"}, "the private key can be read"},
		"it says that a private key may be taken out": {[]string{"attribute 0x162 1"}, "attributes", found{
			"an RSA private key": "fail", "a private key on P-256": "fail"}, "CKA_EXTRACTABLE is true"},
		"two sessions get one number": {[]string{"twins"}, "threads/sessions opened at once", found{"sessions opened at once": "quirk"}, "two get the same"},
		"it has few sessions":         {[]string{"sessions 3"}, "sessions/many sessions", found{"many sessions": "quirk"}, "2 and no more: CKR_SESSION_COUNT"},
		"a zero is dropped":           {[]string{"short"}, "mechanisms/a shared secret that begins with a zero", found{"a shared secret that begins with a zero": "quirk"}, "the zero is dropped"},
		"a session breaks":            {[]string{"fragile"}, "refusals/a session after a wrong block", found{"a session after a wrong block": "quirk"}, "of no more use (CKR_OPERATION_ACTIVE)"},
		"a mechanism is missing":      {[]string{"mechanism 0x1050"}, "mechanisms/ECDH on P-256", found{"ECDH on P-256": "lacks"}, "CKR_MECHANISM_INVALID (listed all the same)"},
		"decrypts wait for a key":     {[]string{"stall 600"}, "keyd/decrypts while a key is made", found{"decrypts while a key is made": "quirk"}, "they wait for it"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg, _ := faulty(t, softhsmtest.New(t), c.fault...)
			cfg.Only = []string{c.group}
			if c.fault[0] == "C_DigestKey hang" {
				cfg.Limit = 20 * time.Second
			}
			report := run(t, cfg)
			first := true
			for check, want := range c.want {
				got := find(report, check)
				if got.Verdict != want {
					t.Errorf("%s: %s (%s), want %s", check, got.Verdict, got.Seen, want)
				}
				first = first && !strings.Contains(got.Seen, c.seen)
			}
			if first {
				t.Errorf("nothing says %q", c.seen)
			}
			for _, got := range report.Bad() {
				if c.want[got.Name] == "" {
					t.Errorf("%s, %s: %s (%s)", got.Group, got.Name, got.Verdict, got.Seen)
				}
			}
			if got := find(report, "nothing is left behind"); got.Verdict == "" {
				t.Error("nobody has looked whether something is left behind")
			}
		})
	}
}

// A token that refuses what is bad, and loses memory each time.
func TestLeakOnBadInputIsFound(t *testing.T) {
	if raceDetector {
		t.Skip("the race detector's bookkeeping grows the process; make test measures without it")
	}
	cfg, _ := faulty(t, softhsmtest.Other(t, "nss"), "leak 8192")
	cfg.Only = []string{"keyd/memory after good envelopes", "keyd/memory after bad envelopes"}
	report := run(t, cfg)
	if got := find(report, "memory after bad envelopes"); got.Verdict != conformance.Fail || !strings.Contains(got.Seen, "goes on") {
		t.Errorf("bad envelopes: %s (%s), want fail", got.Verdict, got.Seen)
	}
	if got := find(report, "memory after good envelopes"); got.Verdict != conformance.Pass {
		t.Errorf("good envelopes: %s (%s), want pass", got.Verdict, got.Seen)
	}
}

// A token that takes only some templates is asked for those.
func TestPickyTokenIsTriedAllTheSame(t *testing.T) {
	for _, fault := range []string{"exclusive", "nosign"} {
		cfg, _ := faulty(t, softhsmtest.New(t), fault)
		cfg.Only = []string{"mechanisms/bare RSA, decrypting", "mechanisms/RSA-PSS with SHA-256 over a digest"}
		if fault == "nosign" {
			cfg.Only = cfg.Only[:1]
		}
		report := run(t, cfg)
		for _, c := range report.Checks {
			if c.Verdict != conformance.Pass {
				t.Errorf("%s: %s: %s (%s)", fault, c.Name, c.Verdict, c.Seen)
			}
		}
	}
}
