package api_test

import (
	"bytes"
	"context"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/uuid"

	"keyd/client"
	"keyd/internal/api"
	"keyd/internal/audit"
	"keyd/internal/boundary"
	"keyd/internal/jwe"
	"keyd/internal/registry"
	"keyd/internal/rotation"
	"keyd/internal/rotation/backendtest"
)

const (
	keyName     = "wise-response"
	backendName = "memory"
	enc         = "A256GCM"
)

// setup is what a test may change of a rig before it runs.
type setup struct {
	cfg     api.Config
	opener  api.OpenerConfig
	backend api.Backend
	audit   api.AuditLog
	engine  map[string]rotation.Partner // those beside wise and venly
}

// rig is a whole daemon but for its token and its partner: real registry,
// audit log, engine and sockets.
type rig struct {
	t       testing.TB
	dir     string
	reg     *registry.Registry
	log     *audit.Log
	token   *backendtest.Memory
	partner *partner
	engine  *rotation.Engine
	opener  *api.Opener
	server  *api.Server
	meters  *api.Metrics
	logged  *lines
	client  *http.Client // of the client socket
	admin   *http.Client // of the admin socket
	active  registry.Version
}

// everybody has every role: the test's own user.
func everybody() []api.Rule {
	me := []int{os.Getuid()}
	return []api.Rule{{Role: api.RoleClient, Partner: api.AnyPartner, UIDs: me}, {Role: api.RoleCaller, Partner: api.AnyPartner, UIDs: me}, {Role: api.RoleOperator, UIDs: me}, {Role: api.RoleAuditor, UIDs: me}}
}

// newRig starts a daemon with one active version.
func newRig(t testing.TB, changes ...func(*setup)) *rig {
	t.Helper()
	// t.TempDir() is longer than a socket's path may be.
	dir, err := os.MkdirTemp("", "keyd")
	check(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	r := &rig{t: t, dir: dir, token: backendtest.NewMemory(backendtest.MemoryOptions{Name: backendName}), partner: newPartner(t),
		meters: api.NewMetrics(), logged: &lines{}}
	logger := slog.New(slog.NewTextHandler(r.logged, &slog.HandlerOptions{Level: slog.LevelDebug}))
	r.log, err = audit.Open(audit.Config{Path: r.path("audit.jsonl"), Logger: logger})
	check(t, err)
	t.Cleanup(func() { _ = r.log.Close() })
	r.reg, err = registry.Open(r.path("keyd.db"), registry.Options{})
	check(t, err)
	t.Cleanup(func() { check(t, r.reg.Close()) })

	s := &setup{backend: r.token, audit: r.log}
	s.opener = api.OpenerConfig{Partners: []api.Partner{facts("wise"), facts("venly")}, Decrypts: api.AuditAll, MaxEnvelope: 64 << 10,
		Exchanges: api.ExchangeLimits{TTL: time.Minute, PerPartner: 16, PerUser: 8}}
	s.cfg = api.Config{Instance: "test", Version: client.VersionInfo{Version: "v1.2.3", Go: "go1.26", Schema: registry.SchemaVersion},
		Client: api.Socket{Path: r.path("keyd.sock"), Mode: 0o600}, Admin: api.Socket{Path: r.path("admin.sock"), Mode: 0o600},
		Metrics: "127.0.0.1:0", Rules: everybody(), AuditPath: r.path("audit.jsonl"), MaxPlaintext: 32 << 10, Calls: 2}
	s.engine = map[string]rotation.Partner{"wise": {Announcer: r.partner, KeySource: r.partner}, "venly": {}}
	for _, change := range changes {
		change(s)
	}
	r.engine, err = rotation.New(rotation.Config{Registry: r.reg, Audit: auditor{s.audit}, Instance: "test", Logger: logger,
		Backends: map[string]rotation.Backend{backendName: &backendtest.KMS{Memory: r.token}},
		Partners: s.engine})
	check(t, err)
	s.opener.Registry, s.opener.Audit, s.opener.Meters, s.opener.Logger = r.reg, s.audit, r.meters, logger
	s.opener.Backends = map[string]api.Backend{backendName: s.backend}
	r.opener, err = api.NewOpener(s.opener)
	check(t, err)
	s.cfg.Registry, s.cfg.Engine, s.cfg.Opener, s.cfg.Audit, s.cfg.Meters, s.cfg.Logger = r.reg, r.engine, r.opener, s.audit, r.meters, logger
	r.server, err = api.New(s.cfg)
	check(t, err)
	r.serve()
	r.client, r.admin = overSocket(t, s.cfg.Client.Path), overSocket(t, s.cfg.Admin.Path)
	check(t, r.reg.PutKey(theKey(keyName, "wise")))
	r.active = r.version(keyName, registry.Active)
	return r
}

// auditor is rotation's idea of an audit log.
type auditor struct{ api.AuditLog }

func (r *rig) path(name string) string { return filepath.Join(r.dir, name) }

func (r *rig) serve() {
	r.t.Helper()
	check(r.t, r.server.Listen())
	served := make(chan error, 1)
	go func() { served <- r.server.Serve() }()
	r.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := errors.Join(r.server.Shutdown(ctx), <-served); err != nil {
			r.t.Errorf("stopping: %v", err)
		}
	})
}

func facts(name string) api.Partner {
	return api.Partner{Name: name, Type: "wise", Form: api.FormBody, URLInJOSE: true, Algs: []string{boundary.RSAOAEP256}, Encs: []string{enc}, Seal: jwe.SealRSAOAEP256, SealEnc: enc,
		KID: api.KIDOurs, Direct: true, Remote: remote{}}
}

func theKey(name, partner string) registry.Key {
	day := registry.Duration(24 * time.Hour)
	return registry.Key{Name: name, Partner: partner, Backend: backendName, Algorithm: boundary.RSAOAEP256, Bits: 2048,
		NextDue: time.Now().Add(30 * 24 * time.Hour),
		Policy:  registry.Policy{Rotate: "0 3 1 */3 *", ValidFor: 150 * day, DrainFor: 30 * day, Canary: "off"}}
}

// version makes a version and walks it along the transition table to a state.
func (r *rig) version(key string, state registry.State) registry.Version {
	r.t.Helper()
	kid, now := uuid.NewString(), time.Now()
	_, err := r.reg.Begin(registry.Version{KID: kid, Key: key, Backend: backendName, Algorithm: boundary.RSAOAEP256, Bits: 2048,
		ValidFrom: now.Add(-time.Minute), ValidTill: now.Add(100 * 24 * time.Hour)}, "test", "test", 1, now.Add(30*24*time.Hour))
	check(r.t, err)
	if state == registry.Pending {
		return r.now(kid)
	}
	made, err := r.token.Generate(context.Background(), boundary.Spec{Key: key, KID: kid, Material: boundary.Material{Algorithm: boundary.RSAOAEP256, Bits: 2048}})
	check(r.t, err)
	der, err := x509.MarshalPKIXPublicKey(made.Public)
	check(r.t, err)
	evidence, err := json.Marshal(made.Evidence)
	check(r.t, err)
	_, err = r.reg.Amend(kid, func(v *registry.Version) error {
		v.Handle, v.Public, v.Evidence, v.GeneratedAt, v.TestedAt, v.ToldAt = made.Handle, der, evidence, now, now, now
		return nil
	})
	check(r.t, err)
	way := map[registry.State][]registry.State{
		registry.Announced:   {registry.Announced},
		registry.Active:      {registry.Announced, registry.Active},
		registry.Draining:    {registry.Announced, registry.Active, registry.Draining},
		registry.Compromised: {registry.Announced, registry.Compromised},
		registry.Destroying:  {registry.Announced, registry.Compromised, registry.Destroying},
		registry.Destroyed:   {registry.Announced, registry.Compromised, registry.Destroying, registry.Destroyed},
	}[state]
	for _, to := range way {
		m := registry.Move{KID: kid, To: to}
		if to == registry.Draining {
			m.DrainUntil = now.Add(24 * time.Hour)
		}
		_, err := r.reg.Move([]registry.Move{m}, "test", "test", 1, now)
		check(r.t, err)
	}
	return r.now(kid)
}

func (r *rig) now(kid string) registry.Version {
	r.t.Helper()
	v, err := r.reg.Version(kid)
	check(r.t, err)
	return v
}

// seal makes an envelope for a version with the standard library alone.
// header may name anything; nil names the version.
func (r *rig) seal(v registry.Version, plaintext []byte, header map[string]any) string {
	r.t.Helper()
	return sealTo(r.t, v, plaintext, header)
}

func sealTo(t testing.TB, v registry.Version, plaintext []byte, header map[string]any) string {
	t.Helper()
	if header == nil {
		header = map[string]any{"alg": boundary.RSAOAEP256, "enc": enc, "kid": v.KID}
	}
	raw, err := json.Marshal(header)
	check(t, err)
	aad := base64.RawURLEncoding.EncodeToString(raw)
	public, err := x509.ParsePKIXPublicKey(v.Public)
	check(t, err)
	env := backendtest.Seal(t, public.(*rsa.PublicKey), enc, plaintext, []byte(aad))
	return compact(env)
}

func compact(env *boundary.Envelope) string {
	s := string(env.AAD)
	for _, part := range [][]byte{env.EncryptedKey, env.IV, env.Ciphertext, env.Tag} {
		s += "." + base64.RawURLEncoding.EncodeToString(part)
	}
	return s
}

// answer is what came back.
type answer struct {
	status int
	header http.Header
	body   []byte
	closed bool // the connection, after it
}

func (a answer) problem(t testing.TB) client.Problem {
	t.Helper()
	var p client.Problem
	if err := json.Unmarshal(a.body, &p); err != nil || a.header.Get("Content-Type") != "application/problem+json" {
		t.Fatalf("got %d %v %q, want a problem (%v)", a.status, a.header, a.body, err)
	}
	if p.Status != a.status || p.Code == "" || p.Title == "" || p.Type != "urn:keyd:problem:"+p.Code || p.RequestID == "" || p.RequestID != a.header.Get("Keyd-Request-Id") {
		t.Errorf("got %+v with status %d and %v, want a whole problem", p, a.status, a.header)
	}
	return p
}

// wants holds an answer to a status and, of a problem, a code.
func (a answer) wants(t testing.TB, status int, code string) answer {
	t.Helper()
	if a.status != status {
		t.Fatalf("got %d %s, want %d %s", a.status, a.body, status, code)
	}
	if code != "" {
		if p := a.problem(t); p.Code != code {
			t.Fatalf("got %+v, want the code %s", p, code)
		}
	}
	return a
}

// send makes a request. Options come as header lines "Name: value".
func (r *rig) send(c *http.Client, method, path, body string, headers ...string) answer {
	r.t.Helper()
	base := "http://keyd"
	if c == http.DefaultClient {
		base = "http://" + r.server.Addr().String()
	}
	req, err := http.NewRequestWithContext(context.Background(), method, base+path, bytes.NewReader([]byte(body)))
	check(r.t, err)
	for _, h := range headers {
		name, value, _ := bytes.Cut([]byte(h), []byte(": "))
		if string(name) == "Host" {
			req.Host = string(value)
			continue
		}
		req.Header.Add(string(name), string(value))
	}
	res, err := c.Do(req)
	check(r.t, err)
	defer res.Body.Close()
	got, err := io.ReadAll(res.Body)
	check(r.t, err)
	return answer{res.StatusCode, res.Header, got, res.Close}
}

func (r *rig) decrypt(envelope string) answer {
	r.t.Helper()
	return r.send(r.client, "POST", "/v1/partners/wise/decrypt", envelope, "Content-Type: application/jose+json")
}

// entries are those of the audit log so far.
func (r *rig) entries() []audit.Entry {
	r.t.Helper()
	all, err := audit.Read(r.path("audit.jsonl"), 0, 0)
	check(r.t, err)
	return all
}

func overSocket(t testing.TB, path string) *http.Client {
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}, DisableCompression: true}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// inject makes the next opening fail.
func inject(r *rig, err error) {
	r.token.Inject(backendtest.Fault{Op: "open", Err: err})
}

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }
