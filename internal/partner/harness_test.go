package partner_test

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"keyd/internal/partner"
)

const (
	testKID    = "3f0d7c8e-5a11-4c7e-9d67-1c2b3a4d5e6f"
	testID     = "our client:id"
	testSecret = `hunter2/with+odd:"bytes" & é%`
	joseType   = "application/jose+json"
	// The sample key of Wise's documentation.
	sampleKey  = "MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAwBjfPXePuZJr6jXEPibN8fpgysswqURHJGk5tod+T3SZBgVEXji0cuXF6xCdh7FMwIUROZ3ZsJFxOwyX8dNYzqEiiQy+C/wCr7/OzvRXQsy6qEQyW8fFsuEuqHRwb+ndAtz7HWZhq7P3K8XHCvJ72zeqZySXmxMYZDVwiwp+kMfRofLIivBjkN5DGWfn/7sxDLJr7/DdNgM1lMIHJtc3arffExROOnYkZ+UaUDxPo22Wnrdeb1h5S9s9m8Z46etMVEDbKJ7KEFppcRbMdckLnY3THZm/le5oxjrdVEDyhVioTC01NT0CTiqnNHfzB90ktWLsbKVww+bgDKAgx2x8EQIDAQAB"
	compactJWE = "eyJhbGciOiJSU0EtT0FFUC0yNTYifQ.AAAA.BBBB.CCCC.DDDD"
)

var (
	testFrom = time.Date(2026, 11, 23, 20, 0, 0, 0, time.UTC)
	testTill = time.Date(2027, 3, 1, 0, 0, 0, 0, time.UTC)

	rsaKey = sync.OnceValue(func() *rsa.PrivateKey { return newRSA(2048) })
)

func newRSA(bits int) *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		panic(err)
	}
	return key
}

func spki(public any) string {
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		panic(err)
	}
	return base64.StdEncoding.EncodeToString(der)
}

// wire mounts a handler as a transport, so that it works in a synctest bubble
// too. It keeps what was asked.
type wire struct {
	http.Handler
	mu   sync.Mutex
	seen []string // "POST /oauth/token"
}

func (w *wire) RoundTrip(req *http.Request) (*http.Response, error) {
	w.mu.Lock()
	w.seen = append(w.seen, req.Method+" "+req.URL.Path)
	w.mu.Unlock()
	if err := req.Context().Err(); err != nil {
		return nil, err
	}
	if req.Body == nil {
		req.Body = http.NoBody
	}
	rec := httptest.NewRecorder()
	done := make(chan error, 1)
	go func() {
		defer func() {
			switch v := recover().(type) {
			case error:
				done <- v // panic(err) is a connection that breaks
			default:
				close(done)
			}
		}()
		w.ServeHTTP(rec, req)
	}()
	select {
	case err := <-done:
		if err != nil {
			return nil, err
		}
		res := rec.Result()
		res.Request = req
		return res, nil
	case <-req.Context().Done():
		return nil, req.Context().Err()
	}
}

func (w *wire) asked(what string) (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.seen {
		if s == what {
			n++
		}
	}
	return n
}

const (
	askToken    = "POST /oauth/token"
	askAnnounce = "POST /v1/auth/jose/request/public-keys"
	askKey      = "GET /v1/auth/jose/response/public-keys"
	askPlay     = "GET /v1/auth/jose/playground/jwe"
	askPlayPost = "POST /v1/auth/jose/playground/jwe"
)

// routes answers like Wise, but for what a test replaces.
type routes map[string]http.HandlerFunc

func (r routes) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	what := req.Method + " " + req.URL.Path
	if h := r[what]; h != nil {
		h(w, req)
		return
	}
	switch what {
	case askToken:
		reply(w, 200, tokenBody("token-1", 43199))
	case askAnnounce:
		body, _ := io.ReadAll(req.Body)
		reply(w, 201, string(body))
	case askKey:
		reply(w, 200, keyBody(nil))
	case askPlay, askPlayPost:
		w.Header().Set("Content-Type", joseType)
		_, _ = io.WriteString(w, compactJWE)
	default:
		http.NotFound(w, req)
	}
}

func reply(w http.ResponseWriter, status int, body string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, body)
}

// always answers with one status and body, and headers in pairs.
func always(status int, body string, header ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		for i := 0; i+1 < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		reply(w, status, body)
	}
}

// inTurn uses one handler per request, the last one for all that follow.
func inTurn(handlers ...http.HandlerFunc) http.HandlerFunc {
	var mu sync.Mutex
	return func(w http.ResponseWriter, req *http.Request) {
		mu.Lock()
		h := handlers[0]
		if len(handlers) > 1 {
			handlers = handlers[1:]
		}
		mu.Unlock()
		h(w, req)
	}
}

func breaks(err error) http.HandlerFunc {
	return func(http.ResponseWriter, *http.Request) { panic(err) }
}

func tokenBody(token string, seconds int) string {
	return fmt.Sprintf(`{"access_token":%q,"token_type":"bearer","expires_in":%d,"expires_at":"2026-11-24T08:00:00.000Z","scope":"transfers"}`, token, seconds)
}

func keyBody(change func(k map[string]any)) string {
	k := map[string]any{
		"keyId": "9d09e43f-3c16-4683-9c07-db7e992b2050", "version": 3, "scope": "PAYLOAD_ENCRYPTION",
		"keyMaterial": map[string]any{"algorithm": "RSA_OAEP_256", "keyMaterial": spki(&rsaKey().PublicKey)},
	}
	if change != nil {
		change(k)
	}
	return toJSON(k)
}

func toJSON(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(b)
}

// logs is a log that tests can read while it is written.
type logs struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

type harness struct {
	*partner.Wise
	wire *wire
	logs *logs
}

// open makes a client on a handler.
func open(t testing.TB, h http.Handler, changes ...func(*partner.WiseConfig)) harness {
	t.Helper()
	out := harness{wire: &wire{Handler: h}, logs: &logs{}}
	cfg := config(out.logs)
	cfg.HTTP = out.wire
	for _, change := range changes {
		change(&cfg)
	}
	w, err := partner.NewWise(cfg)
	if err != nil {
		t.Fatal(err)
	}
	out.Wise = w
	return out
}

func config(l io.Writer) partner.WiseConfig {
	return partner.WiseConfig{
		Connection: partner.Connection{
			Name:    "wise",
			BaseURL: "https://api.wise.example",
			Logger:  slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug})),
		},
		ClientID:     testID,
		ClientSecret: func() ([]byte, error) { return []byte(testSecret), nil },
	}
}

func announce(t testing.TB, w *partner.Wise) error {
	t.Helper()
	return w.Announce(t.Context(), testKID, &rsaKey().PublicKey, testFrom, testTill)
}

func fetchKey(t testing.TB, w *partner.Wise) error {
	t.Helper()
	_, _, _, _, err := w.FetchKey(t.Context())
	return err
}

func playground(t testing.TB, w *partner.Wise) error {
	t.Helper()
	_, err := w.Playground(t.Context(), testKID)
	return err
}

// wantError checks an error of a call.
func wantError(t testing.TB, err error, op string, status int, parts ...string) {
	t.Helper()
	_ = callError(t, err, op, status, parts...)
}

// callError checks an error of a call, and returns it as the *partner.Error
// that all of them are.
func callError(t testing.TB, err error, op string, status int, parts ...string) *partner.Error {
	t.Helper()
	e, ok := errors.AsType[*partner.Error](err)
	if !ok {
		t.Fatalf("got %T %v, want a *partner.Error", err, err)
	}
	if e.Op != op || e.Status != status || e.Partner != "wise" {
		t.Errorf("got %s %s %d (%v), want wise %s %d", e.Partner, e.Op, e.Status, e, op, status)
	}
	for _, p := range parts {
		if !strings.Contains(e.Error(), p) {
			t.Errorf("error %q does not say %q", e, p)
		}
	}
	return e
}
