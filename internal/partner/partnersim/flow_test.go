package partnersim_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"keyd/internal/partner/partnersim"
)

// TestFullFlow is a partner's first day and first rotation, by the documents.
func TestFullFlow(t *testing.T) {
	sim := partnersim.New(partnersim.Options{})
	c := served(t, sim).login()
	first := c.day(0)

	if kid, plain := c.mustOpen(c.probe()); kid != first || plain != `{"message":"jose-playground-response-","method":"GET"}` {
		t.Errorf("probe: kid %s (want %s), %s", kid, first, plain)
	}

	wise, version := c.fetch("")
	if version != 1 {
		t.Errorf("Wise's first key has version %d", version)
	}
	jwe := seal(t, wise, map[string]string{"kid": first}, `{"message":"hello"}`)
	if _, plain := c.mustOpen(c.do("POST", probePath, joseHeaders(), jwe)); plain != `{"message":"jose-playground-response-hello","method":"POST"}` {
		t.Errorf("playground: %s", plain)
	}

	second := c.day(1)
	named := seal(t, wise, map[string]string{"kid": first, "url": "/v1/cases"}, `{"type":"GENERAL_ENQUIRY","subject":"s","externalId":"e-1"}`)
	kid, created := c.mustOpen(c.do("POST", "/v1/cases", joseHeaders(), named))
	if kid != first {
		t.Errorf("the reply is sealed to %s, the request named %s", kid, first)
	}
	if !strings.Contains(created, `"id":123456789,"status":"OPEN","type":"GENERAL_ENQUIRY","externalId":"e-1"`) {
		t.Errorf("case: %s", created)
	}
	kid, got := c.mustOpen(c.do("GET", "/v1/cases/123456789", joseHeaders(), ""))
	if kid != second || got != created {
		t.Errorf("case again: kid %s (want the newest, %s), %s", kid, second, got)
	}

	var effects []string
	for _, r := range sim.Requests() {
		if !r.Done || r.Refusal != "" {
			t.Errorf("log: %+v", r)
		}
		if r.Effect {
			effects = append(effects, fmt.Sprintf("%s %d %s", r.Endpoint, r.Status, r.KeyID))
		}
	}
	want := []string{"token 200 ", "upload 201 " + first, "upload 201 " + second, "case-create 200 " + first}
	if diff := cmp.Diff(want, effects); diff != "" {
		t.Errorf("effects in the log (-want +got):\n%s", diff)
	}
}

func TestEveryAnswerHasATraceAndEchoesTheCorrelation(t *testing.T) {
	sim := partnersim.New(partnersim.Options{})
	c := direct(t, sim).login()
	id := uuid.NewString()
	for _, path := range []string{wiseKeyPath, probePath, "/v1/cases/1", "/no/such/path"} {
		a := c.do("GET", path, http.Header{"X-External-Correlation-Id": {id}}, "")
		if len(a.header.Get("X-Trace-Id")) != 32 || a.header.Get("X-External-Correlation-Id") != id {
			t.Errorf("%s: headers %v", path, a.header)
		}
		if got := a.header.Get("Content-Type"); got != "application/json" {
			t.Errorf("%s: a plain answer has Content-Type %q", path, got)
		}
	}
	a := c.do("GET", wiseKeyPath, http.Header{"X-External-Correlation-Id": {strings.Repeat("x", 37)}}, "")
	if a.header.Get("X-External-Correlation-Id") != "" {
		t.Error("a correlation id of 37 characters is echoed")
	}
}

func TestLogHoldsNoSecret(t *testing.T) {
	sim := partnersim.New(partnersim.Options{})
	c := direct(t, sim).login()
	c.day(0)
	c.do("GET", probePath, http.Header{"Authorization": {"Bearer unknown-token"}}, "")
	seen := fmt.Sprintf("%+v", sim.Requests())
	for _, secret := range []string{c.token, "unknown-token", "Basic ", partnersim.DemoClientSecret} {
		if strings.Contains(seen, secret) {
			t.Errorf("the log holds %.20q", secret)
		}
	}
}

func TestUnknownPathsAreLogged(t *testing.T) {
	sim := partnersim.New(partnersim.Options{})
	c := direct(t, sim)
	if a := c.do("DELETE", uploadPath+"/1", nil, ""); a.status != 404 {
		t.Errorf("got %d", a.status)
	}
	if r := sim.Requests(); len(r) != 1 || r[0].Endpoint != "" || r[0].Status != 404 || sim.Count(partnersim.Any) != 1 {
		t.Errorf("log: %+v", r)
	}
}

func TestOversizeBodyIsRefused(t *testing.T) {
	c := served(t, partnersim.New(partnersim.Options{}))
	if a, err := c.try("POST", "/oauth/token", nil, strings.Repeat("x", 4<<20+1)); err == nil && a.status != 413 {
		t.Errorf("got %d", a.status)
	}
}

func TestLogIsBounded(t *testing.T) {
	sim := partnersim.New(partnersim.Options{})
	c := direct(t, sim)
	for range 10_001 {
		c.do("GET", "/x", nil, "")
	}
	if n := len(sim.Requests()); n != 5001 || sim.Count(partnersim.Any) != 10_001 {
		t.Errorf("the log holds %d calls of %d", n, sim.Count(partnersim.Any))
	}
}

// TestConcurrentUse is for the race detector: calls, faults and control at once.
func TestConcurrentUse(t *testing.T) {
	sim := partnersim.New(partnersim.Options{TokenFormat: partnersim.TokenUUID, Unnamed: partnersim.UseRandom})
	c := served(t, sim).login()
	c.day(0)
	wise, _ := c.fetch("")
	jwe := seal(t, wise, nil, `{"type":"GENERAL_ENQUIRY","subject":"s"}`)
	body := uploadJSON(uuid.NewString(), &keyPool()[1].PublicKey, time.Now(), time.Now().Add(time.Hour))
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for range 5 {
				_, _ = c.try("GET", probePath, joseHeaders(), "")
				_, _ = c.try("POST", "/v1/cases", joseHeaders(), jwe)
				_, _ = c.tryUpload(body)
				_, _ = c.try("GET", "/sim/state", nil, "")
				sim.SetClockOffset(time.Duration(i) * time.Second)
				_ = sim.Fail(partnersim.Fault{Endpoint: partnersim.Any, Kind: partnersim.Close})
				_, _ = sim.Requests(), sim.Uploads()
			}
		})
	}
	wg.Wait()
	if n := len(sim.Uploads()); n != 2 {
		t.Errorf("%d uploads, want 2: the same one 40 times over is one", n)
	}
	for _, r := range sim.Requests() {
		if !r.Done {
			t.Errorf("still open: %+v", r)
		}
	}
}
