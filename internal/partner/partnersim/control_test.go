package partnersim_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"keyd/internal/partner/partnersim"
)

func TestControl(t *testing.T) {
	sim := partnersim.New(partnersim.Options{})
	c := served(t, sim).login()
	id := c.day(0)
	if a := c.do("POST", "/sim/faults", nil, `{"endpoint":"playground-get","kind":"error","status":503,"times":2}`); a.status != 201 {
		t.Fatalf("arming: %d %s", a.status, a.body)
	}
	if a := c.do("POST", "/sim/faults", nil, `{"endpoint":"upload","kind":"delay","delay":"2s","after":true}`); a.status != 201 {
		t.Fatalf("arming: %d %s", a.status, a.body)
	}
	if a := c.do("POST", "/sim/faults", nil, `{"endpoint":"any","kind":"rate-limit","retry_after":"9s","times":2}`); a.status != 201 {
		t.Fatalf("arming: %d %s", a.status, a.body)
	}
	if a := c.probe(); a.status != 503 {
		t.Errorf("struck: %d", a.status)
	}
	c.do("GET", "/nowhere", nil, "") // any includes paths that are none
	if a := c.do("POST", "/sim/rotate-key/wise", nil, ""); a.status != 201 || a.field(t, "version") != 2.0 {
		t.Errorf("rotating: %d %s", a.status, a.body)
	}
	var st struct {
		Uploads []struct {
			KeyID  string `json:"key_id"`
			Usable bool
		}
		Keys   map[string][]struct{ Version int }
		Tokens int
		Faults []struct {
			Endpoint, Kind, Delay string
			RetryAfter            string `json:"retry_after"`
			After                 bool
			Times                 int
		}
		Calls map[string]int
	}
	state := func() {
		t.Helper()
		a := c.do("GET", "/sim/state", nil, "")
		if err := json.Unmarshal(a.body, &st); err != nil || a.status != 200 {
			t.Fatalf("state: %d %s", a.status, a.body)
		}
	}
	state()
	if len(st.Uploads) != 1 || st.Uploads[0].KeyID != id || !st.Uploads[0].Usable || len(st.Keys["wise"]) != 2 || st.Tokens != 1 {
		t.Errorf("state: %+v", st)
	}
	if len(st.Faults) != 3 || st.Faults[0].Times != 1 || st.Faults[1].Delay != "2s" || !st.Faults[1].After || st.Faults[2].RetryAfter != "9s" {
		t.Errorf("faults: %+v", st.Faults)
	}
	if st.Calls["upload"] != 1 || st.Calls["playground-get"] != 1 || st.Calls["unknown"] != 1 {
		t.Errorf("calls: %v", st.Calls)
	}
	var log []map[string]any
	must(t, json.Unmarshal(c.do("GET", "/sim/requests", nil, "").body, &log))
	if len(log) != 4 || log[1]["endpoint"] != "upload" || log[1]["key_id"] != id {
		t.Errorf("requests: %v", log)
	}
	for call, want := range map[string]int{
		"DELETE /sim/faults": 204, "POST /sim/release": 204, "POST /sim/expire-tokens": 204,
		"POST /sim/keys/" + id + "/revoke": 204, "POST /sim/keys/x/revoke": 404, "GET /sim/nothing": 404, "GET /sim/faults": 404,
	} {
		method, path, _ := strings.Cut(call, " ")
		if a := c.do(method, path, nil, ""); a.status != want {
			t.Errorf("%s: %d %s, want %d", call, a.status, a.body, want)
		}
	}
	if a := c.do("POST", "/sim/clock", nil, `{"offset":"48h"}`); a.status != 200 {
		t.Errorf("clock: %d %s", a.status, a.body)
	}
	state()
	if len(st.Faults) != 0 || st.Tokens != 0 || st.Uploads[0].Usable {
		t.Errorf("state in the end: %+v", st)
	}
}

func TestControlRefusesWhatItDoesNotUnderstand(t *testing.T) {
	sim := partnersim.New(partnersim.Options{})
	c := direct(t, sim)
	for path, bodies := range map[string][]string{
		"/sim/faults": {``, `[]`, `{"endpoint":"any","kind":"close","count":2}`, `{"endpoint":"any","kind":"nonsense"}`,
			`{"endpoint":"any","kind":"delay","delay":"soon"}`, `{"endpoint":"any","kind":"rate-limit","retry_after":5}`,
			`{"endpoint":"any","kind":"rate-limit","retry_after":"5"}`},
		"/sim/clock": {``, `{"offset":"tomorrow"}`, `{"offset":3}`},
	} {
		for _, body := range bodies {
			if a := c.do("POST", path, nil, body); a.status != 400 || a.field(t, "error") == "" {
				t.Errorf("%s %s: %d %s", path, body, a.status, a.body)
			}
		}
	}
	if left := sim.Faults(); len(left) != 0 {
		t.Errorf("armed: %+v", left)
	}
}

func TestControlAnswersThisHostOnly(t *testing.T) {
	sim := partnersim.New(partnersim.Options{})
	for addr, want := range map[string]int{"127.0.0.1:4": 200, "[::1]:4": 200, "192.0.2.7:4": 403, "": 403} {
		r := httptest.NewRequest("GET", "/sim/state", nil)
		r.RemoteAddr = addr
		w := httptest.NewRecorder()
		sim.ServeHTTP(w, r)
		if w.Code != want {
			t.Errorf("from %q: %d, want %d", addr, w.Code, want)
		}
	}
	r := httptest.NewRequest("GET", "/v1/cases/1", http.NoBody)
	w := httptest.NewRecorder()
	if sim.ServeHTTP(w, r); w.Code != 401 {
		t.Errorf("Wise itself, from elsewhere: %d", w.Code)
	}
}

func TestOptionsAreChecked(t *testing.T) {
	for _, o := range []partnersim.Options{
		{}, {TokenFormat: "uuid", ResponseKID: "header:X-Key", Unnamed: "random", DuplicateUpload: 500, ConflictUpload: 400},
	} {
		if err := o.Validate(); err != nil {
			t.Errorf("%+v: %v", o, err)
		}
	}
	for _, o := range []partnersim.Options{
		{ClientID: "a"}, {ClientSecret: "b"}, {ClientID: "a:b", ClientSecret: "c"}, {TokenFormat: "short"},
		{TokenLifetime: 10 * time.Millisecond}, {TokenLifetime: -1}, {ResponseKID: "header:"}, {ResponseKID: "header:X Key"},
		{ResponseKID: "cookie"}, {Unnamed: "best"}, {ActivationLag: -1}, {DuplicateUpload: 200}, {ConflictUpload: 500},
	} {
		if err := o.Validate(); err == nil {
			t.Errorf("%+v is accepted", o)
		}
	}
	err := partnersim.Options{TokenFormat: "short", Unnamed: "best"}.Validate()
	if err == nil || !strings.Contains(err.Error(), "TokenFormat") || !strings.Contains(err.Error(), "Unnamed") {
		t.Errorf("not everything is said at once: %v", err)
	}
	defer func() {
		if recover() == nil {
			t.Error("New takes options that Validate refuses")
		}
	}()
	partnersim.New(partnersim.Options{Unnamed: "best"})
}
