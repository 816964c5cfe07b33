package partner_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"errors"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"keyd/internal/partner"
)

// authority signs client certificates for a test.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	a := &authority{key: must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign}
	der := must(x509.CreateCertificate(rand.Reader, tmpl, tmpl, &a.key.PublicKey, a.key))
	a.cert = must(x509.ParseCertificate(der))
	return a
}

func (a *authority) client(serial int64) *tls.Certificate {
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "keyd"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	der := must(x509.CreateCertificate(rand.Reader, tmpl, a.cert, &key.PublicKey, a.key))
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// serveTLS starts a real TLS server, and returns the pool that trusts it.
func serveTLS(t testing.TB, h http.Handler, change func(*tls.Config)) (*httptest.Server, *x509.CertPool) {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.EnableHTTP2 = true
	s.TLS = &tls.Config{}
	if change != nil {
		change(s.TLS)
	}
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	s.StartTLS()
	t.Cleanup(s.Close)
	pool := x509.NewCertPool()
	pool.AddCert(s.Certificate())
	return s, pool
}

// dial makes a client with the real transport.
func dial(t testing.TB, base string, changes ...func(*partner.WiseConfig)) (*partner.Wise, *logs) {
	t.Helper()
	l := &logs{}
	cfg := config(l)
	cfg.BaseURL = base
	for _, change := range changes {
		change(&cfg)
	}
	w, err := partner.NewWise(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return w, l
}

func TestClientCertificateIsShownAndMayBeRenewed(t *testing.T) {
	ca := newAuthority(t)
	var serial atomic.Int64
	h := func(w http.ResponseWriter, r *http.Request) {
		serial.Store(r.TLS.PeerCertificates[0].SerialNumber.Int64())
		w.Header().Set("Connection", "close") // every call is a handshake
		routes{}.ServeHTTP(w, r)
	}
	s, roots := serveTLS(t, http.HandlerFunc(h), func(c *tls.Config) {
		c.ClientAuth, c.ClientCAs = tls.RequireAndVerifyClientCert, x509.NewCertPool()
		c.ClientCAs.AddCert(ca.cert)
		c.NextProtos = []string{"http/1.1"}
	})
	var cert atomic.Pointer[tls.Certificate]
	cert.Store(ca.client(7))
	w, _ := dial(t, s.URL, func(c *partner.WiseConfig) {
		c.RootCAs = roots
		c.ClientCert = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert.Load(), nil }
	})
	for _, want := range []int64{7, 8} {
		cert.Store(ca.client(want))
		if err := announce(t, w); err != nil {
			t.Fatal(err)
		}
		if got := serial.Load(); got != want {
			t.Errorf("the server saw certificate %d, want %d", got, want)
		}
	}
}

func TestHandshakesThatMustNotSucceed(t *testing.T) {
	ca, stranger := newAuthority(t), newAuthority(t)
	mutual := func(c *tls.Config) {
		c.ClientAuth, c.ClientCAs = tls.RequireAndVerifyClientCert, x509.NewCertPool()
		c.ClientCAs.AddCert(ca.cert)
		// With TLS 1.3 the refusal races with the request; 1.2 says it in the
		// handshake.
		c.MaxVersion = tls.VersionTLS12
	}
	shows := func(cert *tls.Certificate, err error) func(*partner.WiseConfig) {
		return func(c *partner.WiseConfig) {
			c.ClientCert = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, err }
		}
	}
	for name, tc := range map[string]struct {
		server func(*tls.Config)
		client func(*partner.WiseConfig)
		says   string
		is     error
	}{
		"no certificate":         {mutual, nil, "tls:", nil},
		"a stranger's":           {mutual, shows(stranger.client(9), nil), "tls:", nil},
		"it cannot be read":      {mutual, shows(nil, errors.New("open client.pem: gone")), "reading the client certificate: open client.pem: gone", partner.ErrCredentials},
		"there is none":          {mutual, shows(nil, nil), "reading the client certificate: there is none", partner.ErrCredentials},
		"TLS 1.1":                {func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 }, nil, "protocol version", nil},
		"an unknown authority":   {nil, func(c *partner.WiseConfig) { c.RootCAs = x509.NewCertPool() }, "certificate", nil},
		"certificate of another": {nil, func(c *partner.WiseConfig) { c.BaseURL = strings.Replace(c.BaseURL, "127.0.0.1", "localhost", 1) }, "certificate is valid for", nil},
		"not TLS (the base is)": {func(c *tls.Config) {
			c.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return nil, errors.New("no") }
		}, nil, "tls:", nil},
		"two faults: both refuse": {mutual, func(c *partner.WiseConfig) { c.RootCAs = x509.NewCertPool() }, "certificate", nil},
	} {
		t.Run(name, func(t *testing.T) {
			called := false
			s, roots := serveTLS(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { called = true }), tc.server)
			w, _ := dial(t, s.URL, func(c *partner.WiseConfig) { c.RootCAs = roots }, func(c *partner.WiseConfig) {
				if tc.client != nil {
					tc.client(c)
				}
			})
			e := callError(t, fetchKey(t, w), "token", 0, tc.says)
			if tc.is != nil && !errors.Is(e, tc.is) {
				t.Errorf("got %v, want it to be %v", e, tc.is)
			}
			if e.Temporary() {
				t.Errorf("%v does not pass by itself", e)
			}
			if called {
				t.Error("the request was made")
			}
		})
	}
}

func TestPEMFilesServeAsAClientCertificate(t *testing.T) {
	ca := newAuthority(t)
	c := ca.client(5)
	dir := t.TempDir()
	certFile, keyFile := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	key := must(x509.MarshalPKCS8PrivateKey(c.PrivateKey))
	write := func(path, kind string, der []byte) {
		text := "-----BEGIN " + kind + "-----\n" + base64.StdEncoding.EncodeToString(der) + "\n-----END " + kind + "-----\n"
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(certFile, "CERTIFICATE", c.Certificate[0])
	write(keyFile, "PRIVATE KEY", key)
	s, roots := serveTLS(t, routes{}, func(conf *tls.Config) {
		conf.ClientAuth, conf.ClientCAs = tls.RequireAndVerifyClientCert, x509.NewCertPool()
		conf.ClientCAs.AddCert(ca.cert)
	})
	w, _ := dial(t, s.URL, func(conf *partner.WiseConfig) {
		conf.RootCAs = roots
		conf.ClientCert = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(certFile, keyFile)
			return &pair, err
		}
	})
	if err := playground(t, w); err != nil {
		t.Error(err)
	}
}
