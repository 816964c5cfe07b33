//go:build tokens

package conformance_test

import (
	"cmp"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"keyd/internal/hsm/conformance"
)

var update = flag.Bool("update", false, "rewrite the tables of docs/tokens.md (make tokens)")

// TestTokensPage has all of them tried, one after the other, and writes the page.
func TestTokensPage(t *testing.T) {
	if !*update {
		t.Skip("make tokens")
	}
	var reports []*conformance.Report
	for _, k := range tokens {
		t.Run(k.name, func(t *testing.T) {
			cfg := config(tokenOf(t, k.kind))
			cfg.Envelopes, cfg.Limit = perPage, 10*time.Minute
			reports = append(reports, run(t, cfg))
		})
	}
	if len(reports) == len(tokens) {
		rewrite(t, reports)
	}
}

// rewrite makes the page's tables anew.
func rewrite(t *testing.T, reports []*conformance.Report) {
	t.Helper()
	raw, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	text := string(raw)
	for name, table := range map[string]string{"levels": levelTable(reports), "verdicts": verdictTable(reports), "codes": codeTable(reports), "seen": seenLists(reports)} {
		begin, end := "<!-- made by make tokens: "+name+" -->\n", "<!-- end -->"
		i := strings.Index(text, begin)
		j := strings.Index(text[max(i, 0):], end)
		if i < 0 || j < 0 {
			t.Fatalf("%s has no place for the %s", page, name)
		}
		text = text[:i] + begin + "\n" + table + "\n" + text[i+j:]
	}
	if err := os.WriteFile(page, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func row(cells ...string) string { return "| " + strings.Join(cells, " | ") + " |\n" }

func heading(first ...string) string {
	var rule []string
	for _, k := range tokens {
		first = append(first, k.name)
	}
	for range first {
		rule = append(rule, "---")
	}
	return row(first...) + row(rule...)
}

// cells is a row with a cell for each report.
func cells(first []string, reports []*conformance.Report, of func(*conformance.Report) string) string {
	for _, r := range reports {
		first = append(first, strings.ReplaceAll(cmp.Or(of(r), "-"), "|", "/"))
	}
	return row(first...)
}

func levelTable(reports []*conformance.Report) string {
	s := heading("")
	for _, algorithm := range algorithms {
		s += cells([]string{algorithm}, reports, func(r *conformance.Report) string { return r.Levels[algorithm] })
	}
	return s + cells([]string{"library"}, reports, func(r *conformance.Report) string { return r.Device["library"] }) +
		cells([]string{"token"}, reports, func(r *conformance.Report) string { return r.Device["manufacturer"] + " " + r.Device["model"] })
}

func verdictTable(reports []*conformance.Report) string {
	s := heading("", "check")
	for _, c := range longest(reports) {
		s += cells([]string{c.Group, c.Name}, reports, func(r *conformance.Report) string {
			if v := find(r, c.Name).Verdict; v.Bad() {
				return "**" + string(v) + "**"
			} else {
				return string(v)
			}
		})
	}
	return s
}

// longest is the report with most checks: the others may have stopped.
func longest(reports []*conformance.Report) []conformance.Check {
	return slices.MaxFunc(reports, func(a, b *conformance.Report) int { return len(a.Checks) - len(b.Checks) }).Checks
}

// codeTable leaves out what a token says of mechanisms that it lacks.
func codeTable(reports []*conformance.Report) string {
	codes := map[string]map[*conformance.Report][]string{}
	var order []string
	for _, r := range reports {
		for _, c := range r.Checks {
			for _, said := range c.Codes {
				if said.When == c.Name {
					continue
				}
				if codes[said.When] == nil {
					codes[said.When] = map[*conformance.Report][]string{}
					order = append(order, said.When)
				}
				if code := strings.TrimPrefix(said.Code, "CKR_"); !slices.Contains(codes[said.When][r], code) {
					codes[said.When][r] = append(codes[said.When][r], code)
				}
			}
		}
	}
	s := heading("said of")
	for _, when := range order {
		s += cells([]string{when}, reports, func(r *conformance.Report) string { return strings.Join(codes[when][r], ", ") })
	}
	return s
}

// seenLists are what is not as it should be, the same things in one line.
func seenLists(reports []*conformance.Report) string {
	var s strings.Builder
	for i, r := range reports {
		var order []string
		names := map[string][]string{}
		for _, c := range r.Checks {
			if c.Verdict == conformance.Pass || c.Verdict == conformance.Skip {
				continue
			}
			kind := string(c.Verdict) + " (" + c.Seen + ")"
			if names[kind] == nil {
				order = append(order, kind)
			}
			names[kind] = append(names[kind], c.Name)
		}
		fmt.Fprintf(&s, "**%s**\n\n", tokens[i].name)
		for _, kind := range order {
			fmt.Fprintf(&s, "- %s: %s\n", kind, strings.Join(names[kind], "; "))
		}
		s.WriteString("\n")
	}
	return strings.TrimSuffix(s.String(), "\n")
}
