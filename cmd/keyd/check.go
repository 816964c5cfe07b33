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
		warnings := cfg.warnings()
		if *asJSON {
			return printJSON(t.out, map[string]any{"ok": true, "config": *path, "warnings": warnings,
				"backends": slices.Sorted(maps.Keys(cfg.Backends)),
				"partners": slices.Sorted(maps.Keys(cfg.Partners)), "keys": slices.Sorted(maps.Keys(cfg.Keys))})
		}
		fmt.Fprintf(t.out, "%s is usable: %s, %s, %s\n", *path,
			count(len(cfg.Backends), "backend"), count(len(cfg.Partners), "partner"), count(len(cfg.Keys), "key"))
		rows := [][]string{{"KEY", "PARTNER", "BACKEND", "ROTATES (UTC)", "VALID FOR", "DRAINS FOR"}}
		for _, name := range slices.Sorted(maps.Keys(cfg.Keys)) {
			k := cfg.Keys[name]
			rows = append(rows, []string{name, k.Partner, k.Backend, k.Rotate, k.ValidFor.String(), k.DrainFor.String()})
		}
		table(t.out, rows)
		for _, w := range warnings {
			fmt.Fprintln(t.out, "warning:", w)
		}
		return nil
	}
}

// warnings are what works and is probably not meant.
func (c *config) warnings() []string {
	warnings := []string{}
	if len(c.Roles.Operator.Users)+len(c.Roles.Operator.Groups) == 0 {
		warnings = append(warnings, "roles.operator names nobody: nobody may rotate, compromise or destroy a key")
	}
	served := map[string]bool{}
	for _, client := range c.Roles.Clients {
		served[client.Partner] = served[client.Partner] || len(client.Users)+len(client.Groups) > 0
	}
	for name := range c.Partners {
		if !served[name] && !served["*"] {
			warnings = append(warnings, fmt.Sprintf("roles.clients names nobody for partner %s: no backend may encrypt or decrypt", name))
		}
	}
	keyed := map[string]bool{}
	for _, k := range c.Keys {
		keyed[k.Backend] = true
	}
	for name := range c.Backends {
		if !keyed[name] && c.Backends[name].Type != typeLost {
			warnings = append(warnings, fmt.Sprintf("backend %s is opened at start and no key of the config is in it", name))
		}
	}
	slices.Sort(warnings)
	return warnings
}
