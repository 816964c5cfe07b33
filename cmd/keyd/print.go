package main

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"keyd/client"
)

// table prints aligned columns; the first row is the heading.
func table(w io.Writer, rows [][]string) {
	var padded bytes.Buffer
	tw := tabwriter.NewWriter(&padded, 0, 4, 2, ' ', 0)
	for _, row := range rows {
		fmt.Fprintln(tw, strings.Join(row, "\t"))
	}
	tw.Flush()
	for line := range strings.Lines(padded.String()) {
		fmt.Fprintln(w, strings.TrimRight(line, " \n"))
	}
}

func printKeys(w io.Writer, keys []client.Key, now time.Time) {
	if len(keys) == 0 {
		fmt.Fprintln(w, "no keys; name one in the config or run keyd keys create")
		return
	}
	rows := [][]string{{"KEY", "PARTNER", "BACKEND", "ALGORITHM", "ACTIVE", "NEXT ROTATION", "NEXT STEP"}}
	for _, k := range keys {
		rows = append(rows, []string{k.Name, k.Partner, k.Backend, k.Algorithm + " " + size(k.Bits, k.Curve),
			cmp.Or(k.ActiveKID, "none"), when(k.NextDue, now), k.Next.Name})
	}
	table(w, rows)
}

// size is what a key has of the two.
func size(bits int, curve string) string {
	if curve != "" {
		return curve
	}
	return strconv.Itoa(bits)
}

func printKey(w io.Writer, k client.Key, now time.Time) {
	fmt.Fprintf(w, "key        %s for %s, in %s, %s %s\n", k.Name, k.Partner, k.Backend, k.Algorithm, size(k.Bits, k.Curve))
	fmt.Fprintf(w, "rotates    %s (UTC), next %s\n", k.Policy.Rotate, when(k.NextDue, now))
	fmt.Fprintf(w, "valid for  %s, drains for %s, settles for %s, canary %s\n", k.Policy.ValidFor, k.Policy.DrainFor, k.Policy.SettleFor, k.Policy.Canary)
	fmt.Fprintf(w, "next       %s: %s\n\n", k.Next.Name, k.Next.Reason)
	printTimeline(w, k.Versions, now)
}

func printVersion(w io.Writer, v client.Version, now time.Time) {
	fmt.Fprintf(w, "kid        %s, version %d of %s\n", v.KID, v.Number, v.Key)
	fmt.Fprintf(w, "state      %s%s\n", v.State, map[bool]string{true: ", opens", false: ", does not open"}[v.Opens])
	fmt.Fprintf(w, "material   %s %s in %s: %s\n", v.Algorithm, size(v.Bits, v.Curve), v.Backend, cmp.Or(v.Handle, "not made yet"))
	fmt.Fprintf(w, "valid      %s to %s\n", stamp(v.ValidFrom), stamp(v.ValidTill))
	for _, at := range []struct {
		name string
		at   time.Time
	}{{"told", v.ToldAt}, {"canary", v.CanaryAt}, {"drains to", v.DrainUntil}, {"last open", v.LastOpenAt}, {"disabled", v.DisabledAt}} {
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
	verb := "accepted; the daemon takes these steps"
	if c.DryRun {
		verb = "dry run, nothing was changed; these steps would be taken"
	}
	fmt.Fprintf(w, "%s (key %s%s):\n", verb, c.Key, map[bool]string{true: "", false: ", kid " + c.KID}[c.KID == ""])
	for _, s := range c.Steps {
		reason := s.Reason
		if s.At.After(time.Now().Add(time.Second)) {
			reason += ", not before " + stamp(s.At)
		}
		fmt.Fprintf(w, "  %-10s %s\n", s.Name, reason)
	}
	for _, task := range c.ByHand {
		fmt.Fprintf(w, "  BY HAND    %s\n", task)
	}
}

// glyphs draw a version's states on the timeline.
var glyphs = map[string]rune{"pending": '·', "announced": '░', "active": '█', "draining": '▒', "compromised": '!', "destroying": '-', "destroyed": ' '}

// The past and the future have scales of their own: what has happened in
// minutes and what is planned for months are both to be seen.
const pastColumns, futureColumns = 32, 16

// printTimeline draws each version's life as a bar: what has been left of the
// present, how long the partner may still use it right of it.
func printTimeline(w io.Writer, versions []client.Version, now time.Time) {
	if len(versions) == 0 {
		fmt.Fprintln(w, "no versions yet")
		return
	}
	start, end := now, now
	for _, v := range versions {
		start = earlier(start, v.History[0].At)
		if v.Opens {
			end = later(end, later(v.DrainUntil, v.ValidTill))
		}
	}
	several := slices.ContainsFunc(versions, func(v client.Version) bool { return v.Backend != versions[0].Backend })
	rows := [][]string{{"VERSION", "KID", "STATE", fmt.Sprintf("%-*s│ %s", pastColumns, start.UTC().Format(time.DateTime), end.UTC().Format(time.DateTime))}}
	for _, v := range versions {
		bar := make([]rune, 0, pastColumns+1+futureColumns)
		for i := range pastColumns {
			bar = append(bar, glyphAt(v, start.Add(now.Sub(start)*time.Duration(i+1)/pastColumns), now))
		}
		bar = append(bar, '│')
		for i := range futureColumns {
			bar = append(bar, glyphAt(v, now.Add(end.Sub(now)*time.Duration(i+1)/futureColumns), now))
		}
		state := v.State
		if several { // it moves from one backend to another
			state += " in " + v.Backend
		}
		rows = append(rows, []string{fmt.Sprint(v.Number), v.KID, state, strings.TrimRight(string(bar), " ")})
	}
	table(w, rows)
	fmt.Fprintln(w, "  · pending   ░ announced   █ active   ▒ draining   ! compromised   - destroying   │ now   ═ the partner may still use it")
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
	if v.Opens && !at.After(later(v.DrainUntil, v.ValidTill)) {
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
