package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestThePartnersPagesWork runs the sh blocks of docs/partners that are for the
// simulator, each page in a shell of its own.
func TestThePartnersPagesWork(t *testing.T) {
	p := start(t)
	pages, err := filepath.Glob("../../docs/partners/*.md")
	if err != nil || len(pages) < 6 {
		t.Fatalf("%d pages, %v", len(pages), err)
	}
	for _, path := range pages {
		t.Run(filepath.Base(path), func(t *testing.T) {
			page, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			blocks := regexp.MustCompile("(?s)```sh sim\n(.*?)```").FindAllSubmatch(page, -1)
			if len(blocks) == 0 {
				t.Fatal("nothing to try")
			}
			script := "set -eu"
			for _, block := range blocks {
				script += "\n" + string(block[1])
			}
			cmd := exec.CommandContext(t.Context(), "bash", "-o", "pipefail", "-c", script)
			cmd.Env = append(os.Environ(), "WORK="+t.TempDir(), "SIM="+p.base)
			out, err := cmd.CombinedOutput()
			if err != nil || !regexp.MustCompile(`"(key|publicKey|keyMaterial|access_token|kty)":`).Match(out) {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

// TestTheManualsCommandsWork runs every sh block of docs/partnersim.md, in
// order, in one shell.
func TestTheManualsCommandsWork(t *testing.T) {
	for _, tool := range []string{"bash", "curl", "openssl"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("the manual's commands need %s", tool)
		}
	}
	page, err := os.ReadFile("../../docs/partnersim.md")
	if err != nil {
		t.Fatal(err)
	}
	script := []string{"set -eu", "trap 'kill %1; wait' EXIT"}
	for _, block := range regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllSubmatch(page, -1) {
		script = append(script, string(block[1]))
	}
	if len(script) != 5 {
		t.Fatalf("%d sh blocks, want 3", len(script)-2)
	}
	cmd := exec.CommandContext(t.Context(), "bash", "-c", strings.Join(script, "\n"))
	cmd.Dir = "../.."
	cmd.Env = append(os.Environ(), "WORK="+t.TempDir())
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{
		`"clientId":null`, "eyJhbGciOiJSU0EtT0FFUC0yNTYi", `"kind": "close"`, `"usable": true`, `"playground-get": 1`, `"version": 2`,
	} {
		if !strings.Contains(string(out), want) {
			t.Errorf("the output lacks %s:\n%s", want, out)
		}
	}
}
