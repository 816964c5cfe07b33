package api_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"keyd/internal/api"
	"keyd/internal/audit"
	"keyd/internal/registry"
	"keyd/internal/rotation/backendtest"
)

func TestExchangesAreRecordedAsTheConfigSays(t *testing.T) {
	for mode, want := range map[string][]string{
		api.AuditAll:      {"exchange.begin", "decrypt", "exchange.begin", "decrypt", "decrypt", "exchange.end", "decrypt"},
		api.AuditFailures: {"decrypt", "decrypt", "exchange.end", "decrypt"}, api.AuditOff: nil,
	} {
		r := newRig(t, func(s *setup) { s.opener.Decrypts = mode })
		sealed, envelope := r.direct("direct=true", "x")
		r.reply(sealed.Exchange.ID, envelope).wants(t, 200, "")
		sealed, _ = r.direct("direct=true", "x")
		for range 3 {
			r.reply(sealed.Exchange.ID, underKey(t, make([]byte, 32), "x")).wants(t, 422, "open_failed")
		}
		var got []string
		for _, e := range r.entries() {
			if e.Partner == "wise" && (strings.HasPrefix(e.Action, "exchange.") || e.Action == "decrypt") {
				got = append(got, e.Action)
			}
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s: %s", mode, d)
		}
	}
}

// The time is the table's, so it can be made to pass.
func TestAnExchangeEndsWithItsTimeAndSaysSo(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		log, err := audit.Open(audit.Config{Path: dir + "/audit.jsonl", Logger: discard()})
		check(t, err)
		token := backendtest.NewMemory(backendtest.MemoryOptions{Name: backendName})
		meters := api.NewMetrics()
		opener, err := api.NewOpener(api.OpenerConfig{Registry: noVersions{}, Backends: map[string]api.Backend{backendName: token}, Partners: []api.Partner{facts("wise")},
			Audit: log, Decrypts: api.AuditAll, MaxEnvelope: 1 << 10, Exchanges: api.ExchangeLimits{TTL: time.Minute, PerPartner: 4, PerUser: 4}, Meters: meters, Logger: discard()})
		check(t, err)
		cek := make([]byte, 32)
		me := audit.Actor{UID: 7}
		ticket, err := opener.BeginDirect(t.Context(), me, "wise", backendName, enc, cek)
		check(t, err)
		time.Sleep(time.Minute)
		synctest.Wait()
		if _, err := opener.OpenReply(t.Context(), me, "wise", ticket.ID, []byte(underKey(t, cek, "x"))); api.CodeOf(err) != "exchange_unknown" {
			t.Errorf("got %v", err)
		}
		ticket, err = opener.BeginDirect(t.Context(), me, "wise", "", enc, cek)
		check(t, err)
		check(t, opener.Close(t.Context()))
		check(t, log.Close())
		all, err := audit.Read(dir+"/audit.jsonl", 0, 0)
		check(t, err)
		var got []string
		for _, e := range all {
			got = append(got, e.Action+" "+e.Code+" "+e.Detail["boundary"])
		}
		want := []string{"exchange.begin  ", "exchange.end exchange_expired ", "decrypt exchange_unknown ", "exchange.begin  host", "exchange.end exchange_stopped "}
		if d := cmp.Diff(want, got); d != "" {
			t.Error(d)
		}
		_ = ticket
	})
}

// noVersions is a registry in which there are none.
type noVersions struct{}

func (noVersions) Glance(string) (registry.Version, error) {
	return registry.Version{}, registry.ErrNotFound
}
func (noVersions) Key(string) (registry.Key, error)   { return registry.Key{}, registry.ErrNotFound }
func (noVersions) Keys() []registry.Key               { return nil }
func (noVersions) Versions(string) []registry.Version { return nil }
func (noVersions) TouchOpened(string, time.Time)      {}

// What is open when keyd stops is on record.
func TestTheOpenerClosesWithTheServer(t *testing.T) {
	r := newRig(t)
	sealed, _ := r.direct("direct=true", "x")
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	check(t, r.server.Shutdown(ctx))
	entries := r.last(1)
	if len(entries) != 1 || entries[0].Code != "exchange_stopped" || entries[0].Detail["exchange"] != sealed.Exchange.ID {
		t.Errorf("got %+v", entries)
	}
}
