// Package api is keyd's HTTP: who is calling, what they may ask, the answer.
//
// There are two unix sockets, for payment backends and for operators, and a
// loopback listener for monitoring. What can be asked of each stands in one
// table (routes.go), with who may ask it, how large a body may be and how long
// it may take; what an error looks like from outside stands in another
// (problem.go). Callers are known by the credentials of the process at the
// other end of the socket, never by anything they send.
//
// Opener is the way of an envelope from its bytes to its plaintext. It knows
// nothing of HTTP, so that the canary of a rotation opens envelopes the same
// way a payment backend does.
package api

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"time"

	"keyd/client"
	"keyd/internal/audit"
	"keyd/internal/registry"
	"keyd/internal/rotation"
)

// Socket is a unix socket to listen on.
type Socket struct {
	Path string
	Mode fs.FileMode // such as 0o660; nobody gets more than it says at any moment
	GID  int         // the group it is given; 0 leaves it as it is
}

// AuditLog is the audit log as the API uses it.
type AuditLog interface {
	// Append returns when the entry is on disk, Record when the kernel has it.
	Append(ctx context.Context, e audit.Entry) (audit.Head, error)
	Record(ctx context.Context, e audit.Entry) error
	Head() audit.Head
}

// Config is what a Server works with. All of it is required but what says
// otherwise.
type Config struct {
	Instance string
	Version  client.VersionInfo

	Client Socket // for payment backends
	Admin  Socket // for operators and auditors
	// Metrics is a loopback address for /metrics, /healthz and /readyz; "" is
	// none.
	Metrics string
	// Rules say who has which role. Who is in none is refused everything.
	Rules []Rule

	Registry *registry.Registry
	Engine   *rotation.Engine
	Opener   *Opener
	Audit    AuditLog
	// AuditPath is where the audit log stands, to be read and verified.
	AuditPath string
	// MaxPlaintext is the largest plaintext sealed, in bytes.
	MaxPlaintext int64
	// Calls is how many calls are under way with a partner at a time.
	Calls  int
	Meters *Metrics
	Logger *slog.Logger

	// HeaderTimeout and BodyTimeout are how long a peer may take over sending
	// the head and the body of a request. Default 5s and 10s.
	HeaderTimeout, BodyTimeout time.Duration
}

// Server answers on the sockets.
type Server struct {
	cfg     Config
	log     *slog.Logger
	audit   *trail
	callers *callers
	refused *refusals
	refetch *spacing
	turns   *turns
	healths *healths
	started time.Time
	fronts  []*front
}

// front is one listener with what it serves.
type front struct {
	name     string
	most     int // connections at a time
	server   *http.Server
	listen   func() (net.Listener, error)
	listener net.Listener
}

// How many connections a listener has at a time. The rest wait.
const (
	mostClients    = 512
	mostOperators  = 128
	mostMonitoring = 64
)

const (
	maxHeader   = 16 << 10
	idleTimeout = 2 * time.Minute
)

// New makes a server; Listen and Serve set it going.
func New(cfg Config) (*Server, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	if cfg.HeaderTimeout == 0 {
		cfg.HeaderTimeout = 5 * time.Second
	}
	if cfg.BodyTimeout == 0 {
		cfg.BodyTimeout = 10 * time.Second
	}
	s := &Server{cfg: cfg, log: cfg.Logger, audit: &trail{AuditLog: cfg.Audit}, callers: newCallers(cfg.Rules),
		refetch: newSpacing(refetchEvery), turns: newTurns(cfg.Calls), healths: newHealths(cfg.Opener.cfg.Backends), started: time.Now().UTC()}
	s.refused = newRefusals(s.writeRefusal)
	if err := cfg.Meters.watch(s); err != nil {
		return nil, fmt.Errorf("api: registering metrics: %w", err)
	}
	s.fronts = []*front{
		s.front("client", clientSocket, mostClients, func() (net.Listener, error) { return listenUnix(cfg.Client) }),
		s.front("admin", adminSocket, mostOperators, func() (net.Listener, error) { return listenUnix(cfg.Admin) }),
	}
	if cfg.Metrics != "" {
		s.fronts = append(s.fronts, s.front("monitoring", monitorPort, mostMonitoring, func() (net.Listener, error) { return listenLoopback(cfg.Metrics) }))
	}
	return s, nil
}

func (s *Server) front(name string, on door, most int, listen func() (net.Listener, error)) *front {
	server := &http.Server{
		Handler:                      s.handler(on),
		ReadHeaderTimeout:            s.cfg.HeaderTimeout,
		IdleTimeout:                  idleTimeout,
		MaxHeaderBytes:               maxHeader,
		DisableGeneralOptionsHandler: true,
		ErrorLog:                     slog.NewLogLogger(s.log.With("listener", name).Handler(), slog.LevelDebug),
	}
	if on != monitorPort {
		server.ConnContext = withPeer
	}
	return &front{name: name, most: most, server: server, listen: listen}
}

// check reports everything that is wrong with a config.
func (c Config) check() error {
	var problems []error
	missing := func(what string, is bool) {
		if is {
			problems = append(problems, fmt.Errorf("api: no %s given", what))
		}
	}
	missing("instance", c.Instance == "")
	missing("registry", c.Registry == nil)
	missing("engine", c.Engine == nil)
	missing("opener", c.Opener == nil)
	missing("audit log", c.Audit == nil)
	missing("audit path", c.AuditPath == "")
	missing("metrics", c.Meters == nil)
	missing("logger", c.Logger == nil)
	missing("largest plaintext", c.MaxPlaintext <= 0)
	missing("number of calls", c.Calls <= 0)
	for name, socket := range map[string]Socket{"client": c.Client, "admin": c.Admin} {
		if !filepath.IsAbs(socket.Path) {
			problems = append(problems, fmt.Errorf("api: the %s socket %q is not an absolute path", name, socket.Path))
		}
		if socket.Mode&^0o777 != 0 {
			problems = append(problems, fmt.Errorf("api: the %s socket's mode %v is not one of permissions alone", name, socket.Mode))
		}
	}
	if c.HeaderTimeout < 0 || c.BodyTimeout < 0 {
		problems = append(problems, errors.New("api: a timeout is negative"))
	}
	for _, rule := range c.Rules {
		problems = append(problems, rule.check())
	}
	return errors.Join(problems...)
}
