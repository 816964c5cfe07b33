package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

func TestExampleConfigIsAccepted(t *testing.T) {
	t.Setenv("CREDENTIALS_DIRECTORY", "")
	code, out, stderr := invoke(t, "check", "--config", "../../packaging/keyd.yaml")
	if code != exitOK || !strings.Contains(out, "is usable") {
		t.Errorf("exit %d\n%s%s", code, out, stderr)
	}
}

// The examples that stand in it as comments work as well: each begins with its
// name in the third column, and goes on for as long as it is indented.
func TestEveryExampleInTheConfigIsAccepted(t *testing.T) {
	t.Setenv("CREDENTIALS_DIRECTORY", "")
	raw, err := os.ReadFile("../../packaging/keyd.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	inside, found := false, 0
	for line := range strings.Lines(string(raw)) {
		text, comment := strings.CutPrefix(line, "  # ")
		switch {
		case comment && regexp.MustCompile(`^[a-z-]+:\n$`).MatchString(text):
			inside = true
			found++
		case !comment || !strings.HasPrefix(text, "  "):
			inside = false
		}
		if inside {
			line = "  " + text
		}
		lines = append(lines, line)
	}
	path := filepath.Join(t.TempDir(), "keyd.yaml")
	if err := os.WriteFile(path, []byte(strings.Join(lines, "")), 0o600); err != nil {
		t.Fatal(err)
	}
	code, out, stderr := invoke(t, "check", "--config", path)
	if code != exitOK || found < 8 || !strings.Contains(out, "is usable: 2 backends, 6 partners, 3 keys") {
		t.Errorf("%d examples: exit %d\n%s%s", found, code, out, stderr)
	}
}

func TestInstallPutsEveryFileInPlace(t *testing.T) {
	root := t.TempDir()
	if out, err := exec.CommandContext(t.Context(), "make", "-C", "../..", "build").CombinedOutput(); err != nil {
		t.Fatalf("make build: %v\n%s", err, out)
	}
	makeInstall := exec.CommandContext(t.Context(), "make", "-C", "../..", "install", "DESTDIR="+root)
	if out, err := makeInstall.CombinedOutput(); err != nil {
		t.Fatalf("make install: %v\n%s", err, out)
	}
	for path, mode := range map[string]os.FileMode{
		"usr/bin/keyd":                          0o755,
		"usr/lib/systemd/system/keyd.service":   0o644,
		"usr/lib/sysusers.d/keyd.conf":          0o644,
		"etc/keyd/keyd.yaml":                    0o644,
		"usr/share/doc/keyd/docs/operations.md": 0o644,
	} {
		info, err := os.Stat(filepath.Join(root, path))
		if err != nil {
			t.Error(err)
		} else if info.Mode() != mode {
			t.Errorf("%s: mode %v, want %v", path, info.Mode(), mode)
		}
	}
	if _, err := os.Stat(filepath.Join(root, "usr/bin/partnersim")); err == nil {
		t.Error("the simulator was installed beside the daemon")
	}
	checkUnit(t, root)
}

// checkUnit has systemd itself read the installed unit, and hold its sandbox
// to a bar (systemd.exec(5); the exposure is in tenths, lower is tighter).
func checkUnit(t *testing.T, root string) {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(root, "usr/lib/systemd/system/keyd.service"))
	if err != nil {
		t.Fatal(err)
	}
	unit := filepath.Join(t.TempDir(), "keyd.service")
	here := strings.ReplaceAll(string(raw), "/usr/bin/keyd", filepath.Join(root, "usr/bin/keyd"))
	if err := os.WriteFile(unit, []byte(here), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"verify", unit}, {"security", "--offline=true", "--threshold=20", unit}} {
		out, err := exec.CommandContext(t.Context(), "systemd-analyze", args...).CombinedOutput()
		if err != nil || strings.Contains(string(out), "Unknown") {
			t.Errorf("systemd-analyze %s: %v\n%s", args[0], err, out)
		}
	}
}
