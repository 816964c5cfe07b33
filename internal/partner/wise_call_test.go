package partner_test

import (
	"context"
	"crypto"
	"encoding/base64"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4"

	"keyd/internal/partner"
	"keyd/internal/partner/partnersim"
)

// backend is a payment backend with a user's token, in front of a simulated Wise.
type backend struct {
	*partner.Wise
	t     *testing.T
	sim   *partnersim.Sim
	key   crypto.PublicKey // Wise's, as last fetched
	token string
}

func newBackend(t *testing.T, opt partnersim.Options) *backend {
	t.Helper()
	sim, w := simulate(t, opt, allowing("GET POST", "/v1/ /v2/profiles/"))
	if err := tell(t, w, testKID); err != nil {
		t.Fatal(err)
	}
	b := &backend{Wise: w, t: t, sim: sim, token: "Bearer " + sim.NewUserToken(partnersim.Wise)}
	b.fetch()
	return b
}

func (b *backend) fetch() {
	b.t.Helper()
	_, _, _, key, err := b.FetchKey(b.t.Context())
	if err != nil {
		b.t.Fatal(err)
	}
	b.key = key
}

func (b *backend) sealed(path, plaintext string) []byte {
	b.t.Helper()
	opts := (&jose.EncrypterOptions{}).WithHeader("url", path)
	enc, err := jose.NewEncrypter(jose.A256GCM, jose.Recipient{Algorithm: jose.RSA_OAEP_256, Key: b.key, KeyID: testKID}, opts)
	if err != nil {
		b.t.Fatal(err)
	}
	e := must(enc.Encrypt([]byte(plaintext)))
	return []byte(must(e.CompactSerialize()))
}

func (b *backend) post(path, plaintext string, header http.Header) *partner.Response {
	b.t.Helper()
	res, err := b.Do(b.t.Context(), partner.Request{Method: "POST", Path: path, Body: b.sealed(path, plaintext),
		Header: header, KID: testKID, Authorization: b.token})
	if err != nil {
		b.t.Fatal(err)
	}
	return res
}

func (b *backend) get(path string) *partner.Response {
	b.t.Helper()
	res, err := b.Do(b.t.Context(), partner.Request{Method: "GET", Path: path, KID: testKID, Authorization: b.token})
	if err != nil {
		b.t.Fatal(err)
	}
	return res
}

func want(t *testing.T, res *partner.Response, status int, kind string) {
	t.Helper()
	if res.Status != status || res.Kind != kind {
		t.Errorf("got %d, %s: %s; want %d, %s", res.Status, res.Kind, res.Body, status, kind)
	}
}

const oneCase = `{"type":"GENERAL_ENQUIRY","subject":"s"}`

func TestBusinessRequestsWithTheSimulator(t *testing.T) {
	b := newBackend(t, partnersim.Options{})
	res := b.post("/v1/cases", oneCase, nil)
	want(t, res, 200, partner.KindSealed)
	opened(t, res.Envelope, `"status":"OPEN"`)
	res = b.get("/v1/cases/123456789")
	want(t, res, 200, partner.KindSealed)
	opened(t, res.Envelope, `"id":123456789`)
	want(t, b.post("/v1/cases", `{}`, nil), 400, partner.KindPlain)
	want(t, b.get("/v1/cases/17"), 404, partner.KindPlain)
	want(t, b.post("/v1/user/pin", `{"pin":"1234"}`, nil), 204, partner.KindEmpty)
	want(t, b.post("/v2/profiles/17/pin", `{"pin":"1234"}`, nil), 200, partner.KindEmpty)
	ott := http.Header{"One-Time-Token": {"ott-1"}}
	want(t, b.post("/v2/profiles/17/pin/verify", `{"pin":"1234"}`, ott), 200, partner.KindPlain)
	res = b.post("/v1/one-time-token/pin/verify", `{"pin":"1234"}`, ott)
	want(t, res, 200, partner.KindSealed)
	header, _, _ := strings.Cut(string(res.Envelope), ".")
	if raw := must(base64.RawURLEncoding.DecodeString(header)); !strings.Contains(string(raw), `"alg":"dir"`) {
		t.Errorf("the PIN's answer has the header %s", raw)
	}
	for _, r := range b.sim.Requests() {
		if r.Endpoint == "" {
			t.Errorf("a path nobody documented: %+v", r)
		}
	}
}

func TestAChangedKeyIsSuspectedAndTheRightOneWorks(t *testing.T) {
	b := newBackend(t, partnersim.Options{KeyOverlap: -1})
	b.sim.Rotate(partnersim.Wise)
	want(t, b.post("/v1/cases", oneCase, nil), 500, partner.KindStale)
	b.fetch()
	want(t, b.post("/v1/cases", oneCase, nil), 200, partner.KindSealed)
	b.sim.Revoke(testKID) // ours is gone there: the same error, no remedy
	want(t, b.post("/v1/cases", oneCase, nil), 500, partner.KindStale)
	want(t, b.get("/v1/cases/123456789"), 500, partner.KindPlain)
}

func TestFaultsOfBusinessRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend(t, partnersim.Options{})
		for name, tc := range map[string]struct {
			fault  partnersim.Fault
			status int
			kind   string // "" for an error
		}{
			"an outage":        {partnersim.Fault{Kind: partnersim.Error, Status: 503}, 503, partner.KindPlain},
			"the general 500":  {partnersim.Fault{Kind: partnersim.Error}, 500, partner.KindStale},
			"500, it happened": {partnersim.Fault{Kind: partnersim.Error, After: true}, 500, partner.KindStale},
			"limited":          {partnersim.Fault{Kind: partnersim.RateLimit}, 429, partner.KindLimited},
			"an expired token": {partnersim.Fault{Kind: partnersim.ExpiredToken}, 401, partner.KindPlain},
			"in clear":         {partnersim.Fault{Kind: partnersim.PlainJSON}, 200, partner.KindPlain},
			"empty":            {partnersim.Fault{Kind: partnersim.Empty}, 200, partner.KindEmpty},
			"stray characters": {partnersim.Fault{Kind: partnersim.StrayTail}, 200, partner.KindSealed},
			"garbage":          {partnersim.Fault{Kind: partnersim.Garbage}, 200, ""},
			"half of it":       {partnersim.Fault{Kind: partnersim.Truncated}, 200, ""},
			"cut":              {partnersim.Fault{Kind: partnersim.Cut}, 200, ""},
			"closed":           {partnersim.Fault{Kind: partnersim.Close}, 0, ""},
			"too slow":         {partnersim.Fault{Kind: partnersim.Delay, Delay: time.Minute}, 0, ""},
		} {
			b.token = "Bearer " + b.sim.NewUserToken(partnersim.Wise)
			tc.fault.Endpoint = partnersim.EndpointCaseCreate
			if err := b.sim.Fail(tc.fault); err != nil {
				t.Fatal(err)
			}
			res, err := b.Do(context.Background(), partner.Request{Method: "POST", Path: "/v1/cases", Body: b.sealed("/v1/cases", oneCase),
				KID: testKID, Authorization: b.token})
			if tc.kind == "" {
				_ = callError(t, err, "call", tc.status)
			} else if err != nil || res.Status != tc.status || res.Kind != tc.kind {
				t.Errorf("%s: got %+v, %v", name, res, err)
			}
			b.sim.ClearFaults()
		}
		time.Sleep(time.Hour) // what was slow ends
	})
}
