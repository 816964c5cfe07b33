package partnersim_test

import (
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"keyd/internal/partner/partnersim"
)

func TestTokenAsDocumented(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // midnight, 1 January 2000
		c := direct(t, partnersim.New(partnersim.Options{TokenFormat: partnersim.TokenUUID}))
		a, err := c.tryLogin()
		must(t, err)
		for name, want := range map[string]any{
			"token_type": "bearer", "expires_in": 43199.0, "expires_at": "2000-01-01T11:59:59.000Z", "scope": "transfers",
		} {
			if got := a.field(t, name); got != want {
				t.Errorf("%s is %v, want %v", name, got, want)
			}
		}
		if uuid.Validate(c.token) != nil {
			t.Errorf("token %q is no UUID", c.token)
		}
	})
}

func TestTokenFormats(t *testing.T) {
	sizes := map[bool]int{}
	for _, format := range []string{"", partnersim.TokenEither} {
		c := direct(t, partnersim.New(partnersim.Options{TokenFormat: format}))
		for range 40 {
			c.login()
			long := len(c.token) > 3000 && strings.Count(c.token, ".") == 4
			if !long && (format == "" || len(c.token) != 36) {
				t.Fatalf("format %q: token %.60q (%d characters)", format, c.token, len(c.token))
			}
			sizes[long]++
		}
		if (sizes[false] > 0) != (format == partnersim.TokenEither) {
			t.Errorf("format %q: %v", format, sizes)
		}
	}
}

func TestTokenErrors(t *testing.T) {
	sim := partnersim.New(partnersim.Options{ClientID: "acme", ClientSecret: "s3cret"})
	c := direct(t, sim)
	form := "grant_type=client_credentials"
	for name, tc := range map[string]struct {
		header http.Header
		body   string
		status int
		want   string
	}{
		"no credentials":   {http.Header{"Content-Type": basic("", "")["Content-Type"]}, form, 401, `{"error":"invalid_grant","error_description":"Invalid user credentials."}`},
		"wrong secret":     {basic("acme", "other"), form, 401, `{"error":"invalid_grant","error_description":"Invalid user credentials."}`},
		"wrong client":     {basic("demo-client", "s3cret"), form, 401, `{"error":"invalid_grant","error_description":"Invalid user credentials."}`},
		"no grant type":    {basic("acme", "s3cret"), "", 400, `{"error":"invalid_request","error_description":"Missing grant type"}`},
		"bad form":         {basic("acme", "s3cret"), "grant_type=%zz", 400, `{"error":"invalid_request","error_description":"Missing grant type"}`},
		"other grant type": {basic("acme", "s3cret"), "grant_type=password", 400, `{"error":"unsupported_grant_type","error_description":"Unsupported grant type"}`},
		"JSON": {http.Header{"Authorization": basic("acme", "s3cret")["Authorization"], "Content-Type": {"application/json"}}, `{}`, 415,
			`{"errors":[{"code":"BAD_REQUEST","message":"Content-Type must be application/x-www-form-urlencoded","path":"Content-Type","arguments":["Content-Type"]}]}`},
	} {
		t.Run(name, func(t *testing.T) {
			if a := c.do("POST", "/oauth/token", tc.header, tc.body); a.status != tc.status || string(a.body) != tc.want {
				t.Errorf("got %d %s, want %d %s", a.status, a.body, tc.status, tc.want)
			}
		})
	}
	if a := c.do("POST", "/oauth/token", basic("acme", "s3cret"), form); a.status != 200 {
		t.Errorf("right credentials: %d %s", a.status, a.body)
	}
}

func TestTokenEndsWhenItSaidItWould(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sim := partnersim.New(partnersim.Options{TokenLifetime: 10 * time.Second})
		c := direct(t, sim).login()
		old := c.token
		time.Sleep(9 * time.Second)
		if a := c.do("GET", wiseKeyPath, nil, ""); a.status != 200 {
			t.Errorf("after 9 s: %d %s", a.status, a.body)
		}
		c.login() // early, as recommended: both are good
		time.Sleep(time.Second)
		if a := c.do("GET", wiseKeyPath, nil, ""); a.status != 200 {
			t.Errorf("the second token: %d", a.status)
		}
		a := c.do("GET", wiseKeyPath, http.Header{"Authorization": {"Bearer " + old}}, "")
		if a.status != 401 || a.field(t, "error") != "invalid_token" || a.field(t, "error_description") != old {
			t.Errorf("after 10 s: %d %.200s", a.status, a.body)
		}
		sim.ExpireTokens()
		if a := c.do("GET", wiseKeyPath, nil, ""); a.status != 401 {
			t.Errorf("after ExpireTokens: %d", a.status)
		}
	})
}

func TestEveryEndpointWantsAToken(t *testing.T) {
	c := direct(t, partnersim.New(partnersim.Options{}))
	for _, call := range []string{"POST " + uploadPath, "GET " + wiseKeyPath, "GET " + probePath, "POST " + probePath, "POST /v1/cases", "GET /v1/cases/1"} {
		method, path, _ := strings.Cut(call, " ")
		for _, auth := range []string{"", "Bearer", "Bearer ", "Basic eDp5", "Bearer " + uuid.NewString()} {
			if a := c.do(method, path, http.Header{"Authorization": {auth}}, ""); a.status != 401 {
				t.Errorf("%s with %q: %d", call, auth, a.status)
			}
		}
	}
}
