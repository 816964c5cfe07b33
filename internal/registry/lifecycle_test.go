package registry_test

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"keyd/internal/registry"
)

var update = flag.Bool("update", false, "rewrite docs/lifecycle.md")

// told is what the page says of a state that its code does not.
var told = map[registry.State]struct{ meaning, nist string }{
	registry.Pending:     {"the intent is recorded, with the kid and the dates; there may or may not be a key pair yet", "pre-activation"},
	registry.Announced:   {"the key pair exists and has passed its self-test, and the partner has been told of it, or is being told; requests do not name it yet", "pre-activation"},
	registry.Active:      {"new requests name its kid; a key has one such version at most", "active"},
	registry.Draining:    {"requests no longer name it, and answers that are still sealed to it open until its deadline", "deactivated"},
	registry.Compromised: {"it never opens again; the private key is kept until an operator has it destroyed, as it may be evidence", "compromised"},
	registry.Destroying:  {"the backend has been asked to delete the private key, and has not said that it is gone; while one that waits with it does, an operator can have the version back as it was (drained or compromised)", "deactivated or compromised, as before"},
	registry.Destroyed:   {"the backend says that the private key is gone; the kid, the public key and the history stay for ever", "destroyed"},
}

func lifecycle() []byte {
	var b bytes.Buffer
	b.WriteString(`<!-- Written by "go test ./internal/registry -update" from the transition table. -->

# The life of a version

A version of a key goes this way and no other. The table stands in internal/registry, which applies it inside the
transaction that adds to the version's history; a test holds this page to it.

` + "```mermaid\nstateDiagram-v2\n    [*] --> pending: rotate\n    [*] --> announced: adopt\n")
	for _, from := range registry.States {
		for _, to := range registry.States {
			if from.May(to) {
				fmt.Fprintf(&b, "    %s --> %s\n", from, to)
			}
		}
		if from.Final() {
			fmt.Fprintf(&b, "    %s --> [*]\n", from)
		}
	}
	b.WriteString("```\n\n| state | opens? | meaning | may become | NIST SP 800-57 part 1, section 7 |\n| --- | --- | --- | --- | --- |\n")
	for _, s := range registry.States {
		opens, next := "no", []string{}
		if s.Opens() {
			opens = "yes"
		}
		for _, to := range registry.States {
			if s.May(to) {
				next = append(next, string(to))
			}
		}
		if s.Final() {
			next = []string{"-"}
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", s, opens, told[s].meaning, strings.Join(next, ", "), told[s].nist)
	}
	b.WriteString(`
One thing differs from NIST's words: a version opens before it is active. A partner may seal to a new key the second it
has it, so a version opens from the moment the partner is asked to take it.

Beyond the table, the registry holds every key to this:

- at most one of its versions is active, and at most one is on its way there (pending or announced);
- a version that was compromised never opens again, whatever the table says of its state;
- a version is announced only with a key pair that has passed its self-test, and drains only with a deadline;
- once one of its versions has been active, there is always one that opens, unless the last was closed as compromised;
- kid, number, dates, handle and public key of a version never change, and no version is ever removed.
`)
	return b.Bytes()
}

func TestLifecyclePageIsTheTable(t *testing.T) {
	path := filepath.Join("..", "..", "docs", "lifecycle.md")
	want := lifecycle()
	if *update {
		must(t, os.WriteFile(path, want, 0o644))
	}
	got, err := os.ReadFile(path)
	must(t, err)
	if !bytes.Equal(got, want) {
		t.Error("docs/lifecycle.md is not what the transition table says; run: go test ./internal/registry -update")
	}
}
