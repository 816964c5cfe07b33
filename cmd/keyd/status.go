package main

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"keyd/client"
)

func statusCommand() command {
	return command{name: "status", brief: "what is active, what is next, what is wrong", setup: statusSetup,
		help: "Exits with 3 when there is a problem of severity error."}
}

func statusSetup(fs *flag.FlagSet) func(context.Context, terminal, []string) error {
	socket, asJSON := adminFlag(fs), fs.Bool("json", false, "print JSON")
	return func(ctx context.Context, t terminal, _ []string) error {
		status, err := client.New(*socket).Status(ctx)
		if err != nil {
			return err
		}
		if *asJSON {
			err = printJSON(t.out, status)
		} else {
			printStatus(t.out, *status)
		}
		if err == nil && worst(status.Problems) == "error" {
			err = exitError(exitProblem)
		}
		return err
	}
}

// levels names boundary levels: one if all are the same.
func levels(byAlgorithm map[string]string) string {
	var all []string
	for _, algorithm := range slices.Sorted(maps.Keys(byAlgorithm)) {
		all = append(all, algorithm+" "+byAlgorithm[algorithm])
	}
	return strings.Join(all, ", ")
}

func printStatus(w io.Writer, s client.Status) {
	fmt.Fprintf(w, "keyd %s, instance %s, up since %s, %s\n", s.Version, s.Instance, stamp(s.StartedAt),
		map[bool]string{true: "ready", false: "NOT READY"}[s.Ready])
	fmt.Fprintf(w, "audit head %d:%s\n\n", s.AuditHead.Seq, s.AuditHead.Hash)
	printBackends(w, s.Backends, s.Now)
	fmt.Fprintln(w)
	printKeys(w, s.Keys, s.Now)
	for _, k := range s.Keys {
		fmt.Fprintf(w, "\n%s — next: %s, %s\n", k.Name, k.Next.Name, k.Next.Reason)
		printTimeline(w, k.Versions, s.Now)
	}
	fmt.Fprintln(w)
	printPartners(w, s.Partners, s.Now)
	fmt.Fprintln(w)
	printFindings(w, s.Problems, "no problems")
}

func printBackends(w io.Writer, backends []client.Backend, now time.Time) {
	rows := [][]string{{"BACKEND", "KIND", "BOUNDARY", "SESSIONS", "DEVICE", ""}}
	for _, b := range backends {
		boundary := levels(b.Levels)
		if b.MinBoundary != "" {
			boundary += " (at least " + b.MinBoundary + ")"
		}
		rows = append(rows, []string{b.Name, b.Kind, boundary, fmt.Sprintf("%d of %d in use", b.InUse, b.Sessions), deviceOf(b), b.Error})
	}
	table(w, rows)
	for _, b := range backends {
		if p := b.Process; p != nil && (p.State != "ready" || p.Generation > 1) {
			fmt.Fprintf(w, "%s: %s\n", b.Name, libraryOf(*p, now))
		}
	}
}

// libraryOf says how the process of a PKCS#11 library does that is not the first.
func libraryOf(p client.Process, now time.Time) string {
	said := fmt.Sprintf("its library's process is %s since %s", p.State, stamp(p.Since))
	if p.State == "ready" {
		said = fmt.Sprintf("its library is in process %d, number %d, since %s", p.PID, p.Generation, stamp(p.Since))
	}
	if p.Next.After(now) {
		said += fmt.Sprintf(", next try in %s", p.Next.Sub(now).Round(time.Second))
	}
	if p.LastEnd != "" {
		said += "; the last one ended: " + p.LastEnd
	}
	return said
}

// deviceOf is a token, or a KMS, in a few words.
func deviceOf(b client.Backend) string {
	d := b.Device
	if d["service"] != "" {
		return strings.TrimSpace(d["service"] + " " + d["region"] + " " + d["account"])
	}
	return strings.TrimSpace(fmt.Sprintf("%s %s serial %s", d["model"], d["label"], d["serial"]))
}

func printFindings(w io.Writer, findings []client.Finding, none string) {
	if len(findings) == 0 {
		fmt.Fprintln(w, none)
	}
	for _, f := range findings {
		fmt.Fprintf(w, "%-7s %s: %s [%s]\n", f.Severity, f.Subject, f.Message, f.Code)
		if f.Hint != "" {
			fmt.Fprintf(w, "        → %s\n", f.Hint)
		}
	}
}

func worst(findings []client.Finding) string {
	severity := ""
	for _, f := range findings {
		if f.Severity == "error" {
			return "error"
		}
		severity = f.Severity
	}
	return severity
}

func doctorCommand() command {
	return command{name: "doctor", brief: "check every invariant against the registry, the backends and the audit log", setup: doctorSetup,
		help: "Looks for versions whose key material is missing or different, orphans in the\nbackend, histories off the transition table, and audit entries that are gone.\nChanges nothing. Exits with 3 when it finds an error."}
}

func doctorSetup(fs *flag.FlagSet) func(context.Context, terminal, []string) error {
	socket, asJSON := adminFlag(fs), fs.Bool("json", false, "print JSON")
	return func(ctx context.Context, t terminal, _ []string) error {
		report, err := client.New(*socket).Doctor(ctx)
		if err != nil {
			return err
		}
		if *asJSON {
			err = printJSON(t.out, report)
		} else {
			for _, c := range report.Checked {
				fmt.Fprintf(t.out, "looked at  %s\n", c)
			}
			printFindings(t.out, report.Findings, "all is well")
		}
		if err == nil && !report.OK {
			err = exitError(exitProblem)
		}
		return err
	}
}

func partnerCommands() []command {
	return []command{
		{name: "partners list", brief: "list the partners and their public keys", setup: asking((*client.Client).Partners, printPartners)},
		{name: "partners show", args: "PARTNER", brief: "show a partner: its key, our active kid, the headers to send", setup: partnersShow},
		{name: "partners jwks", args: "PARTNER", brief: "print our public keys that a partner may use now, as a JWK set", setup: partnersJWKS,
			help: "For partners that fetch our keys: serve it where the partner looks, and renew it\nmore often than settle_for of the key. A new key is in it before it is used."},
		{name: "partners refresh", args: "PARTNER", brief: "fetch the partner's public key afresh", setup: partnersRefresh,
			help: "keyd stores a partner's key and fetches it again only when told to, or when a\ncaller says that an envelope was refused."},
	}
}

func printPartners(w io.Writer, partners []client.Partner, now time.Time) {
	rows := [][]string{{"PARTNER", "TYPE", "OUR KID", "THEIR KEY", "SEEN"}}
	for _, p := range partners {
		key, seen := "not fetched yet", ""
		if p.Key != nil {
			key = fmt.Sprintf("%s %s…", p.Key.Algorithm, p.Key.Fingerprint[:min(16, len(p.Key.Fingerprint))])
			seen = when(p.Key.LastSeen, now)
		}
		rows = append(rows, []string{p.Name, p.Type, cmp.Or(p.ActiveKID, "none"), key, seen})
	}
	table(w, rows)
}

func partnersShow(fs *flag.FlagSet) func(context.Context, terminal, []string) error {
	socket, asJSON := adminFlag(fs), fs.Bool("json", false, "print JSON")
	return func(ctx context.Context, t terminal, args []string) error {
		p, err := client.New(*socket).Partner(ctx, args[0])
		if err != nil {
			return err
		}
		if *asJSON {
			return printJSON(t.out, p)
		}
		fmt.Fprintf(t.out, "partner   %s (%s)\nour kid   %s\naccepts   %s\n", p.Name, p.Type, cmp.Or(p.ActiveKID, "none"), accepted(p))
		for _, c := range p.Calls {
			fmt.Fprintf(t.out, "calls     %s %s\n", strings.Join(c.Methods, ", "), strings.Join(c.Paths, " "))
		}
		printHeaders(t.out, "headers to send with a sealed request", p.Headers)
		printHeaders(t.out, "headers to send with a request that has no body", p.GetHeaders)
		if p.Key != nil {
			printPartnerKey(t.out, *p.Key)
			printPins(t.out, p)
		}
		return nil
	}
}

func partnersRefresh(fs *flag.FlagSet) func(context.Context, terminal, []string) error {
	socket, asJSON := adminFlag(fs), fs.Bool("json", false, "print JSON")
	dryRun := fs.Bool("dry-run", false, "fetch it and compare, store nothing")
	return func(ctx context.Context, t terminal, args []string) error {
		key, err := client.New(*socket).RefreshPartner(ctx, args[0], *dryRun)
		if err != nil {
			return err
		}
		if *asJSON {
			return printJSON(t.out, key)
		}
		fmt.Fprintln(t.out, map[bool]string{true: "the partner's key CHANGED", false: "the partner's key is the same"}[key.Changed])
		printPartnerKey(t.out, *key)
		return nil
	}
}

// accepted is what answers of a partner may be sealed with.
func accepted(p *client.Partner) string {
	encs := strings.Join(p.Encs, ", ")
	switch {
	case len(p.Algs) > 0:
		return strings.Join(p.Algs, ", ") + " with " + encs
	case len(p.Encs) > 0:
		return "replies in their exchange, with " + encs
	}
	return "nothing sealed"
}

func printHeaders(w io.Writer, title string, headers map[string]string) {
	fmt.Fprintln(w, title)
	rows := [][]string{}
	for _, name := range sortedKeys(headers) {
		rows = append(rows, []string{"  " + name + ":", headers[name]})
	}
	table(w, rows)
}

// printPins says whether their key is one of those that the config pins.
func printPins(w io.Writer, p *client.Partner) {
	switch {
	case len(p.Pins) == 0:
		fmt.Fprintln(w, "pinned    no: whatever key the partner shows is taken (pin in the config)")
	case slices.Contains(p.Pins, p.Key.Fingerprint):
		fmt.Fprintf(w, "pinned    yes, with %d in the config\n", len(p.Pins))
	default:
		fmt.Fprintln(w, "pinned    NO: the config pins others, and nothing is sealed to this key")
	}
}

func printPartnerKey(w io.Writer, k client.PartnerKey) {
	fmt.Fprintf(w, "their key %s id %s version %d\n  sha256  %s\n  first seen %s, last seen %s\n%s",
		k.Algorithm, cmp.Or(k.ID, "none"), k.Version, k.Fingerprint, stamp(k.FirstSeen), stamp(k.LastSeen), k.PublicPEM)
}
