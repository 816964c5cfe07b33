package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"keyd/client"
	"keyd/internal/audit"
)

const (
	auditFile     = "audit.jsonl"
	auditHeadFile = "audit.head"
)

func auditCommands() []command {
	return []command{
		{name: "audit tail", brief: "print the last entries of the audit log", setup: auditTail,
			help: "--follow goes on printing entries as they are written."},
		{name: "audit verify", brief: "prove that the audit log, or the evidence of a key, is whole, without the daemon", setup: auditVerify,
			help: "Reads the file alone: it works while the daemon is stopped, and on a copy. Finds\nan edit, a deletion, an insertion, a reordering, and - against a remembered head -\na truncation. Keep heads elsewhere: `keyd status` prints the current one.\nWith --bundle it verifies what `keyd keys evidence` printed: by itself, against the\naudit log of --file, and against the head of --head, as far as these are given.\nExits with 3 when something does not hold."},
	}
}

func auditTail(fs *flag.FlagSet) func(context.Context, terminal, []string) error {
	socket, asJSON := adminFlag(fs), fs.Bool("json", false, "print the entries as they stand in the log")
	n := fs.Int("n", 20, "how many `ENTRIES`")
	follow := fs.Bool("follow", false, "go on with new entries until interrupted")
	return func(ctx context.Context, t terminal, _ []string) error {
		c := client.New(*socket)
		entries, err := c.AuditTail(ctx, *n)
		for err == nil {
			var last uint64
			if last, err = printEntries(t.out, entries, *asJSON); err != nil || !*follow {
				break
			}
			entries, err = nextEntries(ctx, c, last)
		}
		return err
	}
}

// nextEntries waits until there is an entry after seq.
func nextEntries(ctx context.Context, c *client.Client, seq uint64) ([]json.RawMessage, error) {
	for {
		select {
		case <-ctx.Done():
			return nil, exitError(exitOK)
		case <-time.After(500 * time.Millisecond):
		}
		entries, err := c.AuditAfter(ctx, seq, 500)
		if err != nil || len(entries) > 0 {
			return entries, err
		}
	}
}

func printEntries(w io.Writer, entries []json.RawMessage, asJSON bool) (last uint64, err error) {
	rows := [][]string{}
	for _, raw := range entries {
		var e audit.Entry
		if err := json.Unmarshal(raw, &e); err != nil {
			return 0, fmt.Errorf("reading an audit entry: %w", err)
		}
		last = e.Seq
		if asJSON {
			fmt.Fprintf(w, "%s\n", raw)
			continue
		}
		subject := strings.Join(strings.Fields(e.Partner+" "+e.Key+" "+e.KID), " ")
		rows = append(rows, []string{strconv.FormatUint(e.Seq, 10), stamp(e.At), e.Phase, e.Action, subject,
			e.Actor.String(), strings.TrimSpace(e.Result + " " + e.Code)})
	}
	table(w, rows)
	return last, nil
}

func auditVerify(fs *flag.FlagSet) func(context.Context, terminal, []string) error {
	config := configFlag(fs)
	file := fs.String("file", "", "the audit log `FILE` (default: in the config's state_dir)")
	head := fs.String("head", "", "a remembered head, `SEQ:HASH` (default: the head file beside the log)")
	bundle := fs.String("bundle", "", "verify the evidence of a key in this `FILE`, instead of the log alone")
	asJSON := fs.Bool("json", false, "print JSON")
	return func(_ context.Context, t terminal, _ []string) error {
		want, err := parseHead(*head)
		if err != nil {
			return err
		}
		if *bundle != "" {
			return verifyBundle(t, *bundle, *file, want, *asJSON)
		}
		path := *file
		if path == "" {
			cfg, err := loadConfig(*config)
			if err != nil {
				return hint(err, "name the log with --file to verify it without a config")
			}
			path = filepath.Join(cfg.StateDir, auditFile)
		}
		return verifyLog(t, path, want, *asJSON)
	}
}

func verifyLog(t terminal, path string, want *audit.Head, asJSON bool) error {
	report, err := audit.Verify(path, want)
	broken, isBroken := errors.AsType[*audit.BrokenError](err)
	if err != nil && !isBroken {
		return err
	}
	if asJSON {
		answer := map[string]any{"ok": !isBroken, "report": report}
		if isBroken {
			answer["broken"] = broken.Error()
		}
		if err := printJSON(t.out, answer); err != nil {
			return err
		}
	} else if isBroken {
		fmt.Fprintf(t.out, "BROKEN: %v\n", broken)
	} else {
		fmt.Fprintf(t.out, "whole: %d entries, head %d:%s\n", report.Entries, report.Head.Seq, report.Head.Hash)
		if report.Remembered == nil {
			fmt.Fprintln(t.out, "no head was compared: if entries were cut off its end, this does not show it; give --head")
		}
	}
	if isBroken {
		return exitError(exitProblem)
	}
	return nil
}

// parseHead reads SEQ:HASH; "" is no head of the caller's.
func parseHead(s string) (*audit.Head, error) {
	if s == "" {
		return nil, nil //nolint:nilnil // no head given is not an error
	}
	seq, hash, _ := strings.Cut(s, ":")
	n, err := strconv.ParseUint(seq, 10, 64)
	if err != nil || len(hash) != 64 {
		return nil, fmt.Errorf("--head %q: want SEQ:HASH as keyd status prints it", s)
	}
	return &audit.Head{Seq: n, Hash: hash}, nil
}
