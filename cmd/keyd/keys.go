package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"
	"time"

	"keyd/client"
)

func keyCommands() []command {
	return []command{
		{name: "keys list", brief: "list the keys and their active versions", setup: asking((*client.Client).Keys, printKeys)},
		{name: "keys show", args: "KEY|KID", brief: "show a key with its versions, or one version with its history", setup: keysShow},
		{name: "keys evidence", args: "KEY", brief: "print the whole life of a key as one document, for an assessor", setup: keysEvidence,
			help: "The key, its policy, every version with its public key, what the backend said of\nits key pair and how it was tested, its history, and the entries of the audit log\nthat belong to it. JSON, with the hash of the entry under which it was exported:\nkeep it with\n\n  keyd keys evidence KEY > KEY.json\n  keyd audit verify --bundle KEY.json"},
		{name: "keys create", args: "KEY", brief: "create a key; its first version is made and announced at once", setup: keysCreate,
			help: "Keys named in the config come to exist by themselves when the daemon starts.\nThis is for a key that the config does not name."},
		{name: "keys rotate", args: "KEY", brief: "start a rotation now", setup: keysRotate,
			help: "The old version goes on opening until its drain has ended and its validTill has\npassed. A rotation that is already under way is not started twice."},
		versionCommandFor("confirm", "say that the partner has the new public key", false,
			"For a partner without an upload API: hand over the public key shown by\n`keyd keys show KID`, then confirm.", (*client.Client).Confirm),
		versionCommandFor("activate", "make a version the active one: roll back, or hurry an announced one", true,
			"The version that was active drains. Only an announced or draining version can\nbecome active.", (*client.Client).Activate),
		versionCommandFor("compromise", "close a version at once and start a rotation", true,
			"The version never opens again: envelopes still on their way to it are lost.\nThe answer lists what a person must do at the partner. While its deletion waits,\nit is deleted all the same, and can only be rescued as evidence.", (*client.Client).Compromise),
		versionCommandFor("destroy", "delete a version's private key from the backend", true,
			"Refused while the version may still be needed: compromise it first if its key\nmust go before its time.", (*client.Client).Destroy),
		versionCommandFor("rescue", "call off the deletion of a version's private key", true,
			"For a backend that waits with deletions, as AWS KMS does. The version drains again\nfor the policy's drain_for. One that was compromised never opens again: its key is\nkept, disabled, as before.", (*client.Client).Rescue),
		{name: "keys adopt", args: "KEY", brief: "take over a key pair that already exists in the backend", setup: keysAdopt,
			help: "For moving in: the partner already has the public key under a kid (--told), and the\nprivate key is in the token. Nothing is uploaded and no material is made.\nFor a new key, create it with --first adopt (first: adopt in the config): it\nwaits for this. Beside an active version, the adopted one drains. A version that a\nrestored registry has lost comes back so too, from the --backend it is in."},
	}
}

func keysShow(fs *flag.FlagSet) func(context.Context, terminal, []string) error {
	socket, asJSON := adminFlag(fs), fs.Bool("json", false, "print JSON")
	pem := fs.Bool("public", false, "print the public key alone, as PEM")
	proof := fs.Bool("evidence", false, "print what the backend said of the key pair, and its self-test")
	return func(ctx context.Context, t terminal, args []string) error {
		c := client.New(*socket)
		v, err := c.Version(ctx, args[0])
		if p, ok := errors.AsType[*client.Problem](err); ok && p.Status == 404 {
			return showKey(ctx, t, c, args[0], *asJSON, *pem, *proof)
		}
		switch {
		case err != nil:
			return err
		case *proof && *asJSON:
			return printJSON(t.out, viewEvidence(*v))
		case *proof:
			return showEvidence(t.out, *v)
		case *pem:
			_, err = io.WriteString(t.out, v.PublicPEM)
			return err
		case *asJSON:
			return printJSON(t.out, v)
		}
		printVersion(t.out, *v, time.Now())
		return nil
	}
}

func showKey(ctx context.Context, t terminal, c *client.Client, name string, asJSON, pem, proof bool) error {
	key, err := c.Key(ctx, name)
	switch {
	case err != nil:
		return err
	case proof && asJSON:
		views := make([]evidenceView, 0, len(key.Versions))
		for _, v := range key.Versions {
			views = append(views, viewEvidence(v))
		}
		return printJSON(t.out, views)
	case proof:
		return showEvidences(t.out, *key)
	case pem:
		for _, v := range key.Versions {
			if v.KID == key.ActiveKID {
				_, err = io.WriteString(t.out, v.PublicPEM)
				return err
			}
		}
		return fmt.Errorf("key %s has no active version; name a kid", name)
	case asJSON:
		return printJSON(t.out, key)
	}
	printKey(t.out, *key, time.Now())
	return nil
}

func keysCreate(fs *flag.FlagSet) func(context.Context, terminal, []string) error {
	change := changeFlags(fs)
	body := client.CreateKey{}
	fs.StringVar(&body.Partner, "partner", "", "the configured `PARTNER` it is for")
	fs.StringVar(&body.Backend, "backend", "", "the configured `BACKEND` that holds it")
	fs.StringVar(&body.Algorithm, "algorithm", "", "RSA-OAEP-256 (default), ECDH-ES or PS256: the `ALGORITHM` it is for")
	fs.IntVar(&body.Bits, "bits", 0, "RSA modulus: 2048 (default), 3072 or 4096 `BITS`")
	fs.StringVar(&body.Curve, "curve", "", "for ECDH-ES: P-256 (default), P-384 or P-521 `CURVE`")
	fs.StringVar(&body.Policy.Rotate, "rotate", "0 3 1 */3 *", "five-field `CRON` expression, UTC")
	fs.StringVar(&body.Policy.ValidFor, "valid-for", "150d", "`DURATION` until the validTill told to the partner")
	fs.StringVar(&body.Policy.DrainFor, "drain-for", "30d", "`DURATION` an old version still opens")
	fs.StringVar(&body.Policy.SettleFor, "settle-for", "0s", "`DURATION` between upload and canary")
	fs.StringVar(&body.Policy.Canary, "canary", "open", "open, kid or off: what the `CANARY` must show")
	fs.StringVar(&body.Policy.MinBoundary, "min-boundary", "", "lowest boundary `LEVEL` allowed")
	fs.StringVar(&body.Policy.First, "first", "make", "make the first version, or wait to `adopt` one")
	return func(ctx context.Context, t terminal, args []string) error {
		if err := needed(map[string]string{"partner": body.Partner, "backend": body.Backend}); err != nil {
			return err
		}
		body.Name = args[0]
		return change.run(ctx, t, func(c *client.Client) (*client.Change, error) {
			return c.CreateKey(ctx, body, change.dryRun)
		})
	}
}

func keysRotate(fs *flag.FlagSet) func(context.Context, terminal, []string) error {
	change := changeFlags(fs)
	return func(ctx context.Context, t terminal, args []string) error {
		return change.run(ctx, t, func(c *client.Client) (*client.Change, error) {
			return c.Rotate(ctx, args[0], change.dryRun)
		})
	}
}

func keysAdopt(fs *flag.FlagSet) func(context.Context, terminal, []string) error {
	change := changeFlags(fs)
	body := client.Adopt{}
	var from, till string
	fs.StringVar(&body.KID, "kid", "", "the `KID` (a UUID) under which the partner knows it")
	fs.StringVar(&body.Find, "find", "", "CKA_ID in hex, or the label, of the private `KEY`")
	fs.StringVar(&body.Backend, "backend", "", "the `BACKEND` that holds it (default that of the key's next version)")
	fs.StringVar(&from, "valid-from", "", "validFrom as told to the partner, RFC 3339 `TIME` (default now)")
	fs.StringVar(&till, "valid-till", "", "validTill as told to the partner, RFC 3339 `TIME`")
	fs.BoolVar(&body.Told, "told", false, "the partner has it already: do not upload it")
	return func(ctx context.Context, t terminal, args []string) error {
		err := needed(map[string]string{"kid": body.KID, "find": body.Find, "valid-till": till})
		if err != nil {
			return err
		}
		if body.ValidTill, err = time.Parse(time.RFC3339, till); err != nil {
			return fmt.Errorf("--valid-till %q: want a time such as 2027-03-01T00:00:00Z", till)
		}
		if from != "" {
			if body.ValidFrom, err = time.Parse(time.RFC3339, from); err != nil {
				return fmt.Errorf("--valid-from %q: want a time such as 2026-03-01T00:00:00Z", from)
			}
		}
		return change.run(ctx, t, func(c *client.Client) (*client.Change, error) {
			return c.Adopt(ctx, args[0], body, change.dryRun)
		})
	}
}

// versionCommandFor makes the command of an operation on one version.
func versionCommandFor(verb, brief string, needsReason bool, help string,
	call func(*client.Client, context.Context, string, string, bool) (*client.Change, error)) command {
	return command{name: "keys " + verb, args: "KID", brief: brief, help: help,
		setup: func(fs *flag.FlagSet) func(context.Context, terminal, []string) error {
			change := changeFlags(fs)
			reason := fs.String("reason", "", "`TEXT` for the history and the audit log")
			return func(ctx context.Context, t terminal, args []string) error {
				if needsReason && strings.TrimSpace(*reason) == "" {
					return hint(errors.New("--reason is missing"), "it is kept in the version's history and in the audit log")
				}
				return change.run(ctx, t, func(c *client.Client) (*client.Change, error) {
					return call(c, ctx, args[0], *reason, change.dryRun)
				})
			}
		}}
}

// changes are the flags of every command that changes something.
type changes struct {
	socket       *string
	json, dryRun bool
	wait         time.Duration
}

func changeFlags(fs *flag.FlagSet) *changes {
	c := &changes{socket: adminFlag(fs)}
	fs.BoolVar(&c.json, "json", false, "print JSON")
	fs.BoolVar(&c.dryRun, "dry-run", false, "say what would be done, do nothing")
	fs.DurationVar(&c.wait, "wait", 0, "follow the steps for up to `DURATION` until nothing is left to do now")
	return c
}

func (f *changes) run(ctx context.Context, t terminal, call func(*client.Client) (*client.Change, error)) error {
	c := client.New(*f.socket)
	done, err := call(c)
	if err != nil {
		return err
	}
	if f.json && f.wait == 0 {
		return printJSON(t.out, done)
	}
	if !f.json {
		printChange(t.out, *done)
	}
	if f.wait == 0 || f.dryRun {
		return nil
	}
	return f.follow(ctx, t, c, done.Key)
}

// follow prints the reconciler's steps as they happen, until it has nothing
// left to do now.
func (f *changes) follow(ctx context.Context, t terminal, c *client.Client, name string) error {
	ctx, cancel := context.WithTimeout(ctx, f.wait)
	defer cancel()
	last := ""
	for {
		key, err := c.Key(ctx, name)
		if err != nil {
			return err
		}
		if settled(*key) {
			if f.json {
				return printJSON(t.out, key)
			}
			fmt.Fprintf(t.out, "done: %s is active\n", key.ActiveKID)
			return nil
		}
		if now := key.Next.Name + ": " + key.Next.Reason; now != last && !f.json {
			fmt.Fprintf(t.out, "  %s  %s\n", time.Now().UTC().Format(time.TimeOnly), now)
			last = now
		}
		select {
		case <-ctx.Done():
			return hint(fmt.Errorf("key %s is not settled after %s: next is %s (%s)", name, f.wait, key.Next.Name, key.Next.Reason),
				"the daemon goes on by itself; keyd status shows where it stands")
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// settled reports whether a key has an active version and no rotation under way.
func settled(key client.Key) bool {
	for _, v := range key.Versions {
		if v.State == "pending" || v.State == "announced" {
			return false
		}
	}
	return key.ActiveKID != "" && (key.Next.At.IsZero() || key.Next.At.After(time.Now()))
}
