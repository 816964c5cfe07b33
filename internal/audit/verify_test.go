package audit_test

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"testing"

	"keyd/internal/audit"
)

func TestVerifyFindsTampering(t *testing.T) {
	inMemory(t)
	cfg, log, heads := written(t, 6)
	_, foreign, _ := written(t, 6)
	lines, others := bytes.SplitAfter(log, []byte("\n"))[:6], bytes.SplitAfter(foreign, []byte("\n"))
	join := func(parts ...[][]byte) []byte {
		var all []byte
		for _, p := range parts {
			all = append(all, bytes.Join(p, nil)...)
		}
		return all
	}
	edit := func(old, new string) []byte { return bytes.Replace(log, []byte(old), []byte(new), 1) }
	for _, c := range []struct {
		name   string
		log    []byte
		line   int
		reason string
	}{
		{"a value changed", edit(`"n":"3"`, `"n":"9"`), 3, "edited"},
		{"a member added", edit(`"n":"3"`, `"m":"","n":"3"`), 3, "edited"},
		{"the time of the last entry changed", bytes.Replace(log, lines[5][9:20], []byte(`"at":"1999-`), 1), 1, "edited"},
		{"the first entry removed", join(lines[1:]), 1, "removed or moved"},
		{"an entry removed", join(lines[:2], lines[3:]), 3, "removed or moved"},
		{"two entries removed", join(lines[:2], lines[4:]), 3, "removed or moved"},
		{"an entry repeated", join(lines[:3], lines[2:]), 4, "repeated or moved"},
		{"an earlier entry inserted", join(lines[:4], lines[:1], lines[4:]), 5, "repeated or moved"},
		{"a later entry inserted", join(lines[:2], lines[4:5], lines[2:]), 3, "removed or moved"},
		{"two entries exchanged", join(lines[:2], lines[3:4], lines[2:3], lines[4:]), 3, "removed or moved"},
		{"an entry of another log in its place", join(lines[:2], others[2:3], lines[3:]), 3, "another chain"},
		{"the whole log repeated", join(lines, lines), 7, "repeated or moved"},
		{"an empty line", join(lines[:2], [][]byte{[]byte("\n")}, lines[2:]), 3, "not an entry"},
		{"a comment", join(lines[:2], [][]byte{[]byte("# nothing\n")}, lines[2:]), 3, "not an entry"},
		{"a carriage return", edit("\"}\n", "\"}\r\n"), 1, "not an entry"},
		{"a blank before an entry", append([]byte(" "), log...), 1, "not an entry"},
		{"a line of 300 kB", join(lines[:1], [][]byte{bytes.Repeat([]byte("x"), 300_000), []byte("\n")}, lines[1:]), 2, "longer than any"},
		{"a line of 9 kB", join(lines[:1], [][]byte{bytes.Repeat([]byte("x"), 9_000), []byte("\n")}, lines[1:]), 2, "longer than any"},
		{"garbage at the end", append(bytes.Clone(log), "garbage"...), 7, "without a newline"},
		{"half a line at the end", log[:len(log)-20], 6, "without a newline"},
		{"the last newline removed", log[:len(log)-1], 6, "without a newline"},
		{"the last entry cut off", join(lines[:5]), 5, "cut off"},
		{"all but one cut off", join(lines[:1]), 1, "cut off"},
		{"emptied", nil, 0, "cut off"},
		{"another log, as long", foreign, 6, "written anew"},
	} {
		t.Run(c.name, func(t *testing.T) {
			put(t, cfg.Path, c.log)
			for _, want := range []*audit.Head{nil, &heads[5]} {
				_, err := audit.Verify(cfg.Path, want)
				broken, ok := errors.AsType[*audit.BrokenError](err)
				if !ok || !errors.Is(err, audit.ErrBroken) || broken.Line != c.line || !strings.Contains(broken.Reason, c.reason) {
					t.Errorf("want line %d, %q; got %v", c.line, c.reason, err)
				}
			}
			if strings.Contains(c.reason, "without a newline") {
				return // crash_test.go: Open may cut that off
			}
			if l, err := audit.Open(cfg); !errors.Is(err, audit.ErrBroken) {
				t.Errorf("Open took it: %v %v", l, err)
			}
			if got := contents(t, cfg.Path); !bytes.Equal(got, c.log) {
				t.Error("Open changed a log that it refused")
			}
		})
	}
}

func TestEveryFlippedByteIsFound(t *testing.T) {
	_, log, heads := written(t, 3)
	if _, err := audit.VerifyBytes(log, &heads[2]); err != nil {
		t.Fatal(err)
	}
	for i := range log {
		for _, mask := range []byte{0x01, 0x20, 0x80, 0xff} {
			bent := bytes.Clone(log)
			bent[i] ^= mask
			line := 1 + bytes.Count(log[:i], []byte("\n"))
			_, err := audit.VerifyBytes(bent, &heads[2])
			broken, ok := errors.AsType[*audit.BrokenError](err)
			if !ok || broken.Line != line {
				t.Fatalf("byte %d ^ %#x in line %d: %v", i, mask, line, err)
			}
		}
	}
}

func TestVerifyAcceptsALogLongerThanTheHead(t *testing.T) {
	cfg, log, heads := written(t, 5)
	for i := range heads {
		report, err := audit.Verify(cfg.Path, &heads[i])
		if err != nil || report.Head != heads[4] || *report.Remembered != heads[i] {
			t.Errorf("head %d: %+v %v", i+1, report, err)
		}
	}
	empty := audit.Head{Hash: strings.Repeat("0", 64)}
	if report, err := audit.Verify(cfg.Path, &empty); err != nil || report.Entries != 5 || report.Bytes != int64(len(log)) {
		t.Errorf("the head of an empty log: %+v %v", report, err)
	}
	if _, err := audit.Verify(cfg.Path, &audit.Head{}); !errors.Is(err, audit.ErrBroken) {
		t.Errorf("a head of no log: %v", err)
	}
	report, err := audit.Verify(cfg.Path, nil)
	if err != nil || *report.Remembered != heads[4] || report.First.After(report.Last) || report.First.IsZero() {
		t.Errorf("the head beside the log: %+v %v", report, err)
	}
}

func TestVerifyWithoutAHeadSaysSo(t *testing.T) {
	cfg, log, _ := written(t, 3)
	if err := os.Remove(audit.HeadPath(cfg.Path)); err != nil {
		t.Fatal(err)
	}
	put(t, cfg.Path, bytes.SplitAfter(log, []byte("\n"))[0])
	report, err := audit.Verify(cfg.Path, nil)
	if err != nil || report.Remembered != nil || report.Entries != 1 {
		t.Errorf("got %+v %v", report, err)
	}
}

func TestUnreadableHeadIsNotIgnored(t *testing.T) {
	cfg, _, _ := written(t, 2)
	whole := string(contents(t, audit.HeadPath(cfg.Path)))
	for _, text := range []string{"", "{", `{"seq":2}`, `{"seq":2,"hash":"00"}` + "\n", " " + whole, whole + whole, strings.TrimSpace(whole)} {
		put(t, audit.HeadPath(cfg.Path), []byte(text))
		if _, err := audit.Verify(cfg.Path, nil); !errors.Is(err, audit.ErrBroken) {
			t.Errorf("Verify with head %q: %v", text, err)
		}
		if _, err := audit.Open(cfg); !errors.Is(err, audit.ErrBroken) || !strings.Contains(err.Error(), "not readable") {
			t.Errorf("Open with head %q: %v", text, err)
		}
	}
}

func TestVerifyOfALogInUse(t *testing.T) {
	cfg := config(t)
	l := open(t, cfg)
	stop := make(chan struct{})
	done := make(chan error, 1)
	go func() {
		for i := range 20_000 {
			select {
			case <-stop:
				done <- nil
				return
			default:
			}
			if err := l.Record(t.Context(), event(i)); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	for range 20 {
		head := l.Head()
		if _, err := audit.Verify(cfg.Path, &head); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestVerifyNamesTheFileItCannotRead(t *testing.T) {
	path := t.TempDir() + "/none.jsonl"
	if _, err := audit.Verify(path, nil); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), path) {
		t.Errorf("got %v", err)
	}
}

func FuzzVerify(f *testing.F) {
	_, log, heads := written(f, 3)
	f.Add(log)
	f.Add([]byte{})
	f.Add(log[:len(log)/2])
	f.Add([]byte(`{"seq":1,"at":"2026-01-01T00:00:00.000000Z","prev":"` + strings.Repeat("0", 64) + `","hash":"` + strings.Repeat("a", 64) + "\"}\n"))
	f.Add([]byte(`{"seq":18446744073709551616,"at":"` + "\n"))
	f.Add(bytes.Repeat([]byte{0}, 4096))
	f.Fuzz(func(t *testing.T, b []byte) {
		report, err := audit.VerifyBytes(b, nil)
		switch {
		case err != nil:
			if _, ok := errors.AsType[*audit.BrokenError](err); !ok {
				t.Fatalf("not a BrokenError: %v", err)
			}
			// What stood before the broken place is whole by itself.
			if _, err := audit.VerifyBytes(b[:report.Bytes], &report.Head); err != nil {
				t.Fatalf("the part before is broken too: %v", err)
			}
		case report.Bytes != int64(len(b)):
			t.Fatalf("accepted %d bytes as a log of %d", len(b), report.Bytes)
		case report.Head == heads[2] && !bytes.Equal(b, log):
			t.Fatal("two logs with one head")
		}
	})
}
