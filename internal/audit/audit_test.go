package audit_test

import (
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"keyd/internal/audit"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var operator = audit.Actor{UID: 0, GID: 0, PID: 4711, User: "root", Role: "operator"}

// config is a log in a folder of its own.
func config(t testing.TB) audit.Config {
	t.Helper()
	return audit.Config{Path: filepath.Join(t.TempDir(), "audit.jsonl"),
		Logger: slog.New(slog.NewTextHandler(t.Output(), nil))}
}

// inMemory puts the folders of a test that opens hundreds of logs where an fsync
// costs nothing.
func inMemory(t *testing.T) {
	t.Helper()
	if info, err := os.Stat("/dev/shm"); err == nil && info.IsDir() {
		t.Setenv("TMPDIR", "/dev/shm")
	}
}

func open(t testing.TB, cfg audit.Config) *audit.Log {
	t.Helper()
	l, err := audit.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() }) // tests that expect a failure look at it themselves
	return l
}

func shut(t testing.TB, l *audit.Log) {
	t.Helper()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

func event(n int) audit.Entry {
	return audit.Entry{Phase: audit.PhaseEvent, Action: "decrypt", Actor: operator, Partner: "wise", Key: "wise-response",
		KID: "0190a0c4-6f0e-7cc0-8c0f-0123456789ab", Result: audit.ResultOK, Detail: map[string]string{"n": fmt.Sprint(n)}}
}

func appendAll(t testing.TB, l *audit.Log, entries ...audit.Entry) []audit.Head {
	t.Helper()
	var heads []audit.Head
	for _, e := range entries {
		h, err := l.Append(t.Context(), e)
		if err != nil {
			t.Fatal(err)
		}
		heads = append(heads, h)
	}
	return heads
}

// written makes a closed log of n events and returns its text and heads.
func written(t testing.TB, n int) (audit.Config, []byte, []audit.Head) {
	t.Helper()
	cfg := config(t)
	l := open(t, cfg)
	var heads []audit.Head
	for i := range n {
		heads = append(heads, appendAll(t, l, event(i+1))...)
	}
	shut(t, l)
	return cfg, contents(t, cfg.Path), heads
}

func contents(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func put(t testing.TB, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestEntriesAreReadBackAsWritten(t *testing.T) {
	cfg := config(t)
	l := open(t, cfg)
	want := []audit.Entry{
		{Op: "op-1", Phase: audit.PhaseIntent, Action: "key.rotate", Actor: operator, Key: "wise-response", Detail: map[string]string{"reason": "drill"}},
		{Op: "op-1", Phase: audit.PhaseOutcome, Action: "key.rotate", Actor: audit.System, Key: "wise-response", KID: "k", Result: audit.ResultFailed, Code: "backend_down"},
		event(3),
	}
	heads := appendAll(t, l, want...)
	got, err := audit.Read(cfg.Path, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got, cmpopts.IgnoreFields(audit.Entry{}, "Seq", "At", "Raw")); d != "" {
		t.Error(d)
	}
	for i, e := range got {
		if e.Seq != uint64(i+1) || heads[i].Seq != e.Seq || e.At.IsZero() {
			t.Errorf("entry %d has seq %d, time %s, head %v", i, e.Seq, e.At, heads[i])
		}
		if !strings.HasSuffix(string(e.Raw), heads[i].Hash+`"}`) {
			t.Errorf("Raw does not end in the entry's hash: %s", e.Raw)
		}
	}
	if l.Head() != heads[2] {
		t.Errorf("Head is %v, want %v", l.Head(), heads[2])
	}
}

func TestLogGoesOnWhereItEnded(t *testing.T) {
	cfg := config(t)
	var last audit.Head
	for i := range 4 {
		l := open(t, cfg)
		if i > 0 && l.Head() != last {
			t.Fatalf("opened at %v, was closed at %v", l.Head(), last)
		}
		last = appendAll(t, l, event(i))[0]
		shut(t, l)
	}
	report, err := audit.Verify(cfg.Path, &last)
	if err != nil || report.Entries != 4 || report.Head != last {
		t.Errorf("got %+v, %v", report, err)
	}
}

func TestLogIsForItsOwnerOnly(t *testing.T) {
	cfg, _, _ := written(t, 1)
	for _, path := range []string{cfg.Path, audit.HeadPath(cfg.Path)} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", path, info.Mode(), err)
		}
	}
	if err := os.Chmod(cfg.Path, 0o620); err != nil {
		t.Fatal(err)
	}
	if _, err := audit.Open(cfg); err == nil || !strings.Contains(err.Error(), "lets others write") {
		t.Errorf("a log that the group may write to: %v", err)
	}
}

func TestConfigIsCheckedWhole(t *testing.T) {
	_, err := audit.Open(audit.Config{})
	if err == nil || !strings.Contains(err.Error(), "Path") || !strings.Contains(err.Error(), "Logger") {
		t.Errorf("got %v", err)
	}
}

// The package comment promises that a shell can check a log.
func TestDocumentedShellCheck(t *testing.T) {
	script := regexp.MustCompile(`(?m)^//\t(n=0 prev=.*\n(?://\t.*\n)+)`).FindSubmatch(contents(t, "audit.go"))
	if script == nil {
		t.Fatal("no script in the package comment")
	}
	cfg, log, heads := written(t, 5)
	check := func() string {
		cmd := exec.Command("sh", "-c", strings.ReplaceAll(string(script[1]), "//\t", ""))
		cmd.Dir = filepath.Dir(cfg.Path)
		out, err := cmd.CombinedOutput()
		return fmt.Sprintf("%s%v", out, err)
	}
	if got, want := check(), fmt.Sprintf("head 5:%s\n<nil>", heads[4].Hash); got != want {
		t.Errorf("a whole log: got %q, want %q", got, want)
	}
	put(t, cfg.Path, []byte(strings.Replace(string(log), `"n":"3"`, `"n":"4"`, 1)))
	if got := check(); got != "broken at line 3\nexit status 1" {
		t.Errorf("an edited log: %q", got)
	}
	lines := strings.SplitAfter(string(log), "\n")
	put(t, cfg.Path, []byte(lines[0]+strings.Join(lines[2:], "")))
	if got := check(); got != "broken at line 2\nexit status 1" {
		t.Errorf("a log without line 2: %q", got)
	}
}
