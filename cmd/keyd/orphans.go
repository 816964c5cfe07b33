package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"

	"keyd/client"
)

func backendCommands() []command {
	return []command{
		{name: "backends list", brief: "list the backends, their boundary levels and devices", setup: asking(backends, printBackends)},
		{name: "backends orphans", args: "BACKEND", brief: "private keys under keyd's name that no version has", setup: orphansSetup,
			help: "Looks, and destroys nothing unless told which: --destroy takes the whole handle, as\nconfirmation, and may be given several times. What a version has, and what is not\nunder keyd's name, is refused. A key that the partner was told of may be a version\nthat a restored registry has lost: keyd keys adopt brings it back; --told destroys\nit. A second daemon with the same instance name has its keys here too, and only its\nown audit log knows of them. Exits with 3 when there are orphans."},
	}
}

func backends(c *client.Client, ctx context.Context) ([]client.Backend, error) {
	status, err := c.Status(ctx)
	if err != nil {
		return nil, err
	}
	return status.Backends, nil
}

// several collects a flag that may be given more than once.
type several []string

func (s *several) String() string { return strings.Join(*s, " ") }

func (s *several) Set(value string) error {
	*s = append(*s, value)
	return nil
}

func orphansSetup(fs *flag.FlagSet) func(context.Context, terminal, []string) error {
	socket, asJSON := adminFlag(fs), fs.Bool("json", false, "print JSON")
	body := client.DestroyOrphans{}
	fs.Var((*several)(&body.Handles), "destroy", "destroy the one of this `HANDLE`")
	fs.StringVar(&body.Reason, "reason", "", "`TEXT` for the audit log")
	fs.BoolVar(&body.Told, "told", false, "destroy it although the partner was told of it")
	dryRun := fs.Bool("dry-run", false, "say what would be destroyed, do nothing")
	return func(ctx context.Context, t terminal, args []string) error {
		c := client.New(*socket)
		if len(body.Handles) > 0 {
			return destroyOrphans(ctx, t, c, args[0], body, *dryRun, *asJSON)
		}
		found, err := c.Orphans(ctx, args[0])
		switch {
		case err != nil:
			return err
		case *asJSON:
			err = printJSON(t.out, found)
		default:
			printOrphans(t.out, args[0], found)
		}
		if err == nil && len(found) > 0 {
			err = exitError(exitProblem)
		}
		return err
	}
}

func destroyOrphans(ctx context.Context, t terminal, c *client.Client, backend string, body client.DestroyOrphans, dryRun, asJSON bool) error {
	if strings.TrimSpace(body.Reason) == "" {
		return hint(errors.New("--reason is missing"), "it is kept in the audit log")
	}
	done, err := c.DestroyOrphans(ctx, backend, body, dryRun)
	if err != nil {
		return err
	}
	if asJSON {
		return printJSON(t.out, done)
	}
	for _, o := range done.Orphans {
		fate := map[bool]string{true: "destroyed", false: "its deletion is scheduled"}[o.Gone]
		if done.DryRun {
			fate = "would be destroyed (dry run, nothing was changed)"
		}
		fmt.Fprintf(t.out, "%s: %s\n", o.Handle, fate)
	}
	return nil
}

func printOrphans(w io.Writer, backend string, found []client.Orphan) {
	if len(found) == 0 {
		fmt.Fprintf(w, "no orphans in %s\n", backend)
		return
	}
	rows := [][]string{{"KID", "THE REGISTRY SAYS", "THE PARTNER WAS TOLD", "HANDLE"}}
	for _, o := range found {
		rows = append(rows, []string{cmp.Or(o.KID, "none"), o.Why, map[bool]string{true: "yes", false: "no"}[o.Told], o.Handle})
	}
	table(w, rows)
	fmt.Fprintf(w, "make sure that no other keyd has this instance name: its keys would stand here too\nto destroy one: keyd backends orphans %s --destroy HANDLE --reason TEXT\n", backend)
}
