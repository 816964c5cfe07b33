package api_test

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"keyd/client"
	"keyd/internal/api"
	"keyd/internal/boundary"
	"keyd/internal/jwe"
	"keyd/internal/rotation"
)

// cards shows its key to who has a user's token, and to nobody else.
type cards struct {
	*partner
	asked []string
}

func (c *cards) FetchKey(ctx context.Context) (string, int, string, crypto.PublicKey, error) {
	c.asked = append(c.asked, api.Authorization(ctx))
	if api.Authorization(ctx) == "" {
		return "", 0, "", nil, errors.New("no token")
	}
	return "", 3, "RSA1_5", &c.private.PublicKey, nil
}

func newCardRig(t testing.TB) (*rig, *cards) {
	t.Helper()
	c := &cards{partner: newPartner(t)}
	r := newRig(t, func(s *setup) {
		s.opener.Partners = append(s.opener.Partners, api.Partner{Name: "cards", Type: "wise-card", Form: api.FormMember, Seal: jwe.SealRSA15, SealEnc: enc,
			KID: api.KIDNone, Direct: true, CallersKey: true, Remote: remote{}})
		s.engine["cards"] = rotation.Partner{KeySource: c}
	})
	return r, c
}

func TestAFrameHoldsTheEnvelopeAndItsReplyOpensUnderTheSameKey(t *testing.T) {
	r, c := newCardRig(t)
	path := "/v1/partners/cards/encrypt?url=/sensitive/pin"
	r.send(r.client, "POST", path, `{"pin":"zq-1234"}`).wants(t, 400, "needs_token")
	a := r.send(r.client, "POST", path, `{"pin":"zq-1234"}`, "Authorization: Bearer user-1", "Accept: application/json").wants(t, 200, "")
	var s client.Sealed
	check(t, json.Unmarshal(a.body, &s))
	if want := `{"keyVersion":3,"encryptedPayload":"` + s.JWE + `"}`; s.Body != want || s.Exchange == nil || s.Exchange.Kind != "direct" || len(s.KeyID) != 64 {
		t.Fatalf("got %+v, want the body %s", s, want)
	}
	parts := strings.Split(s.JWE, ".")
	wrapped, err := base64.RawURLEncoding.DecodeString(parts[1])
	check(t, err)
	cek, err := rsa.DecryptPKCS1v15(rand.Reader, c.private, wrapped) //nolint:staticcheck // SA1019: it is what the partner does
	check(t, err)
	a = r.send(r.client, "POST", "/v1/partners/cards/decrypt?exchange="+s.Exchange.ID, underKey(t, cek, `{"pin":"4321"}`)).wants(t, 200, "")
	if string(a.body) != `{"pin":"4321"}` {
		t.Errorf("got %s", a.body)
	}
	// The key is kept, and the token is not needed again but to fetch it afresh.
	a = r.send(r.client, "POST", path, `{"pin":"zq-1234"}`).wants(t, 200, "")
	if a.header.Get("Content-Type") != "application/json" || !strings.HasPrefix(string(a.body), `{"keyVersion":3,`) || a.header.Get("Keyd-Exchange") == "" {
		t.Errorf("got %v %s", a.header, a.body)
	}
	r.send(r.client, "POST", path+"&refetch=true", "x").wants(t, 400, "needs_token")
	r.send(r.admin, "POST", "/v1/partners/cards/refresh", "").wants(t, 400, "needs_token")
	r.send(r.client, "POST", path+"&refetch=true", "x", "Authorization: Bearer user-2").wants(t, 200, "")
	if got := fmt.Sprint(c.asked); got != "[Bearer user-1 Bearer user-2]" {
		t.Errorf("the partner was asked with %s", got)
	}
	for _, said := range []string{r.logged.String(), fmt.Sprint(r.entries())} {
		if strings.Contains(said, "user-1") || strings.Contains(said, "zq-1234") {
			t.Error("a token or a PIN is on record")
		}
	}
	// Nothing that it seals to us opens: it has no key of ours.
	r.send(r.client, "POST", "/v1/partners/cards/decrypt", r.seal(r.active, []byte("x"), nil)).wants(t, 400, "algorithm_not_allowed")
	r.send(r.client, "POST", "/v1/partners/cards/decrypt", s.JWE).wants(t, 400, "algorithm_not_allowed")
}

// wallet has an envelope of its own kind: here what it was given, in clear.
type wallet struct{}

func (wallet) SealBody(_ crypto.PublicKey, keyID string, plaintext []byte) ([]byte, error) {
	if plaintext[0] != '{' {
		return nil, errors.New("not a JSON object")
	}
	return fmt.Appendf(nil, `{"key":%q,"sealed":%q}`, keyID, plaintext), nil
}

func (wallet) SealMethod(_ crypto.PublicKey, keyID string, m api.SigningMethod, body []byte) (name, value string, err error) {
	if m.IdempotencyKey == "bad" {
		return "", "", errors.New("the idempotency key is not a UUID")
	}
	return "Encrypted-Signing-Method", fmt.Sprintf("%s|%s|%s|%s|%s|%s", keyID, m.ID, m.Value, m.IdempotencyKey, m.PhysicalDeviceID, body), nil
}

// ownRemote says where its envelope goes.
type ownRemote struct{ remote }

func (ownRemote) Endpoint(method, path string) api.Endpoint {
	switch {
	case method == "PUT":
		return api.Endpoint{Envelope: api.InBody}
	case path == "/api/transactions":
		return api.Endpoint{Envelope: api.InHeader}
	}
	return api.Endpoint{}
}

// ownFar answers calls besides.
type ownFar struct{ *far }

func (ownFar) Endpoint(method, path string) api.Endpoint { return ownRemote{}.Endpoint(method, path) }

func TestAnEnvelopeOfThePartnersOwnKind(t *testing.T) {
	r := newRig(t, func(s *setup) {
		s.opener.Partners = append(s.opener.Partners, api.Partner{Name: "wallet", Type: "venly", Form: api.FormOwn, Own: wallet{}, KID: api.KIDTheirs, Remote: ownRemote{}})
		s.engine["wallet"] = s.engine["wise"]
	})
	at := "/v1/partners/wallet/encrypt?"
	method := `{"body":"` + base64.StdEncoding.EncodeToString([]byte("exact  bytes")) + `","signing_method":{"id":"m-1","value":"12\u00e9\"34"`
	for name, c := range map[string]struct{ query, body, header, sent string }{
		"by form, in the body":   {"form=body", `{"pin":"1"}`, "", `{"key":"their-key","sealed":"{\"pin\":\"1\"}"}`},
		"by endpoint, in it":     {"method=PUT&url=/api/users/u", `{"pin":"1"}`, "", `{"key":"their-key","sealed":"{\"pin\":\"1\"}"}`},
		"by form, in a header":   {"form=header", method + `}}`, `their-key|m-1|12é"34|||exact  bytes`, ""},
		"by endpoint, in one":    {"url=/api/transactions", method + `,"idempotency_key":"i","physical_device_id":"d"}}`, `their-key|m-1|12é"34|i|d|exact  bytes`, ""},
		"for a request without":  {"form=header", `{"signing_method":{"id":"m-1","value":"1"}}`, "their-key|m-1|1|||", ""},
		"the form before theirs": {"url=/api/transactions&form=body", `{}`, "", `{"key":"their-key","sealed":"{}"}`},
	} {
		a := r.send(r.client, "POST", at+c.query, c.body, "Accept: application/json").wants(t, 200, "")
		var s client.Sealed
		check(t, json.Unmarshal(a.body, &s))
		if s.Headers["Encrypted-Signing-Method"] != c.header || s.Body != c.sent || s.JWE != "" || s.KeyID != "their-key" || s.Headers["X-Method"] != "jwe" {
			t.Errorf("%s: got %+v", name, s)
		}
	}
	if a := r.send(r.client, "POST", at+"form=body", `{}`).wants(t, 200, ""); string(a.body) != `{"key":"their-key","sealed":"{}"}` {
		t.Errorf("got %s", a.body)
	}
	if a := r.send(r.client, "POST", at+"form=header", method+"}}").wants(t, 200, ""); a.header.Get("Content-Type") != "application/json" || !strings.Contains(string(a.body), `"Encrypted-Signing-Method":`) {
		t.Errorf("got %s", a.body)
	}
	for name, c := range map[string]struct{ query, body string }{
		"no form":            {"", `{}`},
		"another form":       {"form=cookie", `{}`},
		"no endpoint":        {"url=/api/other", `{}`},
		"a GET":              {"method=GET&url=/api/transactions", `{}`},
		"what it refuses":    {"form=body", `[]`},
		"no document":        {"form=header", `exact bytes`},
		"no method":          {"form=header", `{"body":""}`},
		"no id":              {"form=header", `{"signing_method":{"value":"1"}}`},
		"no value":           {"form=header", `{"signing_method":{"id":"m"}}`},
		"a value of digits":  {"form=header", `{"signing_method":{"id":"m","value":123456}}`},
		"half a character":   {"form=header", `{"signing_method":{"id":"m","value":"\ud800"}}`},
		"a body in clear":    {"form=header", `{"signing_method":{"id":"m","value":"1"},"body":"{}"}`},
		"a body that is one": {"form=header", `{"signing_method":{"id":"m","value":"1"},"body":{}}`},
		"a key it refuses":   {"form=header", `{"signing_method":{"id":"m","value":"1","idempotency_key":"bad"}}`},
		"fields":             {"form=body&field=/a", `{"a":1}`},
		"direct":             {"form=body&direct=true", `{"a":1}`},
	} {
		if a := r.send(r.client, "POST", at+c.query, c.body).wants(t, 400, "bad_request"); strings.Contains(string(a.body), "123456") {
			t.Errorf("%s: the value is repeated: %s", name, a.body)
		}
	}
	r.send(r.client, "POST", "/v1/partners/wise/encrypt?form=body", "x").wants(t, 400, "bad_request")
}

// What a user allows in a header is the body as it is sent: sealed, where it is.
func TestACallIsAllowedInAHeaderWhateverIsSealedOfItsBody(t *testing.T) {
	r := newRig(t, func(s *setup) {
		s.opener.Partners = append(s.opener.Partners, api.Partner{Name: "wallet", Type: "venly", Form: api.FormOwn, Own: wallet{}, KID: api.KIDTheirs, Remote: ownRemote{}})
		s.engine["wallet"] = s.engine["wise"]
	})
	f := &far{answers: func(api.Request, int) (*api.Response, error) { return inClear(200, "{}"), nil }}
	r.opener.SetRemote("wallet", &ownFar{f})
	const method = `,"signing_method":{"id":"m-1","value":"12\u00e934"}`
	const sealed = `{"key":"their-key","sealed":"{\"value\":\"9\"}"}`
	for name, c := range map[string]struct{ doc, body, header string }{
		"a body in clear":    {`"method":"POST","path":"/api/transactions","body":"{}"` + method, `{}`, "their-key|m-1|12é34|||{}"},
		"a sealed body":      {`"method":"PUT","path":"/api/users/u","body":"{\"value\":\"9\"}"` + method, sealed, "their-key|m-1|12é34|||" + sealed},
		"no body":            {`"method":"DELETE","path":"/api/transactions"` + method, "", "their-key|m-1|12é34|||"},
		"one sealed, alone":  {`"method":"PUT","path":"/api/users/u","body":"{\"value\":\"9\"}"`, sealed, ""},
		"neither":            {`"method":"POST","path":"/api/transactions","body":"{}"`, "{}", ""},
		"both, as they say":  {`"method":"POST","path":"/api/other","form":"body","body":"{\"value\":\"9\"}"` + method, sealed, "their-key|m-1|12é34|||" + sealed},
		"a body of no bytes": {`"method":"POST","path":"/api/transactions","body":""` + method, "", "their-key|m-1|12é34|||"},
	} {
		r.send(r.client, "POST", "/v1/partners/wallet/call", "{"+c.doc+"}", "Content-Type: application/json").wants(t, 200, "")
		sent := f.got[len(f.got)-1]
		if string(sent.Body) != c.body || sent.Header.Get("Encrypted-Signing-Method") != c.header || (sent.KeyID != "") != (c.header != "" || c.body == sealed) {
			t.Errorf("%s: sent %q under %q to key %q", name, sent.Body, sent.Header, sent.KeyID)
		}
	}
}

func TestTheConfigSaysWhatElseStandsInTheHeader(t *testing.T) {
	r := newRig(t, func(s *setup) {
		p := &s.opener.Partners[0]
		p.KID, p.JOSE, p.IssuedIn, p.URLInJOSE = api.KIDTheirs, map[string]string{"cty": "application/json", "cid": "{kid}", "to": "urn:{key_id}"}, time.Millisecond, false
	})
	before := time.Now().UnixMilli()
	a := r.send(r.client, "POST", "/v1/partners/wise/encrypt?url=/v1/cases", "x").wants(t, 200, "")
	header, _ := r.partner.open(t, string(a.body))
	if header["kid"] != "their-key" || header["cty"] != "application/json" || header["cid"] != r.active.KID || header["to"] != "urn:their-key" || header["url"] != nil || header["iat"].(float64) < float64(before) || header["iat"].(float64) > float64(time.Now().UnixMilli()) {
		t.Errorf("the JOSE header is %v", header)
	}
}

func TestPartnersThatCannotBeAreRefused(t *testing.T) {
	good := facts("x")
	for name, change := range map[string]func(*api.Partner){
		"no remote":              func(p *api.Partner) { p.Remote = nil },
		"no form":                func(p *api.Partner) { p.Form = "" },
		"no alg":                 func(p *api.Partner) { p.Seal = "" },
		"an alg that is none":    func(p *api.Partner) { p.Seal = "RSA-OAEP" },
		"an enc that is none":    func(p *api.Partner) { p.SealEnc = "A512GCM" },
		"a kid of nobody's":      func(p *api.Partner) { p.KID = "mine" },
		"RSA1_5 to be opened":    func(p *api.Partner) { p.Algs = []string{string(jwe.SealRSA15)} },
		"dir to be opened":       func(p *api.Partner) { p.Algs = []string{boundary.Direct} },
		"algs without encs":      func(p *api.Partner) { p.Encs = nil },
		"an enc not known":       func(p *api.Partner) { p.Encs = []string{"A512GCM"} },
		"an envelope of nobody":  func(p *api.Partner) { p.Form = api.FormOwn },
		"one for a JWE":          func(p *api.Partner) { p.Own = wallet{} },
		"kidless in its own way": func(p *api.Partner) { p.Kidless = "try" },
	} {
		p := good
		change(&p)
		_, err := api.NewOpener(api.OpenerConfig{Registry: noVersions{}, Partners: []api.Partner{p}, Audit: &broken{}, Decrypts: api.AuditAll, MaxEnvelope: 1,
			Exchanges: api.ExchangeLimits{TTL: time.Minute, PerPartner: 1, PerUser: 1}, Meters: api.NewMetrics(), Logger: discard()})
		if err == nil || !strings.Contains(err.Error(), `partner "x"`) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}
