package main

import (
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
)

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
