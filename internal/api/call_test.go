package api_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"keyd/client"
	"keyd/internal/api"
	"keyd/internal/audit"
)

// far is a partner that keeps what it gets and answers as it is told.
type far struct {
	remote
	mu      sync.Mutex
	got     []api.Request
	answers func(r api.Request, n int) (*api.Response, error) // n counts from 1
	refuses error
}

func (f *far) Allows(string, string) error { return f.refuses }

func (f *far) Do(_ context.Context, r api.Request) (*api.Response, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r.Body = bytes.Clone(r.Body) // the caller wipes its own
	f.got = append(f.got, r)
	return f.answers(r, len(f.got))
}

// inClear is an answer that is not sealed.
func inClear(status int, body string) *api.Response {
	return &api.Response{Status: status, Header: http.Header{"Content-Type": {"application/json"}, "X-Trace-Id": {"t-1"}, "Server": {"x"}, "Set-Cookie": {"a=b"}}, Body: []byte(body)}
}

func sealedTo(envelope string) *api.Response {
	return &api.Response{Status: 200, Header: http.Header{"Content-Type": {"application/jose+json"}}, Body: []byte(envelope), Envelope: []byte(envelope)}
}

func newCallRig(t testing.TB, answers func(r api.Request, n int) (*api.Response, error), changes ...func(*setup)) (*rig, *far) {
	t.Helper()
	f := &far{answers: answers}
	r := newRig(t, append([]func(*setup){func(s *setup) { s.opener.Partners[0].Remote = f }}, changes...)...)
	return r, f
}

func (r *rig) call(doc client.Call, headers ...string) answer {
	r.t.Helper()
	raw, err := json.Marshal(doc)
	check(r.t, err)
	return r.send(r.client, "POST", "/v1/partners/wise/call", string(raw), append(headers, "Content-Type: application/json")...)
}

func (a answer) answer(t testing.TB) client.Answer {
	t.Helper()
	a.wants(t, 200, "")
	var got client.Answer
	check(t, json.Unmarshal(a.body, &got))
	return got
}

func post(body string) client.Call {
	return client.Call{Method: "POST", Path: "/v1/cases", Body: body}
}

func TestACallSealsSendsAndOpens(t *testing.T) {
	var r *rig
	r, f := newCallRig(t, func(api.Request, int) (*api.Response, error) {
		return sealedTo(r.seal(r.active, []byte(`{"case":"é\"1"}`), nil)), nil
	})
	doc := post(`{"pan":"4396910000012345"}`)
	doc.Query, doc.Headers = map[string][]string{"a": {"1", "2"}}, map[string]string{"x-external-correlation-id": "c-1"}
	a := r.call(doc, "Authorization: Bearer user-token-1")
	want := client.Answer{Status: 200, Headers: map[string]string{"Content-Type": "application/jose+json"}, Content: "sealed", Body: `{"case":"é\"1"}`,
		KID: r.active.KID, Boundary: "unwrap", PartnerKey: "their-key"}
	if d := cmp.Diff(want, a.answer(t)); d != "" || a.header.Get("Cache-Control") != "no-store" {
		t.Error(d)
	}
	sent := f.got[0]
	header, plaintext := r.partner.open(t, string(sent.Body))
	if plaintext != `{"pan":"4396910000012345"}` || header["url"] != "/v1/cases" || header["kid"] != r.active.KID || sent.KID != r.active.KID || sent.KeyID != "their-key" ||
		sent.Authorization != "Bearer user-token-1" || sent.Method != "POST" || sent.Path != "/v1/cases" || sent.Query.Encode() != "a=1&a=2" || sent.Header.Get("X-External-Correlation-Id") != "c-1" {
		t.Errorf("sent %+v with %q under %v", sent, plaintext, header)
	}
	entries := slices.DeleteFunc(r.last(10), func(e audit.Entry) bool { return e.Action == "partner.fetch-key" })
	if entries[0].Phase != "intent" || entries[0].Action != "call" || entries[0].Detail["method"] != "POST" || entries[0].Detail["path"] != "/v1/cases" || entries[0].Actor.Role != "caller" {
		t.Errorf("the intent is %+v", entries[0])
	}
	if e := entries[2]; entries[1].Action != "decrypt" || e.Phase != "outcome" || e.Op != entries[0].Op || e.Result != "ok" || e.KID != r.active.KID || e.Detail["status"] != "200" || e.Detail["content"] != "sealed" {
		t.Errorf("the outcome is %+v", e)
	}
	metrics := string(r.send(http.DefaultClient, "GET", "/metrics", "").body)
	if !strings.Contains(metrics, `keyd_calls_total{content="sealed",partner="wise",result="ok"} 1`) {
		t.Error("/metrics does not count it")
	}
}

func TestAnAnswerIsWhateverThePartnerSaid(t *testing.T) {
	for name, c := range map[string]struct {
		answer *api.Response
		want   client.Answer
	}{
		"an error in clear": {inClear(404, `{"error":"x"}`), client.Answer{Status: 404, Content: "plain", Body: `{"error":"x"}`, Headers: map[string]string{"Content-Type": "application/json", "X-Trace-Id": "t-1"}}},
		"nothing":           {inClear(204, ""), client.Answer{Status: 204, Content: "empty", Headers: map[string]string{"Content-Type": "application/json", "X-Trace-Id": "t-1"}}},
		"bytes":             {inClear(200, "\xff\x00"), client.Answer{Status: 200, Content: "plain", BodyBase64: []byte("\xff\x00"), Headers: map[string]string{"Content-Type": "application/json", "X-Trace-Id": "t-1"}}},
		"too many requests": {&api.Response{Status: 429, Body: []byte("slow down"), RetryAfter: 7}, client.Answer{Status: 429, Content: "plain", Body: "slow down", RetryAfter: 7, Headers: map[string]string{}}},
	} {
		r, _ := newCallRig(t, func(api.Request, int) (*api.Response, error) { return c.answer, nil })
		c.want.PartnerKey = "their-key"
		if d := cmp.Diff(c.want, r.call(post("x")).answer(t)); d != "" {
			t.Errorf("%s:\n%s", name, d)
		}
		if n := strings.Count(string(r.send(http.DefaultClient, "GET", "/metrics", "").body), "keyd_exchanges_open{partner=\"wise\"} 0"); n != 1 {
			t.Errorf("%s: an exchange was left open", name)
		}
	}
	r, _ := newCallRig(t, func(api.Request, int) (*api.Response, error) { return inClear(200, "x"), nil },
		func(s *setup) { s.opener.Partners[0].AnswerHeaders = []string{"Server"} })
	if got := r.call(post("x")).answer(t); got.Headers["Server"] != "x" || got.Headers["Set-Cookie"] != "" {
		t.Errorf("got the headers %v", got.Headers)
	}
}

func TestWithoutABodyNothingIsSealed(t *testing.T) {
	var r *rig
	r, f := newCallRig(t, func(api.Request, int) (*api.Response, error) {
		return sealedTo(r.seal(r.active, []byte("x"), nil)), nil
	})
	got := r.call(client.Call{Method: "GET", Path: "/v1/cases/1"}).answer(t)
	if got.Content != "sealed" || got.Body != "x" || got.PartnerKey != "" || len(f.got[0].Body) != 0 || f.got[0].KID != r.active.KID || r.partner.fetches() != 0 {
		t.Errorf("got %+v, sent %+v", got, f.got[0])
	}
}

// A request that may have been sealed to an old key is sent once more, if there
// is a new one: no more often, and not to the same key, for it may have had its
// effect.
func TestAStaleKeyIsFetchedAndTheRequestSentOnceMore(t *testing.T) {
	other, err := rsa.GenerateKey(rand.Reader, 2048)
	check(t, err)
	stale := inClear(500, `{"message":"An unexpected error occurred"}`)
	stale.Stale = true
	for name, c := range map[string]struct {
		rotates    bool
		stale      int // answers that say so
		sent       int
		status     int
		retried    bool
		fetchFails bool
	}{
		"a new key":                  {true, 1, 2, 200, true, false},
		"a new key, and still stale": {true, 9, 2, 500, true, false},
		"the same key":               {false, 9, 1, 500, false, false},
		"a key that cannot be had":   {true, 9, 1, 500, false, true},
	} {
		var r *rig
		r, f := newCallRig(t, func(_ api.Request, n int) (*api.Response, error) {
			if n == 1 && c.rotates {
				r.partner.rotate(other)
			}
			if n == 1 && c.fetchFails {
				r.partner.fails(errors.New("down"))
			}
			if n <= c.stale {
				return stale, nil
			}
			return inClear(200, "{}"), nil
		})
		got := r.call(post("x")).answer(t)
		if len(f.got) != c.sent || got.Status != c.status || got.Retried != c.retried {
			t.Errorf("%s: sent %d times, got %+v", name, len(f.got), got)
		}
		if c.retried && bytes.Equal(f.got[0].Body, f.got[1].Body) {
			t.Errorf("%s: the same envelope was sent twice", name)
		}
	}
	// However many calls are refused, their key is fetched once.
	r, f := newCallRig(t, func(api.Request, int) (*api.Response, error) { return stale, nil })
	for range 5 {
		r.call(post("x")).answer(t)
	}
	if n := r.partner.fetches(); n != 2 || len(f.got) != 5 {
		t.Errorf("their key was fetched %d times for %d requests", n, len(f.got))
	}
	// Without a sealed body no key of theirs can have been old.
	r, f = newCallRig(t, func(api.Request, int) (*api.Response, error) { return stale, nil })
	r.call(client.Call{Method: "GET", Path: "/v1/cases/1"}).answer(t)
	if len(f.got) != 1 || r.partner.fetches() != 0 {
		t.Errorf("sent %d times, fetched %d times", len(f.got), r.partner.fetches())
	}
}

func (p *partner) rotate(to *rsa.PrivateKey) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.private, p.id = to, "their-new-key"
}
