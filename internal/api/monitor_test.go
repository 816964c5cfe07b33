package api_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"keyd/internal/api"
	"keyd/internal/boundary"
)

func (r *rig) scrape() string {
	r.t.Helper()
	return string(r.send(http.DefaultClient, "GET", "/metrics", "").wants(r.t, 200, "").body)
}

func TestMetricsSayWhatHappened(t *testing.T) {
	r := newRig(t)
	check(t, r.reg.PutKey(theKey("venly-response", "venly")))
	r.decrypt(r.seal(r.active, []byte("x"), nil)).wants(t, 200, "")
	bad := r.seal(r.active, []byte("x"), nil)
	r.decrypt(bad[:len(bad)-2]+map[bool]string{true: "AA", false: "QQ"}[!strings.HasSuffix(bad, "AA")]).wants(t, 422, "open_failed")
	r.decrypt("garbage").wants(t, 400, "malformed_envelope")
	inject(r, boundary.ErrUnavailable)
	r.decrypt(r.seal(r.active, []byte("x"), nil)).wants(t, 503, "backend_unavailable")
	r.send(r.client, "POST", "/v1/partners/wise/encrypt", "x").wants(t, 200, "")
	r.meters.ObservePartnerCall("wise", "key", 200, time.Second, nil)
	r.meters.ObservePartnerCall("wise", "announce", 0, time.Second, errors.New("no route"))
	r.meters.Token("memory")("open", time.Millisecond, 2*time.Millisecond, nil)
	for _, err := range []error{boundary.ErrBusy, boundary.ErrNoKey, boundary.ErrDisabled, boundary.ErrUnavailable, errors.New("else")} {
		r.meters.Token("memory")("sign", 0, 0, fmt.Errorf("signing: %w", err))
	}
	got := r.scrape()
	for _, want := range []string{
		`keyd_opens_total{cause="ok",key="wise-response",partner="wise",result="ok"} 1`,
		`keyd_opens_total{cause="failed",key="wise-response",partner="wise",result="failed"} 1`,
		`keyd_opens_total{cause="malformed",key="",partner="wise",result="failed"} 1`,
		`keyd_opens_total{cause="backend",key="wise-response",partner="wise",result="failed"} 1`,
		`keyd_open_seconds_count{in="token"} 1`,
		`keyd_open_seconds_count{in="keyd"} 1`,
		`keyd_open_seconds_bucket{in="keyd",le="0.0001"}`,
		`keyd_open_seconds_bucket{in="keyd",le="3"} 1`,
		`keyd_seal_total{partner="wise",result="ok"} 1`,
		`keyd_partner_calls_total{code="200",op="key",partner="wise"} 1`,
		`keyd_partner_calls_total{code="none",op="announce",partner="wise"} 1`,
		`keyd_backend_calls_total{backend="memory",op="open",result="ok"} 1`,
		`keyd_backend_call_seconds_count{backend="memory",in="wait",op="open"} 1`,
		`keyd_backend_calls_total{backend="memory",op="sign",result="busy"} 1`,
		`keyd_backend_calls_total{backend="memory",op="sign",result="no_key"} 1`,
		`keyd_backend_calls_total{backend="memory",op="sign",result="disabled"} 1`,
		`keyd_backend_calls_total{backend="memory",op="sign",result="unavailable"} 1`,
		`keyd_backend_calls_total{backend="memory",op="sign",result="failed"} 1`,
		`keyd_versions{key="wise-response",state="active"} 1`,
		`keyd_versions{key="wise-response",state="draining"} 0`,
		`keyd_versions{key="venly-response",state="active"} 0`,
		`keyd_days_to_next_rotation{key="wise-response"} 29.99`,
		`keyd_days_to_valid_till{key="wise-response"} 99.99`,
		`keyd_backend_level{algorithm="RSA-OAEP-256",backend="memory",level="unwrap"} 1`,
		`keyd_backend_up{backend="memory"} 1`,
		`keyd_backend_sessions_in_use{backend="memory"} 0`,
		`keyd_audit_head_seq `,
		`keyd_ready 1`,
		`keyd_build_info{go="go1.26",instance="test",revision="",version="v1.2.3"} 1`,
		`go_goroutines `,
		`process_resident_memory_bytes `,
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %s in\n%s", want, only(got, want))
		}
	}
	if strings.Contains(got, `keyd_days_to_valid_till{key="venly-response"}`) {
		t.Error("a key without an active version has days left")
	}
}

// only is what a scrape says of the same metric.
func only(scrape, line string) string {
	name, _, _ := strings.Cut(line, "{")
	var same []string
	for l := range strings.Lines(scrape) {
		if strings.HasPrefix(l, name) {
			same = append(same, l)
		}
	}
	return strings.Join(same, "")
}

// hung is a backend that does not answer.
type hung struct {
	api.Backend
	asked atomic.Int32
	down  atomic.Bool
	stuck atomic.Bool
	until chan struct{} // when it is stuck
}

func (h *hung) Health(ctx context.Context) boundary.Health {
	h.asked.Add(1)
	if h.stuck.Load() {
		<-h.until // whatever its context says
	}
	health := h.Backend.Health(ctx)
	if h.down.Load() {
		health.Err = "the token is gone"
	}
	return health
}

func TestReadinessSaysWhatIsMissing(t *testing.T) {
	b := &hung{until: make(chan struct{})}
	defer close(b.until)
	r := newRig(t, func(s *setup) { b.Backend, s.backend = s.backend, b })
	ready := func() (int, []string) {
		t.Helper()
		a := r.send(http.DefaultClient, "GET", "/readyz", "")
		var answer struct {
			Ready   bool
			Reasons []struct{ Code, Subject, Message string }
		}
		check(t, json.Unmarshal(a.body, &answer))
		if answer.Ready != (a.status == 200) || answer.Reasons == nil {
			t.Errorf("got %d and %s", a.status, a.body)
		}
		var why []string
		for _, r := range answer.Reasons {
			why = append(why, r.Subject+": "+r.Message)
		}
		return a.status, why
	}
	began := time.Now()
	for range 20 {
		if status, why := ready(); status != 200 {
			t.Fatalf("got %d, %v", status, why)
		}
	}
	if n, took := b.asked.Load(), time.Since(began); n > 2+int32(took.Seconds()) {
		t.Errorf("20 questions in a row, in %s, asked the token %d times", took, n)
	}
	b.down.Store(true)
	time.Sleep(1100 * time.Millisecond) // the last answer is good for a second
	if status, why := ready(); status != 503 || len(why) != 1 || why[0] != "memory: the token is gone" {
		t.Errorf("got %d, %v", status, why)
	}
	b.stuck.Store(true)
	time.Sleep(1100 * time.Millisecond)
	if status, why := ready(); status != 503 || len(why) != 1 || why[0] != "memory: it does not answer" {
		t.Errorf("got %d, %v", status, why)
	}
	asked := b.asked.Load()
	time.Sleep(1100 * time.Millisecond)
	if status, why := ready(); status != 503 || len(why) != 1 || b.asked.Load() != asked {
		t.Errorf("got %d, %v, and a token that hangs was asked again", status, why)
	}
	if a := r.send(http.DefaultClient, "GET", "/healthz", ""); a.status != 200 || string(a.body) != "ok\n" {
		t.Errorf("/healthz says %d %s", a.status, a.body)
	}
}

func TestMonitoringCanBeLeftOut(t *testing.T) {
	r := newRig(t, func(s *setup) { s.cfg.Metrics = "" })
	if r.server.Addr() != nil {
		t.Errorf("it listens on %s", r.server.Addr())
	}
	r.decrypt(r.seal(r.active, []byte("x"), nil)).wants(t, 200, "")
}

// The engine meets a failed audit log too; a daemon that only rotates must not
// look ready.
func TestAnAuditLogThatTheEngineFoundBrokenMakesItUnready(t *testing.T) {
	log := &broken{}
	r := newRig(t, func(s *setup) { log.AuditLog, s.audit = s.audit, log })
	log.now.Store(true)
	r.send(r.admin, "POST", "/v1/keys/"+keyName+"/rotate", "").wants(t, 503, "audit_unavailable")
	if a := r.send(http.DefaultClient, "GET", "/readyz", ""); a.status != 503 {
		t.Errorf("/readyz says %d %s", a.status, a.body)
	}
}
