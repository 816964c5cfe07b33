package main

import (
	"cmp"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"keyd/client"
)

// maxInput bounds what encrypt and decrypt read; the daemon has its own limits.
const maxInput = 64 << 20

func cryptCommands() []command {
	return []command{callCommand(),
		{name: "encrypt", args: "PARTNER [FILE]", brief: "seal a request to a partner", setup: encryptSetup,
			help: `
Reads FILE or standard input, prints what to send: the compact JWE, or the JSON
body that it stands in. --json adds the headers that must go with it.

With --url (and --method) keyd knows what the endpoint wants. Otherwise say so:
  --direct          the reply comes under the content key of this request
  --field /a/b      this value of the JSON body is sealed by itself; once for each
  --public-key-at   our public key goes there; with --ephemeral one made for the reply
  --form header     Venly: seal the signing method in the file of --signing-method
                    for the request whose exact body FILE is
Where the reply opens with a key of its own, the exchange to open it in stands on
standard error, or in the JSON.`},
		{name: "decrypt", args: "PARTNER [FILE]", brief: "open a partner's answer", setup: decryptSetup,
			help: `
Reads the compact JWE from FILE or standard input, prints the plaintext and nothing
else. --exchange names the exchange of the request that it answers. With --field or
--field-json FILE is a JSON body, and each value named is an envelope. --verbose
says on standard error which kid opened it and how deep inside the hardware.`},
	}
}

func clientFlag(fs *flag.FlagSet) *string { return socketFlag(fs, "KEYD_SOCKET", clientSocket) }

// listFlag is a flag that may stand more than once.
func listFlag(fs *flag.FlagSet, name, usage string) *[]string {
	var list []string
	fs.Func(name, usage, func(value string) error {
		list = append(list, value)
		return nil
	})
	return &list
}

// tokenFlag names where the caller's own token at the partner is: in no argument,
// for those are everybody's to read.
func tokenFlag(fs *flag.FlagSet) *string {
	return fs.String("token", "", "where your own token at the partner is: file:/path or env:NAME (`REF`)")
}

// readToken reads it; "" where none is named.
func readToken(ref string) (string, error) {
	if ref == "" {
		return "", nil
	}
	token, err := secretRef(ref).read()
	if err != nil {
		return "", err
	}
	return strings.TrimPrefix(string(token), "Bearer "), nil
}

// encryptFlags are what encrypt may be told of a request.
type encryptFlags struct {
	fs                *flag.FlagSet
	url, method       *string
	refetch           *bool
	direct, ephemeral *bool
	fields            *[]string
	keyAt, form       *string
	signingMethod     *string
	token             *string
}

func newEncryptFlags(fs *flag.FlagSet) *encryptFlags {
	f := newSealingFlags(fs)
	f.url = fs.String("url", "", "the request's `PATH`")
	f.method = fs.String("method", "", "the request's HTTP `METHOD` (default POST)")
	f.refetch = fs.Bool("refetch", false, "the partner refused the last envelope: fetch its key afresh first")
	return f
}

// newSealingFlags are those that call has too.
func newSealingFlags(fs *flag.FlagSet) *encryptFlags {
	return &encryptFlags{fs: fs,
		direct:        fs.Bool("direct", false, "the reply comes under the content key of this request: begin an exchange"),
		ephemeral:     fs.Bool("ephemeral", false, "send a public key that is made for the reply: begin an exchange"),
		fields:        listFlag(fs, "field", "seal the value at this JSON `POINTER` by itself; may be repeated"),
		keyAt:         fs.String("public-key-at", "", "put our public key at this JSON `POINTER`"),
		form:          fs.String("form", "", "Venly: where the envelope goes, `body or header`"),
		signingMethod: fs.String("signing-method", "", "Venly: the JSON `FILE` with id and value of the signing method; - is standard input"),
		token:         tokenFlag(fs)}
}

func (f *encryptFlags) options() (o client.EncryptOptions, err error) {
	o = client.EncryptOptions{URL: *f.url, Method: *f.method, Refetch: *f.refetch, Fields: *f.fields, PublicKeyAt: *f.keyAt, Form: *f.form}
	if given(f.fs, "direct") {
		o.Direct = f.direct
	}
	if given(f.fs, "ephemeral") {
		o.Ephemeral = f.ephemeral
	}
	o.Token, err = readToken(*f.token)
	return o, err
}

func encryptSetup(fs *flag.FlagSet) func(context.Context, terminal, []string) error {
	socket, asJSON := clientFlag(fs), fs.Bool("json", false, "print JSON with the headers to send")
	flags := newEncryptFlags(fs)
	return func(ctx context.Context, t terminal, args []string) error {
		options, err := flags.options()
		if err != nil {
			return err
		}
		plaintext, err := input(t, args[1:])
		if err != nil {
			return err
		}
		sealed, err := seal(ctx, t, client.New(*socket), args[0], plaintext, *flags.signingMethod, options)
		if err != nil {
			return err
		}
		if *asJSON {
			return printJSON(t.out, sealed)
		}
		return printSealed(t, sealed)
	}
}

func seal(ctx context.Context, t terminal, c *client.Client, partner string, plaintext []byte, signingMethod string, o client.EncryptOptions) (*client.Sealed, error) {
	if signingMethod == "" {
		return c.Encrypt(ctx, partner, plaintext, o)
	}
	m, err := readSigningMethod(t, signingMethod)
	if err != nil {
		return nil, err
	}
	return c.EncryptMethod(ctx, partner, *m, plaintext, o)
}

func readSigningMethod(t terminal, file string) (*client.SigningMethod, error) {
	raw, err := input(t, []string{file})
	if err != nil {
		return nil, err
	}
	defer clear(raw)
	var m client.SigningMethod
	if err := json.Unmarshal(raw, &m); err != nil || m.ID == "" || m.Value == "" {
		return nil, fmt.Errorf(`%s: want JSON such as {"id":"…","value":"…"}`, file) // and not a word of what is in it
	}
	return &m, nil
}

// printSealed prints what to send, and on standard error what opens the reply.
func printSealed(t terminal, sealed *client.Sealed) error {
	if x := sealed.Exchange; x != nil {
		fmt.Fprintf(t.err, "exchange %s, until %s\n", x.ID, stamp(x.ExpiresAt))
	}
	send := sealed.Send()
	if send == "" { // all of it is in a header
		for _, name := range sortedKeys(sealed.Headers) {
			fmt.Fprintf(t.out, "%s: %s\n", name, sealed.Headers[name])
		}
		return nil
	}
	if isTerminal(t.out) {
		send += "\n" // nowhere else: an envelope with a line break is none
	}
	_, err := io.WriteString(t.out, send)
	return err
}

func decryptSetup(fs *flag.FlagSet) func(context.Context, terminal, []string) error {
	socket, verbose := clientFlag(fs), fs.Bool("verbose", false, "say on standard error which kid opened it, at which boundary")
	asJSON := fs.Bool("json", false, "print JSON: plaintext in base64, kid, boundary")
	exchange := fs.String("exchange", "", "the `ID` of the exchange whose reply it is")
	fields := listFlag(fs, "field", "the value at this JSON `POINTER` is an envelope with text; may be repeated")
	jsonFields := listFlag(fs, "field-json", "the value at this JSON `POINTER` is an envelope with JSON; may be repeated")
	return func(ctx context.Context, t terminal, args []string) error {
		envelope, err := input(t, args[1:])
		if err != nil {
			return err
		}
		c := client.New(*socket)
		var opened *client.Opened
		switch {
		case given(fs, "field") || given(fs, "field-json"):
			opened, err = c.DecryptFields(ctx, args[0], envelope, client.DecryptOptions{Fields: *fields, JSONFields: *jsonFields, Exchange: *exchange})
		case given(fs, "exchange"):
			opened, err = c.DecryptReply(ctx, args[0], *exchange, trimNewline(envelope))
		default:
			opened, err = c.Decrypt(ctx, args[0], trimNewline(envelope))
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
