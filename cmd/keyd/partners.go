package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"keyd/internal/api"
	"keyd/internal/audit"
	"keyd/internal/boundary"
	"keyd/internal/partner"
	"keyd/internal/registry"
)

func (p *problems) partner(path, name string, c partnerConfig) {
	before := len(*p)
	p.name(path, name)
	p.oneOf(path+".type", c.Type, "wise")
	u, err := url.Parse(c.URL)
	switch {
	case err != nil || u.Host == "" || u.RawQuery != "" || u.User != nil:
		p.add(path+".url", "%q: want https://host", c.URL)
	case u.Scheme != "https" && (u.Scheme != "http" || !isLoopbackHost(u.Hostname())):
		p.add(path+".url", "%q: plain http is for a loopback address only", c.URL)
	}
	if c.ClientID == "" {
		p.add(path+".client_id", "is missing")
	}
	p.check(path+".client_secret", c.ClientSecret.check())
	if _, err := parseResponseKID(c.ResponseKID); err != nil {
		p.check(path+".response_kid", err)
	}
	for _, enc := range append(slices.Clone(c.Encs), c.SealEnc) {
		if _, ok := boundary.CEKLen(enc); !ok {
			p.add(path+".encs", "%q is not a content encryption keyd knows", enc)
		}
	}
	p.oneOf(path+".on_duplicate", c.OnDuplicate, "fail", "accept")
	if c.Timeout < registry.Duration(time.Second) || c.Timeout > registry.Duration(5*time.Minute) {
		p.add(path+".timeout", "%s: want 1s to 5m", c.Timeout)
	}
	p.tls(path+".tls", c.TLS)
	if len(*p) == before {
		_, err := newWise(name, c, slog.New(slog.DiscardHandler), nil)
		p.check(path, err)
	}
}

func (p *problems) tls(path string, c tlsConfig) {
	if (c.Cert == "") != (c.Key == "") {
		p.add(path, "give both cert and key, or neither")
		return
	}
	if c.Cert != "" {
		_, err := c.certificate()
		p.check(path, err)
	}
	if c.CA != "" {
		_, err := c.authorities()
		p.check(path+".ca", err)
	}
}

// parseResponseKID reads response_kid: jose, header:NAME or none.
func parseResponseKID(s string) (partner.ResponseKID, error) {
	in, header, named := strings.Cut(s, ":")
	if (in == partner.KIDInHeader) == (header != "") && (named || in == partner.KIDInJOSE || in == partner.KIDNowhere) {
		return partner.ResponseKID{In: in, Header: header}, nil
	}
	return partner.ResponseKID{}, fmt.Errorf("%q: want jose, header:NAME or none", s)
}

// newWise makes the client of one partner. observe is told of every call.
func newWise(name string, c partnerConfig, log *slog.Logger,
	observe func(op string, status int, d time.Duration, err error)) (*partner.Wise, error) {
	kid, err := parseResponseKID(c.ResponseKID)
	if err != nil {
		return nil, fmt.Errorf("response_kid: %w", err)
	}
	roots, err := c.TLS.authorities()
	if err != nil {
		return nil, err
	}
	cfg := partner.WiseConfig{
		Connection: partner.Connection{Name: name, BaseURL: c.URL, RootCAs: roots, Proxy: c.Proxy,
			Timeout: time.Duration(c.Timeout), Logger: log, Observe: observe},
		ClientID: c.ClientID, ClientSecret: c.ClientSecret.read,
		ResponseKID: kid, OnDuplicate: c.OnDuplicate, SealEnc: c.SealEnc, ReplyEncs: c.Encs,
	}
	if c.TLS.Cert != "" {
		cfg.ClientCert = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return c.TLS.certificate() }
	}
	return partner.NewWise(cfg)
}

// certificate reads the client certificate afresh.
func (c tlsConfig) certificate() (*tls.Certificate, error) {
	cert, err := os.ReadFile(c.Cert)
	if err != nil {
		return nil, fmt.Errorf("reading the client certificate: %w", err)
	}
	key, err := c.Key.read()
	if err != nil {
		return nil, err
	}
	defer clear(key)
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("using the client certificate %s: %w", c.Cert, err)
	}
	return &pair, nil
}

// authorities reads the CA file; without one, nil is the system's.
func (c tlsConfig) authorities() (*x509.CertPool, error) {
	if c.CA == "" {
		return nil, nil //nolint:nilnil // nil is how crypto/tls says "the system's"
	}
	raw, err := os.ReadFile(c.CA)
	if err != nil {
		return nil, fmt.Errorf("reading the authorities: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(raw) {
		return nil, fmt.Errorf("%s holds no PEM certificate", c.CA)
	}
	return pool, nil
}

// canary asks Wise's playground for an answer sealed to us and opens it the way
// any answer is opened.
type canary struct {
	partner string
	wise    *partner.Wise
	opener  *api.Opener
}

// Probe returns the kid that the playground's answer named.
func (c canary) Probe(ctx context.Context, kid string) (string, error) {
	compact, err := c.wise.Playground(ctx, kid)
	if err != nil {
		return "", err
	}
	opened, err := c.opener.Open(ctx, audit.System, c.partner, compact)
	if err != nil {
		return "", fmt.Errorf("opening the playground's answer: %w", err)
	}
	clear(opened.Plaintext)
	return opened.KID, nil
}
