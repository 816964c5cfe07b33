package api

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"keyd/internal/registry"
)

// collector computes, when somebody looks, what follows from the registry and
// the backends. Nothing is counted twice and nothing can be out of date.
type collector struct {
	server *Server

	versions, nextRotation, validTill *prometheus.Desc
	level, up, sessions, inUse        *prometheus.Desc
	process, generation               *prometheus.Desc
	auditHead, ready, build           *prometheus.Desc
	exchanges, calls                  *prometheus.Desc
}

// watch adds what a server knows. One server has one Metrics.
func (m *Metrics) watch(s *Server) error {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, labels, nil)
	}
	return m.registry.Register(&collector{
		server:       s,
		versions:     desc("keyd_versions", "Versions of a key in each state.", "key", "state"),
		nextRotation: desc("keyd_days_to_next_rotation", "Days until the schedule asks for the next rotation of a key; negative when it is late.", "key"),
		validTill:    desc("keyd_days_to_valid_till", "Days until the validTill of a key's active version; absent while none is active.", "key"),
		level:        desc("keyd_backend_level", "1 for the boundary level that a backend works at with keys for an algorithm.", "backend", "algorithm", "level"),
		up:           desc("keyd_backend_up", "1 if a backend can be used.", "backend"),
		sessions:     desc("keyd_backend_sessions", "Size of a backend's session pool.", "backend"),
		inUse:        desc("keyd_backend_sessions_in_use", "Sessions of a backend in use.", "backend"),
		exchanges:    desc("keyd_exchanges_open", "Exchanges that wait for their reply.", "partner"),
		calls:        desc("keyd_calls_under_way", "Calls that wait for their partner.", "partner"),
		process:      desc("keyd_backend_process", "1 for the state of the process that a backend's PKCS#11 library runs in: ready, starting, down or probing.", "backend", "state"),
		generation:   desc("keyd_backend_process_generation", "Processes of a backend's PKCS#11 library that have come to serve; more than 1 is as many restarts.", "backend"),
		auditHead:    desc("keyd_audit_head_seq", "Number of the last entry of the audit log that is on disk."),
		ready:        desc("keyd_ready", "1 if /readyz answers 200."),
		build:        desc("keyd_build_info", "1, with what is running.", "version", "go", "revision", "instance"),
	})
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.versions, c.nextRotation, c.validTill, c.level, c.up, c.sessions, c.inUse, c.process, c.generation, c.exchanges, c.calls, c.auditHead, c.ready, c.build} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(out chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	now := time.Now()
	for _, key := range c.server.cfg.Registry.Keys() {
		count := map[registry.State]int{}
		versions := c.server.cfg.Registry.Versions(key.Name)
		for _, v := range versions {
			count[v.State]++
		}
		for _, state := range registry.States {
			gauge(c.versions, float64(count[state]), key.Name, string(state))
		}
		gauge(c.nextRotation, key.NextDue.Sub(now).Hours()/24, key.Name)
		if v, ok := c.server.cfg.Registry.Active(key.Name); ok {
			gauge(c.validTill, v.ValidTill.Sub(now).Hours()/24, key.Name)
		}
	}
	ctx := context.Background() // healths has a deadline of its own
	for _, h := range c.server.healths.all(ctx) {
		gauge(c.up, one(h.Err == ""), h.name)
		gauge(c.sessions, float64(h.Sessions), h.name)
		gauge(c.inUse, float64(h.InUse), h.name)
		for algorithm, level := range h.Levels {
			gauge(c.level, 1, h.name, algorithm, string(level))
		}
		if h.Process != nil {
			gauge(c.process, 1, h.name, h.Process.State)
			gauge(c.generation, float64(h.Process.Generation), h.name)
		}
	}
	open := c.server.cfg.Opener.exchanges.Count()
	for i := range c.server.cfg.Opener.cfg.Partners {
		p := &c.server.cfg.Opener.cfg.Partners[i]
		gauge(c.calls, float64(c.server.turns.count(p.Name)), p.Name)
		if p.hasExchanges() {
			gauge(c.exchanges, float64(open[p.Name]), p.Name)
		}
	}
	gauge(c.auditHead, float64(c.server.audit.Head().Seq))
	ready, _ := c.server.ready(ctx)
	gauge(c.ready, one(ready))
	v := c.server.cfg.Version
	gauge(c.build, 1, v.Version, v.Go, v.Revision, c.server.cfg.Instance)
}

func one(is bool) float64 {
	if is {
		return 1
	}
	return 0
}
