package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"keyd/client"
)

// partnerSim and kmsSim are the simulators' binaries, built once for all scripts.
var partnerSim, kmsSim string

func TestMain(m *testing.M) {
	// A daemon that runs inside a test starts this binary again.
	if len(os.Args) > 1 && os.Args[1] == workerName {
		main()
	}
	if len(os.Args) > 1 && os.Args[1] == loginOnly {
		bareLogin()
	}
	dir, err := os.MkdirTemp("", "keyd-test-")
	if err != nil {
		panic(err)
	}
	partnerSim, kmsSim = filepath.Join(dir, "partnersim"), filepath.Join(dir, "kmssim")
	if os.Getenv("TESTSCRIPT_COMMAND") == "" && isTestRun() {
		if out, err := exec.Command("go", "build", "-o", dir, "keyd/cmd/partnersim", "keyd/cmd/kmssim").CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "building the simulators: %v\n%s", err, out)
			os.Exit(1)
		}
	}
	defer os.RemoveAll(dir)
	testscript.Main(m, map[string]func(){"keyd": main})
}

// isTestRun tells the test binary from its copies that testscript runs as keyd.
func isTestRun() bool { return filepath.Base(os.Args[0]) != "keyd" }

// TestScripts runs the end-to-end scripts in testdata: the real commands, the
// real daemon, a real SoftHSM token, and the simulator over the network.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:   "testdata",
		Setup: setupScript,
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"eventually": eventually,
			"serving":    serving,
			"config":     writeConfig("../../demo/keyd.yaml"),
			"partners":   writeConfig("../../demo/partners.yaml"),
			"usertoken":  userToken,
			"page":       runPage,
			"capture":    capture,
		},
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
	})
}

// setupScript gives each script a token and a config of its own.
func setupScript(env *testscript.Env) error {
	token := filepath.Join(env.WorkDir, "token")
	script, err := filepath.Abs("../../softhsm/token.sh")
	if err != nil {
		return err
	}
	if out, err := exec.Command(script, token, "keyd").CombinedOutput(); err != nil {
		return fmt.Errorf("making a token (make softhsm installs SoftHSM): %w\n%s", err, out)
	}
	env.Setenv("SOFTHSM2_CONF", filepath.Join(token, "softhsm2.conf"))
	env.Setenv("MODULE", "/usr/lib/softhsm/libsofthsm2.so")
	env.Setenv("KEYD_SOCKET", filepath.Join(env.WorkDir, "keyd.sock"))
	env.Setenv("KEYD_ADMIN_SOCKET", filepath.Join(env.WorkDir, "admin.sock"))
	env.Setenv("SIMBIN", partnerSim)
	env.Setenv("KMSBIN", kmsSim)
	for variable, path := range map[string]string{"INTEROP": "../../interop", "CALL": "../../demo/wise-call.sh", "TOKMS": "../../demo/to-kms.sh"} {
		abs, err := filepath.Abs(path)
		if err != nil {
			return err
		}
		env.Setenv(variable, abs)
	}
	env.Setenv("UID", strconv.Itoa(os.Getuid()))
	env.Setenv("HOME", env.WorkDir)
	if err := os.WriteFile(filepath.Join(env.WorkDir, "secret"), []byte("s3cret-of-the-client"), 0o600); err != nil {
		return err
	}
	return os.Mkdir(filepath.Join(env.WorkDir, "state"), 0o700)
}

// writeConfig writes a standard config to FILE, with lines replaced:
// config FILE [OLD=>NEW]..., and partners likewise.
func writeConfig(from string) func(ts *testscript.TestScript, neg bool, args []string) {
	return func(ts *testscript.TestScript, neg bool, args []string) {
		if neg || len(args) == 0 {
			ts.Fatalf("usage: config FILE [OLD=>NEW]...")
		}
		edited(ts, from, args[0], args[1:])
	}
}

func edited(ts *testscript.TestScript, from, to string, edits []string) {
	raw, err := os.ReadFile(from)
	ts.Check(err)
	text := string(raw)
	if addr, err := os.ReadFile(ts.MkAbs("sim.addr")); err == nil {
		text = strings.ReplaceAll(text, "@SIM@", strings.TrimSpace(string(addr)))
	}
	text = strings.NewReplacer("@SIM@", "http://127.0.0.1:1", "@D@", ts.Getenv("WORK"), "@UID@", ts.Getenv("UID")).Replace(text)
	for _, edit := range edits {
		old, now, ok := strings.Cut(edit, "=>")
		if !ok || !strings.Contains(text, old) {
			ts.Fatalf("config: nothing to replace for %q in\n%s", edit, text)
		}
		text = strings.ReplaceAll(text, old, strings.ReplaceAll(now, `\n`, "\n"))
	}
	ts.Check(os.WriteFile(ts.MkAbs(to), []byte(text), 0o600))
}

// userToken puts a user's token at a partner of the simulator's into a file that
// nobody else reads: usertoken PARTNER FILE.
func userToken(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: usertoken PARTNER FILE")
	}
	ts.Check(ts.Exec("curl", "-fsS", "-X", "POST", strings.TrimSpace(ts.ReadFile("sim.addr"))+"/sim/user-token/"+args[0]))
	var answer struct {
		Token string `json:"access_token"`
	}
	ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &answer))
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), []byte(answer.Token), 0o600))
}

// runPage runs the examples of a partner's page that are for keyd, in one shell:
// page PARTNER.
func runPage(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: page PARTNER")
	}
	text, err := os.ReadFile("../../docs/partners/" + args[0] + ".md")
	ts.Check(err)
	blocks := regexp.MustCompile("(?s)```sh keyd\n(.*?)```").FindAllStringSubmatch(string(text), -1)
	if len(blocks) == 0 {
		ts.Fatalf("%s has nothing to try", args[0])
	}
	script := "set -euo pipefail\n"
	for _, block := range blocks {
		script += strings.ReplaceAll(block[1], "/run/keyd/keyd.sock", ts.Getenv("KEYD_SOCKET"))
	}
	ts.Check(ts.Exec("bash", "-c", script))
}

// eventually runs a command until it succeeds: eventually SECONDS COMMAND...
func eventually(ts *testscript.TestScript, neg bool, args []string) {
	seconds, err := strconv.Atoi(args[0])
	if neg || err != nil {
		ts.Fatalf("usage: eventually SECONDS COMMAND...")
	}
	deadline := time.Now().Add(time.Duration(seconds) * time.Second)
	for {
		err = ts.Exec(args[1], args[2:]...)
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("not within %d s: %v", seconds, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// serving waits until the daemon answers on its admin socket.
func serving(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) > 1 {
		ts.Fatalf("usage: serving [SOCKET]")
	}
	socket := ts.Getenv("KEYD_ADMIN_SOCKET")
	if len(args) == 1 {
		socket = args[0]
	}
	c := client.New(socket)
	for end := time.Now().Add(2 * time.Minute); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if _, err := c.VersionInfo(context.Background()); err == nil {
			return
		}
	}
	ts.Fatalf("nothing serves on %s", socket)
}

// capture puts a command's trimmed output into a variable: capture VAR CMD...
func capture(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: capture VAR COMMAND...")
	}
	ts.Check(ts.Exec(args[1], args[2:]...))
	ts.Setenv(args[0], strings.TrimSpace(ts.ReadFile("stdout")))
}
