package main

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"

	"keyd/client"
)

// maxInput bounds what encrypt and decrypt read; the daemon has its own limits.
const maxInput = 64 << 20

func cryptCommands() []command {
	return []command{
		{name: "encrypt", args: "PARTNER [FILE]", brief: "seal a request to a partner", setup: encryptSetup,
			help: "Reads FILE or standard input, prints the compact JWE. --json adds the headers\nthat must go with it. With --direct the reply comes under the content key of this\nrequest: keyd keeps it, and the exchange named on standard error (or in the JSON)\nopens that one reply. For paths of which keyd knows this, --url is enough."},
		{name: "decrypt", args: "PARTNER [FILE]", brief: "open a partner's answer", setup: decryptSetup,
			help: "Reads the compact JWE from FILE or standard input, prints the plaintext and\nnothing else. --exchange names the exchange of the request that it answers. --verbose says on standard error which kid opened it and how deep\ninside the hardware."},
	}
}

func clientFlag(fs *flag.FlagSet) *string { return socketFlag(fs, "KEYD_SOCKET", clientSocket) }

func encryptSetup(fs *flag.FlagSet) func(context.Context, terminal, []string) error {
	socket, asJSON := clientFlag(fs), fs.Bool("json", false, "print JSON with the headers to send")
	url := fs.String("url", "", "the request's `PATH`, for the JOSE header's url")
	refetch := fs.Bool("refetch", false, "the partner refused the last envelope: fetch its key afresh first")
	direct := fs.Bool("direct", false, "the reply comes under the content key of this request: begin an exchange")
	return func(ctx context.Context, t terminal, args []string) error {
		plaintext, err := input(t, args[1:])
		if err != nil {
			return err
		}
		options := client.EncryptOptions{URL: *url, Refetch: *refetch}
		if given(fs, "direct") {
			options.Direct = direct
		}
		sealed, err := client.New(*socket).Encrypt(ctx, args[0], plaintext, options)
		if err != nil {
			return err
		}
		if *asJSON {
			return printJSON(t.out, sealed)
		}
		if x := sealed.Exchange; x != nil {
			fmt.Fprintf(t.err, "exchange %s, until %s\n", x.ID, stamp(x.ExpiresAt))
		}
		if isTerminal(t.out) {
			sealed.JWE += "\n" // nowhere else: an envelope with a line break is none
		}
		_, err = io.WriteString(t.out, sealed.JWE)
		return err
	}
}

func decryptSetup(fs *flag.FlagSet) func(context.Context, terminal, []string) error {
	socket, verbose := clientFlag(fs), fs.Bool("verbose", false, "say on standard error which kid opened it, at which boundary")
	asJSON := fs.Bool("json", false, "print JSON: plaintext in base64, kid, boundary")
	exchange := fs.String("exchange", "", "the `ID` of the exchange whose reply it is")
	return func(ctx context.Context, t terminal, args []string) error {
		envelope, err := input(t, args[1:])
		if err != nil {
			return err
		}
		c, envelope := client.New(*socket), trimNewline(envelope)
		var opened *client.Opened
		if given(fs, "exchange") {
			opened, err = c.DecryptReply(ctx, args[0], *exchange, envelope)
		} else {
			opened, err = c.Decrypt(ctx, args[0], envelope)
		}
		if err != nil {
			return err
		}
		if *asJSON {
			return printJSON(t.out, map[string]any{"plaintext": opened.Plaintext, "kid": opened.KID,
				"boundary": opened.Boundary, "request_id": opened.RequestID})
		}
		if *verbose {
			fmt.Fprintf(t.err, "kid %s, boundary %s, request %s\n", cmp.Or(opened.KID, "none"), opened.Boundary, opened.RequestID)
		}
		_, err = t.out.Write(opened.Plaintext)
		return err
	}
}

// trimNewline drops the one newline that editors and shells put at the end of
// a file; the daemon itself accepts none.
func trimNewline(b []byte) []byte {
	if n := len(b); n > 0 && b[n-1] == '\n' {
		b = b[:n-1]
	}
	return b
}

// input reads FILE, or standard input where there is none or it is "-".
func input(t terminal, args []string) ([]byte, error) {
	from := t.in
	if len(args) > 0 && args[0] != "-" {
		f, err := os.Open(args[0])
		if err != nil {
			return nil, err
		}
		defer func() { _ = f.Close() }() // it was only read
		from = f
	}
	b, err := io.ReadAll(io.LimitReader(from, maxInput+1))
	if err == nil && len(b) > maxInput {
		err = fmt.Errorf("the input is larger than %d bytes", maxInput)
	}
	return b, err
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
