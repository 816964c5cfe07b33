package api_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"keyd/client"
	"keyd/internal/api"
	"keyd/internal/audit"
	"keyd/internal/boundary"
	"keyd/internal/rotation/backendtest"
)

// far is a partner that keeps what it gets and answers as it is told.
type far struct {
	remote
	mu      sync.Mutex
	got     []api.Request
	answers func(r api.Request, n int) (*api.Response, error) // n counts from 1
}

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

func TestAnAnswerThatDoesNotOpenIsHandedOnAsItCame(t *testing.T) {
	var r *rig
	bad := func(api.Request, int) (*api.Response, error) {
		good := r.seal(r.active, []byte("secret"), nil)
		return sealedTo(good[:strings.LastIndexByte(good, '.')+1] + base64.RawURLEncoding.EncodeToString(make([]byte, 16))), nil
	}
	r, f := newCallRig(t, bad)
	got := r.call(post("x")).answer(t)
	if got.Status != 200 || got.Content != "unopened" || got.Problem == nil || got.Problem.Code != "open_failed" || strings.Count(got.Body, ".") != 4 || len(f.got) != 1 {
		t.Errorf("got %+v after %d requests", got, len(f.got))
	}
	// What changes nothing is asked for once more.
	r, f = newCallRig(t, func(q api.Request, n int) (*api.Response, error) {
		if n == 1 {
			return bad(q, n)
		}
		return sealedTo(r.seal(r.active, []byte("x"), nil)), nil
	})
	if got = r.call(client.Call{Method: "GET", Path: "/v1/cases/1"}).answer(t); got.Content != "sealed" || !got.Retried || len(f.got) != 2 {
		t.Errorf("got %+v after %d requests", got, len(f.got))
	}
	// That the token is away is no reason to lose the answer.
	r, _ = newCallRig(t, func(api.Request, int) (*api.Response, error) {
		r.token.Inject(backendtest.Fault{Op: "open", Err: boundary.ErrUnavailable})
		return sealedTo(r.seal(r.active, []byte("x"), nil)), nil
	})
	if got = r.call(post("x")).answer(t); got.Content != "unopened" || got.Problem.Code != "backend_unavailable" {
		t.Fatalf("got %+v", got)
	}
	if a := r.decrypt(got.Body).wants(t, 200, ""); string(a.body) != "x" {
		t.Errorf("got %s", a.body)
	}
}

// dirReply answers under the content key of the request.
func (r *rig) dirReply(q api.Request, plaintext string) string {
	r.t.Helper()
	wrapped, err := base64.RawURLEncoding.DecodeString(strings.Split(string(q.Body), ".")[1])
	check(r.t, err)
	cek, err := r.partner.private.Decrypt(nil, wrapped, &rsa.OAEPOptions{Hash: crypto.SHA256})
	check(r.t, err)
	return underKey(r.t, cek, plaintext)
}

func TestARepliesExchangeBeginsAndEndsWithTheCall(t *testing.T) {
	var r *rig
	pin := client.Call{Method: "POST", Path: "/v1/user/pin", Body: `{"pin":"1234"}`}
	for name, c := range map[string]struct {
		answer  func(api.Request) *api.Response
		content string
		body    string
	}{
		"under the request's key": {func(q api.Request) *api.Response { return sealedTo(r.dirReply(q, "ok")) }, "sealed", "ok"},
		"under ours, as well":     {func(api.Request) *api.Response { return sealedTo(r.seal(r.active, []byte("x"), nil)) }, "sealed", "x"},
		"in clear":                {func(api.Request) *api.Response { return inClear(200, "{}") }, "plain", "{}"},
		"not at all":              {func(api.Request) *api.Response { return inClear(204, "") }, "empty", ""},
	} {
		r, _ = newCallRig(t, func(q api.Request, _ int) (*api.Response, error) { return c.answer(q), nil })
		got := r.call(pin).answer(t)
		if got.Content != c.content || got.Body != c.body || got.Exchange != nil {
			t.Errorf("%s: got %+v", name, got)
		}
		if n := r.token.Calls("hold") - r.token.Calls("release"); n != 0 {
			t.Errorf("%s: %d keys are held still", name, n)
		}
	}
	// An answer that could not be opened now opens later, in its exchange.
	r, _ = newCallRig(t, func(q api.Request, _ int) (*api.Response, error) {
		r.token.Inject(backendtest.Fault{Op: "open-held", Err: boundary.ErrBusy})
		return sealedTo(r.dirReply(q, "later")), nil
	})
	got := r.call(pin).answer(t)
	if got.Content != "unopened" || got.Exchange == nil || got.Problem.Code != "backend_busy" {
		t.Fatalf("got %+v", got)
	}
	if a := r.reply(got.Exchange.ID, got.Body).wants(t, 200, ""); string(a.body) != "later" {
		t.Errorf("got %s", a.body)
	}
	// No answer, no exchange.
	r, _ = newCallRig(t, func(api.Request, int) (*api.Response, error) { return nil, errors.New("connection reset") })
	r.call(pin).wants(t, 502, "partner_error")
	if n := r.token.Calls("hold") - r.token.Calls("release"); n != 0 {
		t.Errorf("%d keys are held still", n)
	}
}

func TestValuesAreSealedAndOpenedByACall(t *testing.T) {
	r, b := newBankRig(t, false, "", false)
	f := &far{}
	f.answers = func(q api.Request, _ int) (*api.Response, error) {
		key := keyIn(t, string(q.Body))
		return inClear(200, fmt.Sprintf(`{"cards":[{"pan":"%s"}],"n":1.0,"cvv":"%s"}`, b.seal(t, key.SPKI, "", `{"p":"4396"}`), b.seal(t, key.SPKI, "", "111"))), nil
	}
	r.opener.SetRemote("bank", f)
	call := func(doc string) answer {
		return r.send(r.client, "POST", "/v1/partners/bank/call", doc, "Content-Type: application/json")
	}
	doc := `{"method":"POST","path":"/v1/cards/search-by-pan","body":"{\"encryptedPAN\":{\"pan\":\"4396\"}, \"x\":1.0}","open_json_fields":["/cards/0/pan"],"open_fields":["/cvv"]}`
	got := call(doc).answer(t)
	if got.Content != "fields" || got.Body != `{"cards":[{"pan":{"p":"4396"}}],"n":1.0,"cvv":"111"}` || got.Boundary != "host" || got.Exchange != nil {
		t.Errorf("got %+v", got)
	}
	sent := string(f.got[0].Body)
	if !strings.Contains(sent, `, "x":1.0,"publicKey":{`) || strings.Contains(sent, "4396") {
		t.Errorf("sent %s", sent)
	}
	// A body with nothing to seal in it goes only if that is said.
	call(`{"method":"POST","path":"/v1/other","body":"{}"}`).wants(t, 400, "bad_request")
	f.answers = func(q api.Request, _ int) (*api.Response, error) { return inClear(200, string(q.Body)), nil }
	if got = call(`{"method":"POST","path":"/v1/other","body_base64":"e30=","unsealed":true}`).answer(t); got.Body != "{}" || got.Content != "plain" {
		t.Errorf("got %+v", got)
	}
	// An answer without the values that were named is handed on.
	if got = call(`{"method":"GET","path":"/v1/other","open_fields":["/a"]}`).answer(t); got.Content != "empty" {
		t.Errorf("got %+v", got)
	}
	f.answers = func(api.Request, int) (*api.Response, error) { return inClear(200, `{"b":1}`), nil }
	if got = call(`{"method":"POST","path":"/v1/other","body":"{}","unsealed":true,"open_fields":["/a"]}`).answer(t); got.Content != "unopened" || got.Problem.Code != "bad_request" || got.Body != `{"b":1}` {
		t.Errorf("got %+v", got)
	}
}
