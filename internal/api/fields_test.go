package api_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"keyd/client"
	"keyd/internal/api"
	"keyd/internal/registry"
)

// sealed asks for a body with values sealed in it.
func (r *rig) sealed(query, body string) client.Sealed {
	r.t.Helper()
	a := r.send(r.client, "POST", "/v1/partners/bank/encrypt?"+query, body, "Accept: application/json").wants(r.t, 200, "")
	var s client.Sealed
	check(r.t, json.Unmarshal(a.body, &s))
	return s
}

const search = "url=/v1/cards/search-by-pan"

func TestValuesAreSealedEachByItselfAndNothingElseIsTouched(t *testing.T) {
	r, b := newBankRig(t, false, "", false)
	body := "{ \"n\":1.0e+2, \"pan\" : \"4396\\u0039\\/10\",\t\"card\":{\"pin\":1234, \"o\": {\"a\":[1, 2]} } ,\"z\":\"\" }\n"
	s := r.sealed("field=/pan&field=/card/pin&field=/card/o&field=/z", body)
	if s.JWE != "" || s.Exchange != nil || s.KeyID != "bank-key-1" || s.KID != "" {
		t.Errorf("got %+v", s)
	}
	var got struct {
		PAN  string
		Card struct{ PIN, O string }
		Z    string
	}
	check(t, json.Unmarshal([]byte(s.Body), &got))
	for compact, want := range map[string]string{got.PAN: "43969/10", got.Card.PIN: "1234", got.Card.O: `{"a":[1, 2]}`, got.Z: ""} {
		if kid, plaintext := b.open(t, compact); plaintext != want || kid != "bank-key-1" {
			t.Errorf("got %q under %q, want %q", plaintext, kid, want)
		}
	}
	rest := strings.NewReplacer(got.PAN, "1", got.Card.PIN, "2", got.Card.O, "3", got.Z, "4").Replace(s.Body)
	if want := "{ \"n\":1.0e+2, \"pan\" : \"1\",\t\"card\":{\"pin\":\"2\", \"o\": \"3\" } ,\"z\":\"4\" }\n"; rest != want {
		t.Errorf("got\n%s, want\n%s", rest, want)
	}
	a := r.send(r.client, "POST", "/v1/partners/bank/encrypt?field=/a", `{"a":1}`).wants(t, 200, "")
	if a.header.Get("Content-Type") != "application/json" || a.header.Get("Keyd-Partner-Key") != "bank-key-1" || !bytes.HasPrefix(a.body, []byte(`{"a":"eyJ`)) {
		t.Errorf("got %v %s", a.header, a.body)
	}
}

func TestFieldsThatCannotBeSealedAreRefused(t *testing.T) {
	r, _ := newBankRig(t, false, "", false)
	many := strings.Repeat("field=/a&", 33)
	for name, c := range map[string]struct{ query, body string }{
		"no field":             {"", `{"a":1}`},
		"no field known":       {"url=/v1/other", `{"a":1}`},
		"a field that is not":  {"field=/b", `{"a":1}`},
		"the endpoint's":       {"url=/v1/card-tokens", `{"a":1}`},
		"all of it":            {"field=", `{"a":1}`},
		"no pointer":           {"field=a", `{"a":1}`},
		"a bad pointer":        {"field=/~2", `{"a":1}`},
		"no JSON":              {"field=/a", `a=1`},
		"not UTF-8":            {"field=/a", "{\"a\":\"\xff\"}"},
		"half a surrogate":     {"field=/a", `{"a":"\ud800"}`},
		"twice":                {"field=/a&field=/a", `{"a":1}`},
		"in one another":       {"field=/a&field=/a/b", `{"a":{"b":1}}`},
		"a member that is two": {"field=/a", `{"a":1,"a":2}`},
		"too many":             {many + "field=/a", `{"a":1}`},
		"a key from nowhere":   {"field=/a&public_key_at=/x/y", `{"a":1}`},
		"a key over a field":   {"field=/a&public_key_at=/a", `{"a":1}`},
		"a bad key pointer":    {"field=/a&public_key_at=x", `{"a":1}`},
		"ephemeral, no place":  {"field=/a&ephemeral=true", `{"a":1}`},
		"ephemeral=1":          {"field=/a&ephemeral=1", `{"a":1}`},
		"direct":               {"field=/a&direct=true", `{"a":1}`},
	} {
		t.Run(name, func(t *testing.T) {
			a := r.send(r.client, "POST", "/v1/partners/bank/encrypt?"+c.query, c.body).wants(t, 400, "bad_request")
			if strings.Contains(string(a.body), c.body) {
				t.Errorf("the body is repeated: %s", a.body)
			}
		})
	}
	r.send(r.client, "POST", "/v1/partners/wise/encrypt?field=/a", `{"a":1}`).wants(t, 400, "bad_request")
	r.send(r.client, "POST", "/v1/partners/wise/encrypt?ephemeral=false", `{"a":1}`).wants(t, 400, "bad_request")
	r.send(r.client, "POST", "/v1/partners/bank/encrypt?field=/a&public_key_at=/k&ephemeral=false", `{"a":1}`).wants(t, 409, "no_active")
	if n := r.open(); n != 0 {
		t.Errorf("%d exchanges are open", n)
	}
}

// open is how many exchanges the bank's are, as /metrics has it.
func (r *rig) open() (n int) {
	r.t.Helper()
	metrics := string(r.send(r.where("monitoring"), "GET", "/metrics", "").body)
	_, line, ok := strings.Cut(metrics, `keyd_exchanges_open{partner="bank"} `)
	if _, err := fmt.Sscan(line, &n); !ok || err != nil {
		r.t.Fatalf("/metrics does not say how many exchanges are open: %v", err)
	}
	return n
}

// ourKey is what the bank finds of ours in a body.
type ourKey struct {
	SPKI []byte
	KID  string
}

func keyIn(t testing.TB, body string) ourKey {
	t.Helper()
	var in struct{ PublicKey ourKey }
	check(t, json.Unmarshal([]byte(body), &in))
	return in.PublicKey
}

func TestAReplyToAKeyThatWasMadeForItOpensInItsExchange(t *testing.T) {
	r, b := newBankRig(t, false, "", false)
	s := r.sealed(search, `{"encryptedPAN":{"primaryAccountNumber":"4396"},"expiration":{"month":10}}`)
	key := keyIn(t, s.Body)
	if s.Exchange == nil || s.Exchange.Kind != "ephemeral" || key.KID != "" || !strings.HasPrefix(s.Body, `{"encryptedPAN":"eyJ`) ||
		!strings.Contains(s.Body, `","expiration":{"month":10},"publicKey":{`) {
		t.Fatalf("got %+v", s)
	}
	reply := fmt.Sprintf(`{ "credentials":"%s", "cvv" : "%s", "x":1 }`, b.seal(t, key.SPKI, "any", `{"pan":"4396"}`), b.seal(t, key.SPKI, "", "111"))
	at := "/v1/partners/bank/decrypt?exchange=" + s.Exchange.ID
	r.send(r.client, "POST", at+"&field=/credentials&field=/x", reply).wants(t, 400, "bad_request")
	a := r.send(r.client, "POST", at+"&field_json=/credentials&field=/cvv", reply).wants(t, 200, "")
	if want := `{ "credentials":{"pan":"4396"}, "cvv" : "111", "x":1 }`; string(a.body) != want || a.header.Get("Keyd-Boundary") != "host" || a.header.Get("Content-Type") != "application/json" {
		t.Errorf("got %v %s, want %s", a.header, a.body, want)
	}
	r.send(r.client, "POST", at+"&field_json=/credentials", reply).wants(t, 404, "exchange_unknown")

	// One envelope alone opens too.
	s = r.sealed(search+"&ephemeral=true", `{"encryptedPAN":"4396"}`)
	a = r.send(r.client, "POST", "/v1/partners/bank/decrypt?exchange="+s.Exchange.ID, b.seal(t, keyIn(t, s.Body).SPKI, "", "x")).wants(t, 200, "")
	if string(a.body) != "x" {
		t.Errorf("got %s", a.body)
	}
}

func TestOurStandingKeyTravelsInTheBody(t *testing.T) {
	r, b := newBankRig(t, true, api.KidlessRefuse, false)
	ours := r.reg.Versions("bank-response")[0]
	s := r.sealed(search, `{"encryptedPAN":"4396","publicKey":null}`)
	key := keyIn(t, s.Body)
	if s.Exchange != nil || key.KID != ours.KID || !bytes.Equal(key.SPKI, ours.Public) || s.KID != ours.KID {
		t.Errorf("got %+v and %+v", s, key)
	}
	reply := b.seal(t, key.SPKI, ours.KID, "x")
	a := r.send(r.client, "POST", "/v1/partners/bank/decrypt", reply).wants(t, 200, "")
	if string(a.body) != "x" || a.header.Get("Keyd-Kid") != ours.KID {
		t.Errorf("got %v %s", a.header, a.body)
	}
	a = r.send(r.client, "POST", "/v1/partners/bank/decrypt?field=/a", `{"a":"`+reply+`"}`).wants(t, 200, "")
	if string(a.body) != `{"a":"x"}` || a.header.Get("Keyd-Kid") != ours.KID {
		t.Errorf("got %v %s", a.header, a.body)
	}
	// Each request may ask for a key of its own all the same.
	if s = r.sealed(search+"&ephemeral=true", `{"encryptedPAN":"4396"}`); s.Exchange == nil || bytes.Equal(keyIn(t, s.Body).SPKI, ours.Public) {
		t.Errorf("got %+v", s)
	}
	s = r.sealed("field=/a&public_key_at=/deep/key", `{"a":1,"deep":{}}`)
	if !strings.Contains(s.Body, `"deep":{"key":{"kid":"`+ours.KID) {
		t.Errorf("got %s", s.Body)
	}
}

func TestAReplyWithoutAKIDOpensAsTheConfigSays(t *testing.T) {
	for _, c := range []struct {
		kidless              api.Kidless
		foreign              bool
		active, old, strange int // statuses: to the active version, to a draining one, with a kid of theirs
	}{
		{"", false, 400, 400, 404},
		{api.KidlessRefuse, true, 400, 400, 404},
		{api.KidlessActive, false, 200, 422, 404},
		{api.KidlessActive, true, 200, 422, 200},
		{api.KidlessAny, false, 200, 200, 404},
		{api.KidlessAny, true, 200, 200, 200},
	} {
		r, b := newBankRig(t, true, c.kidless, c.foreign)
		old := r.reg.Versions("bank-response")[0]
		now := r.onCurve(registry.Active)
		closed := r.onCurve(registry.Compromised)
		status := func(v registry.Version, kid string) int {
			return r.send(r.client, "POST", "/v1/partners/bank/decrypt", b.seal(t, v.Public, kid, "x")).status
		}
		got := []int{status(now, ""), status(old, ""), status(now, "their-own-kid"), status(now, now.KID), status(old, old.KID), status(closed, ""), status(closed, closed.KID)}
		shut := map[api.Kidless]int{"": 400, api.KidlessRefuse: 400}[c.kidless]
		if shut == 0 {
			shut = 422
		}
		if d := cmp.Diff([]int{c.active, c.old, c.strange, 200, 200, shut, 410}, got); d != "" {
			t.Errorf("%s, foreign %v:\n%s", c.kidless, c.foreign, d)
		}
		// Another partner's kid is foreign too.
		if got := status(now, r.active.KID); got != c.strange {
			t.Errorf("%s, foreign %v: under the kid of another partner: %d", c.kidless, c.foreign, got)
		}
	}
}

func TestOnlyAFewVersionsAreTried(t *testing.T) {
	r, b := newBankRig(t, true, api.KidlessAny, true)
	first := r.reg.Versions("bank-response")[0]
	for range 5 {
		r.onCurve(registry.Active)
	}
	before := r.token.Calls("open")
	a := r.send(r.client, "POST", "/v1/partners/bank/decrypt", b.seal(t, first.Public, "", "x")).wants(t, 422, "open_failed")
	if n := r.token.Calls("open") - before; n != 4 {
		t.Errorf("%d versions were tried", n)
	}
	// The same answer as to a tag that is wrong under a kid that is right.
	good := b.seal(t, first.Public, first.KID, "x")
	tag := strings.LastIndexByte(good, '.')
	other := base64.RawURLEncoding.EncodeToString(make([]byte, 16))
	if d := cmp.Diff(visible(t, r.send(r.client, "POST", "/v1/partners/bank/decrypt", good[:tag+1]+other)), visible(t, a)); d != "" {
		t.Error(d)
	}
	last := r.last(2)[0]
	if last.KID != "" || last.Key != "bank-response" || last.Code != "open_failed" {
		t.Errorf("on record: %+v", last)
	}
}

func TestWhatWasSealedMustFitWhereItIsPut(t *testing.T) {
	r, b := newBankRig(t, true, api.KidlessActive, false)
	v := r.reg.Versions("bank-response")[0]
	in := func(plaintext string) string { return `{"a":"` + b.seal(t, v.Public, "", plaintext) + `","b":"x"}` }
	for name, c := range map[string]struct {
		query, body string
		status      int
		code        string
		want        string
	}{
		"text":                 {"field=/a", in("é\"\n"), 200, "", "{\"a\":\"é\\\"\\u000a\",\"b\":\"x\"}"},
		"a number as text":     {"field=/a", in("4396910000012345"), 200, "", `{"a":"4396910000012345","b":"x"}`},
		"an object as text":    {"field=/a", in(`{"b":1}`), 200, "", `{"a":"{\"b\":1}","b":"x"}`},
		"an object as JSON":    {"field_json=/a", in(`{"b":1}`), 200, "", `{"a":{"b":1},"b":"x"}`},
		"bytes as text":        {"field=/a", in("\xff"), 422, "not_text", ""},
		"bytes as JSON":        {"field_json=/a", in("\"\xff\""), 422, "not_text", ""},
		"text as JSON":         {"field_json=/a", in("secret-text"), 422, "not_text", ""},
		"two values as JSON":   {"field_json=/a", in(`1,"b":2`), 422, "not_text", ""},
		"what is no envelope":  {"field=/b", in("x"), 400, "malformed_envelope", ""},
		"both, one is none":    {"field=/a&field=/b", in("x"), 400, "malformed_envelope", ""},
		"the same twice":       {"field=/a&field_json=/a", in("1"), 400, "bad_request", ""},
		"a value that is not":  {"field=/c", in("x"), 400, "bad_request", ""},
		"no JSON at all":       {"field=/a", b.seal(t, v.Public, "", "x"), 400, "bad_request", ""},
		"too many":             {strings.Repeat("field=/a&", 20) + strings.Repeat("field_json=/a&", 20), in("x"), 400, "bad_request", ""},
		"an empty exchange id": {"field=/a&exchange=", in("x"), 404, "exchange_unknown", ""},
	} {
		a := r.send(r.client, "POST", "/v1/partners/bank/decrypt?"+strings.TrimSuffix(c.query, "&"), c.body)
		if a.status != c.status || c.code != "" && a.problem(t).Code != c.code || c.want != "" && string(a.body) != c.want || strings.Contains(string(a.body), "secret-text") {
			t.Errorf("%s: got %d %s, want %d %s%s", name, a.status, a.body, c.status, c.code, c.want)
		}
	}
}
