package partner

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// ProxyEnvironment as a proxy setting takes HTTPS_PROXY, HTTP_PROXY and
// NO_PROXY from the environment. Otherwise the environment is ignored.
const ProxyEnvironment = "environment"

// newTransport makes the transport for one partner. cert is called for each
// TLS handshake that asks for a certificate.
func newTransport(proxy string, cert func(*tls.CertificateRequestInfo) (*tls.Certificate, error), roots *x509.CertPool) (*http.Transport, error) {
	through, err := proxyFunc(proxy)
	if err != nil {
		return nil, err
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots}
	if cert != nil {
		conf.GetClientCertificate = func(info *tls.CertificateRequestInfo) (*tls.Certificate, error) {
			c, err := cert(info)
			if err == nil && c == nil {
				err = errors.New("there is none")
			}
			if err != nil {
				return nil, fmt.Errorf("%w: reading the client certificate: %w", ErrCredentials, err)
			}
			return c, nil
		}
	}
	return &http.Transport{
		Proxy:                  through,
		DialContext:            (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		TLSClientConfig:        conf,
		TLSHandshakeTimeout:    10 * time.Second,
		ForceAttemptHTTP2:      true,
		DisableCompression:     true,
		MaxResponseHeaderBytes: 64 << 10,
		// Business requests come side by side, where HTTP/2 is not to be had.
		MaxIdleConns:        64,
		MaxIdleConnsPerHost: 32,
		// keyd's own come in bursts hours apart. A POST on a connection the other
		// side has just closed cannot be repeated safely by net/http.
		IdleConnTimeout: 30 * time.Second,
	}, nil
}

// noRedirect keeps credentials from following a redirect to another place, and
// a POST from turning into a GET.
func noRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// proxyFunc reads the proxy setting. The URL may carry a password and is
// therefore never quoted.
func proxyFunc(setting string) (func(*http.Request) (*url.URL, error), error) {
	switch setting {
	case "":
		return nil, nil
	case ProxyEnvironment:
		return http.ProxyFromEnvironment, nil
	}
	u, err := url.Parse(setting)
	if err != nil {
		return nil, errors.New("proxy: not a URL")
	}
	switch u.Scheme {
	case "http", "https", "socks5", "socks5h":
	default:
		return nil, fmt.Errorf("proxy: want %q, or a URL with http, https, socks5 or socks5h", ProxyEnvironment)
	}
	if u.Hostname() == "" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, errors.New("proxy: want only scheme, credentials, host and port")
	}
	return http.ProxyURL(u), nil
}

// proxySecrets are the parts of a proxy setting that no error may show.
func proxySecrets(setting string) []string {
	u, err := url.Parse(setting)
	if err != nil || u.User == nil {
		return nil
	}
	password, _ := u.User.Password()
	_, encoded, _ := strings.Cut(u.User.String(), ":")
	basic := base64.StdEncoding.EncodeToString([]byte(u.User.Username() + ":" + password))
	return []string{password, encoded, basic}
}

// checkBase reads a base URL and returns it without a trailing slash. Plain
// http is for a simulator on this machine.
func checkBase(setting string) (string, error) {
	u, err := url.Parse(setting)
	switch {
	case setting == "":
		return "", errors.New("base URL: missing")
	case err != nil || u.Hostname() == "":
		return "", errors.New("base URL: not an absolute URL")
	case u.User != nil || u.RawQuery != "" || u.ForceQuery || strings.Contains(setting, "#"):
		return "", errors.New("base URL: want only scheme, host, port and path")
	case u.Scheme == "https", u.Scheme == "http" && isLoopback(u.Hostname()):
		return strings.TrimRight(u.String(), "/"), nil
	}
	return "", fmt.Errorf("base URL: %s://%s: want https (plain http only on a loopback address)", u.Scheme, u.Host)
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
