package main

import (
	"bytes"
	"os"
	"strings"
	"testing"
)

func invoke(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, err bytes.Buffer
	code = run(t.Context(), args, terminal{strings.NewReader(""), &out, &err})
	return code, out.String(), err.String()
}

func TestHelpListsEveryCommandAndEachExplainsItself(t *testing.T) {
	code, all, _ := invoke(t, "help")
	if code != exitOK {
		t.Fatalf("help: exit %d", code)
	}
	for _, c := range commands() {
		if strings.Contains(all, c.name) == c.hidden {
			t.Errorf("help lists %q: %t", c.name, c.hidden)
		}
		for _, args := range [][]string{append(strings.Fields(c.name), "--help"), append([]string{"help"}, strings.Fields(c.name)...)} {
			code, out, _ := invoke(t, args...)
			if code != exitOK || !strings.Contains(out, "usage: keyd "+c.name) || !strings.Contains(out, c.brief) {
				t.Errorf("keyd %s: exit %d, %q", strings.Join(args, " "), code, out)
			}
		}
	}
}

func TestEveryCommandThatAsksTheDaemonPrintsJSONAndTakesASocket(t *testing.T) {
	local := map[string]bool{"serve": true, "check": true, "version": true, "audit verify": true, "bench": true, "conformance": true}
	for _, c := range commands() {
		if c.hidden {
			continue
		}
		_, out, _ := invoke(t, append([]string{"help"}, strings.Fields(c.name)...)...)
		if c.name != "serve" && !strings.Contains(out, "--json") {
			t.Errorf("keyd %s has no --json", c.name)
		}
		if !local[c.name] && !strings.Contains(out, "--socket") {
			t.Errorf("keyd %s has no --socket", c.name)
		}
	}
}

func TestEveryCommandThatChangesAKeyHasADryRun(t *testing.T) {
	for _, name := range []string{"create", "rotate", "confirm", "activate", "compromise", "destroy", "adopt"} {
		if _, out, _ := invoke(t, "help", "keys", name); !strings.Contains(out, "--dry-run") {
			t.Errorf("keyd keys %s has no --dry-run", name)
		}
	}
}

func TestWrongUsageSaysWhatIsWrong(t *testing.T) {
	for _, tc := range []struct {
		args []string
		want string
	}{
		{[]string{"key", "list"}, `no command "key list"`},
		{[]string{"keys"}, "keyd keys rotate KEY"},
		{[]string{"help", "nosuch"}, `no command "nosuch"`},
		{[]string{"keys", "show"}, "missing KEY|KID"},
		{[]string{"keys", "list", "extra"}, "too many arguments"},
		{[]string{"keys", "list", "--nope"}, "flag provided but not defined"},
		{[]string{"decrypt"}, "missing PARTNER"},
	} {
		code, _, stderr := invoke(t, tc.args...)
		if code != exitUsage || !strings.Contains(stderr, tc.want) {
			t.Errorf("%v: exit %d, %q, want %q", tc.args, code, stderr, tc.want)
		}
	}
}

func TestVersionIsAskedForEitherWay(t *testing.T) {
	for _, args := range [][]string{{"version"}, {"--version"}} {
		if code, out, _ := invoke(t, args...); code != exitOK || !strings.Contains(out, "registry schema") {
			t.Errorf("keyd %v: exit %d, %q", args, code, out)
		}
	}
}

func TestADaemonThatIsNotThereGetsAHint(t *testing.T) {
	for _, args := range [][]string{{"status"}, {"keys", "list"}, {"doctor"}, {"decrypt", "wise"}} {
		code, _, stderr := invoke(t, append(args, "--socket", t.TempDir()+"/none.sock")...)
		if code != exitFailed || !strings.Contains(stderr, "none.sock") {
			t.Errorf("keyd %v: exit %d, %q", args, code, stderr)
		}
	}
}

func TestFlagsMayFollowArguments(t *testing.T) {
	code, _, stderr := invoke(t, "keys", "destroy", "some-kid", "--dry-run", "--socket", t.TempDir()+"/x")
	if code != exitFailed || !strings.Contains(stderr, "--reason is missing") {
		t.Errorf("exit %d, %q", code, stderr)
	}
}

func TestEveryFlagThatIsMissingIsNamed(t *testing.T) {
	for want, args := range map[string][]string{
		"missing: --find, --kid, --valid-till": {"keys", "adopt", "k"},
		"missing: --kid":                       {"keys", "adopt", "k", "--find", "x", "--valid-till", "2027-01-01T00:00:00Z"},
		"missing: --backend, --partner":        {"keys", "create", "k"},
	} {
		code, _, stderr := invoke(t, append(args, "--socket", t.TempDir()+"/x")...)
		if code != exitFailed || !strings.Contains(stderr, want+"\n") {
			t.Errorf("keyd %v: exit %d, %q, want %q", args, code, stderr, want)
		}
	}
}

func TestAFullDiskUnderARedirectionIsAFailure(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	var stderr bytes.Buffer
	code := run(t.Context(), []string{"version"}, terminal{strings.NewReader(""), full, &stderr})
	if code != exitFailed || !strings.Contains(stderr.String(), "no space left") {
		t.Errorf("exit %d, %q", code, stderr.String())
	}
}
