package audit_test

import (
	"errors"
	"maps"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"keyd/internal/audit"
)

func TestMalformedEntriesAreRefused(t *testing.T) {
	cfg := config(t)
	l := open(t, cfg)
	many := map[string]string{}
	for i := range 33 {
		many[strconv.Itoa(i)] = ""
	}
	for _, c := range []struct {
		name  string
		entry audit.Entry
		want  error
	}{
		{"nothing", audit.Entry{}, audit.ErrEntry},
		{"no action", audit.Entry{Phase: audit.PhaseEvent}, audit.ErrEntry},
		{"no phase", audit.Entry{Action: "a"}, audit.ErrEntry},
		{"unknown phase", audit.Entry{Action: "a", Phase: "after"}, audit.ErrEntry},
		{"intent without operation", audit.Entry{Action: "a", Phase: audit.PhaseIntent}, audit.ErrEntry},
		{"intent with a result", audit.Entry{Action: "a", Op: "1", Phase: audit.PhaseIntent, Result: audit.ResultOK}, audit.ErrEntry},
		{"outcome without operation", audit.Entry{Action: "a", Phase: audit.PhaseOutcome, Result: audit.ResultOK}, audit.ErrEntry},
		{"outcome without a result", audit.Entry{Action: "a", Op: "1", Phase: audit.PhaseOutcome}, audit.ErrEntry},
		{"unknown result", audit.Entry{Action: "a", Phase: audit.PhaseEvent, Result: "fine"}, audit.ErrEntry},
		{"too many details", audit.Entry{Action: "a", Phase: audit.PhaseEvent, Detail: many}, audit.ErrTooLarge},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := l.Append(t.Context(), c.entry); !errors.Is(err, c.want) {
				t.Errorf("Append: %v", err)
			}
			if err := l.Record(t.Context(), c.entry); !errors.Is(err, c.want) {
				t.Errorf("Record: %v", err)
			}
		})
	}
	appendAll(t, l, event(1)) // a refused entry is no failure of the log
	if l.Head().Seq != 1 {
		t.Errorf("a refused entry got a number: %v", l.Head())
	}
}

func TestTheLogAloneNumbersEntries(t *testing.T) {
	cfg := config(t)
	l := open(t, cfg)
	appendAll(t, l, event(1))
	copied, err := audit.Tail(cfg.Path, 1)
	if err != nil {
		t.Fatal(err)
	}
	forged := copied[0]
	forged.Seq, forged.At = 77, forged.At.AddDate(-1, 0, 0)
	if h := appendAll(t, l, forged)[0]; h.Seq != 2 {
		t.Errorf("got number %d", h.Seq)
	}
	got, err := audit.Tail(cfg.Path, 1)
	if err != nil || got[0].At.Before(copied[0].At) {
		t.Errorf("got %v %v", got, err)
	}
}

func TestLongTextsAreCut(t *testing.T) {
	cfg := config(t)
	l := open(t, cfg)
	long := strings.Repeat("ä", 5_000)
	e := event(1)
	e.KID, e.Detail = long, map[string]string{"error": long, "short": "s", long: ""}
	before := maps.Clone(e.Detail)
	appendAll(t, l, e)
	if !maps.Equal(before, e.Detail) {
		t.Error("the caller's map was changed")
	}
	got, err := audit.Read(cfg.Path, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	check := func(what, text string, limit int) {
		head, note, _ := strings.Cut(text, "…")
		if len(head) != limit || head != long[:limit] || note != "[+"+strconv.Itoa(len(long)-limit)+" bytes]" {
			t.Errorf("%s was cut to %q", what, text)
		}
	}
	check("the kid", got[0].KID, audit.MaxText)
	check("a detail", got[0].Detail["error"], audit.MaxValue)
	if got[0].Detail["short"] != "s" || len(got[0].Detail) != 3 {
		t.Errorf("details: %v", got[0].Detail)
	}
	// Broken UTF-8 has no rune to end at.
	e.KID = strings.Repeat("\x80", 5_000)
	appendAll(t, l, e)
}

func TestEntryHasALimitAsAWhole(t *testing.T) {
	inMemory(t)
	cfg := config(t)
	l := open(t, cfg)
	e := event(1)
	e.Detail = map[string]string{}
	grow := func(n int) error {
		e.Detail["last"] = strings.Repeat("x", n)
		_, err := l.Append(t.Context(), e)
		return err
	}
	for i := range 7 {
		e.Detail[strconv.Itoa(i)] = strings.Repeat("x", audit.MaxValue)
	}
	fits := 0
	for n := range audit.MaxValue {
		if err := grow(n); err != nil {
			if !errors.Is(err, audit.ErrTooLarge) {
				t.Fatal(err)
			}
			break
		}
		fits = n
	}
	report, err := audit.Verify(cfg.Path, nil)
	if err != nil {
		t.Fatalf("the largest entry breaks the log: %v", err)
	}
	got, err := audit.Tail(cfg.Path, 1)
	if err != nil || len(got) != 1 || len(got[0].Raw) > audit.MaxLine || len(got[0].Raw) < audit.MaxLine-64 {
		t.Errorf("after %d entries, %d bytes of filling: the largest line has %d bytes: %v", report.Entries, fits, len(got[0].Raw), err)
	}
}

// What a peer sends must not be able to forge a line, or the look of one.
func TestControlCharactersAreEscaped(t *testing.T) {
	cfg := config(t)
	l := open(t, cfg)
	evil := "a\nb\r\x00\x1b[2J\x7f\u009b31m\u202egnp.exe\u2028\ufeff\U000e0041\"},{<&>é日\xff"
	e := event(1)
	e.Partner = evil
	e.Detail["x"] = evil
	appendAll(t, l, e)
	log := string(contents(t, cfg.Path))
	for i, r := range strings.TrimSuffix(log, "\n") {
		if r < 0x20 || r >= 0x7f && r < 0xa0 || r >= 0x2000 && r < 0x2070 || r == 0xfeff || r >= 0xe0000 {
			t.Errorf("byte %d: %U stands in the log as it is", i, r)
		}
	}
	if !strings.Contains(log, "<&>é日") {
		t.Error("readable characters were escaped")
	}
	got, err := audit.Read(cfg.Path, 0, 0)
	if err != nil || len(got) != 1 {
		t.Fatalf("%v %v", got, err)
	}
	if want := strings.ToValidUTF8(evil, "\ufffd"); got[0].Partner != want || got[0].Detail["x"] != want {
		t.Errorf("got %q, want %q", got[0].Partner, want)
	}
	if _, err := audit.Verify(cfg.Path, nil); err != nil {
		t.Error(err)
	}
}

func TestActorForPeople(t *testing.T) {
	for _, c := range []struct {
		actor audit.Actor
		want  string
	}{
		{operator, "root(0) operator"},
		{audit.System, "keyd system"},
		{audit.Actor{UID: -1, User: "CN=pay", Role: "client"}, "CN=pay client"},
		{audit.Actor{UID: 1000, Role: "auditor"}, "(1000) auditor"},
		{audit.Actor{UID: -1}, ""},
	} {
		if got := c.actor.String(); got != c.want {
			t.Errorf("%+v: got %q, want %q", c.actor, got, c.want)
		}
	}
}

func FuzzAppend(f *testing.F) {
	cfg := config(f)
	l := open(f, cfg)
	f.Add("decrypt", "wise", "kid", "k", "v")
	f.Add("\",\"prev\":\"", "\n", "\u009b", `{"phase":"intent"}`, strings.Repeat("\x00", 2000))
	f.Fuzz(func(t *testing.T, action, partner, kid, k, v string) {
		e := audit.Entry{Phase: audit.PhaseEvent, Action: action, Partner: partner, KID: kid, Detail: map[string]string{k: v}}
		if err := l.Record(t.Context(), e); err != nil {
			if action != "" && !errors.Is(err, audit.ErrTooLarge) {
				t.Fatal(err)
			}
			return
		}
		got, err := audit.Tail(cfg.Path, 1)
		if err != nil || len(got) != 1 {
			t.Fatalf("%v %v", got, err)
		}
		if len(action) <= audit.MaxText && utf8.ValidString(action) && got[0].Action != action {
			t.Fatalf("action %q became %q", action, got[0].Action)
		}
		if got[0].Seq%1000 == 1 {
			if _, err := audit.Verify(cfg.Path, nil); err != nil {
				t.Fatal(err)
			}
		}
	})
}
