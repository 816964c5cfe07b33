package api_test

import (
	"bytes"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"keyd/client"
	"keyd/internal/api"
	"keyd/internal/boundary"
	"keyd/internal/registry"
)

// open does what the partner does with a sealed request.
func (p *partner) open(t testing.TB, compact string) (header map[string]any, plaintext string) {
	t.Helper()
	parts := strings.Split(compact, ".")
	if len(parts) != 5 {
		t.Fatalf("%q is no compact JWE", compact)
	}
	var b [5][]byte
	for i, part := range parts {
		var err error
		b[i], err = base64.RawURLEncoding.DecodeString(part)
		check(t, err)
	}
	check(t, json.Unmarshal(b[0], &header))
	cek, err := rsa.DecryptOAEP(sha256.New(), nil, p.private, b[1], nil)
	check(t, err)
	opened, err := boundary.OpenWithCEK(&boundary.Envelope{Alg: boundary.RSAOAEP256, Enc: enc, EncryptedKey: b[1], IV: b[2], Ciphertext: b[3], Tag: b[4], AAD: []byte(parts[0])}, cek, 1)
	check(t, err)
	return header, string(opened)
}

func TestARequestIsSealed(t *testing.T) {
	r := newRig(t)
	a := r.send(r.client, "POST", "/v1/partners/wise/encrypt?url=/v1/cases", "request", "Accept: application/json").wants(t, 200, "")
	var sealed client.Sealed
	check(t, json.Unmarshal(a.body, &sealed))
	header, plaintext := r.partner.open(t, sealed.JWE)
	want := map[string]any{"alg": "RSA-OAEP-256", "enc": enc, "kid": r.active.KID, "url": "/v1/cases"}
	if d := cmp.Diff(want, header); d != "" || plaintext != "request" {
		t.Errorf("got %q under\n%s", plaintext, d)
	}
	sealed.JWE = ""
	if d := cmp.Diff(client.Sealed{KID: r.active.KID, KeyID: "their-key", Headers: map[string]string{"X-Key": r.active.KID, "X-Method": "jwe"}}, sealed); d != "" {
		t.Error(d)
	}

	a = r.send(r.client, "POST", "/v1/partners/wise/encrypt", "x").wants(t, 200, "")
	header, plaintext = r.partner.open(t, string(a.body))
	if _, named := header["url"]; named || plaintext != "x" || a.header.Get("Content-Type") != "application/jose+json" ||
		a.header.Get("Keyd-Kid") != r.active.KID || a.header.Get("Keyd-Partner-Key") != "their-key" || a.header.Get("Cache-Control") != "no-store" {
		t.Errorf("got %q under %v and %v", plaintext, header, a.header)
	}
}

func TestARequestNamesOurKIDOnlyWhereThePartnerLooks(t *testing.T) {
	r := newRig(t, func(s *setup) { s.opener.Partners[0].KID = api.KIDNone })
	a := r.send(r.client, "POST", "/v1/partners/wise/encrypt", "x").wants(t, 200, "")
	if header, _ := r.partner.open(t, string(a.body)); header["kid"] != nil {
		t.Errorf("the JOSE header is %v", header)
	}
}

func TestARequestIsNotSealedWithoutAnActiveVersion(t *testing.T) {
	r := newRig(t)
	_, err := r.reg.Move([]registry.Move{{KID: r.active.KID, To: registry.Compromised}}, "test", "test", 1, time.Now())
	check(t, err)
	r.send(r.client, "POST", "/v1/partners/wise/encrypt", "x").wants(t, 409, "no_active")
	a := r.send(r.client, "GET", "/v1/partners/wise", "").wants(t, 200, "")
	if bytes.Contains(a.body, []byte(r.active.KID)) {
		t.Errorf("the partner is shown with a compromised kid: %s", a.body)
	}
}

func TestWhatCannotBeSealedIsRefused(t *testing.T) {
	r := newRig(t)
	for name, c := range map[string]struct {
		path, header string
		status       int
		code         string
	}{
		"a form":            {"/v1/partners/wise/encrypt", "Content-Type: multipart/form-data; boundary=x", 415, "unsupported_media"},
		"a form in capital": {"/v1/partners/wise/encrypt", "Content-Type: Multipart/Mixed", 415, "unsupported_media"},
		"a url too long":    {"/v1/partners/wise/encrypt?url=/" + strings.Repeat("x", 2048), "", 400, "bad_request"},
		"a url not Unicode": {"/v1/partners/wise/encrypt?url=/%ff", "", 400, "bad_request"},
		"a url with quotes": {"/v1/partners/wise/encrypt?url=/" + strings.Repeat("%22", 2047), "", 400, "bad_request"},
		"a url of a host":   {"/v1/partners/wise/encrypt?url=https://evil.example/v1", "", 400, "bad_request"},
		"a url to a host":   {"/v1/partners/wise/encrypt?url=//evil.example/v1", "", 400, "bad_request"},
		"a relative url":    {"/v1/partners/wise/encrypt?url=v1/cases", "", 400, "bad_request"},
		"an empty url":      {"/v1/partners/wise/encrypt?url=", "", 400, "bad_request"},
		"a url with a line": {"/v1/partners/wise/encrypt?url=/v1%0acases", "", 400, "bad_request"},
		"a url in Unicode":  {"/v1/partners/wise/encrypt?url=/f%C3%A4lle", "", 400, "bad_request"},
		"a url that is bad": {"/v1/partners/wise/encrypt?url=/%25zz", "", 400, "bad_request"},
		"refetch=maybe":     {"/v1/partners/wise/encrypt?refetch=maybe", "", 400, "bad_request"},
		"unknown partner":   {"/v1/partners/nobody/encrypt", "", 404, "not_found"},
		"no key of theirs":  {"/v1/partners/venly/encrypt", "", 409, "no_partner_key"},
		"form to decrypt":   {"/v1/partners/wise/decrypt", "Content-Type: multipart/form-data; boundary=x", 415, "unsupported_media"},
		"decrypt for none":  {"/v1/partners/nobody/decrypt", "", 404, "not_found"},
		"show none":         {"/v1/partners/nobody", "", 405, "method_not_allowed"},
	} {
		t.Run(name, func(t *testing.T) {
			headers := []string{}
			if c.header != "" {
				headers = append(headers, c.header)
			}
			r.send(r.client, "POST", c.path, "x", headers...).wants(t, c.status, c.code)
		})
	}
	r.send(r.client, "GET", "/v1/partners/nobody", "").wants(t, 404, "not_found")
	r.send(r.client, "POST", "/v1/partners/wise/encrypt", "").wants(t, 400, "bad_request")
	r.send(r.client, "POST", "/v1/partners/wise/encrypt?url=/"+strings.Repeat("x", 2047), "x").wants(t, 200, "")
	r.send(r.client, "POST", "/v1/partners/wise/encrypt?url=/v1/a%3Fb=%2520c%26d=1", "x").wants(t, 200, "")
	// curl says this of whatever it sends.
	r.send(r.client, "POST", "/v1/partners/wise/encrypt", "x", "Content-Type: application/x-www-form-urlencoded").wants(t, 200, "")
}

func TestTheirKeyIsFetchedOnceAndAfreshAtMostEvery30Seconds(t *testing.T) {
	r := newRig(t)
	encrypt := func(query string) answer {
		return r.send(r.client, "POST", "/v1/partners/wise/encrypt"+query, "x")
	}
	for range 5 {
		encrypt("").wants(t, 200, "")
	}
	if n := r.partner.fetches(); n != 1 {
		t.Errorf("their key was fetched %d times, want once", n)
	}
	for range 5 {
		encrypt("?refetch=true").wants(t, 200, "")
	}
	if n := r.partner.fetches(); n != 2 {
		t.Errorf("their key was fetched %d times, want once more", n)
	}
}

// refusal is what a partner's error looks like.
type refusal struct{ after time.Duration }

func (refusal) Error() string               { return "wise: key: HTTP 429" }
func (r refusal) RetryAfter() time.Duration { return r.after }

func TestAPartnersFailureIsPassedOn(t *testing.T) {
	r := newRig(t)
	r.partner.fails(fmt.Errorf("asking: %w", refusal{1500 * time.Millisecond}))
	a := r.send(r.client, "POST", "/v1/partners/wise/encrypt", "x").wants(t, 502, "partner_error")
	if p := a.problem(t); a.header.Get("Retry-After") != "2" || !strings.Contains(p.Detail, "HTTP 429") {
		t.Errorf("got %v %+v", a.header, p)
	}
	r.send(r.admin, "POST", "/v1/partners/wise/refresh", "").wants(t, 502, "partner_error")
	r.partner.fails(errors.New("no route to host"))
	a = r.send(r.client, "POST", "/v1/partners/wise/encrypt?refetch=true", "x").wants(t, 502, "partner_error")
	if got := a.header.Get("Retry-After"); got != "" {
		t.Errorf("got Retry-After %q", got)
	}
	r.partner.fails(nil)
	r.send(r.client, "POST", "/v1/partners/wise/encrypt", "x").wants(t, 200, "")
}

func TestAPartnerIsShownWithWhatToSend(t *testing.T) {
	calls := []client.Allowed{{Methods: []string{"GET"}, Paths: []string{"/v1/"}}}
	r := newRig(t, func(s *setup) { s.opener.Partners[0].Calls = calls })
	r.send(r.client, "POST", "/v1/partners/wise/encrypt", "x").wants(t, 200, "")
	for _, on := range []string{"client", "admin"} {
		var p client.Partner
		check(t, json.Unmarshal(r.send(r.where(on), "GET", "/v1/partners/wise", "").wants(t, 200, "").body, &p))
		if p.Key == nil || !strings.HasPrefix(p.Key.PublicPEM, "-----BEGIN PUBLIC KEY-----") || len(p.Key.Fingerprint) != 64 {
			t.Fatalf("got %+v", p)
		}
		p.Key = nil
		want := client.Partner{Name: "wise", Type: "wise", ActiveKID: r.active.KID, Algs: []string{"RSA-OAEP-256"}, Encs: []string{enc}, Calls: calls,
			Headers: map[string]string{"X-Key": r.active.KID, "X-Method": "jwe"}, GetHeaders: map[string]string{"X-Key": r.active.KID}}
		if d := cmp.Diff(want, p); d != "" {
			t.Error(d)
		}
	}
	if a := r.send(r.client, "GET", "/v1/partners/"+url.PathEscape("a/../wise"), ""); a.status != 404 {
		t.Errorf("got %d %s", a.status, a.body)
	}
}
