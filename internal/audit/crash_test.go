package audit_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"keyd/internal/audit"
)

// A crash can leave any part of the last line. The head was remembered before.
func TestOpenRecoversFromACrashAtEveryByte(t *testing.T) {
	inMemory(t)
	cfg, log, heads := written(t, 3)
	lastStart := bytes.LastIndexByte(log[:len(log)-1], '\n') + 1
	head := contents(t, headFileOf(t, cfg, heads[1]))
	for end := lastStart; end <= len(log); end++ {
		put(t, cfg.Path, log[:end])
		put(t, audit.HeadPath(cfg.Path), head)
		l, err := audit.Open(cfg)
		if err != nil {
			t.Fatalf("cut at byte %d: %v", end-lastStart, err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		got := contents(t, cfg.Path)
		switch torn := end - lastStart; {
		case end == len(log), torn == 0:
			if !bytes.Equal(got, log[:end]) {
				t.Fatalf("cut at byte %d: a whole log was changed", torn)
			}
		default:
			wantRecovery(t, cfg, map[string]string{"torn_bytes": strconv.Itoa(torn)}, 3)
			if !bytes.HasPrefix(got, log[:lastStart]) {
				t.Fatalf("cut at byte %d: whole lines were changed", torn)
			}
		}
		if _, err := audit.Verify(cfg.Path, &heads[1]); err != nil {
			t.Fatalf("cut at byte %d: %v", end-lastStart, err)
		}
	}
}

// headFileOf makes cfg's head file name h.
func headFileOf(t *testing.T, cfg audit.Config, h audit.Head) string {
	t.Helper()
	path := audit.HeadPath(cfg.Path)
	put(t, path, []byte(`{"seq":`+strconv.FormatUint(h.Seq, 10)+`,"hash":"`+h.Hash+"\"}\n"))
	return path
}

// wantRecovery expects the last entry to be the recovery event numbered seq.
func wantRecovery(t *testing.T, cfg audit.Config, detail map[string]string, seq uint64) {
	t.Helper()
	last, err := audit.Tail(cfg.Path, 1)
	if err != nil || len(last) != 1 {
		t.Fatalf("reading the last entry: %v %v", last, err)
	}
	e := last[0]
	if e.Action != "audit.recovered" || e.Seq != seq || e.Actor != audit.System || len(e.Detail) != len(detail) {
		t.Fatalf("got entry %+v, want a recovery with %v", e, detail)
	}
	for k, v := range detail {
		if e.Detail[k] != v {
			t.Fatalf("detail %s is %q, want %q", k, e.Detail[k], v)
		}
	}
}

// Once the head names the last entry, it was acknowledged: losing any of it is
// no crash.
func TestOpenRefusesALogTornBeforeTheHead(t *testing.T) {
	inMemory(t)
	cfg, log, _ := written(t, 3)
	lastStart := bytes.LastIndexByte(log[:len(log)-1], '\n') + 1
	for end := lastStart; end < len(log); end++ {
		put(t, cfg.Path, log[:end])
		if _, err := audit.Open(cfg); !errors.Is(err, audit.ErrBroken) || !strings.Contains(err.Error(), "cut off") {
			t.Fatalf("cut at byte %d: %v", end-lastStart, err)
		}
		if got := contents(t, cfg.Path); !bytes.Equal(got, log[:end]) {
			t.Fatal("Open changed a log that it refused")
		}
	}
}

// Some file systems keep a file's new length and lose its content.
func TestOpenRecoversFromATailOfZeros(t *testing.T) {
	cfg, log, _ := written(t, 2)
	put(t, cfg.Path, append(bytes.Clone(log), make([]byte, 4096)...))
	shut(t, open(t, cfg))
	wantRecovery(t, cfg, map[string]string{"torn_bytes": "4096"}, 3)

	put(t, cfg.Path, append(contents(t, cfg.Path), make([]byte, audit.MaxTorn)...))
	if _, err := audit.Open(cfg); !errors.Is(err, audit.ErrBroken) {
		t.Errorf("more than a crash can leave: %v", err)
	}
}

func TestOpenNotesThatTheHeadWasMissing(t *testing.T) {
	cfg, _, heads := written(t, 2)
	if err := os.Remove(audit.HeadPath(cfg.Path)); err != nil {
		t.Fatal(err)
	}
	shut(t, open(t, cfg))
	wantRecovery(t, cfg, map[string]string{"head": "missing"}, 3)
	if _, err := audit.Verify(cfg.Path, &heads[1]); err != nil {
		t.Error(err)
	}
}

func TestOpenRefusesALogThatIsGone(t *testing.T) {
	cfg, _, _ := written(t, 2)
	if err := os.Remove(cfg.Path); err != nil {
		t.Fatal(err)
	}
	for range 2 { // refusing must not make the next start succeed
		if _, err := audit.Open(cfg); !errors.Is(err, audit.ErrBroken) {
			t.Errorf("got %v", err)
		}
	}
}

// kill -9, for real: what Append or Record acknowledged is there, the lock is
// gone, the head lags at most.
func TestKilledWriterLosesNothingItAcknowledged(t *testing.T) {
	const variable = "KEYD_TEST_AUDIT_KILLED"
	cfg := config(t)
	if path := os.Getenv(variable); path != "" {
		cfg.Path = path
		l := open(t, cfg)
		for i := 0; ; i++ {
			var err error
			if i%2 == 0 {
				_, err = l.Append(t.Context(), event(i))
			} else {
				err = l.Record(t.Context(), event(i))
			}
			if err != nil {
				t.Fatal(err)
			}
			fmt.Println("acknowledged", i+1)
		}
	}
	before := uint64(0)
	for round := range 5 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestKilledWriterLosesNothingItAcknowledged$")
		cmd.Env = append(os.Environ(), variable+"="+cfg.Path)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		acknowledged := uint64(0)
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			if n, err := strconv.ParseUint(strings.TrimPrefix(lines.Text(), "acknowledged "), 10, 64); err == nil {
				acknowledged = n
			}
			if acknowledged == uint64(20+37*round) {
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		_ = cmd.Wait() // it was killed
		l := open(t, cfg)
		if got := l.Head().Seq; acknowledged < 20 || got < before+acknowledged || got > before+acknowledged+1 {
			t.Errorf("round %d: %d entries before, %d acknowledged, the head is %d", round, before, acknowledged, got)
		}
		before = l.Head().Seq
		shut(t, l)
	}
}

func TestHeadMayLagAfterACrash(t *testing.T) {
	cfg := config(t)
	l := open(t, cfg)
	heads := appendAll(t, l, event(1), event(2), event(3))
	crashed := config(t)
	put(t, crashed.Path, contents(t, cfg.Path))
	put(t, audit.HeadPath(crashed.Path), contents(t, audit.HeadPath(cfg.Path)))
	if got := open(t, crashed).Head(); got != heads[2] {
		t.Errorf("opened at %v, want %v", got, heads[2])
	}
}

func TestSecondWriterIsRefused(t *testing.T) {
	cfg := config(t)
	l := open(t, cfg)
	if _, err := audit.Open(cfg); !errors.Is(err, audit.ErrLocked) {
		t.Errorf("got %v", err)
	}
	appendAll(t, l, event(1))
	shut(t, l)
	open(t, cfg)
}

func TestOpenRefusesWhatIsNotAFile(t *testing.T) {
	cfg := config(t)
	cfg.Path = "/dev/null"
	cfg.HeadPath = t.TempDir() + "/head"
	if _, err := audit.Open(cfg); err == nil || !strings.Contains(err.Error(), "regular") {
		t.Errorf("a device: %v", err)
	}
	cfg.Path = t.TempDir()
	if _, err := audit.Open(cfg); err == nil {
		t.Error("a folder was opened")
	}
	cfg.Path = t.TempDir() + "/none/audit.jsonl"
	if _, err := audit.Open(cfg); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing folder: %v", err)
	}
	cfg.Path, cfg.HeadPath = t.TempDir()+"/audit.jsonl", t.TempDir()+"/none/head"
	if _, err := audit.Open(cfg); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing folder for the head: %v", err)
	}
	cfg.HeadPath = t.TempDir()
	if _, err := audit.Open(cfg); err == nil || !strings.Contains(err.Error(), "remembered head") {
		t.Errorf("a folder as head: %v", err)
	}
}

// In pairs: the torn line was not cut off, and it was.
func TestOpenFailsWhenATornLineCannotBeCutOff(t *testing.T) {
	for name, truncate := range map[string]func(real func() error) error{
		"failed":              func(func() error) error { return errDisk },
		"failed but happened": func(real func() error) error { return errors.Join(real(), errDisk) },
	} {
		t.Run(name, func(t *testing.T) {
			cfg, log, _ := written(t, 2)
			put(t, cfg.Path, append(log, "{\"seq\":3"...))
			broken := cfg.Through(func(real audit.File) audit.File { return &faulty{File: real, truncate: truncate} })
			if _, err := audit.Open(broken); !errors.Is(err, errDisk) || !strings.Contains(err.Error(), "torn") {
				t.Fatalf("got %v", err)
			}
			shut(t, open(t, cfg))
			if got := contents(t, cfg.Path); !bytes.HasPrefix(got, log) {
				t.Errorf("after reopening:\n%s", got)
			}
		})
	}
}
