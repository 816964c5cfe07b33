package main

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"runtime"
	"runtime/debug"

	"keyd/client"
	"keyd/internal/registry"
)

func versionCommand() command {
	return command{name: "version", brief: "print the version of this program", setup: versionSetup}
}

func versionSetup(fs *flag.FlagSet) func(context.Context, terminal, []string) error {
	asJSON := fs.Bool("json", false, "print JSON")
	return func(_ context.Context, t terminal, _ []string) error {
		v := buildVersion()
		if *asJSON {
			return printJSON(t.out, v)
		}
		fmt.Fprintf(t.out, "keyd %s %s %s, registry schema %d\n", v.Version, v.Revision, v.Go, v.Schema)
		return nil
	}
}

// buildVersion reads what the Go toolchain stamped into the binary.
func buildVersion() client.VersionInfo {
	v := client.VersionInfo{Version: "devel", Go: runtime.Version(), Schema: registry.SchemaVersion}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	v.Version = cmp.Or(info.Main.Version, v.Version)
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			v.Revision = s.Value
		}
	}
	return v
}
