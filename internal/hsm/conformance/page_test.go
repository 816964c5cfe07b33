package conformance_test

import (
	"cmp"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"keyd/internal/boundary"
	"keyd/softhsm/softhsmtest"
)

const page = "../../../docs/tokens.md"

// tokens are the columns of the page's tables.
var tokens = []struct {
	name, kind string
}{{"SoftHSM", "softhsm"}, {"NSS", "nss"}, {"openCryptoki", "opencryptoki"}, {"TPM", "tpm2"}, {"p11-kit", "p11kit"}}

func tokenOf(t *testing.T, kind string) softhsmtest.Token {
	t.Helper()
	if kind == "softhsm" {
		return softhsmtest.New(t)
	}
	return softhsmtest.Other(t, kind)
}

// perPage is how many envelopes the page is made with, and held against: over a
// fifth of them what Go's own heap does hides a leak of a kilobyte.
const perPage = 2000

var algorithms = []string{boundary.RSAOAEP256, boundary.ECDHES, boundary.PS256}

// unsteady is for verdicts that hang on what else the machine does, and on memory
// under the race detector, which takes some itself.
func unsteady(check string) bool {
	return check == "decrypts while a key is made" || raceDetector && strings.HasPrefix(check, "memory ")
}

func TestSoftHSMIsAsDocumented(t *testing.T) { documented(t, "SoftHSM") }

func TestNSSIsAsDocumented(t *testing.T) { documented(t, "NSS") }

func TestP11KitIsAsDocumented(t *testing.T) { documented(t, "p11-kit") }

// documented holds a token against docs/tokens.md.
func documented(t *testing.T, name string) {
	t.Helper()
	raw, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	said := map[string]string{} // in the token's column, by what is before it
	for line := range strings.Lines(string(raw)) {
		cells := strings.Split(strings.Trim(line, "| \n"), " | ")
		switch column := columnOf(name); {
		case len(cells) == 2+len(tokens):
			said[cells[0]+": "+cells[1]] = strings.Trim(cells[1+column], "*")
		case len(cells) == 1+len(tokens):
			said[cells[0]] = cells[column]
		}
	}
	i := slices.IndexFunc(tokens, func(k struct{ name, kind string }) bool { return k.name == name })
	cfg := config(tokenOf(t, tokens[i].kind))
	cfg.Envelopes, cfg.Limit = perPage, 10*time.Minute
	report := run(t, cfg)
	const stale = "docs/tokens.md says %q; if this is right, run: make tokens"
	for _, algorithm := range algorithms {
		if got := cmp.Or(report.Levels[algorithm], "-"); got != said[algorithm] {
			t.Errorf("%s: level %q, "+stale, algorithm, got, said[algorithm])
		}
	}
	if len(report.Checks) < 60 {
		t.Errorf("only %d checks were made", len(report.Checks))
	}
	for _, c := range report.Checks {
		if got := said[c.Group+": "+c.Name]; got != string(c.Verdict) && !unsteady(c.Name) {
			t.Errorf("%s, %s: %s (%s), "+stale, c.Group, c.Name, c.Verdict, c.Seen, got)
		}
	}
}

// columnOf counts from 1.
func columnOf(name string) int {
	for i, k := range tokens {
		if k.name == name {
			return i + 1
		}
	}
	return 0
}
