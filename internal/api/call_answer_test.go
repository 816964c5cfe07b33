package api_test

import (
	"crypto"
	"crypto/rsa"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"testing"

	"keyd/client"
	"keyd/internal/api"
	"keyd/internal/boundary"
	"keyd/internal/rotation/backendtest"
)

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
	if got = r.call(client.Call{Method: "GET", Path: "/v1/cases/1"}).answer(t); got.Content != "sealed" || !got.Retried || len(f.got) != 2 || r.partner.fetches() != 0 {
		t.Errorf("got %+v after %d requests", got, len(f.got))
	}
	// So is what the caller says may be, once, with a fresh key of the partner's.
	r, f = newCallRig(t, bad)
	same := post("x")
	same.Repeatable = true
	if got = r.call(same).answer(t); got.Content != "unopened" || !got.Retried || len(f.got) != 2 || r.partner.fetches() != 2 { // at first, and once more
		t.Errorf("got %+v after %d requests, %d fetches", got, len(f.got), r.partner.fetches())
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
	// Nor has one that was never sent.
	r, _ = newCallRig(t, func(api.Request, int) (*api.Response, error) {
		return nil, fmt.Errorf("%w: no such file", api.ErrCallCredentials)
	})
	if a := r.call(pin).wants(t, 502, "partner_error"); !strings.Contains(a.problem(t).Hint, "was not sent") {
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
