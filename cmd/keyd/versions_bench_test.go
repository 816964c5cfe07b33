package main

import (
	"bufio"
	"context"
	"crypto/ecdh"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"keyd/internal/audit"
	"keyd/internal/boundary"
	"keyd/internal/hsm/baretoken"
	"keyd/internal/jwe"
	"keyd/internal/registry"
	"keyd/internal/rotation"
)

// loginOnly has the test binary log in to a token and say how long that took.
const loginOnly = "bare-login"

// BenchmarkVersions holds a daemon with ten thousand versions in registry and
// token against one with ten, in turn: how long an envelope of the first of them
// takes, and how long a start takes beyond what the module needs to be
// initialised and logged in to. To make ten thousand key pairs takes minutes;
// KEYD_VERSIONS names a folder that keeps them for the next time.
func BenchmarkVersions(b *testing.B) {
	root := os.Getenv("KEYD_VERSIONS")
	if root == "" {
		root = b.TempDir()
	}
	bin := filepath.Join(b.TempDir(), "keyd")
	execute(b, "go", "build", "-o", bin, ".")
	var stocks []*stock
	for _, n := range []int{10, 10_000} {
		s := &stock{dir: filepath.Join(root, strconv.Itoa(n)), bin: bin, n: n}
		s.fill(b)
		s.seal(b)
		stocks = append(stocks, s)
	}
	for b.Loop() {
		for range 5 {
			for _, s := range stocks {
				s.bare = append(s.bare, s.login(b))
				took := s.start(b)
				s.starts = append(s.starts, took)
				s.stop(b)
			}
		}
		for _, s := range stocks {
			s.start(b)
		}
		for range 4000 {
			for _, s := range stocks {
				s.took = append(s.took, s.once(b))
			}
		}
		for _, s := range stocks {
			s.stop(b)
		}
	}
	for _, s := range stocks {
		b.ReportMetric(float64(median(s.took).Nanoseconds())/1000, fmt.Sprintf("p50-µs-of-%d", s.n))
		b.ReportMetric(float64(median(s.bare).Milliseconds()), fmt.Sprintf("bare-login-ms-of-%d", s.n))
		b.ReportMetric(float64(median(s.starts).Milliseconds()), fmt.Sprintf("start-ms-of-%d", s.n))
		b.ReportMetric(float64((median(s.starts) - median(s.bare)).Milliseconds()), fmt.Sprintf("added-ms-of-%d", s.n))
	}
	b.ReportMetric(float64(median(stocks[1].took))/float64(median(stocks[0].took)), "ratio")
	b.ReportMetric(0, "ns/op") // all of it, which says nothing
}

func median(all []time.Duration) time.Duration {
	return slices.Sorted(slices.Values(all))[len(all)/2]
}

// stock is a daemon's folder with n versions of one key.
type stock struct {
	dir, bin string
	n        int
	request  []byte
	daemon   *exec.Cmd
	ended    chan error // gets how the daemon ended
	conn     net.Conn
	answers  *bufio.Reader

	bare, starts, took []time.Duration
}

func (s *stock) path(name string) string { return filepath.Join(s.dir, name) }

// fill makes token, keys and registry, unless they are there.
func (s *stock) fill(b *testing.B) {
	b.Helper()
	if _, err := os.Stat(s.path("whole")); err == nil {
		return
	}
	must := func(err error) {
		b.Helper()
		if err != nil {
			b.Fatal(err)
		}
	}
	must(os.RemoveAll(s.dir))
	must(os.MkdirAll(s.path("state"), 0o700))
	execute(b, "../../softhsm/token.sh", s.path("token"), "keyd")
	b.Setenv("SOFTHSM2_CONF", s.path("token/softhsm2.conf"))
	var names []baretoken.Name
	for range s.n {
		kid := uuid.New()
		names = append(names, baretoken.Name{ID: string(kid[:]), Label: "keyd/demo/wise-response/" + kid.String()})
	}
	points, err := baretoken.Fill(softHSMModule, "keyd", s.pin(b), names, func(made int) { fmt.Fprintf(os.Stderr, "%d of %d key pairs\n", made, s.n) })
	must(err)
	must(s.register(names, points))
	must(s.record(b.Context()))
	config := fmt.Sprintf(`instance: demo
state_dir: %[1]s/state
listen: {client: {path: %[1]s/keyd.sock, mode: "0600"}, admin: {path: %[1]s/admin.sock, mode: "0600"}, metrics: "off"}
roles: {operator: {users: ["%[2]d"]}, clients: [{partner: wise, users: ["%[2]d"]}]}
backends: {hsm: {type: pkcs11, module: %[3]s, token_label: keyd, pin: "file:%[1]s/token/pin"}}
partners: {wise: {type: jwe, url: "http://127.0.0.1:1", algs: [ECDH-ES], encs: [A256GCM], our_key: by-hand, key: {url: "http://127.0.0.1:1/"}}}
`, s.dir, os.Getuid(), softHSMModule)
	must(os.WriteFile(s.path("keyd.yaml"), []byte(config), 0o600))
	must(os.WriteFile(s.path("whole"), nil, 0o600))
}

// register writes the registry: the first version as keyd does, and the others
// like it, all draining but the last. One transaction each would take minutes.
func (s *stock) register(names []baretoken.Name, points [][]byte) error {
	engine, err := registry.OpenBolt(s.path("state/keyd.db"), registry.Options{})
	if err != nil {
		return err
	}
	r, err := registry.New(engine)
	if err != nil {
		return err
	}
	defer r.Close()
	const day = 24 * time.Hour
	at, m := time.Now(), boundary.Material{Algorithm: boundary.ECDHES, Curve: "P-256"}
	err = r.PutKey(registry.Key{Name: "wise-response", Partner: "wise", Backend: "hsm", Algorithm: m.Algorithm, Curve: m.Curve, NextDue: at.Add(300 * day),
		Policy: registry.Policy{Rotate: "0 3 1 * *", ValidFor: registry.Duration(400 * day), DrainFor: registry.Duration(300 * day), Canary: rotation.CanaryOff}})
	if err != nil {
		return err
	}
	return engine.Update(func(tx registry.Tx) error {
		for i, n := range names {
			point, err := ecdh.P256().NewPublicKey(points[i])
			if err != nil {
				return err
			}
			der, err := m.MarshalPublic(point)
			if err != nil {
				return err
			}
			states := []registry.State{registry.Announced, registry.Active, registry.Draining}
			if i == len(names)-1 {
				states = states[:2]
			}
			v := registry.Version{KID: n.Label[strings.LastIndex(n.Label, "/")+1:], Key: "wise-response", Number: i + 1, State: states[len(states)-1], Backend: "hsm",
				Handle: pkcs11URI(n), Public: der, Algorithm: m.Algorithm, Curve: m.Curve, ValidFrom: at.UTC().Truncate(time.Second), ValidTill: at.Add(400 * day).UTC().Truncate(time.Second),
				TestedAt: at, GeneratedAt: at, ToldAt: at, Adopted: true, Evidence: json.RawMessage(`{"attributes":{"CKA_LABEL":"` + strings.Repeat("x", 400) + `"}}`)}
			for _, to := range states {
				v.History = append(v.History, registry.Event{At: at.UTC(), To: to, By: "bench", Reason: "a measurement", Audit: 1})
			}
			if v.State == registry.Draining {
				v.DrainUntil = at.Add(300 * day).UTC()
			}
			raw, err := json.Marshal(v)
			if err != nil {
				return err
			}
			if err := tx.Put("versions", v.KID, raw); err != nil {
				return err
			}
			if i == 0 {
				if err := os.WriteFile(s.path("first.json"), raw, 0o600); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// record writes the one entry of the audit log that the registry names.
func (s *stock) record(ctx context.Context) error {
	log, err := audit.Open(audit.Config{Path: s.path("state/audit.jsonl"), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	_, err = log.Append(ctx, audit.Entry{Phase: audit.PhaseEvent, Action: "bench", Actor: audit.System, Result: audit.ResultOK})
	return errors.Join(err, log.Close())
}

// pkcs11URI is a name as a handle (RFC 7512).
func pkcs11URI(n baretoken.Name) string {
	var id strings.Builder
	for _, c := range []byte(n.ID) {
		fmt.Fprintf(&id, "%%%02X", c)
	}
	return "pkcs11:id=" + id.String() + ";object=" + strings.ReplaceAll(n.Label, "/", "%2F")
}

func (s *stock) pin(b *testing.B) string {
	b.Helper()
	pin, err := os.ReadFile(s.path("token/pin"))
	if err != nil {
		b.Fatal(err)
	}
	return strings.TrimSpace(string(pin))
}

// seal makes the request: an envelope to the first version.
func (s *stock) seal(b *testing.B) {
	b.Helper()
	var v registry.Version
	raw, err := os.ReadFile(s.path("first.json"))
	if err == nil {
		err = json.Unmarshal(raw, &v)
	}
	if err != nil {
		b.Fatal(err)
	}
	public, err := boundary.ParsePublic(v.Public)
	if err != nil {
		b.Fatal(err)
	}
	envelope, err := jwe.Seal(public, jwe.SealHeader{Alg: jwe.SealECDHES, KID: v.KID, Enc: boundary.A256GCM}, make([]byte, benchPlaintext))
	if err != nil {
		b.Fatal(err)
	}
	s.request = fmt.Appendf(nil, "POST /v1/partners/wise/decrypt HTTP/1.1\r\nHost: keyd\r\nContent-Length: %d\r\n\r\n%s", len(envelope), envelope)
}

func (s *stock) env() []string {
	return append(os.Environ(), "SOFTHSM2_CONF="+s.path("token/softhsm2.conf"))
}

// login is the module alone, in a process of its own.
func (s *stock) login(b *testing.B) time.Duration {
	b.Helper()
	cmd := exec.CommandContext(b.Context(), "/proc/self/exe", loginOnly, softHSMModule, "keyd")
	cmd.Env, cmd.Stdin, cmd.Stderr = s.env(), strings.NewReader(s.pin(b)), os.Stderr
	out, err := cmd.Output()
	if err != nil {
		b.Fatalf("logging in with nothing else: %v", err)
	}
	took, err := time.ParseDuration(string(out))
	if err != nil {
		b.Fatal(err)
	}
	return took
}

// bareLogin is what the process does.
func bareLogin() {
	pin, err := io.ReadAll(os.Stdin)
	began := time.Now()
	if err == nil {
		err = baretoken.Login(os.Args[2], os.Args[3], string(pin))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Print(time.Since(began))
	os.Exit(0)
}

// start returns how long it was until the first envelope was open.
func (s *stock) start(b *testing.B) time.Duration {
	b.Helper()
	s.daemon = exec.CommandContext(b.Context(), s.bin, "serve", "--config", s.path("keyd.yaml"))
	s.daemon.Env, s.daemon.Stderr = s.env(), b.Output()
	began := time.Now()
	if err := s.daemon.Start(); err != nil {
		b.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- s.daemon.Wait() }()
	s.ended = ended
	for time.Since(began) < 5*time.Minute {
		select {
		case err := <-ended:
			b.Fatalf("the daemon ended: %v", err)
		default:
		}
		if conn, err := net.Dial("unix", s.path("keyd.sock")); err == nil {
			s.conn, s.answers = conn, bufio.NewReader(conn)
			s.once(b)
			return time.Since(began)
		}
		time.Sleep(5 * time.Millisecond)
	}
	b.Fatal("it did not start within 5 minutes")
	return 0
}

func (s *stock) stop(b *testing.B) {
	b.Helper()
	_ = s.conn.Close()
	if err := s.daemon.Process.Signal(os.Interrupt); err != nil {
		b.Fatal(err)
	}
	if err := <-s.ended; err != nil {
		b.Fatalf("the daemon ended: %v", err)
	}
}

// once opens the envelope.
func (s *stock) once(b *testing.B) time.Duration {
	b.Helper()
	began := time.Now()
	if _, err := s.conn.Write(s.request); err != nil {
		b.Fatal(err)
	}
	res, err := http.ReadResponse(s.answers, nil)
	if err != nil {
		b.Fatal(err)
	}
	body, err := io.ReadAll(res.Body)
	_ = res.Body.Close()
	if err != nil || res.StatusCode != http.StatusOK || len(body) != benchPlaintext {
		b.Fatalf("%s, %d bytes, %v: %.200s", res.Status, len(body), err, body)
	}
	return time.Since(began)
}
