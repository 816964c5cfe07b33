package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"

	"keyd/client"
)

func backupCommand() command {
	return command{name: "backup", args: "FILE", brief: "copy the registry while the daemon runs", setup: backupSetup,
		help: "A consistent snapshot with its SHA-256. It holds no private key and no secret:\nback the token up by its vendor's means. To restore, stop the daemon and put the\nfile in place of keyd.db; then run keyd doctor."}
}

func backupSetup(fs *flag.FlagSet) func(context.Context, terminal, []string) error {
	socket, asJSON := adminFlag(fs), fs.Bool("json", false, "print JSON")
	return func(ctx context.Context, t terminal, args []string) error {
		sum, size, err := backupTo(ctx, client.New(*socket), args[0])
		if err != nil {
			return err
		}
		if *asJSON {
			return printJSON(t.out, map[string]any{"file": args[0], "bytes": size, "sha256": sum})
		}
		fmt.Fprintf(t.out, "%s  %s (%d bytes)\n", sum, args[0], size)
		return nil
	}
}

// backupTo writes beside the destination and renames, so that a file under the
// destination's name is always a whole backup.
func backupTo(ctx context.Context, c *client.Client, path string) (sum string, size int64, err error) {
	if _, err := os.Lstat(path); err == nil {
		return "", 0, hint(fmt.Errorf("%s exists already", path), "name a new file: a backup is never overwritten")
	}
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".part-*")
	if err != nil {
		return "", 0, fmt.Errorf("writing the backup: %w", err)
	}
	defer func() { _ = errors.Join(f.Close(), os.Remove(f.Name())) }() // both fail where the rename went well
	if sum, err = c.Backup(ctx, f); err != nil {
		return "", 0, err
	}
	if err := f.Sync(); err != nil {
		return "", 0, fmt.Errorf("writing the backup: %w", err)
	}
	info, err := f.Stat()
	if err != nil {
		return "", 0, fmt.Errorf("writing the backup: %w", err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return "", 0, fmt.Errorf("writing the backup: %w", err)
	}
	return sum, info.Size(), nil
}
