package partner_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"io"
	"math/big"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"keyd/internal/partner"
)

func TestAnnounceUploadsExactlyTheDocumentedBody(t *testing.T) {
	paris := time.FixedZone("CET", 3600)
	h := open(t, routes{askAnnounce: func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		want := `{"keyId":"` + testKID + `","scope":"PAYLOAD_ENCRYPTION","validFrom":"2026-11-23 20:00:00","validTill":"2027-03-01 00:00:00",` +
			`"publicKeyMaterial":{"algorithm":"RSA_OAEP_256","keyMaterial":"` + spki(&rsaKey().PublicKey) + `"}}`
		if diff := cmp.Diff(want, string(body)); diff != "" {
			t.Error(diff)
		}
		for name, want := range map[string]string{
			"Authorization": "Bearer token-1", "Content-Type": "application/json", "Accept": "application/json", "Accept-Encoding": "identity",
		} {
			if got := r.Header.Get(name); got != want {
				t.Errorf("got %s %q, want %q", name, got, want)
			}
		}
		reply(w, 201, string(body))
	}})
	// Another zone and a fraction must not change what Wise is told.
	err := h.Announce(t.Context(), testKID, &rsaKey().PublicKey, testFrom.In(paris).Add(999*time.Millisecond), testTill.In(paris))
	if err != nil {
		t.Error(err)
	}
}

func TestAnnounceRefusesWhatCouldNotBeTakenBack(t *testing.T) {
	ec, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	small := newRSA(1024).PublicKey
	three := rsaKey().PublicKey
	three.E = 3
	four := rsaKey().PublicKey
	four.E = 1 << 18
	even := rsa.PublicKey{N: new(big.Int).Add(rsaKey().N, big.NewInt(1)), E: 65537}
	huge := rsa.PublicKey{N: new(big.Int).SetBit(big.NewInt(1), 9000, 1), E: 65537}
	good := &rsaKey().PublicKey
	for name, tc := range map[string]struct {
		kid        string
		public     crypto.PublicKey
		from, till time.Time
	}{
		"no kid":           {"", good, testFrom, testTill},
		"kid not a UUID":   {"signing-2026-05-11", good, testFrom, testTill},
		"kid of bad bytes": {strings.Repeat("-", 36), good, testFrom, testTill},
		"kid misdrawn":     {strings.Replace(testKID, "-", "0", 1), good, testFrom, testTill},
		"no key":           {testKID, nil, testFrom, testTill},
		"EC":               {testKID, &ec.PublicKey, testFrom, testTill},
		"a private key":    {testKID, rsaKey(), testFrom, testTill},
		"1024 bits":        {testKID, &small, testFrom, testTill},
		"exponent 3":       {testKID, &three, testFrom, testTill},
		"even exponent":    {testKID, &four, testFrom, testTill},
		"even modulus":     {testKID, &even, testFrom, testTill},
		"9000 bits":        {testKID, &huge, testFrom, testTill},
		"backwards":        {testKID, good, testTill, testFrom},
		"under a second":   {testKID, good, testFrom, testFrom.Add(900 * time.Millisecond)},
	} {
		t.Run(name, func(t *testing.T) {
			h := open(t, routes{})
			if err := h.Announce(t.Context(), tc.kid, tc.public, tc.from, tc.till); err == nil {
				t.Error("announced")
			}
			if len(h.wire.seen) != 0 {
				t.Errorf("calls were made: %v", h.wire.seen)
			}
		})
	}
}

// echo answers an announcement with a changed copy of it.
func echo(status int, change func(m map[string]any)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		m := map[string]any{}
		if err := json.NewDecoder(r.Body).Decode(&m); err != nil {
			panic(err)
		}
		m["clientId"], m["deactivationTimestamp"] = nil, nil
		change(m)
		reply(w, status, toJSON(m))
	}
}

func material(m map[string]any) map[string]any { return m["publicKeyMaterial"].(map[string]any) }

func TestAnnounceTakesEveryTrueEcho(t *testing.T) {
	for name, change := range map[string]func(m map[string]any){
		"as documented":   func(map[string]any) {},
		"unknown fields":  func(m map[string]any) { m["new"] = []int{1} },
		"upper case UUID": func(m map[string]any) { m["keyId"] = strings.ToUpper(testKID) },
		"base64 in lines": func(m map[string]any) { material(m)["keyMaterial"] = inLines(spki(&rsaKey().PublicKey)) },
		"fractions":       func(m map[string]any) { m["validFrom"] = "2026-11-23 20:00:00.0" },
		"RFC 3339":        func(m map[string]any) { m["validTill"] = "2027-03-01T00:00:00Z" },
		"no deactivation": func(m map[string]any) { delete(m, "deactivationTimestamp") },
		"dates in a swap": func(m map[string]any) { m["validFrom"], m["validTill"] = m["validTill"], m["validFrom"] },
	} {
		t.Run(name, func(t *testing.T) {
			h := open(t, routes{askAnnounce: echo(201, change)})
			if err := announce(t, h.Wise); err != nil {
				t.Error(err)
			}
			if swapped := strings.Contains(h.logs.String(), "each other's place"); swapped != strings.HasPrefix(name, "dates in") {
				t.Errorf("log: %s", h.logs)
			}
		})
	}
}

func TestAnnounceRaisesAnAlarmWhenTheEchoIsAnotherKey(t *testing.T) {
	other := spki(&newRSA(2048).PublicKey)
	for name, tc := range map[string]struct {
		says   string
		change func(m map[string]any)
	}{
		"other keyId":     {"keyId", func(m map[string]any) { m["keyId"] = "00000000-0000-4000-8000-000000000000" }},
		"no keyId":        {"keyId", func(m map[string]any) { delete(m, "keyId") }},
		"other scope":     {"scope", func(m map[string]any) { m["scope"] = "PAYLOAD_SIGNING" }},
		"other material":  {"publicKeyMaterial", func(m map[string]any) { material(m)["keyMaterial"] = other }},
		"damaged":         {"publicKeyMaterial", func(m map[string]any) { material(m)["keyMaterial"] = "%%" }},
		"no material":     {"publicKeyMaterial", func(m map[string]any) { delete(m, "publicKeyMaterial") }},
		"other algorithm": {"publicKeyMaterial", func(m map[string]any) { material(m)["algorithm"] = "ES512" }},
		"other from":      {"validFrom", func(m map[string]any) { m["validFrom"] = "2026-11-23 19:00:00" }},
		"other till":      {"validTill", func(m map[string]any) { m["validTill"] = "2027-03-02 00:00:00" }},
		"no dates":        {"validTill", func(m map[string]any) { delete(m, "validFrom"); delete(m, "validTill") }},
		"half a swap":     {"validTill", func(m map[string]any) { m["validTill"] = m["validFrom"] }},
		"deactivated":     {"deactivationTimestamp", func(m map[string]any) { m["deactivationTimestamp"] = "2026-11-24 00:00:00" }},
		"two at once":     {"keyId, scope", func(m map[string]any) { m["keyId"], m["scope"] = "x", "y" }},
		"empty object":    {"keyId", func(m map[string]any) { clear(m) }},
	} {
		t.Run(name, func(t *testing.T) {
			h := open(t, routes{askAnnounce: echo(201, tc.change)})
			e := callError(t, announce(t, h.Wise), "announce", 201, tc.says)
			if !errors.Is(e, partner.ErrEcho) || e.Temporary() {
				t.Errorf("got %v, temporary %v", e, e.Temporary())
			}
		})
	}
}

func TestAnnounceTakesNothingButA201ForSuccess(t *testing.T) {
	sample := `{"keyId":"x"},{"keyId":"x"}` // two objects, as one page of Wise's has it
	for name, tc := range map[string]struct {
		h         http.HandlerFunc
		status    int
		is        error
		temporary bool
	}{
		"200":               {echo(200, func(map[string]any) {}), 200, partner.ErrAnswer, false},
		"202":               {always(202, `{}`), 202, partner.ErrAnswer, false},
		"204":               {always(204, ``), 204, partner.ErrAnswer, false},
		"201 empty":         {always(201, ``), 201, partner.ErrAnswer, false},
		"201 not JSON":      {always(201, `<html>`), 201, partner.ErrAnswer, false},
		"201 half JSON":     {always(201, `{"keyId":"`), 201, partner.ErrAnswer, false},
		"201 two objects":   {always(201, sample), 201, partner.ErrAnswer, false},
		"201 a list":        {always(201, `[]`), 201, partner.ErrAnswer, false},
		"201 null":          {always(201, `null`), 201, partner.ErrEcho, false},
		"201 too large":     {always(201, `"`+strings.Repeat("x", 1<<20)+`"`), 201, partner.ErrAnswer, false},
		"201 compressed":    {always(201, `{}`, "Content-Encoding", "gzip"), 201, partner.ErrAnswer, false},
		"redirect":          {always(307, ``, "Location", "https://elsewhere.example/"), 307, nil, false},
		"400":               {always(400, `{"errors":[{"code":"invalid","message":"bad date","path":"validFrom"}]}`), 400, nil, false},
		"403":               {always(403, `{"message":"no JOSE for you"}`), 403, nil, false},
		"409":               {always(409, `{"message":"exists"}`), 409, partner.ErrDuplicate, false},
		"422":               {always(422, ``), 422, nil, false},
		"429":               {always(429, ``), 429, nil, true},
		"500":               {always(500, `{"message":"An unexpected error occurred","request_id":"r-1"}`), 500, nil, true},
		"502 page":          {always(502, `<html>Bad Gateway</html>`), 502, nil, true},
		"connection breaks": {breaks(syscall.ECONNRESET), 0, syscall.ECONNRESET, true},
	} {
		t.Run(name, func(t *testing.T) {
			h := open(t, routes{askAnnounce: tc.h})
			e := callError(t, announce(t, h.Wise), "announce", tc.status)
			if tc.is != nil && !errors.Is(e, tc.is) {
				t.Errorf("got %v, want it to be %v", e, tc.is)
			}
			if e.Temporary() != tc.temporary {
				t.Errorf("got temporary %v for %v", e.Temporary(), e)
			}
			if n := h.wire.asked(askAnnounce); n != 1 {
				t.Errorf("announced %d times", n)
			}
		})
	}
}

func TestDuplicateIsSuccessOnlyWhereTheConfigSaysSo(t *testing.T) {
	other := spki(&newRSA(2048).PublicKey)
	for name, tc := range map[string]struct {
		setting string
		h       http.HandlerFunc
		ok      bool
	}{
		"default":               {"", always(409, `{}`), false},
		"fail":                  {partner.DuplicateFails, always(409, `{}`), false},
		"fail, exact echo":      {partner.DuplicateFails, echo(409, func(map[string]any) {}), false},
		"accept":                {partner.DuplicateAccepted, always(409, `{"message":"exists"}`), true},
		"accept, no JSON":       {partner.DuplicateAccepted, always(409, `conflict`), true},
		"accept, exact echo":    {partner.DuplicateAccepted, echo(409, func(map[string]any) {}), true},
		"accept, other kid":     {partner.DuplicateAccepted, echo(409, func(m map[string]any) { m["keyId"] = "x" }), false},
		"accept, other key":     {partner.DuplicateAccepted, echo(409, func(m map[string]any) { material(m)["keyMaterial"] = other }), false},
		"accept is not for 422": {partner.DuplicateAccepted, always(422, `{"message":"exists"}`), false},
	} {
		t.Run(name, func(t *testing.T) {
			h := open(t, routes{askAnnounce: tc.h}, func(c *partner.WiseConfig) { c.OnDuplicate = tc.setting })
			err := announce(t, h.Wise)
			if (err == nil) != tc.ok {
				t.Errorf("got %v, want success %v", err, tc.ok)
			}
			if tc.ok != strings.Contains(h.logs.String(), "already has this key") {
				t.Errorf("log: %s", h.logs)
			}
		})
	}
}

// Failed, and failed but happened: the caller cannot tell them apart and
// repeats the same call; what then comes back decides.
func TestLostAnswerIsSettledByRepeating(t *testing.T) {
	for name, tc := range map[string]struct {
		faults  []http.HandlerFunc
		setting string
		want    error // of the last try
	}{
		"did not happen":                    {[]http.HandlerFunc{breaks(syscall.ECONNRESET)}, "", nil},
		"happened, taken again":             {[]http.HandlerFunc{breaks(io.ErrUnexpectedEOF)}, "", nil},
		"happened, then 409":                {[]http.HandlerFunc{breaks(io.ErrUnexpectedEOF), always(409, `{}`)}, "", partner.ErrDuplicate},
		"happened, then 409, taken":         {[]http.HandlerFunc{breaks(io.ErrUnexpectedEOF), always(409, `{}`)}, partner.DuplicateAccepted, nil},
		"limited, lost, then 409, taken":    {[]http.HandlerFunc{always(429, ``), breaks(io.ErrUnexpectedEOF), always(409, `{}`)}, partner.DuplicateAccepted, nil},
		"garbled 201, token gone, then 201": {[]http.HandlerFunc{always(201, `{`), always(401, `{}`)}, "", nil},
	} {
		t.Run(name, func(t *testing.T) {
			var bodies []string
			record := func(next http.HandlerFunc) http.HandlerFunc {
				return func(w http.ResponseWriter, r *http.Request) {
					b, _ := io.ReadAll(r.Body)
					bodies = append(bodies, string(b))
					r.Body = io.NopCloser(strings.NewReader(string(b)))
					next(w, r)
				}
			}
			h := open(t, routes{askAnnounce: record(inTurn(append(tc.faults, routes{}.ServeHTTP)...))},
				func(c *partner.WiseConfig) { c.OnDuplicate = tc.setting })
			var err error
			for range 4 {
				if err = announce(t, h.Wise); err == nil || errors.Is(err, partner.ErrDuplicate) {
					break
				}
			}
			if !errors.Is(err, tc.want) {
				t.Errorf("got %v, want %v", err, tc.want)
			}
			for _, b := range bodies {
				if b != bodies[0] {
					t.Errorf("a repetition sent %s, the first try %s", b, bodies[0])
				}
			}
		})
	}
}
