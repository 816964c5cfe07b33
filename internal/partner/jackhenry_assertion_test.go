package partner_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/go-cmp/cmp"

	"keyd/internal/partner"
	"keyd/internal/partner/partnersim"
)

func TestClientAssertionIsTheDocumentedOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		seen := map[string]bool{}
		check := func(w http.ResponseWriter, r *http.Request) {
			var body bytes.Buffer
			_, _ = body.ReadFrom(r.Body)
			form := must(url.ParseQuery(body.String()))
			jws := must(jose.ParseSignedCompact(form.Get("client_assertion"), []jose.SignatureAlgorithm{jose.PS256}))
			payload := must(jws.Verify(&rsaKey().PublicKey))
			form.Del("client_assertion")
			want := url.Values{"grant_type": {"client_credentials"}, "scope": {"openid"},
				"client_assertion_type": {"urn:ietf:params:oauth:client-assertion-type:jwt-bearer"}}
			if diff := cmp.Diff(want, form); diff != "" {
				t.Error(diff)
			}
			var claims map[string]any
			if err := json.Unmarshal(payload, &claims); err != nil {
				t.Error(err)
			}
			jti, _ := claims["jti"].(string)
			if len(jti) != 36 || seen[jti] {
				t.Errorf("jti %q", jti)
			}
			seen[jti] = true
			delete(claims, "jti")
			wantClaims := map[string]any{"iss": partnersim.DemoJackHenryClientID, "sub": partnersim.DemoJackHenryClientID,
				"aud": "https://partner.example" + jhToken, "exp": float64(time.Now().Add(time.Minute).Unix())}
			if diff := cmp.Diff(wantClaims, claims); diff != "" {
				t.Error(diff)
			}
			if h := jws.Signatures[0].Protected; h.KeyID != testKID || h.ExtraHeaders["typ"] != "JWT" {
				t.Errorf("header %+v", h)
			}
			reply(w, 200, `{"access_token":"token-1","expires_in":300}`)
		}
		h := &wire{Handler: routes{"POST " + jhToken: check, "GET " + jhKey: always(200, toJSON(map[string]string{"publicKey": spki(&ecKey().PublicKey), "keyId": "k"}))}}
		j := jackHenry(t, h, &ps256{key: rsaKey(), kid: testKID})
		for range 3 {
			if _, _, _, _, err := j.FetchKey(t.Context()); err != nil {
				t.Fatal(err)
			}
			time.Sleep(4 * time.Minute)
		}
		if len(seen) != 2 {
			t.Errorf("%d assertions made for tokens of five minutes, want 2", len(seen))
		}
	})
}

func TestAssertionFollowsTheSigningKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sim, j, signer := jhSim(t, partnersim.Options{})
		fetch := func() error {
			_, _, _, _, err := j.FetchKey(t.Context())
			return err
		}
		if err := fetch(); err != nil {
			t.Fatal(err)
		}
		// The key has moved on, the partner has not heard of it yet.
		signer.kid, signer.key = secondKID, otherRSA()
		sim.ExpireTokens()
		err := fetch()
		e, ok := errors.AsType[*partner.Error](err)
		if !ok || !errors.Is(e, partner.ErrCredentials) || e.Status != 401 || e.RetryAfter() == 0 || e.Temporary() {
			t.Errorf("got %v", err)
		}
		// The refusal holds for this key, and not for the next.
		asked := sim.Count(partnersim.EndpointJackHenryToken)
		if err := fetch(); !errors.Is(err, partner.ErrCredentials) || sim.Count(partnersim.EndpointJackHenryToken) != asked {
			t.Errorf("got %v after %d more questions", err, sim.Count(partnersim.EndpointJackHenryToken)-asked)
		}
		signer.kid = "third"
		sim.RegisterJWKS(func() ([]byte, error) {
			return json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{
				{Key: &rsaKey().PublicKey, KeyID: testKID, Use: "sig"}, {Key: &signer.key.PublicKey, KeyID: "third", Use: "sig"}}})
		})
		if err := fetch(); err != nil {
			t.Error(err)
		}
	})
}

func TestABackendThatCannotSignIsNoRefusal(t *testing.T) {
	h := &wire{Handler: routes{}}
	for name, err := range map[string]error{"away": errors.New("the token is away"), "nothing": nil} {
		signer := &ps256{err: err}
		j := jackHenry(t, h, signer, func(c *partner.JackHenryConfig) {
			if err == nil {
				c.Signer = func(context.Context) (string, func([]byte) ([]byte, error), error) {
					return "k", func([]byte) ([]byte, error) { return nil, nil }, nil
				}
			}
		})
		_, _, _, _, got := j.FetchKey(t.Context())
		e, ok := errors.AsType[*partner.Error](got)
		if !ok || e.Op != "token" || !e.Temporary() || errors.Is(e, partner.ErrCredentials) || !strings.Contains(e.Error(), "signing the client assertion") {
			t.Errorf("%s: got %v", name, got)
		}
	}
	if len(h.seen) != 0 {
		t.Errorf("asked %v", h.seen)
	}
}
