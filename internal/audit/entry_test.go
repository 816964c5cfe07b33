package audit_test

import (
	"errors"
	"strings"
	"testing"

	"keyd/internal/audit"
)

func TestMalformedEntriesAreRefused(t *testing.T) {
	cfg := config(t)
	l := open(t, cfg)
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
