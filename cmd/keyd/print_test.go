package main

import (
	"strings"
	"testing"
	"time"

	"keyd/client"
)

func TestTimelineShowsThePastThePresentAndThePlan(t *testing.T) {
	now := time.Date(2027, 3, 1, 0, 0, 0, 0, time.UTC)
	ago := func(days int) time.Time { return now.AddDate(0, 0, -days) }
	versions := []client.Version{
		{KID: "old", Number: 1, State: "draining", Opens: true, ValidTill: now.AddDate(0, 0, 24), History: []client.Event{
			{At: ago(24), To: "pending"}, {At: ago(23), To: "announced"}, {At: ago(22), To: "active"}, {At: ago(10), To: "draining"}}},
		{KID: "new", Number: 2, State: "active", Opens: true, ValidTill: now.AddDate(0, 0, 12), History: []client.Event{
			{At: ago(12), To: "pending"}, {At: ago(10), To: "active"}}},
	}
	var out strings.Builder
	printTimeline(&out, versions, now)
	lines := strings.Split(out.String(), "\n")
	for i, want := range []map[string]int{
		// 24 days of past are 32 columns, 24 days of future are 16.
		{"·": 1, "░": 1, "█": 16, "▒": 14, "│": 1, "═": 16},
		{"·": 3, "█": 14, "│": 1, "═": 8},
	} {
		bar := lines[i+1]
		for glyph, n := range want {
			if got := strings.Count(bar, glyph); got != n {
				t.Errorf("version %d: %d × %s, want %d in %q", i+1, got, glyph, n, bar)
			}
		}
	}
}

func TestTimelineOfAVersionMadeThisInstant(t *testing.T) {
	now := time.Now()
	var out strings.Builder
	printTimeline(&out, []client.Version{{KID: "k", Number: 1, State: "pending", History: []client.Event{{At: now, To: "pending"}}}}, now)
	if !strings.Contains(out.String(), "│") {
		t.Errorf("no mark for the present in %q", out.String())
	}
}

func TestWhenIsCoarseAndSaysWhichSide(t *testing.T) {
	now := time.Now()
	for d, want := range map[time.Duration]string{
		30 * time.Second: "in 30s", -5 * time.Minute: "5m ago", 47 * time.Hour: "in 47h", 49 * time.Hour: "in 2d", -240 * time.Hour: "10d ago",
	} {
		if got := when(now.Add(d), now); got != want {
			t.Errorf("%s: got %q, want %q", d, got, want)
		}
	}
	if got := when(time.Time{}, now); got != "-" {
		t.Errorf("no time: got %q", got)
	}
}

func TestTableAlignsColumnsAndLeavesNothingAtTheEndOfALine(t *testing.T) {
	var out strings.Builder
	table(&out, [][]string{{"KEY", "DEVICE"}, {"wise-response", "keyd"}, {"x", ""}})
	if want := "KEY            DEVICE\nwise-response  keyd\nx\n"; out.String() != want {
		t.Errorf("got %q, want %q", out.String(), want)
	}
}
