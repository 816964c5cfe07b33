package api_test

import (
	"context"
	"crypto"
	"net/http"
	"strings"
	"testing"
	"time"

	"keyd/client"
	"keyd/internal/api"
	"keyd/internal/rotation"
)

// A partner that hangs has so many callers waiting and no more; what does not
// concern it goes on.
func TestAPartnerThatHangsHoldsUpItsOwnCallersAlone(t *testing.T) {
	hang, entered := make(chan struct{}), make(chan struct{}, 2)
	r, f := newCallRig(t, func(api.Request, int) (*api.Response, error) {
		entered <- struct{}{}
		<-hang
		return inClear(200, "{}"), nil
	})
	r.send(r.client, "POST", "/v1/partners/wise/encrypt", "x").wants(t, 200, "") // its key is known
	get := client.Call{Method: "GET", Path: "/v1/cases/1"}
	done := make(chan answer)
	for range 2 {
		go func() { done <- r.call(get) }()
	}
	<-entered
	metrics := func() string { return string(r.send(http.DefaultClient, "GET", "/metrics", "").body) }
	for end := time.Now().Add(30 * time.Second); !strings.Contains(metrics(), `keyd_calls_under_way{partner="wise"} 2`); {
		if time.Now().After(end) {
			t.Fatal("two calls are not under way")
		}
	}
	a := r.call(get).wants(t, 429, "call_limit")
	if a.header.Get("Retry-After") != "1" || !strings.Contains(a.problem(t).Detail, "2 with wise") {
		t.Errorf("got %v %s", a.header, a.body)
	}
	r.send(r.client, "POST", "/v1/partners/wise/encrypt", "x").wants(t, 200, "")
	close(hang)
	for range 2 {
		(<-done).wants(t, 200, "")
	}
	r.call(get).wants(t, 200, "")
	if len(f.got) != 3 || !strings.Contains(metrics(), `keyd_calls_under_way{partner="wise"} 0`) {
		t.Errorf("%d requests left, and\n%s", len(f.got), metrics())
	}
}

// hanging shows its key when it is let.
type hanging struct {
	*partner
	until chan struct{}
}

func (h hanging) FetchKey(ctx context.Context) (string, int, string, crypto.PublicKey, error) {
	<-h.until
	return h.partner.FetchKey(ctx)
}

func TestThoseWhoWaitForAPartnersKeyAreBounded(t *testing.T) {
	until := make(chan struct{})
	r := newRig(t, func(s *setup) {
		slow := facts("slow")
		s.opener.Partners = append(s.opener.Partners, slow)
		s.engine["slow"] = rotation.Partner{KeySource: hanging{newPartner(t), until}}
	})
	seal := func() answer { return r.send(r.client, "POST", "/v1/partners/slow/encrypt", "x") }
	done := make(chan answer)
	for range 2 {
		go func() { done <- seal() }()
	}
	for end := time.Now().Add(30 * time.Second); !strings.Contains(string(r.send(http.DefaultClient, "GET", "/metrics", "").body), `keyd_calls_under_way{partner="slow"} 2`); {
		if time.Now().After(end) {
			t.Fatal("nobody waits for the key")
		}
	}
	seal().wants(t, 429, "call_limit")
	r.send(r.client, "POST", "/v1/partners/wise/encrypt", "x").wants(t, 200, "")
	close(until)
	for range 2 {
		(<-done).wants(t, 200, "")
	}
	for range 4 { // its key is known by now
		seal().wants(t, 200, "")
	}
}

func TestCallsLeaveConnectionsToThoseWhoSealAndOpen(t *testing.T) {
	for want, partners := range map[int][]string{64: {"a"}, 128: {"a", "b"}, 384: {"a", "b", "c", "d", "e", "f", "g", "h"}} {
		if got := api.TakeTurns(64, partners); got != want {
			t.Errorf("%d calls with %d partners, want %d", got, len(partners), want)
		}
	}
}
