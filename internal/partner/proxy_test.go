package partner_test

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"maps"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"keyd/internal/partner"
)

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
			defer func() { _ = res.Body.Close() }()
			maps.Copy(w.Header(), res.Header)
			w.WriteHeader(res.StatusCode)
			_, _ = io.Copy(w, res.Body)
			return
		}
		up, err := net.Dial("tcp", r.Host)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		down, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			_ = up.Close()
			return
		}
		_, _ = io.WriteString(down, "HTTP/1.1 200 OK\r\n\r\n")
		splice(down, up)
	}))
	t.Cleanup(s.Close)
	return s
}

func splice(a, b net.Conn) {
	for _, way := range [][2]net.Conn{{a, b}, {b, a}} {
		go func() {
			_, _ = io.Copy(way[0], way[1])
			_ = errors.Join(a.Close(), b.Close())
		}()
	}
}

// socksServer is a real SOCKS5 proxy (RFC 1928), as much of it as one needs.
func socksServer(t testing.TB, uses *atomic.Int64) string {
	t.Helper()
	l := must(net.Listen("tcp", "127.0.0.1:0"))
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				hello := make([]byte, 2)
				if _, err := io.ReadFull(c, hello); err != nil {
					_ = c.Close()
					return
				}
				_, _ = io.CopyN(io.Discard, c, int64(hello[1]))
				_, _ = c.Write([]byte{5, 0})
				head := make([]byte, 10) // version, connect, reserved, IPv4, address, port
				_, _ = io.ReadFull(c, head)
				up, err := net.Dial("tcp", net.JoinHostPort(net.IP(head[4:8]).String(), itoa(binary.BigEndian.Uint16(head[8:]))))
				if err != nil {
					_ = c.Close()
					return
				}
				uses.Add(1)
				_, _ = c.Write([]byte{5, 0, 0, 1, 0, 0, 0, 0, 0, 0})
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
		e := callError(t, fetchKey(t, w), "token", 0, "Proxy Authentication Required")
		if strings.Contains(e.Error(), "hunter3") {
			t.Errorf("error shows the password: %v", e)
		}
	})
	t.Run("proxy is down", func(t *testing.T) {
		w, _ := dial(t, s.URL, func(c *partner.WiseConfig) { c.Proxy, c.RootCAs = "http://u:hunter2@127.0.0.1:1", roots })
		if e := callError(t, fetchKey(t, w), "token", 0, "refused"); !e.Temporary() || strings.Contains(e.Error(), "hunter2") {
			t.Errorf("got %v, temporary %v", e, e.Temporary())
		}
	})
}

// net/http reads the environment once per process, so the client is in one of
// its own: this test, started again.
func TestEnvironmentIsAskedForAProxyOnlyWhenTheConfigSaysSo(t *testing.T) {
	if os.Getenv("KEYD_TEST_PROXY_CHILD") != "" {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		w, _ := dial(t, "https://wise.invalid")
		_, _, _, _, err := w.FetchKey(ctx)
		wantError(t, err, "token", 0)
		w, _ = dial(t, "https://wise.invalid", func(c *partner.WiseConfig) { c.Timeout = time.Second })
		wantError(t, fetchKey(t, w), "token", 0)
		w, _ = dial(t, "https://wise.invalid", func(c *partner.WiseConfig) { c.Proxy = partner.ProxyEnvironment })
		wantError(t, fetchKey(t, w), "token", 0, "teapot")
		return
	}
	var asked []string
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.Method+" "+r.Host)
		w.WriteHeader(http.StatusTeapot)
	}))
	defer proxy.Close()
	child := exec.CommandContext(t.Context(), must(os.Executable()), "-test.run=^"+t.Name()+"$")
	child.Env = []string{"KEYD_TEST_PROXY_CHILD=1", "HTTPS_PROXY=" + proxy.URL}
	if out, err := child.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	if diff := cmp.Diff([]string{"CONNECT wise.invalid:443"}, asked); diff != "" {
		t.Error(diff)
	}
}
