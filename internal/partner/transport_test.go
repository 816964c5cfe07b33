package partner_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
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
			e := wantError(t, fetchKey(t, w), "token", 0, tc.says)
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

func TestRedirectsAreNotFollowed(t *testing.T) {
	var elsewhere atomic.Int64
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { elsewhere.Add(1) }))
	defer other.Close()
	s := httptest.NewServer(routes{
		askAnnounce: func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, other.URL, http.StatusTemporaryRedirect)
		},
		askKey: func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, other.URL, http.StatusFound) },
	})
	defer s.Close()
	w, _ := dial(t, s.URL)
	wantError(t, announce(t, w), "announce", 307, "a redirect, which keyd does not follow")
	wantError(t, fetchKey(t, w), "key", 302, "a redirect")
	if elsewhere.Load() != 0 {
		t.Error("a redirect was followed")
	}
}

// proxyServer is a real proxy for plain HTTP and CONNECT.
func proxyServer(t testing.TB, uses *atomic.Int64, wantAuth string) *httptest.Server {
	t.Helper()
	onward := &http.Transport{} // the default one would read the environment
	t.Cleanup(onward.CloseIdleConnections)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if got := r.Header.Get("Proxy-Authorization"); got != wantAuth {
			w.WriteHeader(http.StatusProxyAuthRequired)
			return
		}
		uses.Add(1)
		if r.Method != http.MethodConnect {
			r.RequestURI = ""
			r.Header.Del("Proxy-Authorization")
			res, err := onward.RoundTrip(r)
			if err != nil {
				w.WriteHeader(http.StatusBadGateway)
				return
			}
			defer res.Body.Close()
			for k, v := range res.Header {
				w.Header()[k] = v
			}
			w.WriteHeader(res.StatusCode)
			io.Copy(w, res.Body)
			return
		}
		up, err := net.Dial("tcp", r.Host)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		down, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			up.Close()
			return
		}
		io.WriteString(down, "HTTP/1.1 200 OK\r\n\r\n")
		splice(down, up)
	}))
	t.Cleanup(s.Close)
	return s
}

func splice(a, b net.Conn) {
	go func() { defer a.Close(); defer b.Close(); io.Copy(a, b) }()
	go func() { defer a.Close(); defer b.Close(); io.Copy(b, a) }()
}

// socksServer is a real SOCKS5 proxy (RFC 1928), as much of it as one needs.
func socksServer(t testing.TB, uses *atomic.Int64) string {
	t.Helper()
	l := must(net.Listen("tcp", "127.0.0.1:0"))
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				hello := make([]byte, 2)
				if _, err := io.ReadFull(c, hello); err != nil {
					c.Close()
					return
				}
				io.CopyN(io.Discard, c, int64(hello[1]))
				c.Write([]byte{5, 0})
				head := make([]byte, 10) // version, connect, reserved, IPv4, address, port
				io.ReadFull(c, head)
				up, err := net.Dial("tcp", net.JoinHostPort(net.IP(head[4:8]).String(), itoa(binary.BigEndian.Uint16(head[8:]))))
				if err != nil {
					c.Close()
					return
				}
				uses.Add(1)
				c.Write([]byte{5, 0, 0, 1, 0, 0, 0, 0, 0, 0})
				splice(c, up)
			}()
		}
	}()
	return l.Addr().String()
}

func itoa(n uint16) string { return new(big.Int).SetUint64(uint64(n)).String() }

func TestCallsGoThroughTheProxy(t *testing.T) {
	const auth = "Basic dXNlcjpwcm94eS1odW50ZXIy" // user:proxy-hunter2
	s, roots := serveTLS(t, routes{}, nil)
	plain := httptest.NewServer(routes{})
	defer plain.Close()
	var uses atomic.Int64
	withAuth := strings.Replace(proxyServer(t, &uses, auth).URL, "http://", "http://user:proxy-hunter2@", 1)
	for name, tc := range map[string]struct{ base, proxy string }{
		"CONNECT":                {s.URL, proxyServer(t, &uses, "").URL},
		"CONNECT, with password": {s.URL, withAuth},
		"plain HTTP":             {plain.URL, proxyServer(t, &uses, "").URL + "/"},
		"SOCKS5":                 {s.URL, "socks5://" + socksServer(t, &uses)},
	} {
		t.Run(name, func(t *testing.T) {
			uses.Store(0)
			w, _ := dial(t, tc.base, func(c *partner.WiseConfig) { c.Proxy, c.RootCAs = tc.proxy, roots })
			if err := announce(t, w); err != nil {
				t.Fatal(err)
			}
			if uses.Load() == 0 {
				t.Error("the proxy was not used")
			}
		})
	}
	t.Run("wrong password", func(t *testing.T) {
		proxy := strings.Replace(withAuth, "hunter2", "hunter3", 1)
		w, _ := dial(t, s.URL, func(c *partner.WiseConfig) { c.Proxy, c.RootCAs = proxy, roots })
		e := wantError(t, fetchKey(t, w), "token", 0, "Proxy Authentication Required")
		if strings.Contains(e.Error(), "hunter3") {
			t.Errorf("error shows the password: %v", e)
		}
	})
	t.Run("proxy is down", func(t *testing.T) {
		w, _ := dial(t, s.URL, func(c *partner.WiseConfig) { c.Proxy, c.RootCAs = "http://u:hunter2@127.0.0.1:1", roots })
		if e := wantError(t, fetchKey(t, w), "token", 0, "refused"); !e.Temporary() || strings.Contains(e.Error(), "hunter2") {
			t.Errorf("got %v, temporary %v", e, e.Temporary())
		}
	})
}

// The only test that reads the proxy from the environment: net/http does so
// once per process.
func TestEnvironmentIsAskedForAProxyOnlyWhenTheConfigSaysSo(t *testing.T) {
	var uses atomic.Int64
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		uses.Add(1)
		w.WriteHeader(http.StatusTeapot)
	}))
	defer proxy.Close()
	t.Setenv("HTTPS_PROXY", proxy.URL)
	t.Setenv("NO_PROXY", "")
	closed := must(net.Listen("tcp", "127.0.0.1:0"))
	closed.Close()
	w, _ := dial(t, "https://"+closed.Addr().String()) // loopback is never proxied from the environment
	wantError(t, fetchKey(t, w), "token", 0)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	w, _ = dial(t, "https://wise.invalid")
	_, _, _, _, err := w.FetchKey(ctx)
	wantError(t, err, "token", 0)
	if uses.Load() != 0 {
		t.Fatal("the environment's proxy was used unasked")
	}
	w, _ = dial(t, "https://wise.invalid", func(c *partner.WiseConfig) { c.Proxy = partner.ProxyEnvironment })
	wantError(t, fetchKey(t, w), "token", 0, "teapot")
	if uses.Load() != 1 {
		t.Errorf("the environment's proxy was used %d times, want 1", uses.Load())
	}
}

// What the wire can do to an answer, each way with a real connection.
func TestBrokenAnswersOnARealConnection(t *testing.T) {
	raw := func(text string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			c, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				panic(err)
			}
			io.WriteString(c, text)
			c.Close()
		}
	}
	for name, tc := range map[string]struct {
		answer    string
		status    int
		says      string
		temporary bool
	}{
		"closed, nothing said": {"", 0, "EOF", true},
		"cut in the head":      {"HTTP/1.1 201 Cre", 0, "EOF", true},
		"cut in the body":      {"HTTP/1.1 201 Created\r\nContent-Length: 500\r\n\r\n{\"keyId\":", 201, "unexpected EOF", true},
		"cut in a chunk":       {"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n50\r\n{\"keyId\":", 201, "unexpected EOF", true},
		"refusal, cut":         {"HTTP/1.1 409 Conflict\r\nContent-Length: 500\r\n\r\n{\"message\":", 409, "already has this key", false},
		"not HTTP":             {"SSH-2.0-OpenSSH\r\n\r\n", 0, "malformed HTTP", true},
		"head without end":     {"HTTP/1.1 201 Created\r\nX: " + strings.Repeat("x", 1<<18) + "\r\n\r\n", 0, "header", true},
		"body without end":     {"HTTP/1.1 201 Created\r\n\r\n" + strings.Repeat(" ", 1<<20+10), 201, "more than", false},
	} {
		t.Run(name, func(t *testing.T) {
			s := httptest.NewServer(routes{askAnnounce: raw(tc.answer)})
			defer s.Close()
			w, _ := dial(t, s.URL)
			if e := wantError(t, announce(t, w), "announce", tc.status, tc.says); e.Temporary() != tc.temporary {
				t.Errorf("got temporary %v for %v", e.Temporary(), e)
			}
		})
	}
}

func TestSlowAnswersAreNotWaitedFor(t *testing.T) {
	for name, head := range map[string]bool{"no head": false, "no end": true} {
		t.Run(name, func(t *testing.T) {
			stop := make(chan struct{})
			s := httptest.NewServer(routes{askAnnounce: func(w http.ResponseWriter, _ *http.Request) {
				if head {
					w.WriteHeader(http.StatusCreated)
					http.NewResponseController(w).Flush()
				}
				<-stop
			}})
			defer s.Close()
			defer close(stop)
			w, _ := dial(t, s.URL, func(c *partner.WiseConfig) { c.Timeout = 200 * time.Millisecond })
			err := announce(t, w)
			e, ok := errors.AsType[*partner.Error](err)
			if !ok || !errors.Is(e, context.DeadlineExceeded) || !e.Temporary() || !strings.Contains(e.Error(), "no answer within 200ms") {
				t.Errorf("got %v", err)
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
