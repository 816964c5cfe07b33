package partner_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"keyd/internal/partner"
)

func TestConfigErrorsAreSaidAllAtOnce(t *testing.T) {
	_, err := partner.NewWise(partner.WiseConfig{Connection: partner.Connection{Timeout: -1, Proxy: "gopher://x", Forward: []string{"Cookie"}, Allow: []partner.Allow{{}}},
		OnDuplicate: "maybe", ResponseKID: partner.ResponseKID{In: "body"}, Authorization: "mine", Direct: []string{"x"}})
	if err == nil {
		t.Fatal("accepted")
	}
	for _, s := range []string{"name", "base URL", "client ID", "client secret", "logger", "timeout", "on duplicate", "response kid", "proxy",
		"forward", "allow: want methods", "authorization", `path "x"`} {
		if !strings.Contains(err.Error(), s) {
			t.Errorf("%q does not mention %q", err, s)
		}
	}
}

func TestConfigsThatAreRefused(t *testing.T) {
	cert := func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return nil, nil }
	header := func(name string) func(*partner.WiseConfig) {
		return func(c *partner.WiseConfig) {
			c.ResponseKID = partner.ResponseKID{In: partner.KIDInHeader, Header: name}
		}
	}
	base := func(u string) func(*partner.WiseConfig) {
		return func(c *partner.WiseConfig) { c.BaseURL = u }
	}
	proxy := func(u string) func(*partner.WiseConfig) { return func(c *partner.WiseConfig) { c.Proxy = u } }
	for name, change := range map[string]func(*partner.WiseConfig){
		"base without a scheme":        base("api.wise.com"),
		"base of no host":              base("https:///v1"),
		"base that is no URL":          base("https://api.wise.com:hunter2"),
		"base with a password":         base("https://u:hunter2@api.wise.com"),
		"base with a query":            base("https://api.wise.com/?x=hunter2"),
		"base with an empty query":     base("https://api.wise.com/?"),
		"base with a fragment":         base("https://api.wise.com/#hunter2"),
		"base with an empty fragment":  base("https://api.wise.com/#"),
		"plain http to the world":      base("http://api.wise.com"),
		"plain http to a private host": base("http://10.0.0.1"),
		"another scheme":               base("ftp://127.0.0.1"),
		"a certificate without TLS":    func(c *partner.WiseConfig) { c.BaseURL, c.ClientCert = "http://[::1]:8080", cert },
		"kid header missing":           header(""),
		"kid header with a space":      header("X Kid"),
		"kid header with a line break": header("X-Kid\r\nX: y"),
		"kid header taken":             header("authorization"),
		"kid header not asked for":     func(c *partner.WiseConfig) { c.ResponseKID.Header = "X-Kid" },
		"HTTP and certificate":         func(c *partner.WiseConfig) { c.HTTP, c.ClientCert = http.DefaultTransport, cert },
		"HTTP and roots":               func(c *partner.WiseConfig) { c.HTTP, c.RootCAs = http.DefaultTransport, x509.NewCertPool() },
		"HTTP and proxy":               func(c *partner.WiseConfig) { c.HTTP, c.Proxy = http.DefaultTransport, partner.ProxyEnvironment },
		"proxy that is no URL":         proxy("http://u:hunter2@proxy:hunter2"),
		"proxy of another scheme":      proxy("ftp://u:hunter2@proxy"),
		"proxy without host":           proxy("http://:3128"),
		"proxy with a path":            proxy("http://u:hunter2@proxy/hunter2"),
		"proxy with a query":           proxy("http://u:hunter2@proxy?hunter2"),
	} {
		t.Run(name, func(t *testing.T) {
			cfg := config(io.Discard)
			change(&cfg)
			_, err := partner.NewWise(cfg)
			if err == nil {
				t.Fatal("accepted")
			}
			if !strings.Contains(err.Error(), `partner "wise"`) || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("got %q", err)
			}
		})
	}
}

func TestConfigsThatAreTaken(t *testing.T) {
	for name, change := range map[string]func(*partner.WiseConfig){
		"zero values":       func(*partner.WiseConfig) {},
		"slash at the end":  func(c *partner.WiseConfig) { c.BaseURL = "https://api.wise.com/" },
		"loopback, plain":   func(c *partner.WiseConfig) { c.BaseURL = "http://localhost:8080" },
		"loopback, v6":      func(c *partner.WiseConfig) { c.BaseURL = "http://[::1]:8080" },
		"environment proxy": func(c *partner.WiseConfig) { c.Proxy = partner.ProxyEnvironment },
		"https proxy":       func(c *partner.WiseConfig) { c.Proxy = "https://u:p@proxy:3128/" },
		"socks5h proxy":     func(c *partner.WiseConfig) { c.Proxy = "socks5h://proxy:1080" },
	} {
		cfg := config(io.Discard)
		change(&cfg)
		if _, err := partner.NewWise(cfg); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestBaseURLMayHaveAPath(t *testing.T) {
	h := open(t, http.StripPrefix("/wise", routes{}), func(c *partner.WiseConfig) { c.BaseURL = "https://gateway.example/wise//" })
	if err := announce(t, h.Wise); err != nil {
		t.Error(err)
	}
	want := []string{"POST /wise/oauth/token", "POST /wise/v1/auth/jose/request/public-keys"}
	if diff := cmp.Diff(want, h.wire.seen); diff != "" {
		t.Error(diff)
	}
}

func TestRetryAfterIsReadInBothForms(t *testing.T) {
	now := time.Date(2026, 11, 23, 20, 0, 0, 0, time.UTC)
	at := func(d time.Duration) string { return now.Add(d).Format(http.TimeFormat) }
	for name, tc := range map[string]struct {
		status      int
		value, date string
		want        time.Duration
	}{
		"seconds":              {429, "5", "", 5 * time.Second},
		"space around":         {429, " 5 ", "", 5 * time.Second},
		"on a 503":             {503, "30", "", 30 * time.Second},
		"not on a 400":         {400, "30", "", 0},
		"zero":                 {429, "0", "", 0},
		"negative":             {429, "-5", "", 0},
		"a fraction":           {429, "5.5", "", 0},
		"words":                {429, "soon", "", 0},
		"missing":              {429, "", "", 0},
		"a year":               {429, "31536000", "", 24 * time.Hour},
		"beyond 64 bits":       {429, strings.Repeat("9", 30), "", 24 * time.Hour},
		"a date":               {429, at(90 * time.Second), at(0), 90 * time.Second},
		"a date, old form":     {429, now.Add(time.Minute).Format(time.RFC850), at(0), time.Minute},
		"a date long past":     {429, at(-time.Hour), at(0), 0},
		"a date years ahead":   {429, at(9000 * time.Hour), at(0), 24 * time.Hour},
		"our clock is wrong":   {429, at(-8760*time.Hour + time.Minute), at(-8760 * time.Hour), time.Minute},
		"date, Date is broken": {429, "Mon, 03 Jan 2000 00:00:07 GMT", "now", 7 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { // begins at 2000-01-01
				time.Sleep(48 * time.Hour)
				h := open(t, routes{askAnnounce: always(tc.status, ``, "Retry-After", tc.value, "Date", tc.date)})
				if e := callError(t, announce(t, h.Wise), "announce", tc.status); e.RetryAfter() != tc.want {
					t.Errorf("got %s, want %s", e.RetryAfter(), tc.want)
				}
			})
		})
	}
}

func TestErrorsSayWhatThePartnerSaid(t *testing.T) {
	h := open(t, routes{
		askAnnounce: always(429, `{"error":"rate_limit"}`, "X-Rate-Limited-By", "wise-public-api", "X-Trace-Id", "abc"),
		askKey:      always(400, `{"errors":[{"code":"NOT_VALID","message":"bad scope","path":"scope","arguments":["x"]},{"code":"B"}]}`),
		askPlay:     always(500, `{"message":"An unexpected error occurred","request_id":"r-1"}`),
	})
	for _, tc := range []struct {
		err  error
		want string
	}{
		{announce(t, h.Wise), "wise: announce: HTTP 429: rate_limit (limited by wise-public-api, trace abc)"},
		{fetchKey(t, h.Wise), "wise: key: HTTP 400: NOT_VALID: bad scope"},
		{playground(t, h.Wise), "wise: playground: HTTP 500: An unexpected error occurred (request_id r-1)"},
	} {
		if tc.err.Error() != tc.want {
			t.Errorf("got %q, want %q", tc.err, tc.want)
		}
	}
	if !errors.Is(announceCanceled(t, h.Wise), context.Canceled) {
		t.Error("a canceled call is not known for one")
	}
}

func announceCanceled(t *testing.T, w *partner.Wise) error {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	return w.Announce(ctx, testKID, &rsaKey().PublicKey, testFrom, testTill)
}

func TestEveryCallIsObserved(t *testing.T) {
	type seen struct {
		Op     string
		Status int
		Failed bool
		Took   time.Duration
	}
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var got []seen
		h := open(t, routes{
			askToken: counter(43199),
			askAnnounce: inTurn(always(401, ``), func(w http.ResponseWriter, r *http.Request) {
				time.Sleep(3 * time.Second)
				always(201, `{}`)(w, r)
			}),
			askKey: breaks(io.ErrUnexpectedEOF),
		}, func(c *partner.WiseConfig) {
			c.Observe = func(op string, status int, d time.Duration, err error) {
				mu.Lock()
				defer mu.Unlock()
				got = append(got, seen{op, status, err != nil, d})
			}
		})
		if err := errors.Join(announce(t, h.Wise), fetchKey(t, h.Wise)); !errors.Is(err, partner.ErrEcho) {
			t.Errorf("got %v", err)
		}
		want := []seen{{"token", 200, false, 0}, {"announce", 401, true, 0}, {"token", 200, false, 0},
			{"announce", 201, true, 3 * time.Second}, {"key", 0, true, 0}}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	})
}
