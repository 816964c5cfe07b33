package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"keyd/internal/api"
	"keyd/internal/boundary"
	"keyd/internal/partner"
	"keyd/internal/registry"
)

// setDefaults fills what may be left out and is not package partner's to say.
func (c *partnerConfig) setDefaults() {
	or(&c.Timeout, registry.Duration(30*time.Second))
	switch c.Type {
	case partner.TypeWise:
		or(&c.ResponseKID, "jose")
		or(&c.Kidless, string(api.KidlessRefuse))
		or(&c.ForeignKID, foreignRefuse)
	case partner.TypeJWE:
		or(&c.Kidless, string(api.KidlessRefuse))
		or(&c.ForeignKID, foreignRefuse)
	case partner.TypeJackHenry:
		// No kid of ours is part of a request, so none can be expected in a reply,
		// and what one in it would mean is not documented.
		or(&c.Kidless, string(api.KidlessAny))
		or(&c.ForeignKID, foreignIgnore)
		or(&c.AssertionKey, assertionByHand)
	}
}

// Settings that have words.
const (
	foreignRefuse    = "refuse"
	foreignIgnore    = "ignore"
	assertionByHand  = "by-hand"
	assertionFetched = "fetched"
)

func (p *problems) partner(path, name string, c partnerConfig) {
	before := len(*p)
	p.name(path, name)
	p.oneOf(path+".type", c.Type, partnerTypes...)
	for _, wrong := range c.strange() {
		p.add(path, "%s", wrong)
	}
	u, err := url.Parse(c.URL)
	switch {
	case err != nil || u.Host == "" || u.RawQuery != "" || u.User != nil:
		p.add(path+".url", "%q: want https://host", c.URL)
	case u.Scheme != "https" && (u.Scheme != "http" || !isLoopbackHost(u.Hostname())):
		p.add(path+".url", "%q: plain http is for a loopback address only", c.URL)
	}
	if c.Type == partner.TypeWise && c.ClientID == "" {
		p.add(path+".client_id", "is missing")
	}
	if c.ClientSecret != "" || c.Type == partner.TypeWise {
		p.check(path+".client_secret", c.ClientSecret.check())
	}
	for _, name := range slices.Sorted(maps.Keys(c.SecretHeaders)) {
		p.check(path+".secret_headers."+name, c.SecretHeaders[name].check())
	}
	for _, enc := range append(slices.Clone(c.Encs), c.SealEnc) {
		if _, ok := boundary.CEKLen(enc); !ok && enc != "" {
			p.add(path+".encs", "%q is not a content encryption keyd knows", enc)
		}
	}
	if c.Kidless != "" {
		p.oneOf(path+".kidless", c.Kidless, string(api.KidlessRefuse), string(api.KidlessActive), string(api.KidlessAny))
		p.oneOf(path+".foreign_kid", c.ForeignKID, foreignRefuse, foreignIgnore)
	}
	if c.AssertionKey != "" {
		p.oneOf(path+".assertion_key", c.AssertionKey, assertionByHand, assertionFetched)
	}
	if c.Timeout < registry.Duration(time.Second) || c.Timeout > registry.Duration(5*time.Minute) {
		p.add(path+".timeout", "%s: want 1s to 5m", c.Timeout)
	}
	p.tls(path+".tls", c.TLS)
	_, err = c.pins()
	p.check(path+".pin", err)
	if len(*p) == before {
		_, err := newRemote(name, c, dealings{log: slog.New(slog.DiscardHandler), signer: noSigner})
		p.check(path, err)
	}
}

// pins are the fingerprints as the registry has them.
func (c *partnerConfig) pins() ([]string, error) {
	var pins []string
	for _, pin := range c.Pin {
		sum, ok := strings.CutPrefix(pin, "sha256:")
		if raw, err := hex.DecodeString(sum); !ok || err != nil || len(raw) != 32 {
			return nil, fmt.Errorf("%q: want sha256: and 64 hex digits; keyd partners show prints the fingerprint", pin)
		}
		pins = append(pins, strings.ToLower(sum))
	}
	return pins, nil
}

// pinned are the pins of a config that was found good.
func (c *partnerConfig) pinned() []string {
	pins, err := c.pins()
	if err != nil {
		return []string{"none"} // which is no fingerprint: nothing is sealed
	}
	return pins
}

// dealings is what a partner's client is given besides its config.
type dealings struct {
	log     *slog.Logger
	observe func(op string, status int, d time.Duration, err error)
	signer  partner.Signer
	most    int // bytes of a request's body, and of its answer's; 0 is package partner's own
}

func noSigner(context.Context) (string, func([]byte) ([]byte, error), error) {
	return "", nil, errors.New("the config is only being checked")
}

// newRemote makes the client of one partner.
func newRemote(name string, c partnerConfig, d dealings) (remote, error) {
	link, err := c.connection(name, d)
	if err != nil {
		return nil, err
	}
	secret := c.ClientSecret.read
	if c.ClientSecret == "" {
		secret = nil
	}
	switch c.Type {
	case partner.TypeWise:
		kid, err := parseResponseKID(c.ResponseKID)
		if err != nil {
			return nil, fmt.Errorf("response_kid: %w", err)
		}
		return some(partner.NewWise(partner.WiseConfig{Connection: link, ClientID: c.ClientID, ClientSecret: secret, ResponseKID: kid, OnDuplicate: c.OnDuplicate,
			SealEnc: c.SealEnc, ReplyEncs: c.Encs, Authorization: c.Authorization, Direct: c.Direct, DirectMaybe: c.DirectMaybe}))
	case partner.TypeWiseCard:
		return some(partner.NewWiseCard(partner.WiseCardConfig{Connection: link, Replies: c.Replies, KeyVersion: c.KeyVersion}))
	case partner.TypeJackHenry:
		signer := d.signer
		if c.Authorization == partner.AuthCaller {
			signer = nil
		}
		return some(partner.NewJackHenry(partner.JackHenryConfig{Connection: link, Prefix: c.Prefix, KeyPath: c.KeyPath, Authorization: c.Authorization,
			ClientID: c.ClientID, Signer: signer, TokenURL: c.TokenURL, Audience: c.Audience, Scopes: c.Scopes, KeyForm: c.KeyForm, Fields: c.fields(), ReplyEncs: c.Encs}))
	case partner.TypePowens:
		return some(partner.NewPowens(partner.PowensConfig{Connection: link, Authorization: c.Authorization, KeyAuthorization: c.KeyAuthorization,
			ClientID: c.ClientID, ClientSecret: secret, Scopes: c.Scopes, KeyID: c.KeyID, StaleCodes: c.StaleCodes, Fields: c.fields()}))
	case partner.TypeVenly:
		return some(partner.NewVenly(partner.VenlyConfig{Connection: link, Authorization: c.Authorization, ClientID: c.ClientID, ClientSecret: secret,
			TokenURL: c.TokenURL, KeyID: c.KeyID, Hash: c.Hash, Body: c.Body}))
	case partner.TypeJWE:
		return some(partner.NewJWE(c.described(link, secret)))
	}
	return nil, fmt.Errorf("type %q: want one of %s", c.Type, strings.Join(partnerTypes, ", "))
}

// some keeps a nil client from becoming a remote that is not nil.
func some[R remote](r R, err error) (remote, error) {
	if err != nil {
		return nil, err
	}
	return r, nil
}

// described is a partner of which nothing is known but its config.
func (c *partnerConfig) described(link partner.Connection, secret func() ([]byte, error)) partner.JWEConfig {
	secrets := map[string]func() ([]byte, error){}
	for name, ref := range c.SecretHeaders {
		secrets[name] = ref.read
	}
	return partner.JWEConfig{Connection: link, Key: partner.KeySource(c.Key),
		Form: c.Form, SealAlg: c.SealAlg, SealEnc: c.SealEnc, KID: c.KID, URLHeader: c.URLHeader, JOSE: c.JOSE, IssuedAt: c.IssuedAt,
		ReplyAlgs: c.Algs, ReplyEncs: c.Encs, Direct: c.Direct, OurKey: c.OurKey, KeyForm: c.KeyForm,
		RequestMember: c.RequestMember, ReplyMember: c.ReplyMember, Fields: c.fields(),
		ContentType: c.ContentType, Accept: c.Accept, Header: c.Headers, SecretHeader: secrets,
		Authorization: c.Authorization, TokenURL: c.TokenURL, ClientID: c.ClientID, ClientSecret: secret, SecretIn: c.SecretIn, Scopes: c.Scopes, StaleCodes: c.StaleCodes}
}

func (c *partnerConfig) connection(name string, d dealings) (partner.Connection, error) {
	roots, err := c.TLS.authorities()
	if err != nil {
		return partner.Connection{}, err
	}
	link := partner.Connection{Name: name, BaseURL: c.URL, RootCAs: roots, Proxy: c.Proxy, Timeout: time.Duration(c.Timeout), Logger: d.log, Observe: d.observe,
		Forward: c.Forward, StaleStatus: c.StaleStatus, MaxBody: d.most}
	for _, a := range c.Allow {
		link.Allow = append(link.Allow, partner.Allow(a))
	}
	if c.TLS.Cert != "" {
		link.ClientCert = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return c.TLS.certificate() }
	}
	return link, nil
}

// fields is nil where the config names none: package partner then takes what is
// documented.
func (c *partnerConfig) fields() []partner.FieldRule {
	var rules []partner.FieldRule
	for _, f := range c.Fields {
		rules = append(rules, partner.FieldRule(f))
	}
	return rules
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
