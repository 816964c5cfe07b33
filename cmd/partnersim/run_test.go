package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"flag"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"keyd/internal/partner/partnersim"
)

// lockedBuffer is stderr of a program that runs beside the test.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// program is partnersim started inside the test.
type program struct {
	base   string
	stderr *lockedBuffer
	stop   context.CancelFunc
	exit   chan int
}

// start runs partnersim until the test ends and waits for its first line.
func start(t *testing.T, args ...string) *program {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	p := &program{stderr: &lockedBuffer{}, stop: cancel, exit: make(chan int, 1)}
	out, in := io.Pipe()
	go func() {
		code := run(ctx, args, in, p.stderr)
		_ = in.Close()
		p.exit <- code
	}()
	t.Cleanup(cancel)
	line, err := bufio.NewReader(out).ReadString('\n')
	base, ok := strings.CutPrefix(strings.TrimSpace(line), "listening on ")
	if err != nil || !ok {
		t.Fatalf("first line %q, %v; stderr: %s", line, err, p.stderr)
	}
	p.base = base
	return p
}

// post asks for a token and returns the status.
func post(t *testing.T, client *http.Client, base, id, secret string) (int, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), "POST", base+"/oauth/token", strings.NewReader("grant_type=client_credentials"))
	if err != nil {
		t.Fatal(err)
	}
	req.SetBasicAuth(id, secret)
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := client.Do(req)
	if err != nil {
		return 0, err
	}
	return resp.StatusCode, resp.Body.Close()
}

func wantToken(t *testing.T, client *http.Client, base, id, secret string) {
	t.Helper()
	if status, err := post(t, client, base, id, secret); err != nil || status != http.StatusOK {
		t.Errorf("asking for a token: %d %v", status, err)
	}
}

func TestServesDemoCredentialsAndSaysSo(t *testing.T) {
	file := filepath.Join(t.TempDir(), "addr")
	p := start(t, "-addr-file", file)
	if !strings.HasPrefix(p.base, "http://127.0.0.1:") {
		t.Errorf("listens on %s", p.base)
	}
	wantToken(t, http.DefaultClient, p.base, partnersim.DemoClientID, partnersim.DemoClientSecret)
	if got := p.stderr.String(); !strings.Contains(got, "demo credentials, not for production") {
		t.Errorf("stderr: %q", got)
	}
	if got, err := os.ReadFile(file); err != nil || string(got) != p.base+"\n" {
		t.Errorf("address file: %q %v", got, err)
	}
	p.stop()
	if code := <-p.exit; code != exitOK {
		t.Errorf("exit code %d: %s", code, p.stderr)
	}
	if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the address file outlives the address: %v", err)
	}
}

func TestSIGTERMStopsGracefullyEvenWhileACallHangs(t *testing.T) {
	p := start(t)
	fault := strings.NewReader(`{"endpoint":"token","kind":"hang"}`)
	resp, err := http.Post(p.base+"/sim/faults", "application/json", fault)
	if err != nil || resp.StatusCode != http.StatusCreated {
		t.Fatalf("arming: %v %v", resp, err)
	}
	_ = resp.Body.Close()
	type result struct {
		status int
		err    error
	}
	answered := make(chan result, 1)
	go func() {
		status, err := post(t, http.DefaultClient, p.base, partnersim.DemoClientID, partnersim.DemoClientSecret)
		answered <- result{status, err}
	}()
	for hung := false; !hung; time.Sleep(time.Millisecond) {
		resp, err := http.Get(p.base + "/sim/state")
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		hung = bytes.Contains(body, []byte(`"hung": 1`))
	}
	if err := syscall.Kill(os.Getpid(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code := <-p.exit; code != exitOK {
		t.Errorf("exit code %d: %s", code, p.stderr)
	}
	if r := <-answered; r.err != nil || r.status != http.StatusOK {
		t.Errorf("the call in progress: %d %v", r.status, r.err)
	}
}

func TestOwnCredentials(t *testing.T) {
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte("hunter2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p := start(t, "-client-id", "acme", "-client-secret-file", file, "-token-format", "uuid", "-response-kid", "header:X-Key")
	wantToken(t, http.DefaultClient, p.base, "acme", "hunter2")
	if status, err := post(t, http.DefaultClient, p.base, partnersim.DemoClientID, partnersim.DemoClientSecret); err != nil || status != 401 {
		t.Errorf("the demo credentials: %d %v", status, err)
	}
	if got := p.stderr.String(); got != "" {
		t.Errorf("stderr: %q", got)
	}
}

func TestRefusesAddressesOtherHostsReach(t *testing.T) {
	for _, address := range []string{":0", "0.0.0.0:0", "[::]:0", "192.0.2.1:80"} {
		var stderr lockedBuffer
		if code := run(t.Context(), []string{"-listen", address}, io.Discard, &stderr); code != exitError || !strings.Contains(stderr.String(), "-allow-other-hosts") {
			t.Errorf("%s: exit %d, %s", address, code, &stderr)
		}
	}
	p := start(t, "-listen", "0.0.0.0:0", "-allow-other-hosts")
	_, port, err := net.SplitHostPort(strings.TrimPrefix(p.base, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	wantToken(t, http.DefaultClient, "http://127.0.0.1:"+port, partnersim.DemoClientID, partnersim.DemoClientSecret)
}

// authority makes certificates for one test and writes them where flags want them.
type authority struct {
	t    *testing.T
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	a := &authority{t: t, dir: t.TempDir()}
	a.cert, a.key = a.issue("ca", nil, nil)
	return a
}

// issue makes NAME.pem and NAME.key, signed by parent or by itself.
func (a *authority) issue(name string, parent *x509.Certificate, parentKey *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: parent == nil, BasicConstraintsValid: true,
	}
	if parent == nil {
		parent, parentKey = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, parentKey)
	if err != nil {
		a.t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	a.write(name+".pem", "CERTIFICATE", der)
	a.write(name+".key", "PRIVATE KEY", keyDER)
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return cert, key
}

func (a *authority) write(name, kind string, der []byte) {
	a.t.Helper()
	if err := os.WriteFile(a.path(name), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		a.t.Fatal(err)
	}
}

func (a *authority) path(name string) string { return filepath.Join(a.dir, name) }

// client trusts the authority and shows the certificate NAME, if any.
func (a *authority) client(name string) *http.Client {
	a.t.Helper()
	config := &tls.Config{RootCAs: x509.NewCertPool(), MinVersion: tls.VersionTLS12}
	config.RootCAs.AddCert(a.cert)
	if name != "" {
		pair, err := tls.LoadX509KeyPair(a.path(name+".pem"), a.path(name+".key"))
		if err != nil {
			a.t.Fatal(err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return &http.Client{Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}}
}

func TestTLSAndClientCertificates(t *testing.T) {
	a := newAuthority(t)
	a.issue("server", a.cert, a.key)
	a.issue("client", a.cert, a.key)
	a.issue("stranger", nil, nil)
	pair := []string{"-tls-cert", a.path("server.pem"), "-tls-key", a.path("server.key")}

	p := start(t, pair...)
	if !strings.HasPrefix(p.base, "https://127.0.0.1:") {
		t.Errorf("listens on %s", p.base)
	}
	wantToken(t, a.client(""), p.base, partnersim.DemoClientID, partnersim.DemoClientSecret)

	p = start(t, append(pair, "-client-ca", a.path("ca.pem"))...)
	wantToken(t, a.client("client"), p.base, partnersim.DemoClientID, partnersim.DemoClientSecret)
	for _, name := range []string{"", "stranger"} {
		if status, err := post(t, a.client(name), p.base, partnersim.DemoClientID, partnersim.DemoClientSecret); err == nil {
			t.Errorf("certificate %q: got %d", name, status)
		}
	}
}

func TestMistakesOnTheCommandLine(t *testing.T) {
	dir := t.TempDir()
	empty := filepath.Join(dir, "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	a := newAuthority(t)
	cert, key := a.path("ca.pem"), a.path("ca.key")
	for _, tc := range []struct {
		args string
		code int
		want string
	}{
		{"extra", exitUsage, `unexpected argument "extra"`},
		{"-nonsense", exitUsage, "not defined"},
		{"-client-id acme", exitUsage, "go together"},
		{"-client-secret-file " + empty, exitUsage, "go together"},
		{"-client-id acme -client-secret-file " + empty, exitUsage, "ClientSecret is empty"},
		{"-client-id acme -client-secret-file " + dir + "/none", exitUsage, "reading the client secret"},
		{"-tls-cert " + cert, exitUsage, "-tls-cert and -tls-key go together"},
		{"-client-ca " + cert, exitUsage, "-client-ca needs -tls-cert"},
		{"-response-kid cookie", exitUsage, "ResponseKID is cookie"},
		{"-token-format x -unnamed y", exitUsage, "Unnamed is y"},
		{"-listen nowhere", exitError, "resolving -listen"},
		{"-tls-cert " + empty + " -tls-key " + empty, exitError, "loading the server certificate"},
		{"-tls-cert " + cert + " -tls-key " + key + " -client-ca " + empty, exitError, "holds no certificate"},
		{"-tls-cert " + cert + " -tls-key " + key + " -client-ca " + dir + "/none", exitError, "reading the client CA"},
		{"-addr-file " + dir + "/none/addr", exitError, "writing the address file"},
		{"-addr-file " + dir, exitError, "writing the address file"},
	} {
		var stderr lockedBuffer
		if code := run(t.Context(), strings.Fields(tc.args), io.Discard, &stderr); code != tc.code || !strings.Contains(stderr.String(), tc.want) {
			t.Errorf("%s: exit %d, want %d; stderr: %s", tc.args, code, tc.code, &stderr)
		}
	}
}

func TestAddressInUse(t *testing.T) {
	p := start(t)
	var stderr lockedBuffer
	if code := run(t.Context(), []string{"-listen", strings.TrimPrefix(p.base, "http://")}, io.Discard, &stderr); code != exitError || !strings.Contains(stderr.String(), "address already in use") {
		t.Errorf("exit %d: %s", code, &stderr)
	}
}

// brokenPipe is a stdout nobody reads.
type brokenPipe struct{}

func (brokenPipe) Write([]byte) (int, error) { return 0, syscall.EPIPE }

func TestUnreadStdoutIsAnError(t *testing.T) {
	var stderr lockedBuffer
	if code := run(t.Context(), nil, brokenPipe{}, &stderr); code != exitError || !strings.Contains(stderr.String(), "saying where it listens") {
		t.Errorf("exit %d: %s", code, &stderr)
	}
}

func TestHelpNamesEveryFlag(t *testing.T) {
	var stderr lockedBuffer
	if code := run(t.Context(), []string{"-h"}, io.Discard, &stderr); code != exitOK {
		t.Errorf("exit %d", code)
	}
	for _, name := range []string{"-listen", "-response-kid", "-client-ca", "usage: partnersim"} {
		if !strings.Contains(stderr.String(), name) {
			t.Errorf("help does not name %s:\n%s", name, &stderr)
		}
	}
	if _, err := parse([]string{"-h"}, io.Discard); !errors.Is(err, flag.ErrHelp) {
		t.Errorf("got %v", err)
	}
}
