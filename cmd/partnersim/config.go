package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"strings"

	"keyd/internal/partner/partnersim"
)

// config is what the command line says.
type config struct {
	address  string
	anywhere bool
	addrFile string
	tlsCert  string
	tlsKey   string
	clientCA string
	options  partnersim.Options
}

const usage = `usage: partnersim [flags]

Pretends to be keyd's partners on a local port, for demos and tests: Wise and
its card data host from the root on, the others below /jackhenry, /powens/2.0,
/venly and /generic. The first line it prints is "listening on URL". What each
pretends, and how to make it fail: docs/partnersim.md.

`

// parse reads the command line and checks all of it.
func parse(args []string, stderr io.Writer) (config, error) {
	var c config
	var secretFile string
	o := &c.options
	fs := flag.NewFlagSet("partnersim", flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.Usage = func() {
		_, _ = io.WriteString(stderr, usage) // nowhere else to say that stderr is gone
		fs.PrintDefaults()
	}
	fs.StringVar(&c.address, "listen", "127.0.0.1:0", "`address` to listen on")
	fs.BoolVar(&c.anywhere, "allow-other-hosts", false, "let -listen be an address other hosts can reach (never /sim/)")
	fs.StringVar(&c.addrFile, "addr-file", "", "`file` that holds the URL while partnersim listens")
	fs.StringVar(&c.tlsCert, "tls-cert", "", "PEM `file` with the server's certificate chain")
	fs.StringVar(&c.tlsKey, "tls-key", "", "PEM `file` with its private key")
	fs.StringVar(&c.clientCA, "client-ca", "", "PEM `file`: callers need a certificate from one of these CAs")
	fs.StringVar(&o.ClientID, "client-id", "", "client `name` (default "+partnersim.DemoClientID+", with a published secret)")
	fs.StringVar(&secretFile, "client-secret-file", "", "`file` with the client secret")
	fs.Func("partners", "only these partners, by comma: "+strings.Join(names(), ",")+" (default all)", func(list string) error {
		for name := range strings.SplitSeq(list, ",") {
			o.Partners = append(o.Partners, partnersim.Partner(name))
		}
		return nil
	})
	wiseFlags(fs, o)
	otherFlags(fs, o)
	if err := fs.Parse(args); err != nil {
		return c, err
	}
	if fs.NArg() > 0 {
		return c, fmt.Errorf("unexpected argument %q", fs.Arg(0))
	}
	return c, c.complete(secretFile)
}

// complete reads the secret and checks what belongs together.
func (c *config) complete(secretFile string) error {
	var errs []error
	if (c.options.ClientID == "") != (secretFile == "") {
		errs = append(errs, errors.New("-client-id and -client-secret-file go together"))
	}
	if (c.tlsCert == "") != (c.tlsKey == "") {
		errs = append(errs, errors.New("-tls-cert and -tls-key go together"))
	}
	if c.clientCA != "" && c.tlsCert == "" {
		errs = append(errs, errors.New("-client-ca needs -tls-cert"))
	}
	if secretFile != "" {
		secret, err := os.ReadFile(secretFile)
		if err != nil {
			errs = append(errs, fmt.Errorf("reading the client secret: %w", err))
		}
		c.options.ClientSecret = strings.TrimRight(string(secret), "\r\n")
	}
	if len(errs) == 0 && secretFile == "" {
		c.options.ClientID, c.options.ClientSecret = partnersim.DemoClientID, partnersim.DemoClientSecret
	}
	if len(errs) == 0 {
		errs = append(errs, c.options.Validate())
	}
	return errors.Join(errs...)
}

// listen opens the listener and returns the URL it serves.
func (c *config) listen(ctx context.Context) (net.Listener, string, error) {
	addr, err := loopback(c.address, c.anywhere)
	if err != nil {
		return nil, "", err
	}
	var security *tls.Config
	if c.tlsCert != "" {
		if security, err = c.tls(); err != nil {
			return nil, "", err
		}
	}
	var lc net.ListenConfig
	listener, err := lc.Listen(ctx, "tcp", addr.String())
	if err != nil {
		return nil, "", fmt.Errorf("listening: %w", err)
	}
	base := "http://" + listener.Addr().String()
	if security != nil {
		base = "https://" + listener.Addr().String()
		listener = tls.NewListener(listener, security)
	}
	return listener, base, nil
}

// tls is the TLS configuration of a listener that has a certificate.
func (c *config) tls() (*tls.Config, error) {
	pair, err := tls.LoadX509KeyPair(c.tlsCert, c.tlsKey)
	if err != nil {
		return nil, fmt.Errorf("loading the server certificate: %w", err)
	}
	security := &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	if c.clientCA == "" {
		return security, nil
	}
	pem, err := os.ReadFile(c.clientCA)
	if err != nil {
		return nil, fmt.Errorf("reading the client CA: %w", err)
	}
	security.ClientCAs = x509.NewCertPool()
	if !security.ClientCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("the client CA file %s holds no certificate", c.clientCA)
	}
	security.ClientAuth = tls.RequireAndVerifyClientCert
	return security, nil
}
