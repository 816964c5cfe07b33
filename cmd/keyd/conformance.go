package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"keyd/internal/boundary"
	"keyd/internal/hsm/conformance"
	"keyd/internal/hsm/worker"
)

func conformanceCommand() command {
	return command{name: "conformance", brief: "try what a PKCS#11 module does, before keyd is to work with it", setup: conformanceSetup,
		help: `Tries every mechanism that keyd can use, what the token refuses and with which codes,
whether it keeps to the attributes that it is asked for, and what becomes of sessions,
threads and memory; then keyd's own path. Needs no config and no daemon. It makes
throw-away keys, and leaves nothing behind, however it ends. Each part runs in a
process of its own: a module that crashes or hangs is found to do so.

The PIN is shown only if the token does not say that it could be the last try, and a
wrong one once. Without --pin it is asked for. Of the environment the module gets what
it gets of the daemon's: the variables that common modules read, and those named with --env.

verdicts: pass; lacks (keyd does without); quirk (keyd gets over it); skip (what it needs
is not there); FAIL, CRASH and HANG (read what was seen before you trust it with keys).

exits with 0, with ` + fmt.Sprint(exitProblem) + ` if there is a FAIL, CRASH or HANG, with ` + fmt.Sprint(exitConfig) + ` if there is no such module or
token or it does not take the PIN.`}
}

// conformanceOptions are the flags of conformance.
type conformanceOptions struct {
	cfg       conformance.Config
	pin, only string
	env       []string
	json      bool
}

func conformanceSetup(fs *flag.FlagSet) func(context.Context, terminal, []string) error {
	o := conformanceOptions{}
	fs.StringVar(&o.cfg.Module, "module", "", "the PKCS#11 library, a `FILE`")
	fs.StringVar(&o.cfg.Token, "token", "", "the token's `LABEL`")
	fs.StringVar(&o.cfg.Serial, "serial", "", "its serial `NUMBER`, where several have that label")
	fs.StringVar(&o.pin, "pin", "", "where the PIN is: file:/path, env:NAME or credential:NAME (a `REFERENCE`)")
	fs.StringVar(&o.cfg.Reserved, "init-args", "", "`TEXT` for C_Initialize, which NSS wants")
	fs.Func("env", "pass this variable on to the module, a `NAME`; may be repeated", func(name string) error {
		value, ok := os.LookupEnv(name)
		if !ok {
			return errors.New("it is not set")
		}
		o.env = append(o.env, name+"="+value)
		return nil
	})
	fs.StringVar(&o.only, "only", "", "only these `GROUPS`: "+strings.Join(conformance.Groups(), ","))
	fs.IntVar(&o.cfg.Envelopes, "envelopes", 2000, "how many of a kind memory is measured over, a `NUMBER`")
	fs.DurationVar(&o.cfg.Limit, "limit", 2*time.Minute, "how long one check may take before the module is said to hang, a `DURATION`; slow devices make keys for minutes")
	fs.BoolVar(&o.json, "json", false, "print JSON")
	return func(ctx context.Context, t terminal, _ []string) error {
		if err := o.check(); err != nil {
			return err
		}
		if _, err := harden(); err != nil {
			return err
		}
		ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
		defer stop()
		return o.run(ctx, t)
	}
}

func (o *conformanceOptions) check() (err error) {
	if err := needed(map[string]string{"module": o.cfg.Module, "token": o.cfg.Token}); err != nil {
		return err
	}
	if o.only != "" {
		for name := range strings.SplitSeq(o.only, ",") {
			if name = strings.TrimSpace(name); !slices.Contains(conformance.Groups(), name) {
				return fmt.Errorf("--only %q: want some of %s", name, strings.Join(conformance.Groups(), ", "))
			}
			o.cfg.Only = append(o.cfg.Only, name)
		}
	}
	kind, variable, _ := strings.Cut(o.pin, ":")
	passed := slices.ContainsFunc(o.env, func(v string) bool { return strings.HasPrefix(v, variable+"=") })
	switch {
	case kind == "env" && passed:
		return fmt.Errorf("--env %s would give the module's process the PIN in its environment", variable)
	case o.cfg.Envelopes < 80 || o.cfg.Envelopes > 100_000_000:
		return fmt.Errorf("--envelopes %d: want 80 to 100000000", o.cfg.Envelopes)
	case o.cfg.Limit < time.Second || o.cfg.Limit > 24*time.Hour:
		return fmt.Errorf("--limit %s: want 1s to 24h", o.cfg.Limit)
	}
	if o.cfg.Module, err = filepath.Abs(o.cfg.Module); err != nil {
		return err
	}
	if info, err := os.Stat(o.cfg.Module); err != nil {
		return &hintError{error: fmt.Errorf("the module: %w", err), hint: "--module is the vendor's library, as in module: of the config", code: exitConfig}
	} else if !info.Mode().IsRegular() {
		return &hintError{error: fmt.Errorf("the module: %s is not a file", o.cfg.Module), hint: "--module is the vendor's library, as in module: of the config", code: exitConfig}
	}
	return nil
}

func (o *conformanceOptions) run(ctx context.Context, t terminal) (err error) {
	if o.cfg.PIN, err = askPIN(ctx, t, secretRef(o.pin)); err != nil {
		return err
	}
	defer clear(o.cfg.PIN)
	o.cfg.Command = []string{"/proc/self/exe", os.Args[0], conformanceProcess}
	o.cfg.Env = worker.Environment(os.Environ(), o.env)
	o.cfg.Progress = func(group, check string) { fmt.Fprintf(t.err, "%s: %s\n", group, check) }
	report, err := conformance.Run(ctx, o.cfg)
	for _, known := range []struct {
		err  error
		hint string
	}{
		{conformance.ErrPIN, "it is not tried again: a wrong one too often locks a token"},
		{conformance.ErrToken, "pkcs11-tool --module FILE -L lists a module's tokens; a module's own settings are in the variables that --env passes on"},
		{conformance.ErrModule, "see what pkcs11-tool --module FILE -L makes of it, and the module's own settings"},
	} {
		if errors.Is(err, known.err) {
			return &hintError{error: err, hint: known.hint, code: exitConfig}
		}
	}
	switch {
	case err != nil:
		return err
	case o.json:
		err = printJSON(t.out, report)
	default:
		printConformance(t.out, report)
	}
	if err == nil && len(report.Bad()) > 0 {
		err = exitError(exitProblem)
	}
	return err
}

// askPIN reads the PIN from where it is said to be, or asks for it.
func askPIN(ctx context.Context, t terminal, ref secretRef) (_ []byte, err error) {
	if ref != "" {
		return ref.read()
	}
	in, ok := t.in.(*os.File)
	if !ok {
		return nil, errNoPIN
	}
	shown, err := unix.IoctlGetTermios(int(in.Fd()), unix.TCGETS)
	if err != nil {
		return nil, errNoPIN
	}
	hidden := *shown
	hidden.Lflag &^= unix.ECHO
	if err := unix.IoctlSetTermios(int(in.Fd()), unix.TCSETS, &hidden); err != nil {
		return nil, fmt.Errorf("hiding what is typed: %w", err)
	}
	defer func() {
		fmt.Fprintln(t.err)
		err = errors.Join(err, unix.IoctlSetTermios(int(in.Fd()), unix.TCSETS, shown))
	}()
	fmt.Fprintf(t.err, "PIN: ")
	type typed struct {
		line []byte
		err  error
	}
	typing := make(chan typed, 1)
	go func() {
		line := make([]byte, 256)
		n, err := in.Read(line)
		typing <- typed{bytes.TrimRight(line[:n], "\r\n"), err}
	}()
	select {
	case <-ctx.Done():
		return nil, errors.New("interrupted")
	case got := <-typing:
		if got.err != nil {
			return nil, fmt.Errorf("reading the PIN: %w", got.err)
		}
		return got.line, nil
	}
}

var errNoPIN = hint(errors.New("no PIN"), "say where it is with --pin file:/path, or run this at a terminal")

const conformanceProcess = "conformance-process"

// conformanceProcessCommand is one part of it, in a process of its own.
func conformanceProcessCommand() command {
	return command{name: conformanceProcess, hidden: true, brief: "hold a PKCS#11 module for keyd conformance", setup: func(*flag.FlagSet) func(context.Context, terminal, []string) error {
		return func(ctx context.Context, t terminal, _ []string) error {
			// The command ends this process itself, with SIGTERM.
			signal.Ignore(syscall.SIGINT, syscall.SIGHUP)
			ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM)
			defer stop()
			if _, err := harden(); err != nil {
				return err
			}
			return conformance.Serve(ctx, t.in, t.out)
		}
	}, help: "Only keyd conformance starts it, and tells it on its standard input what to do."}
}

func printConformance(w io.Writer, r *conformance.Report) {
	d := r.Device
	fmt.Fprintf(w, "module     %s (%s)\n", r.Module, d["library"])
	fmt.Fprintf(w, "token      %s, %s %s, firmware %s, serial %s\n", d["label"], d["manufacturer"], d["model"], d["firmware"], d["serial"])
	var levels []string
	for _, algorithm := range []string{boundary.RSAOAEP256, boundary.ECDHES, boundary.PS256} {
		levels = append(levels, algorithm+" "+orNone(r.Levels[algorithm]))
	}
	if len(r.Levels) > 0 { // else it was not asked
		fmt.Fprintf(w, "boundary   %s\n", strings.Join(levels, ", "))
	}
	fmt.Fprintf(w, "tried      %s\n\n", stamp(r.At))
	rows := [][]string{{"", "CHECK", "VERDICT", "SEEN"}}
	group := ""
	for _, c := range r.Checks {
		first := ""
		if c.Group != group {
			group, first = c.Group, c.Group
		}
		rows = append(rows, []string{first, c.Name, shout(c.Verdict), c.Seen})
	}
	table(w, rows)
	if len(r.Codes) > 0 {
		rows := [][]string{{"CODE", "KEYD", "SAID OF"}}
		for _, m := range r.Codes {
			said, more := m.When, ""
			if len(said) > 4 {
				said, more = said[:4], fmt.Sprintf("; %d more", len(said)-4)
			}
			rows = append(rows, []string{m.Code, m.Keyd, strings.Join(said, "; ") + more})
		}
		fmt.Fprintln(w)
		table(w, rows)
	}
	fmt.Fprintf(w, "\n%s\n", summary(r))
	for _, c := range r.Bad() {
		fmt.Fprintf(w, "  %s  %s, %s: %s\n", shout(c.Verdict), c.Group, c.Name, c.Seen)
	}
}

func orNone(level string) string {
	if level == "" {
		return "not at all"
	}
	return level
}

// shout has the verdicts stand out that a person should look at.
func shout(v conformance.Verdict) string {
	if v.Bad() {
		return strings.ToUpper(string(v))
	}
	return string(v)
}

func summary(r *conformance.Report) string {
	count := map[conformance.Verdict]int{}
	for _, c := range r.Checks {
		count[c.Verdict]++
	}
	var parts []string
	for _, v := range slices.Sorted(maps.Keys(count)) {
		parts = append(parts, fmt.Sprintf("%d %s", count[v], v))
	}
	return strings.Join(parts, ", ")
}
