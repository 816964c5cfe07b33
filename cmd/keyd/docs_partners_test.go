package main

import (
	"bytes"
	"log/slog"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// described reads settings of a partner of type jwe as the config does.
func described(t *testing.T, about string, lines []string) error {
	t.Helper()
	text := "type: jwe\nurl: https://api.acme.example\n" + strings.Join(lines, "\n")
	if !strings.Contains(text, "\nkey:") {
		text += "\nkey: {url: \"https://api.acme.example/jwks.json\"}"
	}
	var c partnerConfig
	dec := yaml.NewDecoder(bytes.NewReader([]byte(text)))
	dec.KnownFields(true)
	if err := dec.Decode(&c); err != nil {
		t.Errorf("%s: %v", about, err)
	}
	_, err := newRemote("acme", c, dealings{log: slog.New(slog.DiscardHandler), signer: noSigner})
	return err
}

// settingsOf are the names of the settings of a part of the config, those for
// partners of one type alone where it has such.
func settingsOf(of any, kind string) map[string]bool {
	names := map[string]bool{}
	for f := range reflect.TypeOf(of).Fields() {
		if only := f.Tag.Get("for"); only == "" || slices.Contains(strings.Fields(only), kind) {
			names[f.Tag.Get("yaml")] = true
		}
	}
	return names
}

// The rows of docs/partners/jwe.md that say what a partner is like are settings
// that work, and the ones that explain settings name such as there are.
func TestThePartnersOfTheJWEPageCanBeDescribed(t *testing.T) {
	raw, err := os.ReadFile("../../docs/partners/jwe.md")
	if err != nil {
		t.Fatal(err)
	}
	code := regexp.MustCompile("`([^`]+)`")
	_, likes, _ := strings.Cut(string(raw), "| like | settings |")
	likes, _, _ = strings.Cut(likes, "\n\n")
	rows := 0
	for row := range strings.Lines(likes) {
		cells := strings.SplitN(strings.TrimSpace(row), "|", 3)
		if len(cells) < 3 || strings.HasPrefix(cells[1], " ---") {
			continue
		}
		rows++
		var lines []string
		for _, m := range code.FindAllStringSubmatch(cells[2], -1) {
			if strings.Contains(m[1], ": ") {
				lines = append(lines, m[1])
			}
		}
		if err := described(t, cells[1], lines); err != nil || len(lines) == 0 {
			t.Errorf("%s: %q: %v", cells[1], lines, err)
		}
	}
	if rows < 8 {
		t.Errorf("%d partners found", rows)
	}
	known := settingsOf(partnerConfig{}, "jwe")
	for name := range settingsOf(keySourceConfig{}, "") {
		known[name] = true
	}
	named := 0
	for row := range strings.Lines(string(raw)) {
		cell, _, _ := strings.Cut(strings.TrimPrefix(row, "| "), " | ")
		if !strings.HasPrefix(row, "| `") {
			continue
		}
		for _, m := range code.FindAllStringSubmatch(cell, -1) {
			named++
			if name := m[1]; !known[name] && name != "key:" && name != "basic" && name != "form" {
				t.Errorf("the page explains %q, which is no setting", name)
			}
		}
	}
	if named < 25 {
		t.Errorf("%d settings found", named)
	}
}
