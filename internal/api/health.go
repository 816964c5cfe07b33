package api

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"slices"
	"sync"
	"time"

	"keyd/client"
	"keyd/internal/boundary"
	"keyd/internal/registry"
	"keyd/internal/rotation"
)

const (
	// healthFor is how long an answer about the backends is good for: anybody
	// on the machine may ask, and each answer takes a token's time.
	healthFor = time.Second
	// healthWithin is how long a backend may take over it.
	healthWithin = 2 * time.Second
)

// healths asks the backends how they are.
type healths struct {
	backends map[string]Backend

	mu    sync.Mutex // held while they are asked, so that others wait for the same answer
	last  []health
	until time.Time

	asking sync.Map // names of those that were asked and have not answered
}

type health struct {
	name string
	boundary.Health
}

func newHealths(backends map[string]Backend) *healths { return &healths{backends: backends} }

// all asks all of them at the same time. Who hangs is reported as not usable.
func (h *healths) all(ctx context.Context) []health {
	h.mu.Lock()
	defer h.mu.Unlock()
	if time.Now().Before(h.until) {
		return h.last
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), healthWithin)
	defer cancel()
	answers := make(chan health, len(h.backends))
	waiting := map[string]bool{}
	all := make([]health, 0, len(h.backends))
	for name, b := range h.backends {
		if _, hangs := h.asking.LoadOrStore(name, true); hangs {
			all = append(all, silent(name)) // asking again would only hang again
			continue
		}
		waiting[name] = true
		go func() {
			defer h.asking.Delete(name)
			answers <- health{name, b.Health(ctx)}
		}()
	}
	for len(waiting) > 0 {
		select {
		case a := <-answers:
			delete(waiting, a.name)
			all = append(all, a)
		case <-ctx.Done():
			for name := range waiting {
				all = append(all, silent(name))
			}
			clear(waiting)
		}
	}
	slices.SortFunc(all, func(a, b health) int { return cmp.Compare(a.name, b.name) })
	h.last, h.until = all, time.Now().Add(healthFor)
	return all
}

func silent(name string) health {
	return health{name, boundary.Health{Backend: name, Err: "it does not answer"}}
}

// ready reports whether keyd can do its work, with what keeps it from it and
// what may soon.
func (s *Server) ready(ctx context.Context) (bool, []rotation.Finding) {
	var found []rotation.Finding
	if _, err := s.cfg.Registry.Version(""); err != nil && !errors.Is(err, registry.ErrNotFound) {
		found = append(found, rotation.Finding{Severity: rotation.Failure, Code: "registry", Subject: "registry", Message: err.Error(), Hint: "see the disk it is on"})
	}
	if err := cmp.Or(s.audit.failure(), s.cfg.Opener.audit.failure()); err != nil {
		found = append(found, rotation.Finding{Severity: rotation.Failure, Code: "audit", Subject: "audit log", Message: err.Error(), Hint: "see whether its disk is full; keyd must then be restarted"})
	}
	for _, h := range s.healths.all(ctx) {
		if h.Err != "" {
			found = append(found, rotation.Finding{Severity: rotation.Failure, Code: "backend_down", Subject: h.name, Message: h.Err})
		}
	}
	ready := len(found) == 0
	// The log goes on without the head beside it; what is lost is that a log
	// which was cut off shows.
	if log, ok := s.cfg.Audit.(interface{ HeadErr() error }); ok {
		if err := log.HeadErr(); err != nil {
			found = append(found, rotation.Finding{Severity: rotation.Warning, Code: "audit_head", Subject: "audit log", Message: err.Error(), Hint: "see the disk, and the permissions of the directory it is in"})
		}
	}
	return ready, found
}

// healthz says that the process is alive.
func (s *Server) healthz(x *visit) error {
	x.respond(http.StatusOK, "text/plain; charset=utf-8", []byte("ok\n"))
	return nil
}

// readyz says that it can do its work, or why not.
func (s *Server) readyz(x *visit) error {
	ready, reasons := s.ready(x.r.Context())
	status := http.StatusOK
	if !ready {
		status = http.StatusServiceUnavailable
	}
	x.respond(status, "application/json", encode(readiness{Ready: ready, Reasons: findingViews(reasons)}))
	return nil
}

// readiness is the answer of /readyz.
type readiness struct {
	Ready   bool             `json:"ready"`
	Reasons []client.Finding `json:"reasons"`
}
