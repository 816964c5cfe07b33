package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"keyd/client"
)

// parseInterspersed lets flags stand after arguments, which package flag alone
// does not: people write `keyd keys rotate KEY --dry-run`.
func parseInterspersed(fs *flag.FlagSet, args []string) ([]string, error) {
	var positional []string
	for {
		if err := fs.Parse(args); err != nil {
			return nil, err
		}
		args = fs.Args()
		if len(args) == 0 {
			return positional, nil
		}
		positional, args = append(positional, args[0]), args[1:]
	}
}

const (
	clientSocket  = "/run/keyd/keyd.sock"
	adminSocket   = "/run/keyd/admin.sock"
	defaultConfig = "/etc/keyd/keyd.yaml"
)

// socketFlag declares --socket with its default from the environment.
func socketFlag(fs *flag.FlagSet, variable, fallback string) *string {
	if fromEnv := os.Getenv(variable); fromEnv != "" {
		fallback = fromEnv
	}
	return fs.String("socket", fallback, "the daemon's socket `PATH`; also $"+variable)
}

func adminFlag(fs *flag.FlagSet) *string {
	return socketFlag(fs, "KEYD_ADMIN_SOCKET", adminSocket)
}

func configFlag(fs *flag.FlagSet) *string {
	return fs.String("config", defaultConfig, "the config `FILE`")
}

// needed reports every flag that was left out and must not be.
func needed(flags map[string]string) error {
	var missing []string
	for _, name := range slices.Sorted(maps.Keys(flags)) {
		if strings.TrimSpace(flags[name]) == "" {
			missing = append(missing, "--"+name)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return hint(fmt.Errorf("missing: %s", strings.Join(missing, ", ")), "--help says what they are for")
}

// count is a number with its noun.
func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// given reports whether a flag stands on the command line.
func given(fs *flag.FlagSet, name string) (is bool) {
	fs.Visit(func(f *flag.Flag) { is = is || f.Name == name })
	return is
}

// printJSON writes one indented document.
func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// asking is a command that asks the daemon for one thing and prints it.
func asking[T any](ask func(*client.Client, context.Context) (T, error), show func(io.Writer, T, time.Time)) func(*flag.FlagSet) func(context.Context, terminal, []string) error {
	return func(fs *flag.FlagSet) func(context.Context, terminal, []string) error {
		socket, asJSON := adminFlag(fs), fs.Bool("json", false, "print JSON")
		return func(ctx context.Context, t terminal, _ []string) error {
			answer, err := ask(client.New(*socket), ctx)
			if err != nil {
				return err
			}
			if *asJSON {
				return printJSON(t.out, answer)
			}
			show(t.out, answer, time.Now())
			return nil
		}
	}
}
