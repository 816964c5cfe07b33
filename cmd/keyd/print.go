package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"keyd/client"
)

// table prints aligned columns; the first row is the heading.
func table(w io.Writer, rows [][]string) {
	tw := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	for _, row := range rows {
		fmt.Fprintln(tw, strings.Join(row, "\t"))
	}
	tw.Flush()
}

func printKeys(w io.Writer, keys []client.Key, now time.Time) {
	if len(keys) == 0 {
		fmt.Fprintln(w, "no keys; name one in the config or run keyd keys create")
		return
	}
	rows := [][]string{{"KEY", "PARTNER", "BACKEND", "ALGORITHM", "ACTIVE", "NEXT ROTATION", "NEXT STEP"}}
	for _, k := range keys {
		rows = append(rows, []string{k.Name, k.Partner, k.Backend, fmt.Sprintf("%s %d", k.Algorithm, k.Bits),
			cmp.Or(k.ActiveKID, "none"), when(k.NextDue, now), k.Next.Name})
	}
	table(w, rows)
}

func printKey(w io.Writer, k client.Key, now time.Time) {
	fmt.Fprintf(w, "key        %s for %s, in %s, %s %d\n", k.Name, k.Partner, k.Backend, k.Algorithm, k.Bits)
	fmt.Fprintf(w, "rotates    %s (UTC), next %s\n", k.Policy.Rotate, when(k.NextDue, now))
	fmt.Fprintf(w, "valid for  %s, drains for %s, settles for %s, canary %s\n", k.Policy.ValidFor, k.Policy.DrainFor, k.Policy.SettleFor, k.Policy.Canary)
	fmt.Fprintf(w, "next       %s: %s\n\n", k.Next.Name, k.Next.Reason)
	printTimeline(w, k.Versions, now)
}

func printVersion(w io.Writer, v client.Version, now time.Time) {
	fmt.Fprintf(w, "kid        %s, version %d of %s\n", v.KID, v.Number, v.Key)
	fmt.Fprintf(w, "state      %s%s\n", v.State, map[bool]string{true: ", opens", false: ", does not open"}[v.Opens])
	fmt.Fprintf(w, "material   %s %d in %s: %s\n", v.Algorithm, v.Bits, v.Backend, cmp.Or(v.Handle, "not made yet"))
	fmt.Fprintf(w, "valid      %s to %s\n", stamp(v.ValidFrom), stamp(v.ValidTill))
	for _, at := range []struct {
		name string
		at   time.Time
	}{{"told", v.ToldAt}, {"canary", v.CanaryAt}, {"drains to", v.DrainUntil}, {"last open", v.LastOpenAt}} {
		if !at.at.IsZero() {
			fmt.Fprintf(w, "%-10s %s (%s)\n", at.name, stamp(at.at), when(at.at, now))
		}
	}
	if v.LastError != "" {
		fmt.Fprintf(w, "trouble    %s (try %d, next %s)\n", v.LastError, v.Tries, when(v.NextTry, now))
	}
	fmt.Fprintln(w, "\nhistory")
	rows := [][]string{}
	for _, e := range v.History {
		rows = append(rows, []string{"  " + stamp(e.At), cmp.Or(e.From, "·") + " → " + e.To, e.By, e.Reason, fmt.Sprintf("audit %d", e.Audit)})
	}
	table(w, rows)
	if v.PublicPEM != "" {
		fmt.Fprintf(w, "\n%s", v.PublicPEM)
	}
}

func printChange(w io.Writer, c client.Change) {
	verb := "done"
	if c.DryRun {
		verb = "dry run, nothing was changed; this would be done"
	}
	fmt.Fprintf(w, "%s (key %s%s):\n", verb, c.Key, map[bool]string{true: "", false: ", kid " + c.KID}[c.KID == ""])
	for _, s := range c.Steps {
		fmt.Fprintf(w, "  %-10s %s\n", s.Name, s.Reason)
	}
	for _, task := range c.ByHand {
		fmt.Fprintf(w, "  BY HAND    %s\n", task)
	}
}

// glyphs draw a version's states on the timeline; one column per part of the
// span shown.
var glyphs = map[string]rune{"pending": '·', "announced": '░', "active": '█', "draining": '▒', "compromised": '!', "destroying": '-', "destroyed": ' '}

const columns = 48

// printTimeline draws each version's life as a bar, the past left of the
// present, and what is planned (drain deadline, validTill) right of it.
func printTimeline(w io.Writer, versions []client.Version, now time.Time) {
	if len(versions) == 0 {
		fmt.Fprintln(w, "no versions yet")
		return
	}
	start, end := now, now
	for _, v := range versions {
		start = earlier(start, v.History[0].At)
		end = later(end, later(v.DrainUntil, v.ValidTill))
	}
	span := max(end.Sub(start), time.Second)
	rows := [][]string{{"VERSION", "KID", "STATE", "LIFE (" + stamp(start) + " to " + stamp(end) + ")"}}
	at := func(i int) time.Time { return start.Add(span * time.Duration(i) / columns) }
	today := int(now.Sub(start) * columns / span)
	for _, v := range versions {
		bar := make([]rune, columns+1)
		for i := range bar {
			bar[i] = glyphAt(v, at(i), now)
		}
		bar[min(today, columns)] = '│'
		rows = append(rows, []string{fmt.Sprint(v.Number), v.KID, v.State, string(bar)})
	}
	table(w, rows)
	fmt.Fprintln(w, "  │ now   ░ announced   █ active   ▒ draining   ! compromised   ═ valid at the partner until validTill")
}

func glyphAt(v client.Version, at, now time.Time) rune {
	if at.Before(v.History[0].At) {
		return ' '
	}
	if !at.After(now) {
		i := len(v.History) - 1
		for i > 0 && v.History[i].At.After(at) {
			i--
		}
		return glyphs[v.History[i].To]
	}
	if v.Opens && at.Before(later(v.DrainUntil, v.ValidTill)) {
		return '═'
	}
	return ' '
}

func earlier(a, b time.Time) time.Time { return slices.MinFunc([]time.Time{a, b}, time.Time.Compare) }
func later(a, b time.Time) time.Time   { return slices.MaxFunc([]time.Time{a, b}, time.Time.Compare) }

func stamp(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format("2006-01-02 15:04:05Z")
}

// when says how far off a moment is, coarsely.
func when(t, now time.Time) string {
	if t.IsZero() {
		return "-"
	}
	d := t.Sub(now)
	text, past := "", d < 0
	d = d.Abs()
	switch {
	case d < time.Minute:
		text = fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		text = fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		text = fmt.Sprintf("%dh", int(d.Hours()))
	default:
		text = fmt.Sprintf("%dd", int(d.Hours()/24))
	}
	if past {
		return text + " ago"
	}
	return "in " + text
}
