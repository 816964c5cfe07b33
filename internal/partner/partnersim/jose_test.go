package partnersim_test

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/uuid"

	"keyd/internal/partner/partnersim"
)

func TestDocumentedHeadersAreRequired(t *testing.T) {
	sim := partnersim.New(partnersim.Options{})
	c := direct(t, sim).login()
	c.day(0)
	wise, _ := c.fetch("")
	jwe := seal(t, wise, nil, `{"message":"m"}`)
	for _, tc := range []struct {
		method, header, value string
		want                  int
	}{
		{"POST", "Content-Type", "application/jose+json; charset=utf-8", 200},
		{"POST", "Content-Type", "application/json", 415},
		{"POST", "Content-Type", "", 415},
		{"GET", "Content-Type", "", 200},
		{"GET", "Accept", "", 406},
		{"GET", "Accept", "application/json", 406},
		{"GET", "Accept", "*/*", 406},
		{"GET", "Accept", "application/json, application/jose+json;q=0.9", 200},
		{"POST", "Accept", "", 406},
		{"GET", "X-TW-JOSE-Method", "", 400},
		{"GET", "X-TW-JOSE-Method", "jws", 400},
		{"POST", "X-TW-JOSE-Method", "jws+jwe", 400},
		{"POST", "Accept-Encoding", "identity", 200},
	} {
		header := joseHeaders()
		header[tc.header] = []string{tc.value}
		body := ""
		if tc.method == "POST" {
			body = jwe
		}
		if a := c.do(tc.method, probePath, header, body); a.status != tc.want {
			t.Errorf("%s with %s %q: %d %s, want %d", tc.method, tc.header, tc.value, a.status, a.body, tc.want)
		}
	}
	if a := c.do("GET", probePath, joseHeaders(), jwe); a.status != 400 {
		t.Errorf("GET with a body: %d", a.status)
	}
}

// header replaces a JWE's protected header.
func withHeader(jwe, header string) string {
	_, rest, _ := strings.Cut(jwe, ".")
	return base64.RawURLEncoding.EncodeToString([]byte(header)) + "." + rest
}

// TestCryptoTroubleIsOneError also checks that the log, unlike the answer,
// tells the troubles apart.
func TestCryptoTroubleIsOneError(t *testing.T) {
	sim := partnersim.New(partnersim.Options{})
	c := direct(t, sim).login()
	c.day(0)
	wise, _ := c.fetch("")
	good := seal(t, wise, nil, `{"message":"m"}`)
	weak := func(alg jose.KeyAlgorithm, enc jose.ContentEncryption, o *jose.EncrypterOptions) string {
		e, err := jose.NewEncrypter(enc, jose.Recipient{Algorithm: alg, Key: wise}, o)
		must(t, err)
		jwe, err := e.Encrypt([]byte(`{"message":"m"}`))
		must(t, err)
		s, err := jwe.CompactSerialize()
		must(t, err)
		return s
	}
	reasons := map[string]bool{}
	for name, tc := range map[string]struct{ body, reason string }{
		"plain JSON":      {`{"message":"m"}`, "reading the JOSE header"},
		"empty":           {"", "reading the JOSE header"},
		"kid a number":    {withHeader(good, `{"alg":"RSA-OAEP-256","enc":"A256GCM","kid":1}`), "reading the JOSE header"},
		"two characters":  {good + "02", "no key of wise"},
		"bad tag":         {good[:len(good)-4] + "AAAA", "no key of wise"},
		"other key":       {seal(t, &keyPool()[1].PublicKey, nil, `{"message":"m"}`), "no key of wise"},
		"four parts":      {good[:strings.LastIndex(good, ".")], "parsing the JWE"},
		"RSA-OAEP":        {weak(jose.RSA_OAEP, jose.A256GCM, nil), "parsing the JWE"},
		"RSA1_5":          {weak(jose.RSA1_5, jose.A256GCM, nil), "parsing the JWE"},
		"A128GCM":         {weak(jose.RSA_OAEP_256, jose.A128GCM, nil), "parsing the JWE"},
		"compressed":      {weak(jose.RSA_OAEP_256, jose.A256GCM, &jose.EncrypterOptions{Compression: jose.DEFLATE}), `"zip"`},
		"critical":        {withHeader(good, `{"alg":"RSA-OAEP-256","enc":"A256GCM","crit":["x"],"x":1}`), `"crit"`},
		"other url":       {seal(t, wise, map[string]string{"url": "/v1/cases"}, `{"message":"m"}`), "another url"},
		"unknown kid":     {seal(t, wise, map[string]string{"kid": uuid.NewString()}, `{"message":"m"}`), "is not usable"},
		"newline at end":  {good + "\n", "line break"},
		"newline inside":  {good[:40] + "\r\n" + good[40:], "line break"},
		"quoted as JSON":  {`"` + good + `"`, "reading the JOSE header"},
		"JSON serialized": {`{"protected":"","ciphertext":""}`, "reading the JOSE header"},
	} {
		t.Run(name, func(t *testing.T) {
			generic500(t, c.do("POST", probePath, joseHeaders(), tc.body))
			log := sim.Requests()
			if got := log[len(log)-1].Refusal; !strings.Contains(got, tc.reason) {
				t.Errorf("the log says %q, want %q", got, tc.reason)
			}
		})
		reasons[tc.reason] = true
	}
	if a := c.do("POST", probePath, joseHeaders(), good); a.status != 200 {
		t.Errorf("the good one: %d", a.status)
	}
}

func TestPlaygroundAndCaseContent(t *testing.T) {
	sim := partnersim.New(partnersim.Options{ExtraFields: true})
	c := direct(t, sim).login()
	c.day(0)
	wise, _ := c.fetch("")
	for _, tc := range []struct {
		path, plaintext string
		want            int
	}{
		{probePath, `no JSON`, 400},
		{probePath, `{}`, 400},
		{probePath, `{"message":"` + strings.Repeat("é", 100) + `"}`, 200},
		{probePath, `{"message":"` + strings.Repeat("x", 101) + `"}`, 400},
		{"/v1/cases", `no JSON`, 400},
		{"/v1/cases", `{"subject":"s"}`, 400},
		{"/v1/cases", `{"type":"OTHER","subject":"s"}`, 422},
		{"/v1/cases", `{"type":"GENERAL_ENQUIRY"}`, 400},
	} {
		a := c.do("POST", tc.path, joseHeaders(), seal(t, wise, nil, tc.plaintext))
		if a.status != tc.want {
			t.Errorf("%s %.30s: %d, want %d", tc.path, tc.plaintext, a.status, tc.want)
		}
		if a.status >= 400 && a.field(t, "errors") == nil {
			t.Errorf("%s %.30s: %s", tc.path, tc.plaintext, a.body)
		}
	}
	for path, want := range map[string]int{"/v1/cases/1": 404, "/v1/cases/x": 422} {
		if a := c.do("GET", path, joseHeaders(), ""); a.status != want {
			t.Errorf("%s: %d, want %d", path, a.status, want)
		}
	}
	if a := c.do("GET", "/v1/cases/1", nil, ""); a.status != 406 {
		t.Errorf("without headers: %d", a.status)
	}
	if a := c.do("POST", "/v1/cases", nil, ""); a.status != 415 {
		t.Errorf("without headers: %d", a.status)
	}
	if _, plain := c.mustOpen(c.probe()); !strings.Contains(plain, "addedWithoutNotice") {
		t.Errorf("ExtraFields in a sealed answer: %s", plain)
	}
}

func TestWhereARequestNamesTheReplysKey(t *testing.T) {
	const header = "X-Reply-Key"
	for _, tc := range []struct {
		opt       partnersim.Options
		post, get string // which of first and second answers when both places name the first
		bare      string // a POST that names none
	}{
		{partnersim.Options{}, "first", "second", "second"},
		{partnersim.Options{ResponseKID: "jose", RequireKID: true}, "first", "second", "500"},
		{partnersim.Options{ResponseKID: "header:" + header}, "first", "first", "second"},
		{partnersim.Options{ResponseKID: "header:" + header, RequireKID: true}, "first", "first", "500"},
		{partnersim.Options{ResponseKID: "none"}, "second", "second", "second"},
		{partnersim.Options{ResponseKID: "none", RequireKID: true, Unnamed: "oldest"}, "first", "first", "first"},
	} {
		t.Run(fmt.Sprintf("%s %t %s", tc.opt.ResponseKID, tc.opt.RequireKID, tc.opt.Unnamed), func(t *testing.T) {
			c := direct(t, partnersim.New(tc.opt)).login()
			names := map[string]string{c.day(0): "first", c.day(1): "second"}
			var first string
			for id, name := range names {
				if name == "first" {
					first = id
				}
			}
			wise, _ := c.fetch("")
			who := func(a answer) string {
				if a.status == 500 {
					return "500"
				}
				kid, _ := c.mustOpen(a)
				return names[kid]
			}
			h := joseHeaders()
			h.Set(header, first)
			if tc.opt.ResponseKID == "header:"+header { // what is not the place must not matter
				if got := who(c.do("POST", probePath, h, seal(t, wise, map[string]string{"kid": uuid.NewString()}, `{"message":""}`))); got != tc.post {
					t.Errorf("POST: %s, want %s", got, tc.post)
				}
			} else if got := who(c.do("POST", probePath, h, seal(t, wise, map[string]string{"kid": first}, `{"message":""}`))); got != tc.post {
				t.Errorf("POST: %s, want %s", got, tc.post)
			}
			if got := who(c.do("GET", probePath, h, "")); got != tc.get {
				t.Errorf("GET: %s, want %s", got, tc.get)
			}
			if got := who(c.do("POST", probePath, joseHeaders(), seal(t, wise, nil, `{"message":""}`))); got != tc.bare {
				t.Errorf("naming none: %s, want %s", got, tc.bare)
			}
		})
	}
}

func TestRandomUnnamedUsesEveryKey(t *testing.T) {
	c := direct(t, partnersim.New(partnersim.Options{Unnamed: partnersim.UseRandom})).login()
	c.day(0)
	c.day(1)
	seen := map[string]bool{}
	for range 64 { // both, but for one time in 2^63
		seen[c.probeKID()] = true
	}
	if len(seen) != 2 {
		t.Errorf("%d keys used", len(seen))
	}
}

func TestKeysAreUsedInsideTheirWindowOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sim := partnersim.New(partnersim.Options{})
		c := direct(t, sim).login()
		start := time.Now()
		old := c.upload(0, start, start.Add(2*time.Hour))
		next := c.upload(1, start.Add(time.Hour), start.Add(3*time.Hour))
		wise, _ := c.fetch("")
		for _, step := range []struct {
			at               time.Duration
			unnamed          string
			oldOpen, nextOen bool
		}{
			{0, old, true, false},
			{time.Hour - time.Second, old, true, false},
			{time.Hour, next, true, true},
			{2*time.Hour - time.Second, next, true, true},
			{2 * time.Hour, next, false, true},
			{3 * time.Hour, "", false, false},
		} {
			time.Sleep(time.Until(start.Add(step.at)))
			a := c.probe()
			if step.unnamed == "" {
				generic500(t, a)
			} else if kid, _ := c.mustOpen(a); kid != step.unnamed {
				t.Errorf("at %s: sealed to %s, want %s", step.at, kid, step.unnamed)
			}
			for id, open := range map[string]bool{old: step.oldOpen, next: step.nextOen} {
				a := c.do("POST", probePath, joseHeaders(), seal(t, wise, map[string]string{"kid": id}, `{"message":""}`))
				if (a.status == 200) != open {
					t.Errorf("at %s: naming %s gives %d", step.at, id, a.status)
				}
			}
		}
	})
}

func TestClockOffsetMovesTheWindow(t *testing.T) {
	sim := partnersim.New(partnersim.Options{ClockOffset: -time.Hour})
	c := direct(t, sim).login()
	id := c.upload(0, time.Now().Add(-time.Minute), time.Now().Add(time.Minute))
	if a := c.probe(); a.status != 500 {
		t.Errorf("Wise an hour behind: %d", a.status)
	}
	sim.SetClockOffset(0)
	if kid := c.probeKID(); kid != id {
		t.Errorf("Wise in time: %s", kid)
	}
	sim.SetClockOffset(2 * time.Minute)
	if a := c.probe(); a.status != 500 {
		t.Errorf("Wise two minutes ahead: %d", a.status)
	}
}

func TestActivationLagAndRevocation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sim := partnersim.New(partnersim.Options{ActivationLag: time.Minute})
		c := direct(t, sim).login()
		first := c.day(0)
		time.Sleep(time.Hour)
		second := c.day(1)
		if kid := c.probeKID(); kid != first {
			t.Errorf("just uploaded: %s answers", kid)
		}
		time.Sleep(time.Minute)
		if kid := c.probeKID(); kid != second {
			t.Errorf("a minute later: %s answers", kid)
		}
		if !sim.Revoke(second) || sim.Revoke("unknown") {
			t.Error("Revoke does not tell what it found")
		}
		if kid := c.probeKID(); kid != first {
			t.Errorf("revoked: %s answers", kid)
		}
	})
}

func TestHeaderNamesAreCaseBlind(t *testing.T) {
	c := direct(t, partnersim.New(partnersim.Options{})).login()
	c.day(0)
	h := http.Header{"accept": {"application/jose+json"}, "x-tw-jose-method": {"jwe"}}
	if a := c.do("GET", probePath, h, ""); a.status != 200 {
		t.Errorf("got %d %s", a.status, a.body)
	}
}
