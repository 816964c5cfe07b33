package partner

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"
)

// Connection is how a partner is reached, whichever partner it is.
type Connection struct {
	// Name is the partner's name in keyd's config, for errors and logs.
	Name string
	// BaseURL is the partner's API, such as https://api-mtls.transferwise.com
	// or https://api.wise-sandbox.com. Plain http is taken for loopback only.
	BaseURL string
	// ClientCert returns the TLS client certificate (required on Wise's mTLS
	// hosts). It is called for every handshake, so a renewed certificate needs
	// no restart. Nil is none.
	ClientCert func(*tls.CertificateRequestInfo) (*tls.Certificate, error)
	// RootCAs are the authorities trusted for the partner's certificate; nil is
	// the system's.
	RootCAs *x509.CertPool
	// Proxy is the URL of an http, https or socks5 proxy, ProxyEnvironment, or
	// "" for none.
	Proxy string
	// Timeout bounds every single HTTP call, 30 s when 0.
	Timeout time.Duration
	// HTTP replaces the whole transport; ClientCert, RootCAs and Proxy must
	// then be empty.
	HTTP http.RoundTripper
	// Logger is required. No secret is ever logged.
	Logger *slog.Logger
	// Observe, if set, is told of every HTTP call: its kind, the status (0 for
	// no answer) and the error, if any.
	Observe func(op string, status int, d time.Duration, err error)
	// Allow is which business requests Do sends. Empty is none.
	Allow []Allow
	// Forward names headers that a caller may set on a business request beside
	// those the partner documents.
	Forward []string
	// MaxBody bounds the bodies of business requests and of their answers, in
	// bytes; 1 MiB when 0.
	MaxBody int
	// StaleStatus are the statuses of an answer that may mean that the request
	// was sealed to a key the partner no longer uses. Nil is what is documented
	// of the partner or, where nothing is, 400 and 500.
	StaleStatus []int
}

// complaints collects everything that is wrong with a config.
type complaints []error

func (c *complaints) add(bad bool, format string, args ...any) {
	if bad {
		*c = append(*c, fmt.Errorf(format, args...))
	}
}

func (c *complaints) check(err error) { c.add(err != nil, "%w", err) }

// check says what is wrong with a connection.
func (c *Connection) check(wrong *complaints) {
	wrong.add(c.Name == "", "name: missing")
	wrong.add(c.Logger == nil, "logger: missing")
	wrong.add(c.Timeout < 0, "timeout %s: negative", c.Timeout)
	wrong.add(c.MaxBody < 0, "largest body %d: negative", c.MaxBody)
	wrong.add(c.HTTP != nil && (c.ClientCert != nil || c.RootCAs != nil || c.Proxy != ""),
		"HTTP replaces the transport, client certificate, root CAs and proxy have no effect")
	base, err := checkBase(c.BaseURL)
	wrong.check(err)
	wrong.add(strings.HasPrefix(base, "http:") && c.ClientCert != nil, "a client certificate needs an https base URL")
	for _, a := range c.Allow {
		wrong.check(a.check())
	}
	for _, status := range c.StaleStatus {
		wrong.add(status < 400 || status > 599 || status == http.StatusTooManyRequests, "stale status %d: want an error, and not 429", status)
	}
	for _, name := range c.Forward {
		wrong.add(!forwardable(name), "forward: %q is not for callers to set", name)
	}
}

// stale reports whether an answer may mean a stale key, by its status alone. A
// request without a body may be sealed too: what allows it, in a header.
func (c *Connection) stale(req Request, a *answer, otherwise ...int) bool {
	statuses := c.StaleStatus
	if statuses == nil {
		statuses = otherwise
	}
	return (len(req.Body) > 0 || req.KeyID != "") && slices.Contains(statuses, a.status)
}

// readStale tells answers apart for a partner that answers in clear.
func (c *Connection) readStale(otherwise ...int) func(Request, *answer) (*Response, error) {
	return func(req Request, a *answer) (*Response, error) {
		res := newResponse(a)
		if c.stale(req, a, otherwise...) {
			res.Kind = KindStale
		}
		return res, nil
	}
}

// open makes the exchange of a connection. wrong is what its partner's config
// was found to have, and is reported with what is found here.
func (c *Connection) open(wrong complaints) (*exchange, error) {
	c.check(&wrong)
	transport := c.HTTP
	if transport == nil {
		t, err := newTransport(c.Proxy, c.ClientCert, c.RootCAs)
		wrong.check(err)
		transport = t
	}
	if err := errors.Join(wrong...); err != nil {
		return nil, fmt.Errorf("partner %q: %w", c.Name, err)
	}
	if c.Timeout == 0 {
		c.Timeout = 30 * time.Second
	}
	base, err := checkBase(c.BaseURL)
	if err != nil {
		return nil, err
	}
	c.Logger = c.Logger.With("partner", c.Name)
	return &exchange{
		partner: c.Name,
		base:    base,
		client:  &http.Client{Transport: transport, CheckRedirect: noRedirect},
		timeout: c.Timeout,
		most:    cmp.Or(c.MaxBody, maxBody),
		observe: c.Observe,
		secrets: proxySecrets(c.Proxy),
	}, nil
}
