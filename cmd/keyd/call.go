package main

import (
	"context"
	"flag"
	"fmt"
	"strings"

	"keyd/client"
)

func callCommand() command {
	return command{name: "call", args: "PARTNER METHOD PATH [FILE]", brief: "seal a request, send it to a partner, open the answer", setup: callSetup,
		help: `
Sends FILE (- is standard input) as the body, sealed as the endpoint wants it, and
prints the body of the answer, opened. PATH is below the partner's URL; only what
allow in the config names leaves. --token says where your own token for the partner
is; headers that are as secret belong into a file, too (--header @FILE). What keyd
does not know of the endpoint is said as for keyd encrypt; --open and --open-json
name envelopes in the answer. --json prints status, headers and all.
Exits with 3 if the partner's status is 300 or more, or the answer did not open.

  keyd call wise GET /v1/cases/123 --token file:user.token
  keyd call wise POST /v1/cases case.json --token file:user.token --json
  keyd call jackhenry POST /api/card-mgmt/v1/inst-1/card-credentials/search-by-pan \
    search.json --open-json /encryptedCardCredentials`}
}

// callFlags are what call may be told.
type callFlags struct {
	*encryptFlags
	headers, queries *[]string
	open, openJSON   *[]string
	unsealed, again  *bool
}

func newCallFlags(fs *flag.FlagSet) *callFlags {
	return &callFlags{encryptFlags: newSealingFlags(fs),
		headers:  listFlag(fs, "header", "send this header, `NAME: VALUE`, or those in a file, @FILE; may be repeated"),
		queries:  listFlag(fs, "query", "send this parameter, `NAME=VALUE`; may be repeated"),
		open:     listFlag(fs, "open", "the value at this JSON `POINTER` of the answer is an envelope with text; may be repeated"),
		openJSON: listFlag(fs, "open-json", "the value at this JSON `POINTER` of the answer is an envelope with JSON; may be repeated"),
		unsealed: fs.Bool("unsealed", false, "send the body as it is, where the partner takes it so"),
		again:    fs.Bool("repeatable", false, "send it once more if the answer does not open: twice does what once does (a GET always may)")}
}

// request puts a call together. It holds the token nowhere.
func (f *callFlags) request(t terminal, args []string) (client.Call, error) {
	c := client.Call{Method: strings.ToUpper(args[1]), Path: args[2], Unsealed: *f.unsealed, Repeatable: *f.again, Fields: *f.fields, PublicKeyAt: *f.keyAt, Form: *f.form,
		OpenFields: *f.open, OpenJSONFields: *f.openJSON, Headers: map[string]string{}, Query: map[string][]string{}}
	if given(f.fs, "direct") {
		c.Direct = f.direct
	}
	if given(f.fs, "ephemeral") {
		c.Ephemeral = f.ephemeral
	}
	headers, err := readHeaders(t, *f.headers)
	if err != nil {
		return c, err
	}
	for i, header := range headers {
		name, value, ok := strings.Cut(header, ":")
		if !ok || name == "" { // not repeated: it may be secret
			return c, fmt.Errorf("--header: number %d is not NAME: VALUE, nor @FILE with such lines", i+1)
		}
		c.Headers[name] = strings.TrimSpace(value)
	}
	for _, query := range *f.queries {
		name, value, ok := strings.Cut(query, "=")
		if !ok {
			return c, fmt.Errorf("--query %q: want NAME=VALUE", query)
		}
		c.Query[name] = append(c.Query[name], value)
	}
	if *f.signingMethod != "" {
		if c.SigningMethod, err = readSigningMethod(t, *f.signingMethod); err != nil {
			return c, err
		}
	}
	if len(args) > 3 {
		c.BodyBase64, err = input(t, args[3:])
	}
	return c, err
}

// readHeaders puts the lines of files in the place of the @FILEs.
func readHeaders(t terminal, said []string) (headers []string, err error) {
	for _, header := range said {
		file, isFile := strings.CutPrefix(header, "@")
		if !isFile {
			headers = append(headers, header)
			continue
		}
		raw, err := input(t, []string{file})
		if err != nil {
			return nil, fmt.Errorf("--header: %w", err)
		}
		for line := range strings.Lines(string(raw)) {
			if line = strings.TrimSpace(line); line != "" {
				headers = append(headers, line)
			}
		}
	}
	return headers, nil
}

func callSetup(fs *flag.FlagSet) func(context.Context, terminal, []string) error {
	socket, asJSON := clientFlag(fs), fs.Bool("json", false, "print JSON with the status and the headers")
	verbose := fs.Bool("verbose", false, "say on standard error what came back, which kid opened it, at which boundary")
	flags := newCallFlags(fs)
	return func(ctx context.Context, t terminal, args []string) error {
		token, err := readToken(*flags.token)
		if err != nil {
			return err
		}
		request, err := flags.request(t, args)
		if err != nil {
			return err
		}
		answer, err := client.New(*socket).Call(ctx, args[0], request, token)
		if err != nil {
			return err
		}
		if err := printAnswer(t, answer, *asJSON, *verbose); err != nil {
			return err
		}
		if answer.Status >= 300 || answer.Problem != nil {
			return exitError(exitProblem)
		}
		return nil
	}
}

func printAnswer(t terminal, a *client.Answer, asJSON, verbose bool) error {
	if asJSON {
		return printJSON(t.out, a)
	}
	if verbose || a.Status >= 300 || a.Problem != nil {
		fmt.Fprintf(t.err, "status %d, %s", a.Status, a.Content)
		if a.Boundary != "" {
			fmt.Fprintf(t.err, ", boundary %s", a.Boundary)
		}
		if a.KID != "" {
			fmt.Fprintf(t.err, ", kid %s", a.KID)
		}
		if a.Retried {
			fmt.Fprintf(t.err, ", sent twice")
		}
		fmt.Fprintln(t.err)
	}
	if p := a.Problem; p != nil {
		fmt.Fprintf(t.err, "the answer did not open: %s\n  hint: the request has had its effect; the answer as it came is on standard output, keyd decrypt opens it if what is wrong passes\n  code %s, request %s\n", p.Title, p.Code, p.RequestID)
	}
	_, err := t.out.Write(a.Bytes())
	return err
}

func partnersJWKS(fs *flag.FlagSet) func(context.Context, terminal, []string) error {
	socket := adminFlag(fs)
	fs.Bool("json", true, "print JSON, which a JWK set is")
	return func(ctx context.Context, t terminal, args []string) error {
		set, err := client.New(*socket).JWKS(ctx, args[0])
		if err != nil {
			return err
		}
		return printJSON(t.out, set)
	}
}
