package main

import (
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// pages are the README and everything under docs.
func pages(t *testing.T) map[string]string {
	t.Helper()
	found := map[string]string{}
	for _, pattern := range []string{"../../README.md", "../../docs/*.md", "../../docs/*/*.md"} {
		paths, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range paths {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			found[strings.TrimPrefix(path, "../../")] = string(text)
		}
	}
	return found
}

var (
	quoted   = regexp.MustCompile("`(?:sudo )?keyd ([a-z][^`]*)`")
	indented = regexp.MustCompile(`(?m)^ {4,}(?:sudo )?keyd ([a-z].*)$`)
	flags    = regexp.MustCompile(`--([a-z-]+)`)
)

func TestEveryCommandInTheDocsExistsWithItsFlags(t *testing.T) {
	seen := 0
	for page, text := range pages(t) {
		for _, found := range append(quoted.FindAllStringSubmatch(text, -1), indented.FindAllStringSubmatch(text, -1)...) {
			line, _, _ := strings.Cut(found[1], "#")
			words := strings.Fields(line)
			if words[0] == "help" {
				continue
			}
			seen++
			cmd, _, ok := pick(words)
			if !ok {
				t.Errorf("%s: there is no command keyd %s", page, line)
				continue
			}
			fs := flag.NewFlagSet("", flag.ContinueOnError)
			cmd.setup(fs)
			for _, name := range flags.FindAllStringSubmatch(line, -1) {
				if fs.Lookup(name[1]) == nil {
					t.Errorf("%s: keyd %s has no flag --%s", page, cmd.name, name[1])
				}
			}
		}
	}
	if seen < 20 {
		t.Errorf("only %d commands were found in the docs: the patterns no longer match", seen)
	}
}

func TestEveryMetricInTheDocsExists(t *testing.T) {
	var source strings.Builder
	for _, file := range []string{"../../internal/api/collect.go", "../../internal/api/metrics.go"} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		source.Write(text)
	}
	for page, text := range pages(t) {
		for _, metric := range regexp.MustCompile(`keyd_[a-z_]+`).FindAllString(text, -1) {
			if !strings.Contains(source.String(), `"`+metric+`"`) {
				t.Errorf("%s: there is no metric %s", page, metric)
			}
		}
	}
}

func TestEveryLinkInTheDocsLeadsSomewhere(t *testing.T) {
	for page, text := range pages(t) {
		for _, link := range regexp.MustCompile(`\]\(([^)#:]+)(?:#[^)]*)?\)`).FindAllStringSubmatch(text, -1) {
			if _, err := os.Stat(filepath.Join("../..", filepath.Dir(page), link[1])); err != nil {
				t.Errorf("%s: %v", page, err)
			}
		}
	}
}
