package main

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"slices"
)

func checkCommand() command {
	return command{name: "check", brief: "say whether the config is usable, and what it amounts to", setup: checkSetup,
		help: "Runs the same code as serve: unknown keys, cron expressions, durations, missing\nsecret files, modules. Opens no token and calls no partner. Credentials\n(credential:NAME) can only be looked at inside the service."}
}

func checkSetup(fs *flag.FlagSet) func(context.Context, terminal, []string) error {
	path, asJSON := configFlag(fs), fs.Bool("json", false, "print JSON")
	return func(_ context.Context, t terminal, _ []string) error {
		cfg, err := loadConfig(*path)
		if err != nil {
			return &hintError{error: err, hint: "every setting is described in packaging/keyd.yaml", code: exitConfig}
		}
		if *asJSON {
			return printJSON(t.out, map[string]any{"ok": true, "config": *path,
				"backends": slices.Sorted(maps.Keys(cfg.Backends)),
				"partners": slices.Sorted(maps.Keys(cfg.Partners)), "keys": slices.Sorted(maps.Keys(cfg.Keys))})
		}
		fmt.Fprintf(t.out, "%s is usable: %d backends, %d partners, %d keys\n", *path, len(cfg.Backends), len(cfg.Partners), len(cfg.Keys))
		rows := [][]string{{"KEY", "PARTNER", "BACKEND", "ROTATES (UTC)", "VALID FOR", "DRAINS FOR"}}
		for _, name := range slices.Sorted(maps.Keys(cfg.Keys)) {
			k := cfg.Keys[name]
			rows = append(rows, []string{name, k.Partner, k.Backend, k.Rotate, k.ValidFor.String(), k.DrainFor.String()})
		}
		table(t.out, rows)
		return nil
	}
}
