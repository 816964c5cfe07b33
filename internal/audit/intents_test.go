package audit_test

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"keyd/internal/audit"
)

func intent(op string) audit.Entry {
	return audit.Entry{Op: op, Phase: audit.PhaseIntent, Action: "key.rotate", Actor: audit.System, Key: "k"}
}

func outcome(op, result string) audit.Entry {
	return audit.Entry{Op: op, Phase: audit.PhaseOutcome, Action: "key.rotate", Actor: audit.System, Result: result}
}

func TestUnsettledIntentsAreFound(t *testing.T) {
	cfg := config(t)
	l := open(t, cfg)
	decoy := event(1)
	decoy.Op, decoy.Detail = "c", map[string]string{"phase": "outcome"}
	lure := event(2)
	lure.Op, lure.Detail = "lure", map[string]string{"phase": "intent"}
	appendAll(t, l, outcome("before", audit.ResultOK), intent("a"), intent("b"), outcome("a", audit.ResultOK), intent("c"),
		decoy, lure, outcome("b", audit.ResultFailed), intent("d"), outcome("e", audit.ResultOK))
	if len(l.Unsettled()) != 0 {
		t.Errorf("this daemon's own are among them: %v", numbers(l.Unsettled()))
	}
	shut(t, l)
	l = open(t, cfg)
	got := l.Unsettled()
	if !slices.Equal(numbers(got), []uint64{5, 9}) {
		t.Fatalf("got %v, want entries 5 and 9", numbers(got))
	}
	if got[0].Op != "c" || got[1].Op != "d" || got[0].Key != "k" {
		t.Errorf("got %+v", got)
	}
}

// What the daemon settles, and what it begins, is its own business.
func TestUnsettledIsWhatOpenFound(t *testing.T) {
	cfg := config(t)
	l := open(t, cfg)
	appendAll(t, l, intent("a"), intent("b"))
	shut(t, l)
	l = open(t, cfg)
	before := l.Unsettled()
	before[0].Op = "changed by the caller"
	appendAll(t, l, intent("c"), outcome("a", audit.ResultOK))
	if got := l.Unsettled(); !slices.Equal(numbers(got), []uint64{1, 2}) || got[0].Op != "a" {
		t.Errorf("got %+v", got)
	}
	shut(t, l)
	if got := open(t, cfg).Unsettled(); !slices.Equal(numbers(got), []uint64{2, 3}) {
		t.Errorf("the next one finds %v, want entries 2 and 3", numbers(got))
	}
}

// An intent in a torn line was not acknowledged: nothing was done.
func TestTornIntentIsNotUnsettled(t *testing.T) {
	cfg := config(t)
	l := open(t, cfg)
	appendAll(t, l, intent("a"))
	shut(t, l)
	head := contents(t, audit.HeadPath(cfg.Path))
	l = open(t, cfg)
	appendAll(t, l, intent("b"))
	shut(t, l)
	log := contents(t, cfg.Path)
	put(t, cfg.Path, log[:len(log)-1])
	put(t, audit.HeadPath(cfg.Path), head)
	if got := open(t, cfg).Unsettled(); !slices.Equal(numbers(got), []uint64{1}) {
		t.Errorf("got %v, want entry 1", numbers(got))
	}
}

// An outcome written with the intent as it was read back settles it, however
// the operation was cut.
func TestCutOperationsAreSettled(t *testing.T) {
	cfg := config(t)
	for _, op := range []string{strings.Repeat("x", 1000), strings.Repeat("\x01", 1000), strings.Repeat("\xff", 1000), "\xff"} {
		l := open(t, cfg)
		appendAll(t, l, intent(op))
		shut(t, l)
		l = open(t, cfg)
		open := l.Unsettled()
		if len(open) != 1 {
			t.Fatalf("%.10q: %d unsettled", op, len(open))
		}
		settled := open[0]
		settled.Phase, settled.Result = audit.PhaseOutcome, audit.ResultOK
		appendAll(t, l, settled)
		shut(t, l)
	}
	if got := open(t, cfg).Unsettled(); len(got) != 0 {
		t.Errorf("got %+v", got)
	}
}

// Whoever knows the format can make a chain of lines that keyd cannot read.
func TestForgedIntentThatIsNotJSONIsRefused(t *testing.T) {
	cfg := config(t)
	body := `{"seq":1,"at":"2026-01-02T03:04:05.000000Z","phase":"intent" oops,"prev":"` + strings.Repeat("0", 64) + `"`
	sum := sha256.Sum256([]byte(body + "}"))
	put(t, cfg.Path, fmt.Appendf(nil, "%s,\"hash\":%q}\n", body, hex.EncodeToString(sum[:])))
	if _, err := audit.Open(cfg); !errors.Is(err, audit.ErrBroken) || !strings.Contains(err.Error(), "line 1") {
		t.Errorf("Open: %v", err)
	}
	if _, err := audit.Verify(cfg.Path, nil); !errors.Is(err, audit.ErrBroken) {
		t.Errorf("Verify: %v", err)
	}
}
