package audit_test

import (
	"bytes"
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"keyd/internal/audit"
)

// filled is an entry with the same text wherever one goes.
func filled(text string, details int) audit.Entry {
	e := audit.Entry{Op: text, Phase: audit.PhaseOutcome, Action: text, Key: text, KID: text, Partner: text, Code: text,
		Actor: audit.Actor{UID: -1 << 63, GID: -1 << 63, PID: -1 << 63, User: text, Role: text}, Result: audit.ResultRefused}
	e.Detail = map[string]string{}
	for i := range details {
		e.Detail[strconv.Itoa(i)+text] = text
	}
	return e
}

// texts are what a peer could send to make an entry grow.
var texts = map[string]string{
	"letters":          "x",
	"quotes":           `"`,
	"newlines":         "\n",
	"control":          "\x01",
	"DEL":              "\x7f",
	"C1":               "\u009b",
	"bidi":             "\u202e",
	"line separators":  "\u2028",
	"tags":             "\U000e0041",
	"emoji":            "\U0001f511",
	"no UTF-8":         "\xff",
	"half a character": "\xe6\x97",
	"a mixture":        "a\x01ä\xff\"\U000e0041",
}

func TestNothingThatIsSentMakesAnEntryTooLong(t *testing.T) {
	inMemory(t)
	cfg := config(t)
	l := open(t, cfg)
	for name, text := range texts {
		for _, n := range []int{1, 31, 257, 1024, 100_000} {
			for _, details := range []int{0, 1, 8, 32, 33, 200} {
				if err := l.Record(t.Context(), filled(strings.Repeat(text, n), details)); err != nil {
					t.Fatalf("%s, %d times, %d details: %v", name, n, details, err)
				}
			}
		}
	}
	shut(t, l)
	if _, err := audit.Verify(cfg.Path, nil); err != nil {
		t.Error(err)
	}
	for _, line := range bytes.SplitAfter(contents(t, cfg.Path), []byte("\n")) {
		if len(line) > audit.MaxLine {
			t.Errorf("a line of %d bytes", len(line))
		}
	}
}

// A text counts as long as it stands in the line, not as it was sent.
func TestTextsAreCutByTheirLengthInTheLine(t *testing.T) {
	cfg := config(t)
	l := open(t, cfg)
	for name, text := range texts {
		sent := strings.Repeat(text, 5_000)
		e := event(1)
		e.KID, e.Detail = sent, map[string]string{"error": sent, "short": "s", sent: ""}
		before := maps.Clone(e.Detail)
		appendAll(t, l, e)
		if !maps.Equal(before, e.Detail) {
			t.Errorf("%s: the caller's map was changed", name)
		}
		got, err := audit.Tail(cfg.Path, 1)
		if err != nil {
			t.Fatal(err)
		}
		var line struct {
			KID    json.RawMessage
			Detail map[string]json.RawMessage
		}
		if err := json.Unmarshal(got[0].Raw, &line); err != nil {
			t.Fatal(err)
		}
		check := func(what, text string, raw json.RawMessage, limit int) {
			head, note, _ := strings.Cut(text, "…")
			left, err := strconv.Atoi(strings.TrimSuffix(strings.TrimPrefix(note, "[+"), " bytes]"))
			if err != nil || left > len(sent) || head != string([]rune(sent[:len(sent)-left])) {
				t.Errorf("%s: %s was cut to %q", name, what, text)
			}
			if n := len(raw) - len(`""`); n > limit || n < limit-48 {
				t.Errorf("%s: %s takes %d bytes of %d", name, what, n, limit)
			}
		}
		check("the kid", got[0].KID, line.KID, audit.MaxText)
		check("a detail", got[0].Detail["error"], line.Detail["error"], audit.MaxValue)
		if got[0].Detail["short"] != "s" || len(got[0].Detail) != 3 {
			t.Errorf("%s: details: %v", name, got[0].Detail)
		}
	}
}

// Values give way only as far as the line needs, and short ones not at all.
func TestEntryHasALimitAsAWhole(t *testing.T) {
	inMemory(t)
	cfg := config(t)
	l := open(t, cfg)
	e := event(1)
	for i := range 7 {
		e.Detail[strconv.Itoa(i)] = strings.Repeat("x", audit.MaxValue)
	}
	e.Detail["n"] = strings.Repeat("n", 100)
	longest, cut := 0, 0
	for n := range audit.MaxValue {
		e.Detail["last"] = strings.Repeat("x", n)
		appendAll(t, l, e)
		got, err := audit.Tail(cfg.Path, 1)
		if err != nil {
			t.Fatal(err)
		}
		size := len(got[0].Raw) + 1
		if maps.Equal(got[0].Detail, e.Detail) {
			longest = size
			if cut > 0 {
				t.Fatalf("%d bytes fit, fewer did not", n)
			}
			continue
		}
		cut++
		if size > audit.MaxLine || size < audit.MaxLine-256 {
			t.Fatalf("an entry that was cut takes %d bytes of %d", size, audit.MaxLine)
		}
		if got[0].Detail["n"] != e.Detail["n"] {
			t.Fatalf("a short detail was cut to %q", got[0].Detail["n"])
		}
	}
	if longest < audit.MaxLine-32 || cut == 0 {
		t.Errorf("the longest entry that was left whole takes %d bytes of %d, %d were cut", longest, audit.MaxLine, cut)
	}
	if _, err := audit.Verify(cfg.Path, nil); err != nil {
		t.Errorf("the largest entry breaks the log: %v", err)
	}
}

func TestDetailsBeyondTheLimitAreCounted(t *testing.T) {
	cfg := config(t)
	l := open(t, cfg)
	for _, c := range []struct {
		names []string
		want  []string
	}{
		{make([]string, 32), nil},
		{make([]string, 35), []string{"33", "34", "35"}},
		{[]string{"\xfe", "\xff"}, []string{"\xff"}}, // both read U+FFFD
		{[]string{strings.Repeat("a", 100) + "1", strings.Repeat("a", 100) + "2"}, []string{strings.Repeat("a", 100) + "2"}},
	} {
		e := event(1)
		clear(e.Detail)
		for i, name := range c.names {
			if name == "" {
				name = strconv.Itoa(101 + i)[1:]
			}
			e.Detail[name] = "v"
		}
		appendAll(t, l, e)
		got, err := audit.Tail(cfg.Path, 1)
		if err != nil {
			t.Fatal(err)
		}
		names, note := slices.Sorted(maps.Keys(got[0].Detail)), got[0].Detail["…"]
		if len(c.want) == 0 {
			if len(names) != len(e.Detail) || note != "" {
				t.Errorf("%d details became %q", len(e.Detail), names)
			}
			continue
		}
		if note != "[+"+strconv.Itoa(len(c.want))+" details]" || len(names) != len(e.Detail)-len(c.want)+1 {
			t.Errorf("%d details became %q: %q", len(e.Detail), names, note)
		}
		for _, left := range c.want {
			if _, ok := got[0].Detail[left]; ok {
				t.Errorf("%q was kept", left)
			}
		}
	}
}

// An outcome may be written with what was read back of its intent: the
// operation, above all, must be the same.
func TestWhatWasCutOnceIsNotCutAgain(t *testing.T) {
	cfg := config(t)
	l := open(t, cfg)
	for name, text := range texts {
		appendAll(t, l, filled(strings.Repeat(text, 3_000), 12))
		once, err := audit.Tail(cfg.Path, 1)
		if err != nil {
			t.Fatal(err)
		}
		appendAll(t, l, once[0])
		twice, err := audit.Tail(cfg.Path, 1)
		if err != nil {
			t.Fatal(err)
		}
		if once[0].Op != twice[0].Op || once[0].KID != twice[0].KID || !maps.Equal(once[0].Detail, twice[0].Detail) {
			t.Errorf("%s: %s became %s", name, once[0].Raw, twice[0].Raw)
		}
	}
}

func FuzzAppend(f *testing.F) {
	cfg := config(f)
	l := open(f, cfg)
	f.Add("decrypt", "1", "wise", "kid", "k", "v", uint8(1))
	f.Add("\",\"prev\":\"", "\n", "\u009b", "\xff", "x", `{"phase":"intent"}`, uint8(40))
	f.Add("decrypt", "1", "wise", strings.Repeat("\x01", 1024), "reason", strings.Repeat("\x01", 1024), uint8(1))
	f.Add("a", "o", strings.Repeat("\xff", 300), strings.Repeat("\U000e0041", 300), strings.Repeat("\"", 90), strings.Repeat("\x00", 2000), uint8(33))
	f.Fuzz(func(t *testing.T, action, op, partner, kid, k, v string, details uint8) {
		if action == "" || op == "" {
			return
		}
		e := audit.Entry{Phase: audit.PhaseIntent, Action: action, Op: op, Partner: partner, KID: kid, Key: partner + kid, Code: v,
			Actor: audit.Actor{User: kid, Role: k}, Detail: map[string]string{}}
		for i := range details {
			e.Detail[k+strconv.Itoa(int(i))] = v
		}
		if err := l.Record(t.Context(), e); err != nil {
			t.Fatal(err)
		}
		got, err := audit.Tail(cfg.Path, 1)
		if err != nil || len(got) != 1 || len(got[0].Raw) >= audit.MaxLine {
			t.Fatalf("%v %v", got, err)
		}
		if len(action) <= 40 && utf8.ValidString(action) && got[0].Action != action {
			t.Fatalf("action %q became %q", action, got[0].Action)
		}
		if got[0].Seq%1000 == 1 {
			if _, err := audit.Verify(cfg.Path, nil); err != nil {
				t.Fatal(err)
			}
		}
	})
}
