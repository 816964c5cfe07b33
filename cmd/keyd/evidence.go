package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"

	"keyd/client"
	"keyd/internal/audit"
	"keyd/internal/evidence"
	"keyd/internal/rotation"
)

func keysEvidence(fs *flag.FlagSet) func(context.Context, terminal, []string) error {
	socket, asSent := adminFlag(fs), fs.Bool("json", false, "print it on one line, as the daemon sent it")
	return func(ctx context.Context, t terminal, args []string) error {
		document, err := client.New(*socket).Evidence(ctx, args[0])
		if err != nil {
			return err
		}
		var out bytes.Buffer
		if *asSent {
			out.Write(document)
		} else if err := json.Indent(&out, document, "", "  "); err != nil {
			return fmt.Errorf("reading keyd's answer: %w", err)
		}
		out.WriteByte('\n')
		_, err = out.WriteTo(t.out)
		return err
	}
}

// evidenceView is what keys show --evidence tells of a version.
type evidenceView struct {
	KID          string          `json:"kid"`
	Key          string          `json:"key"`
	Number       int             `json:"number"`
	State        string          `json:"state"`
	PublicSHA256 string          `json:"public_sha256,omitempty"`
	Evidence     json.RawMessage `json:"evidence,omitempty"`
	SelfTest     json.RawMessage `json:"self_test,omitempty"`
}

func viewEvidence(v client.Version) evidenceView {
	return evidenceView{v.KID, v.Key, v.Number, v.State, v.PublicSHA256, v.Evidence, v.SelfTest}
}

// documents reads what is kept of a key pair; zero where nothing is yet.
func documents(v client.Version) (made rotation.Evidence, test rotation.SelfTest, err error) {
	for _, d := range []struct {
		raw  json.RawMessage
		into any
	}{{v.Evidence, &made}, {v.SelfTest, &test}} {
		if len(d.raw) > 0 {
			err = errors.Join(err, json.Unmarshal(d.raw, d.into))
		}
	}
	if err != nil {
		err = fmt.Errorf("reading the evidence of %s: %w", v.KID, err)
	}
	return made, test, err
}

// showEvidence prints the evidence of one version.
func showEvidence(w io.Writer, v client.Version) error {
	made, test, err := documents(v)
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "kid        %s, version %d of %s, %s\n", v.KID, v.Number, v.Key, v.State)
	if made.At.IsZero() {
		fmt.Fprintln(w, "evidence   none yet: its key pair has not been made")
		return nil
	}
	how := map[bool]string{true: "adopted", false: "made"}[v.Adopted]
	fmt.Fprintf(w, "%-10s %s in %s (%s)%s\n", how, stamp(made.At), v.Backend, made.Backend, after(" by ", made.Mechanism))
	for _, name := range slices.Sorted(maps.Keys(made.Device)) {
		fmt.Fprintf(w, "           %-13s %s\n", name, cmp.Or(strings.TrimSpace(made.Device[name]), "-"))
	}
	fmt.Fprintf(w, "level      %s\n", made.Level)
	fmt.Fprintf(w, "public     %s %s, SHA-256 %s\n", v.Algorithm, size(v.Bits, v.Curve), v.PublicSHA256)
	if test.At.IsZero() {
		fmt.Fprintln(w, "self-test  not passed yet")
	} else {
		fmt.Fprintf(w, "self-test  %s %s%s\n           %s\n", test.Result, stamp(test.At), after(" at level ", string(test.Level)), test.Method)
	}
	fmt.Fprintln(w, "attributes, as read back")
	for _, name := range slices.Sorted(maps.Keys(made.Attributes)) {
		fmt.Fprintf(w, "  %-23s %s\n", name, made.Attributes[name])
	}
	for _, problem := range made.Problems {
		fmt.Fprintf(w, "PROBLEM    %s\n", problem)
	}
	fmt.Fprintf(w, "committed  evidence %s\n           under entry %d of the audit log\n", audit.Digest(v.Evidence), made.Audit)
	if !test.At.IsZero() {
		fmt.Fprintf(w, "           self-test %s\n           under entry %d\n", audit.Digest(v.SelfTest), test.Audit)
	}
	return nil
}

func after(words, text string) string {
	if text == "" {
		return ""
	}
	return words + text
}

// showEvidences prints what there is of each of a key's versions.
func showEvidences(w io.Writer, key client.Key) error {
	rows := [][]string{{"VERSION", "KID", "STATE", "MADE", "BY", "LEVEL", "SELF-TEST", "PROBLEMS"}}
	for _, v := range key.Versions {
		made, test, err := documents(v)
		if err != nil {
			return err
		}
		rows = append(rows, []string{strconv.Itoa(v.Number), v.KID, v.State, stamp(made.At), cmp.Or(made.Mechanism, "-"),
			cmp.Or(string(made.Level), "-"), cmp.Or(test.Result, "not yet"), strconv.Itoa(len(made.Problems))})
	}
	table(w, rows)
	fmt.Fprintf(w, "keyd keys show KID --evidence shows one of them, keyd keys evidence %s all there is as one document\n", key.Name)
	return nil
}

// bundleReport is what audit verify --bundle prints as JSON.
type bundleReport struct {
	OK       bool             `json:"ok"`
	Key      string           `json:"key"`
	Instance string           `json:"instance"`
	Versions int              `json:"versions"`
	Entries  int              `json:"entries"`
	Export   audit.Head       `json:"export"`
	Log      *audit.Report    `json:"log,omitempty"`  // if it was held against one
	Head     *bool            `json:"head,omitempty"` // if one was given: whether the document has that entry
	Faults   []evidence.Fault `json:"faults"`
}

// verifyBundle verifies the evidence of a key, with a copy of the audit log or
// a remembered head if there is one to hold it against.
func verifyBundle(t terminal, path, log string, head *audit.Head, asJSON bool) error {
	document, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	v, err := evidence.Verify(document)
	if err != nil {
		return hint(err, "keyd keys evidence KEY > FILE makes one")
	}
	b := v.Bundle
	r := bundleReport{Key: b.Key.Name, Instance: b.Instance, Versions: len(b.Key.Versions), Entries: len(b.Entries), Export: v.Export}
	if head != nil {
		known := v.AgainstHead(*head)
		r.Head = &known
	}
	if log != "" {
		report, err := v.AgainstLog(log)
		if broken, ok := errors.AsType[*audit.BrokenError](err); ok {
			v.Faults = append(v.Faults, evidence.Fault{Subject: "log", Message: broken.Error()})
		} else if err != nil {
			return err
		}
		r.Log = &report
	}
	r.Faults, r.OK = append([]evidence.Fault{}, v.Faults...), len(v.Faults) == 0
	if asJSON {
		if err := printJSON(t.out, r); err != nil {
			return err
		}
	} else {
		printBundle(t.out, b, r)
	}
	if !r.OK {
		return exitError(exitProblem)
	}
	return nil
}

func printBundle(w io.Writer, b evidence.Bundle, r bundleReport) {
	fmt.Fprintf(w, "evidence   of %s (instance %s), exported %s as entry %d of the audit log\n", r.Key, r.Instance, stamp(b.At), r.Export.Seq)
	fmt.Fprintf(w, "holds      %d versions, %d entries of the log up to entry %d\n", r.Versions, r.Entries, b.Log.Head.Seq)
	switch {
	case r.Log != nil:
		fmt.Fprintf(w, "log        %d entries, head %d:%s\n", r.Log.Entries, r.Log.Head.Seq, r.Log.Head.Hash)
	case r.Head == nil:
		fmt.Fprintln(w, "           nothing else was compared: whoever makes all of a document anew can make its hashes too;\n           give --file, a copy of the audit log, or --head, the export's as it was kept")
	}
	if r.Head != nil && !*r.Head {
		fmt.Fprintln(w, "           the head given is of an entry that is not in the document: it says nothing of it")
	}
	for _, f := range r.Faults {
		fmt.Fprintf(w, "FAULT      %s: %s\n", f.Subject, f.Message)
	}
	if r.OK {
		fmt.Fprintf(w, "whole: its head is %d:%s\n", r.Export.Seq, r.Export.Hash)
	} else {
		fmt.Fprintf(w, "BROKEN: %d faults\n", len(r.Faults))
	}
}
