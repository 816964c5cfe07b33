package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"strings"

	"keyd/client"
)

// Exit codes. 78 is EX_CONFIG of sysexits.h: the service file tells systemd
// not to restart on it, since a wrong PIN tried again and again locks a token.
const (
	exitOK      = 0
	exitFailed  = 1
	exitUsage   = 2
	exitConfig  = 78
	exitProblem = 3 // the command worked and found something wrong
)

// terminal is what a command reads from and writes to.
type terminal struct {
	in       io.Reader
	out, err io.Writer
}

// command is one verb of the CLI.
type command struct {
	name string // "keys rotate"
	args string // "KEY"
	brief,
	help string
	hidden bool // not for people
	// setup declares the flags and returns what runs after they are parsed.
	setup func(fs *flag.FlagSet) func(ctx context.Context, t terminal, args []string) error
}

// commands is the CLI, in the order of its help.
func commands() []command {
	return slices.Concat(
		[]command{serveCommand(), checkCommand()},
		[]command{statusCommand(), doctorCommand()},
		keyCommands(), partnerCommands(), backendCommands(), cryptCommands(), auditCommands(),
		[]command{conformanceCommand(), benchCommand(), backupCommand(), versionCommand(), workerCommand(), callersCommand(), conformanceProcessCommand()},
	)
}

// run picks the command, runs it and turns its error into an exit code.
func run(ctx context.Context, args []string, t terminal) int {
	if len(args) == 0 || slices.Contains([]string{"help", "-h", "-help", "--help"}, args[0]) {
		return printHelp(t, args)
	}
	if args[0] == "--version" {
		args = []string{"version"}
	}
	cmd, rest, ok := pick(args)
	if !ok {
		return unknownCommand(t, args)
	}
	fs := flag.NewFlagSet("keyd "+cmd.name, flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	action := cmd.setup(fs)
	positional, err := parseInterspersed(fs, rest)
	if errors.Is(err, flag.ErrHelp) {
		printCommandHelp(t.out, cmd, fs)
		return exitOK
	}
	if err == nil {
		err = cmd.arity(len(positional))
	}
	if err != nil {
		fmt.Fprintf(t.err, "keyd %s: %v\nusage: keyd %s\n", cmd.name, err, cmd.usage())
		return exitUsage
	}
	out := &output{w: t.out}
	t.out = out
	if err = action(ctx, t, positional); err == nil {
		err = out.err
	}
	return report(t, cmd, err)
}

// output is standard output. It keeps the first error of writing, so that a
// full disk under a redirection is not taken for success.
type output struct {
	w   io.Writer
	err error
}

func (o *output) Write(b []byte) (int, error) {
	n, err := o.w.Write(b)
	if err != nil && o.err == nil {
		o.err = fmt.Errorf("writing the output: %w", err)
	}
	return n, err
}

// pick finds the command that the longest prefix of args names.
func pick(args []string) (command, []string, bool) {
	for n := min(2, len(args)); n > 0; n-- {
		name := strings.Join(args[:n], " ")
		for _, c := range commands() {
			if c.name == name {
				return c, args[n:], true
			}
		}
	}
	return command{}, nil, false
}

// unknownCommand says which commands begin like what was asked for.
func unknownCommand(t terminal, args []string) int {
	fmt.Fprintf(t.err, "keyd: no command %q\n", strings.Join(args[:min(2, len(args))], " "))
	similar := 0
	for _, c := range commands() {
		if strings.HasPrefix(c.name, args[0]+" ") {
			fmt.Fprintf(t.err, "  keyd %-34s %s\n", strings.TrimSpace(c.name+" "+c.args), c.brief)
			similar++
		}
	}
	if similar == 0 {
		fmt.Fprintln(t.err, "keyd help lists the commands")
	}
	return exitUsage
}

func (c command) usage() string {
	return strings.TrimSpace(c.name + " [flags] " + c.args)
}

// arity holds the number of arguments to what args declares; [X] is optional.
func (c command) arity(n int) error {
	words := strings.Fields(c.args)
	required := len(words)
	for _, w := range words {
		if strings.HasPrefix(w, "[") {
			required--
		}
	}
	switch {
	case n < required:
		return fmt.Errorf("missing %s", words[n])
	case n > len(words):
		return errors.New("too many arguments")
	}
	return nil
}

// report prints an error the way a person needs it: what happened, and what to
// do next.
func report(t terminal, cmd command, err error) int {
	if err == nil {
		return exitOK
	}
	if code, ok := errors.AsType[exitError](err); ok {
		return int(code)
	}
	fmt.Fprintf(t.err, "keyd %s: %s\n", cmd.name, message(err))
	if h, ok := errors.AsType[*hintError](err); ok {
		fmt.Fprintf(t.err, "  hint: %s\n", h.hint)
		if h.code != 0 {
			return h.code
		}
	}
	if p, ok := errors.AsType[*client.Problem](err); ok {
		if p.Hint != "" {
			fmt.Fprintf(t.err, "  hint: %s\n", p.Hint)
		}
		fmt.Fprintf(t.err, "  code %s, request %s\n", p.Code, p.RequestID)
	}
	return exitFailed
}

func message(err error) string {
	if p, ok := errors.AsType[*client.Problem](err); ok {
		if p.Detail != "" {
			return p.Title + ": " + p.Detail
		}
		return p.Title
	}
	return err.Error()
}

// exitError ends a command that has said everything already.
type exitError int

func (e exitError) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// hintError is an error with what to do about it.
type hintError struct {
	error
	hint string
	code int
}

func (e *hintError) Unwrap() error { return e.error }

func hint(err error, text string) error { return &hintError{error: err, hint: text} }

func printHelp(t terminal, args []string) int {
	if len(args) > 1 {
		if cmd, _, ok := pick(args[1:]); ok {
			fs := flag.NewFlagSet("keyd "+cmd.name, flag.ContinueOnError)
			cmd.setup(fs)
			printCommandHelp(t.out, cmd, fs)
			return exitOK
		}
		return unknownCommand(t, args[1:])
	}
	fmt.Fprintf(t.out, "keyd keeps partner-encryption keys in hardware, rotates them, and opens what partners seal to them.\n\nusage: keyd COMMAND [flags] [arguments]\n\n")
	for _, c := range commands() {
		if !c.hidden {
			fmt.Fprintf(t.out, "  %-34s %s\n", strings.TrimSpace(c.name+" "+c.args), c.brief)
		}
	}
	fmt.Fprintf(t.out, "\nkeyd help COMMAND tells more. Sockets: $KEYD_SOCKET (default %s), $KEYD_ADMIN_SOCKET (default %s).\n", clientSocket, adminSocket)
	return exitOK
}

func printCommandHelp(w io.Writer, cmd command, fs *flag.FlagSet) {
	fmt.Fprintf(w, "%s\n\nusage: keyd %s\n", cmd.brief, cmd.usage())
	if cmd.help != "" {
		fmt.Fprintf(w, "\n%s\n", strings.TrimSpace(cmd.help))
	}
	header := false
	fs.VisitAll(func(f *flag.Flag) {
		if !header {
			fmt.Fprintf(w, "\nflags:\n")
			header = true
		}
		kind, text := flag.UnquoteUsage(f)
		fmt.Fprintf(w, "  %-26s %s%s\n", strings.TrimSpace("--"+f.Name+" "+kind), text, defaultOf(f))
	})
}

func defaultOf(f *flag.Flag) string {
	if f.DefValue == "" || f.DefValue == "false" || f.DefValue == "0" {
		return ""
	}
	return " (default " + f.DefValue + ")"
}
