package api

import (
	"cmp"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"keyd/internal/boundary"
	"keyd/internal/exchange"
	"keyd/internal/jwe"
)

// buckets run from what keyd adds to an opening to what a partner takes.
var buckets = []float64{.0001, .0002, .0005, .001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 3}

// Metrics are counted wherever something happens and read at /metrics. Its
// methods may be called at the same time.
type Metrics struct {
	registry *prometheus.Registry
	handler  http.Handler

	opens        *prometheus.CounterVec
	openSeconds  *prometheus.HistogramVec
	seals        *prometheus.CounterVec
	exchanges    *prometheus.CounterVec
	calls        *prometheus.CounterVec
	partnerKeys  *prometheus.CounterVec
	partnerCalls *prometheus.CounterVec
	partnerTime  *prometheus.HistogramVec
	tokenCalls   *prometheus.CounterVec
	tokenTime    *prometheus.HistogramVec
}

// NewMetrics makes metrics in a registry of their own.
func NewMetrics() *Metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	histogram := func(name, help string, labels ...string) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}, labels)
	}
	m := &Metrics{
		registry:     prometheus.NewRegistry(),
		opens:        counter("keyd_opens_total", "Envelopes that were to be opened, by what came of it.", "partner", "key", "result", "cause"),
		openSeconds:  histogram("keyd_open_seconds", "Time of openings that succeeded: in the token, and in keyd (waiting for a session and for the audit log included).", "in"),
		seals:        counter("keyd_seal_total", "Requests that were to be sealed.", "partner", "result"),
		calls:        counter("keyd_calls_total", "Requests sent to partners for callers, by what the answer held; none is no answer.", "partner", "content", "result"),
		exchanges:    counter("keyd_exchanges_total", "Exchanges, by what became of them: begun or refused, and then answered, expired, spent, lost, dropped or stopped.", "partner", "kind", "result"),
		partnerKeys:  counter("keyd_partner_key_changes_total", "Times that a partner showed another public key than before: taken, or refused because it is not pinned.", "partner", "result"),
		partnerCalls: counter("keyd_partner_calls_total", "Calls to partners, by HTTP status; code none is no answer.", "partner", "op", "code"),
		partnerTime:  histogram("keyd_partner_call_seconds", "Time of calls to partners.", "partner", "op"),
		tokenCalls:   counter("keyd_backend_calls_total", "Operations in a key backend.", "backend", "op", "result"),
		tokenTime:    histogram("keyd_backend_call_seconds", "Time of operations in a key backend: waiting for a session, and in the token.", "backend", "op", "in"),
	}
	m.registry.MustRegister(m.opens, m.openSeconds, m.seals, m.calls, m.exchanges, m.partnerKeys, m.partnerCalls, m.partnerTime, m.tokenCalls, m.tokenTime,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	m.handler = promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
	return m
}

// ObservePartnerCall counts one call to a partner. A status of 0 is no answer.
func (m *Metrics) ObservePartnerCall(partner, op string, status int, d time.Duration, _ error) {
	code := "none"
	if status != 0 {
		code = strconv.Itoa(status)
	}
	m.partnerCalls.WithLabelValues(partner, op, code).Inc()
	m.partnerTime.WithLabelValues(partner, op).Observe(d.Seconds())
}

// ObservePartnerKey counts that a partner showed another public key than before.
func (m *Metrics) ObservePartnerKey(partner, result string) {
	m.partnerKeys.WithLabelValues(partner, result).Inc()
}

// Token returns what a backend tells of each of its operations.
func (m *Metrics) Token(backend string) func(op string, wait, inToken time.Duration, err error) {
	return func(op string, wait, inToken time.Duration, err error) {
		m.tokenCalls.WithLabelValues(backend, op, backendResult(err)).Inc()
		m.tokenTime.WithLabelValues(backend, op, "wait").Observe(wait.Seconds())
		m.tokenTime.WithLabelValues(backend, op, "token").Observe(inToken.Seconds())
	}
}

// opened counts an attempt to open an envelope.
func (m *Metrics) opened(a *attempt, err error, took time.Duration) {
	m.opens.WithLabelValues(a.partner, a.version.Key, resultOf(err), cause(err)).Inc()
	if err == nil {
		m.openSeconds.WithLabelValues("token").Observe(a.inToken.Seconds())
		m.openSeconds.WithLabelValues("keyd").Observe((took - a.inToken).Seconds())
	}
}

func (m *Metrics) sealed(partner string, err error) {
	m.seals.WithLabelValues(partner, resultOf(err)).Inc()
}

func (m *Metrics) exchanged(partner, kind, result string) {
	m.exchanges.WithLabelValues(partner, kind, result).Inc()
}

func (m *Metrics) called(partner, content string, err error) {
	m.calls.WithLabelValues(partner, cmp.Or(content, "none"), resultOf(err)).Inc()
}

func resultOf(err error) string {
	if err != nil {
		return "failed"
	}
	return "ok"
}

// backendResult is how an operation in a backend ended: what is to be alarmed on
// (unavailable), what is load (busy) and what is an answer (no_key) apart.
func backendResult(err error) string {
	for _, c := range []struct {
		err    error
		result string
	}{{boundary.ErrBusy, "busy"}, {boundary.ErrNoKey, "no_key"}, {boundary.ErrDisabled, "disabled"}, {boundary.ErrUnavailable, "unavailable"}} {
		if errors.Is(err, c.err) {
			return c.result
		}
	}
	return resultOf(err)
}

// cause puts what an attempt failed with into one of a few classes.
func cause(err error) string {
	if err == nil {
		return "ok"
	}
	for _, c := range []struct {
		err   error
		class string
	}{
		{ErrAudit, "audit"},
		{errNotFound, "request"},
		{errBadRequest, "request"},
		{errTooLarge, "request"},
		{errMedia, "request"},
		{errSlow, "request"},
		{jwe.ErrMalformed, "malformed"},
		{jwe.ErrTooLarge, "malformed"},
		{jwe.ErrAlgorithm, "algorithm"},
		{exchange.ErrUnknown, "exchange"},
		{exchange.ErrLost, "exchange"},
		{ErrMissingKID, "unknown_kid"},
		{ErrUnknownKID, "unknown_kid"},
		{ErrNotOpen, "state"},
		{ErrCompromised, "state"},
		{ErrDestroyed, "state"},
		{boundary.ErrOpen, "failed"},
	} {
		if errors.Is(err, c.err) {
			return c.class
		}
	}
	return "backend"
}

func (s *Server) metrics(x *visit) error {
	x.began = true
	s.cfg.Meters.handler.ServeHTTP(x.w, x.r)
	return nil
}
