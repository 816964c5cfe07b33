package partner

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"
)

// What an *Error's Op, the log and the metrics call each kind of call.
const (
	opToken      = "token"
	opAnnounce   = "announce"
	opKey        = "key"
	opPlayground = "playground"
)

// Where a request names the key Wise should seal its response to. Wise's
// documentation says that it must, and not where.
const (
	KIDInJOSE   = "jose"   // as kid in the JOSE header of the request's envelope
	KIDInHeader = "header" // in an HTTP header
	KIDNowhere  = "none"   // Wise chooses
)

// What an announcement answered with 409 means; Wise documents only 201 and 429.
const (
	DuplicateFails    = "fail"
	DuplicateAccepted = "accept"
)

// ResponseKID says how a request names the key for its response.
type ResponseKID struct {
	// In is KIDInJOSE (the default), KIDInHeader or KIDNowhere.
	In string
	// Header is the name of the HTTP header, with KIDInHeader only.
	Header string
}

// WiseConfig is one Wise client.
type WiseConfig struct {
	// Name is the partner's name in keyd's config, for errors and logs.
	Name string
	// BaseURL is Wise's API, such as https://api-mtls.transferwise.com or
	// https://api.wise-sandbox.com. Plain http is taken for loopback only.
	BaseURL string
	// ClientID is the OAuth 2.0 client Wise has given us.
	ClientID string
	// ClientSecret returns the secret that goes with it, exactly, without a
	// trailing newline. It is called for each new access token, so a rotated
	// secret needs no restart; the slice is wiped after use.
	ClientSecret func() ([]byte, error)
	// ResponseKID says how a request names the key for its response.
	ResponseKID ResponseKID
	// OnDuplicate is DuplicateFails (the default) or DuplicateAccepted: take a
	// 409 to an announcement as "you have told me before", unless its body
	// names another key.
	OnDuplicate string
	// ClientCert returns the TLS client certificate (required on Wise's mTLS
	// hosts). It is called for every handshake, so a renewed certificate needs
	// no restart. Nil is none.
	ClientCert func(*tls.CertificateRequestInfo) (*tls.Certificate, error)
	// RootCAs are the authorities trusted for Wise's certificate; nil is the
	// system's.
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
}

func (c *WiseConfig) validate() (base string, err error) {
	var errs []error
	add := func(bad bool, format string, args ...any) {
		if bad {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	add(c.Name == "", "name: missing")
	add(c.ClientID == "", "client ID: missing")
	add(c.ClientSecret == nil, "client secret: missing")
	add(c.Logger == nil, "logger: missing")
	add(c.Timeout < 0, "timeout %s: negative", c.Timeout)
	switch c.ResponseKID.In {
	case KIDInHeader:
		add(!validHeader(c.ResponseKID.Header), "response kid: %q cannot be the header's name", c.ResponseKID.Header)
	case "", KIDInJOSE, KIDNowhere:
		add(c.ResponseKID.Header != "", "response kid: a header name without %q", KIDInHeader)
	default:
		add(true, "response kid in %q: want %s, %s or %s", c.ResponseKID.In, KIDInJOSE, KIDInHeader, KIDNowhere)
	}
	switch c.OnDuplicate {
	case "", DuplicateFails, DuplicateAccepted:
	default:
		add(true, "on duplicate %q: want %s or %s", c.OnDuplicate, DuplicateFails, DuplicateAccepted)
	}
	add(c.HTTP != nil && (c.ClientCert != nil || c.RootCAs != nil || c.Proxy != ""),
		"HTTP replaces the transport, client certificate, root CAs and proxy have no effect")
	base, err = checkBase(c.BaseURL)
	add(err != nil, "%w", err)
	add(strings.HasPrefix(base, "http:") && c.ClientCert != nil, "a client certificate needs an https base URL")
	return base, errors.Join(errs...)
}

// validHeader reports whether a name may carry the kid: a token (RFC 9110
// §5.6.2) that net/http or keyd does not use for something else.
func validHeader(name string) bool {
	const allowed = "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz"
	if name == "" || strings.Trim(strings.ToLower(name), allowed) != "" {
		return false
	}
	switch strings.ToLower(name) {
	case "authorization", "proxy-authorization", "content-type", "content-length", "content-encoding", "accept",
		"accept-encoding", "host", "connection", "te", "trailer", "transfer-encoding", "upgrade", "user-agent", "x-tw-jose-method":
		return false
	}
	return true
}

// Wise speaks to Wise's JOSE API. It is safe for concurrent use.
type Wise struct {
	name        string
	kid         ResponseKID
	onDuplicate string
	exchange    *exchange
	tokens      *tokenSource
	logger      *slog.Logger
}

// NewWise checks the config and returns a client. It makes no call.
func NewWise(cfg WiseConfig) (*Wise, error) {
	base, err := cfg.validate()
	transport := cfg.HTTP
	if transport == nil {
		t, transportErr := newTransport(cfg.Proxy, cfg.ClientCert, cfg.RootCAs)
		err = errors.Join(err, transportErr)
		transport = t
	}
	if err != nil {
		return nil, fmt.Errorf("partner %q: %w", cfg.Name, err)
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = 30 * time.Second
	}
	if cfg.ResponseKID.In == "" {
		cfg.ResponseKID.In = KIDInJOSE
	}
	logger := cfg.Logger.With("partner", cfg.Name)
	x := &exchange{
		partner: cfg.Name,
		base:    base,
		client:  &http.Client{Transport: transport, CheckRedirect: noRedirect},
		timeout: cfg.Timeout,
		observe: cfg.Observe,
		secrets: proxySecrets(cfg.Proxy),
	}
	return &Wise{
		name:        cfg.Name,
		kid:         cfg.ResponseKID,
		onDuplicate: cfg.OnDuplicate,
		exchange:    x,
		tokens:      &tokenSource{exchange: x, clientID: cfg.ClientID, secret: cfg.ClientSecret, logger: logger},
		logger:      logger,
	}, nil
}

// Headers are the HTTP headers of a request whose body is an envelope, but for
// Authorization: what business calls need is a token of another kind, which
// keyd does not hold. Endpoints for PINs and device fingerprints also want
// Content-Encoding: identity.
func (w *Wise) Headers(kid string) http.Header {
	h := http.Header{}
	h.Set("Content-Type", joseType)
	h.Set("Accept", joseType)
	h.Set("X-TW-JOSE-Method", "jwe")
	h.Set("Accept-Encoding", "identity")
	if w.kid.In == KIDInHeader && kid != "" {
		h.Set(w.kid.Header, kid)
	}
	return h
}

// GetHeaders are the headers of a request without a body, whose answer is an
// envelope all the same. They are those of Headers; Wise's samples send
// Content-Type on these too. With KIDInJOSE such a request has no JOSE header
// to name kid in, and which key Wise then takes is not documented: choose the
// private key by the kid of the answer.
func (w *Wise) GetHeaders(kid string) http.Header { return w.Headers(kid) }

// NamesKIDInJOSE reports whether requests name the key for their response in
// the JOSE header of their own envelope.
func (w *Wise) NamesKIDInJOSE() bool { return w.kid.In == KIDInJOSE }

// call makes an authorised call. After a 401 the token is dropped, fetched once
// more, and the call repeated once.
func (w *Wise) call(ctx context.Context, c call) error {
	for repeated := false; ; repeated = true {
		token, err := w.tokens.get(ctx)
		if err != nil {
			return err
		}
		c.header.Set("Authorization", "Bearer "+token)
		c.secrets = []string{token}
		err = w.exchange.do(ctx, c)
		e, ok := errors.AsType[*Error](err)
		if !ok || e.Status != http.StatusUnauthorized || repeated {
			return err
		}
		w.tokens.drop(token)
		w.logger.InfoContext(ctx, "the access token was refused, asking for another", "op", c.op)
	}
}
