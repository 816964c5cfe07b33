package conformance_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"keyd/internal/hsm/conformance"
	"keyd/softhsm/softhsmtest"
)

// tool runs pkcs11-tool, logged in.
func tool(t *testing.T, token softhsmtest.Token, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "pkcs11-tool", append([]string{"--module", token.Module, "--token-label", token.Label, "--login", "--pin", "env:KEYD_PIN"}, args...)...)
	cmd.Env = append(os.Environ(), append(token.Env, "KEYD_PIN="+token.PIN)...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("pkcs11-tool: %v\n%s", err, out)
	}
	return string(out)
}

// keys counts the keys in a token with a label that begins so.
func keys(t *testing.T, token softhsmtest.Token, prefix string) int {
	t.Helper()
	n := 0
	for line := range strings.Lines(tool(t, token, "-O")) {
		label, is := strings.CutPrefix(strings.TrimSpace(line), "label:")
		if is && strings.HasPrefix(strings.TrimSpace(label), prefix) {
			n++
		}
	}
	return n
}

// What an earlier run could not destroy is cleared away, and nobody else's key is.
func TestWhatIsLeftBehindIsClearedAwayAndSaid(t *testing.T) {
	token := softhsmtest.New(t)
	for id, label := range map[string]string{"01": "keyd-conformance/0123", "02": "keyd/keyd-conformance/probe/x", "03": "keyd/live/wise-response/y", "04": "keyd-conformance"} {
		tool(t, token, "--keypairgen", "--key-type", "rsa:2048", "--id", id, "--label", label)
	}
	cfg, f := faulty(t, token, "C_DestroyObject 0x6")
	cfg.Only = []string{"dangers"}
	if got := find(run(t, cfg), "nothing is left behind"); got.Verdict != conformance.Fail || !strings.Contains(got.Seen, "4 objects cannot be destroyed") {
		t.Errorf("a token that destroys nothing: %s (%s), want fail", got.Verdict, got.Seen)
	}
	f.Fail()
	if got := find(run(t, cfg), "nothing is left behind"); got.Verdict != conformance.Quirk || !strings.Contains(got.Seen, "4 objects had to be cleared away") {
		t.Errorf("what is left of an earlier run: %s (%s), want quirk", got.Verdict, got.Seen)
	}
	if ours, all := keys(t, token, "keyd-conformance/")+keys(t, token, "keyd/keyd-conformance/"), keys(t, token, ""); ours != 0 || all != 4 {
		t.Errorf("the token has %d objects of ours and %d in all, want 0 and the 4 of others", ours, all)
	}
}

// Whoever interrupts it has what was made destroyed all the same. Nobody else looks
// at the token meanwhile: SoftHSM gets things wrong between two processes.
func TestNothingIsLeftBehindWhenItIsInterrupted(t *testing.T) {
	token := softhsmtest.New(t)
	cfg, f := faulty(t, token)
	cfg.Only = []string{"keyd/memory after good envelopes"}
	cfg.Envelopes = 100_000_000 // so that it does not end by itself
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	cfg.Progress = func(_, check string) {
		if check != "memory after good envelopes" {
			return
		}
		go func() {
			defer cancel()
			// Far more than it takes to find out what the token does: there is a key.
			for f.Calls("C_Decrypt") < 200 && ctx.Err() == nil {
				time.Sleep(20 * time.Millisecond)
			}
		}()
	}
	report, err := conformance.Run(ctx, cfg)
	if report != nil || err == nil || !strings.Contains(err.Error(), "interrupted; what was made in the token is cleared away") {
		t.Errorf("Run = %v, %v, want that it was interrupted", report, err)
	}
	if n := f.Calls("C_GenerateKeyPair"); n < 3 {
		t.Errorf("only %d keys were made: it was interrupted too early to show anything", n)
	}
	if left := keys(t, token, ""); left != 0 {
		t.Errorf("%d keys are left:\n%s", left, tool(t, token, "-O"))
	}
}

// What it could not destroy it says, to whoever interrupts it.
func TestInterruptionSaysWhatMayBeLeft(t *testing.T) {
	cfg, f := faulty(t, softhsmtest.New(t))
	cfg.Only = []string{"keys"}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	went := ""
	cfg.Progress = func(group, check string) {
		if group == "keys" {
			went = check
			f.Fail("C_FindObjectsInit 0x30")
			cancel()
		}
	}
	if report, err := conformance.Run(ctx, cfg); report != nil || err == nil || !strings.Contains(err.Error(), "may be left in the token: --only afterwards") {
		t.Errorf("Run = %v, %v, want what may be left", report, err)
	}
	if went == "AES keys from outside" {
		t.Error("it went on to the end of the group")
	}
}

func TestTokenThatCannotBeTriedIsAnError(t *testing.T) {
	token := softhsmtest.New(t)
	text := filepath.Join(t.TempDir(), "module.so")
	if err := os.WriteFile(text, []byte("not a library"), 0o600); err != nil {
		t.Fatal(err)
	}
	libc, err := filepath.Glob("/lib/*/libc.so.6")
	if err != nil || len(libc) == 0 {
		t.Fatal("no libc.so.6")
	}
	for name, c := range map[string]struct {
		change func(*conformance.Config)
		faults []string
		is     error
		says   string
		logins int // how often the PIN was shown
	}{
		"no such module":             {func(c *conformance.Config) { c.Module = "/nowhere/module.so" }, nil, conformance.ErrToken, "no such file", 0},
		"a module that is text":      {func(c *conformance.Config) { c.Module = text }, nil, conformance.ErrToken, "not a shared library", 0},
		"a library that is none":     {func(c *conformance.Config) { c.Module = libc[0] }, nil, conformance.ErrToken, "C_GetFunctionList", 0},
		"no such token":              {func(c *conformance.Config) { c.Token = "nobody's" }, nil, conformance.ErrToken, `"keyd-test" (serial `, 0},
		"no such serial":             {func(c *conformance.Config) { c.Serial = "4711" }, nil, conformance.ErrToken, `with serial 4711; there are: "keyd-test"`, 0},
		"a wrong PIN":                {func(c *conformance.Config) { c.PIN = []byte("wrong") }, nil, conformance.ErrPIN, "CKR_PIN_INCORRECT", 1},
		"an empty PIN":               {func(c *conformance.Config) { c.PIN = nil }, nil, conformance.ErrPIN, "empty", 0},
		"a PIN that is locked":       {nil, []string{"flags 0x40000"}, conformance.ErrPIN, "locked", 0},
		"a PIN with one try left":    {nil, []string{"flags 0x20000"}, conformance.ErrPIN, "one more wrong one would lock it", 0},
		"no PIN at all":              {nil, []string{"noflags 0x8"}, conformance.ErrPIN, "none yet", 0},
		"a crash in C_Initialize":    {nil, []string{"C_Initialize segv"}, conformance.ErrModule, "it crashed before the token was open", 0},
		"a crash in C_Login":         {nil, []string{"C_Login segv"}, conformance.ErrModule, "it crashed before the token was open", 1},
		"a hang in C_Initialize":     {func(c *conformance.Config) { c.Limit = 3 * time.Second }, []string{"C_Initialize hang"}, conformance.ErrModule, "it hung before the token was open", 0},
		"a module with no slots":     {nil, []string{"C_GetSlotList 0x5"}, conformance.ErrToken, "CKR_GENERAL_ERROR", 0},
		"a token with no sessions":   {nil, []string{"C_OpenSession 0xb1"}, conformance.ErrToken, "CKR_SESSION_COUNT", 0},
		"a module that starts badly": {nil, []string{"C_Initialize 0x30"}, conformance.ErrToken, "CKR_DEVICE_ERROR", 0},
	} {
		t.Run(name, func(t *testing.T) {
			cfg, f := faulty(t, token, c.faults...)
			if c.change != nil {
				c.change(&cfg)
			}
			report, err := conformance.Run(t.Context(), cfg)
			if report != nil || !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("Run = %v, %v, want %v with %q", report, err, c.is, c.says)
			}
			if n := f.Calls("C_Login"); n != c.logins {
				t.Errorf("the PIN was shown %d times, want %d", n, c.logins)
			}
		})
	}
}

// A token that goes away in the middle ends it, with what was found until then.
func TestTokenThatGoesAwayInTheMiddleEndsIt(t *testing.T) {
	cfg, f := faulty(t, softhsmtest.New(t))
	cfg.Only = []string{"dangers", "threads", "sessions"}
	cfg.Progress = func(group, check string) {
		if group == "sessions" && check == "the module initialised anew" {
			f.Fail("C_OpenSession 0x30")
		}
	}
	report := run(t, cfg)
	if got := find(report, "opening the token"); got.Group != "threads" || got.Verdict != conformance.Fail || !strings.Contains(got.Seen, "CKR_DEVICE_ERROR") {
		t.Errorf("%s: %s (%s), want fail", got.Group, got.Verdict, got.Seen)
	}
	if got := find(report, "many sessions"); got.Verdict != conformance.Pass {
		t.Errorf("what was found before is not in the report: %+v", got)
	}
	if got := find(report, "a private key without a curve"); got.Verdict != "" {
		t.Errorf("it went on: %+v", got)
	}
}

// ps and /proc show argv and environment to others.
func TestPINIsInNoArgumentsAndNoEnvironment(t *testing.T) {
	token := softhsmtest.New(t)
	cfg := config(token)
	cfg.Only = []string{"dangers"}
	looked := 0
	cfg.Progress = func(string, string) {
		children, _ := exec.Command("pgrep", "-P", fmt.Sprint(os.Getpid())).Output() // a crash leaves none
		for pid := range strings.FieldsSeq(string(children)) {
			argv, _ := os.ReadFile("/proc/" + pid + "/cmdline") // gone, if it was pgrep
			env, _ := os.ReadFile("/proc/" + pid + "/environ")
			if strings.Contains(string(argv), processName) && len(env) > 0 {
				looked++
			}
			if strings.Contains(string(argv)+string(env), token.PIN) {
				t.Errorf("process %s has the PIN in its arguments or environment", pid)
			}
		}
	}
	run(t, cfg)
	if looked == 0 {
		t.Error("no process was looked at")
	}
}
