package api_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"keyd/client"
	"keyd/internal/api"
	"keyd/internal/audit"
	"keyd/internal/boundary"
	"keyd/internal/rotation/backendtest"
)

// direct seals a request whose reply comes under its own key, and does what the
// partner does: the reply is made with the standard library alone.
func (r *rig) direct(query, reply string) (client.Sealed, string) {
	r.t.Helper()
	a := r.send(r.client, "POST", "/v1/partners/wise/encrypt?"+query, "request", "Accept: application/json").wants(r.t, 200, "")
	var sealed client.Sealed
	check(r.t, json.Unmarshal(a.body, &sealed))
	wrapped, err := base64.RawURLEncoding.DecodeString(strings.Split(sealed.JWE, ".")[1])
	check(r.t, err)
	cek, err := rsa.DecryptOAEP(sha256.New(), nil, r.partner.private, wrapped, nil)
	check(r.t, err)
	return sealed, underKey(r.t, cek, reply)
}

func underKey(t testing.TB, cek []byte, plaintext string) string {
	t.Helper()
	aad := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"dir","enc":"A256GCM"}`))
	block, err := aes.NewCipher(cek)
	check(t, err)
	gcm, err := cipher.NewGCM(block)
	check(t, err)
	iv := make([]byte, 12)
	rand.Read(iv)
	out := gcm.Seal(nil, iv, []byte(plaintext), []byte(aad))
	cut := len(out) - 16
	return compact(&boundary.Envelope{AAD: []byte(aad), IV: iv, Ciphertext: out[:cut], Tag: out[cut:]})
}

func (r *rig) reply(id, envelope string) answer {
	r.t.Helper()
	return r.send(r.client, "POST", "/v1/partners/wise/decrypt?exchange="+id, envelope)
}

// last returns the newest entries of the audit log but for what differs from
// run to run.
func (r *rig) last(n int) []audit.Entry {
	r.t.Helper()
	all := r.entries()
	for i := range all {
		all[i].Seq, all[i].At, all[i].Raw, all[i].Actor = 0, time.Time{}, nil, audit.Actor{Role: all[i].Actor.Role}
		delete(all[i].Detail, "request")
		delete(all[i].Detail, "expires")
	}
	return all[max(0, len(all)-n):]
}

func TestAReplyUnderTheRequestsOwnKeyOpensOnceInItsExchange(t *testing.T) {
	r := newRig(t)
	sealed, envelope := r.direct("direct=true", "the PIN is 1234")
	x := sealed.Exchange
	if x == nil || x.Kind != "direct" || time.Until(x.ExpiresAt) > time.Minute || sealed.KID != r.active.KID {
		t.Fatalf("got %+v", sealed)
	}
	r.decrypt(envelope).wants(t, 400, "algorithm_not_allowed")
	a := r.reply(x.ID, envelope).wants(t, 200, "")
	if _, named := a.header["Keyd-Kid"]; named || string(a.body) != "the PIN is 1234" || a.header.Get("Keyd-Boundary") != "unwrap" || a.header.Get("Cache-Control") != "no-store" {
		t.Errorf("got %q %v", a.body, a.header)
	}
	r.reply(x.ID, envelope).wants(t, 404, "exchange_unknown")
	want := []audit.Entry{
		{Phase: "event", Action: "exchange.begin", Partner: "wise", Result: "ok", Detail: map[string]string{"exchange": x.ID, "kind": "direct"}, Actor: audit.Actor{Role: "client"}},
		{Phase: "event", Action: "decrypt", Partner: "wise", Result: "failed", Code: "algorithm_not_allowed", Detail: map[string]string{}, Actor: audit.Actor{Role: "client"}},
		{Phase: "event", Action: "decrypt", Partner: "wise", Result: "ok", Detail: map[string]string{"exchange": x.ID, "boundary": "unwrap"}, Actor: audit.Actor{Role: "client"}},
		{Phase: "event", Action: "decrypt", Partner: "wise", Result: "failed", Code: "exchange_unknown", Detail: map[string]string{"exchange": x.ID}, Actor: audit.Actor{Role: "client"}},
	}
	if d := cmp.Diff(want, r.last(4)); d != "" {
		t.Error(d)
	}
}

func TestAnExchangeIsKeptWhereTheKeyIsOrElseInKeyd(t *testing.T) {
	for where, want := range map[string]string{"in the backend": "unwrap", "in keyd": "host"} {
		b := &levelled{says: boundary.Raw, does: boundary.Raw} // which is no holder
		r := newRig(t, func(s *setup) {
			if where == "in keyd" {
				b.Backend, s.backend = s.backend, b
			}
		})
		sealed, envelope := r.direct("direct=true", "x")
		if a := r.reply(sealed.Exchange.ID, envelope).wants(t, 200, ""); a.header.Get("Keyd-Boundary") != want {
			t.Errorf("%s: opened at %q", where, a.header.Get("Keyd-Boundary"))
		}
		if n := r.token.Calls("hold"); (n == 1) != (want == "unwrap") {
			t.Errorf("%s: the backend was asked %d times to hold a key", where, n)
		}
	}
}

// The config's table of endpoints says of which this is so.
func TestTheEndpointSaysWhetherAnExchangeIsBegun(t *testing.T) {
	r := newRig(t)
	for query, begun := range map[string]bool{
		"url=/v1/user/pin": true, "url=/v1/user/pin&direct=true": true, "url=/v1/user/pin&direct=false": false,
		"url=/v1/cases": false, "url=/v1/cases&direct=true": true, "": false, "direct=false": false,
	} {
		a := r.send(r.client, "POST", "/v1/partners/wise/encrypt?"+query, "x").wants(t, 200, "")
		if got := a.header.Get("Keyd-Exchange") != ""; got != begun {
			t.Errorf("%q: an exchange was begun: %v", query, got)
		}
		a = r.send(r.client, "POST", "/v1/partners/wise/encrypt?"+query, "x", "Accept: application/json").wants(t, 200, "")
		var sealed client.Sealed
		check(t, json.Unmarshal(a.body, &sealed))
		if got := sealed.Headers["Content-Encoding"] != ""; got != strings.Contains(query, "pin") {
			t.Errorf("%q: got the headers %v", query, sealed.Headers)
		}
	}
	r.send(r.client, "POST", "/v1/partners/wise/encrypt?direct=maybe", "x").wants(t, 400, "bad_request")
	other := newRig(t, func(s *setup) { s.opener.Partners[0].Direct = false })
	other.send(other.client, "POST", "/v1/partners/wise/encrypt?direct=true", "x").wants(t, 400, "bad_request")
}

// anotherTag changes the first character of an envelope's last part.
func anotherTag(envelope string) string {
	at := strings.LastIndexByte(envelope, '.') + 1
	c := byte('A')
	if envelope[at] == c {
		c = 'B'
	}
	return envelope[:at] + string(c) + envelope[at+1:]
}

func TestAnExchangeOpensNothingElse(t *testing.T) {
	r := newRig(t)
	sealed, envelope := r.direct("direct=true", "x")
	id := sealed.Exchange.ID
	standing := r.seal(r.active, []byte("x"), nil)
	p := r.reply(id, standing).wants(t, 400, "algorithm_not_allowed").problem(t)
	if !strings.Contains(p.Hint, "without an exchange") {
		t.Errorf("got the hint %q", p.Hint)
	}
	r.reply(id, `{"error":"x"}`).wants(t, 400, "malformed_envelope")
	r.reply(id, "").wants(t, 400, "malformed_envelope")
	r.reply(id, strings.Repeat("x", 64<<10)).wants(t, 400, "malformed_envelope")
	r.reply(id, strings.Repeat("x", 64<<10+1)).wants(t, 413, "too_large")
	before := r.token.Calls("open")
	other := underKey(t, make([]byte, 32), "x")
	a, b := r.reply(id, other).wants(t, 422, "open_failed"), r.reply(id, anotherTag(envelope)).wants(t, 422, "open_failed")
	if d := cmp.Diff(visible(t, a), visible(t, b)); d != "" {
		t.Error(d)
	}
	if r.token.Calls("open") != before {
		t.Error("a private key was used")
	}
	r.send(r.client, "POST", "/v1/partners/venly/decrypt?exchange="+id, envelope).wants(t, 404, "exchange_unknown")
	for _, id := range []string{"", "x", strings.Repeat("x", 1000), "%00"} {
		r.reply(id, envelope).wants(t, 404, "exchange_unknown")
	}
	r.reply(id, envelope).wants(t, 200, "")

	sealed, envelope = r.direct("direct=true", "x")
	for range 3 {
		r.reply(sealed.Exchange.ID, other).wants(t, 422, "open_failed")
	}
	r.reply(sealed.Exchange.ID, envelope).wants(t, 404, "exchange_unknown")
	ends := slices.DeleteFunc(r.last(5), func(e audit.Entry) bool { return e.Action != "exchange.end" })
	if len(ends) != 1 || ends[0].Code != "exchange_spent" || ends[0].Detail["exchange"] != sealed.Exchange.ID {
		t.Errorf("got %+v", ends)
	}
}

func TestARestartIsToldFromAnIDThatNeverWas(t *testing.T) {
	r := newRig(t)
	sealed, envelope := r.direct("direct=true", "x")
	other := newRig(t) // of which the exchange is not
	other.reply(sealed.Exchange.ID, envelope).wants(t, 410, "exchange_lost")

	r.token.Inject(backendtest.Fault{Op: "open-held", Err: boundary.ErrNoKey})
	r.reply(sealed.Exchange.ID, envelope).wants(t, 410, "exchange_lost")
	r.reply(sealed.Exchange.ID, envelope).wants(t, 404, "exchange_unknown")

	sealed, envelope = r.direct("direct=true", "x")
	r.token.Inject(backendtest.Fault{Op: "open-held", Err: boundary.ErrUnavailable})
	r.reply(sealed.Exchange.ID, envelope).wants(t, 503, "backend_unavailable")
	r.reply(sealed.Exchange.ID, envelope).wants(t, 200, "")

	r.token.Inject(backendtest.Fault{Op: "hold", Err: boundary.ErrBusy})
	r.send(r.client, "POST", "/v1/partners/wise/encrypt?direct=true", "x").wants(t, 503, "backend_busy")
	r.token.Inject(backendtest.Fault{Op: "hold", Err: os.ErrInvalid})
	r.send(r.client, "POST", "/v1/partners/wise/encrypt?direct=true", "x").wants(t, 503, "backend_unavailable")
}

func TestNobodyElseOpensTheReply(t *testing.T) {
	r := newRig(t)
	sealed, envelope := r.direct("direct=true", "x")
	somebody := audit.Actor{UID: os.Getuid() + 1}
	if _, err := r.opener.OpenReply(t.Context(), somebody, "wise", sealed.Exchange.ID, []byte(envelope)); api.CodeOf(err) != "exchange_unknown" {
		t.Errorf("got %v", err)
	}
	if _, err := r.opener.OpenReply(t.Context(), somebody, "nobody", sealed.Exchange.ID, []byte(envelope)); api.CodeOf(err) != "not_found" {
		t.Errorf("got %v", err)
	}
	r.reply(sealed.Exchange.ID, envelope).wants(t, 200, "")
}

func TestExchangesAreBoundedAndCounted(t *testing.T) {
	r := newRig(t)
	for range 8 {
		r.direct("direct=true", "x")
	}
	a := r.send(r.client, "POST", "/v1/partners/wise/encrypt?direct=true", "x").wants(t, 429, "exchange_limit")
	if a.header.Get("Retry-After") != "5" || !strings.Contains(a.problem(t).Detail, "8 with wise by this user") {
		t.Errorf("got %v %s", a.header, a.body)
	}
	r.send(r.client, "POST", "/v1/partners/wise/encrypt", "x").wants(t, 200, "")
	metrics := string(r.send(http.DefaultClient, "GET", "/metrics", "").body)
	for _, line := range []string{`keyd_exchanges_open{partner="wise"} 8`, `keyd_exchanges_open{partner="venly"} 0`,
		`keyd_exchanges_total{kind="direct",partner="wise",result="begun"} 8`, `keyd_exchanges_total{kind="direct",partner="wise",result="refused"} 1`} {
		if !strings.Contains(metrics, line+"\n") {
			t.Errorf("/metrics has no line %s", line)
		}
	}
}

func TestAnExchangeThatCannotBeRecordedIsNone(t *testing.T) {
	log := &broken{}
	r := newRig(t, func(s *setup) { log.AuditLog, s.audit = s.audit, log })
	sealed, envelope := r.direct("direct=true", "secret")
	log.now.Store(true)
	r.send(r.client, "POST", "/v1/partners/wise/encrypt?direct=true", "x").wants(t, 503, "audit_unavailable")
	if n := r.token.Calls("release"); n != 1 {
		t.Errorf("the backend was asked %d times to release the key", n)
	}
	if a := r.reply(sealed.Exchange.ID, envelope).wants(t, 503, "audit_unavailable"); bytes.Contains(a.body, []byte("secret")) {
		t.Errorf("got %s", a.body)
	}
	if logged := r.logged.String(); !strings.Contains(logged, "the end of an exchange could not be recorded") {
		t.Error("that its end could not be recorded is nowhere")
	}
}
