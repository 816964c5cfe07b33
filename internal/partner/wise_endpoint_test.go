package partner_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"keyd/internal/partner"
)

func TestWisesProfileIsWhatTheConfigSays(t *testing.T) {
	want := partner.Profile{Type: "wise", Form: partner.FormBody, SealAlg: "RSA-OAEP-256", SealEnc: "A256GCM", KID: partner.KIDOurs, URLHeader: true,
		ReplyAlgs: []string{"RSA-OAEP-256"}, ReplyEncs: []string{"A256GCM"}, OurKey: partner.OurKeyUploaded, Playground: true}
	if diff := cmp.Diff(want, open(t, routes{}).Profile()); diff != "" {
		t.Error(diff)
	}
	want.KID, want.SealEnc, want.ReplyEncs = partner.KIDNone, "A128GCM", []string{"A128GCM", "A256GCM"}
	h := open(t, routes{}, func(c *partner.WiseConfig) {
		c.ResponseKID.In, c.SealEnc, c.ReplyEncs = partner.KIDNowhere, "A128GCM", []string{"A128GCM", "A256GCM"}
	})
	if diff := cmp.Diff(want, h.Profile()); diff != "" {
		t.Error(diff)
	}
}

func TestWhichEndpointsReplyUnderTheRequestsOwnKey(t *testing.T) {
	for _, tc := range []struct {
		path, want string
		change     func(*partner.WiseConfig)
	}{
		{"/v1/user/pin", partner.DirectAlways, nil},
		{"/v1/one-time-token/pin/verify", partner.DirectAlways, nil},
		{"/v1/auth/jose/playground/jwe-direct-encryption", partner.DirectAlways, nil},
		{"/v1/auth/jose/playground/jwe", partner.DirectNever, nil},
		{"/v2/profiles/17/pin", partner.DirectMaybe, nil},
		{"/v2/profiles/17/pin/verify", partner.DirectMaybe, nil},
		{"/v2/profiles/17/device-fingerprints/verify", partner.DirectMaybe, nil},
		{"/v2/profiles/17", partner.DirectNever, nil},
		{"/v1/cases", partner.DirectNever, nil},
		{"/v1/user/pin", partner.DirectNever, func(c *partner.WiseConfig) { c.Direct = []string{"/v1/cases"} }},
		{"/v1/cases", partner.DirectAlways, func(c *partner.WiseConfig) { c.Direct = []string{"/v1/cases"} }},
		{"/v1/cases/1", partner.DirectMaybe, func(c *partner.WiseConfig) { c.DirectMaybe = []string{"/v1/cases/"} }},
	} {
		change := tc.change
		if change == nil {
			change = func(*partner.WiseConfig) {}
		}
		w := open(t, routes{}, change)
		for _, method := range []string{"GET", "DELETE"} {
			if e := w.Endpoint(method, tc.path); e.Direct != partner.DirectNever || len(e.Header) > 0 {
				t.Errorf("%s %s: got %+v", method, tc.path, e)
			}
		}
		e := w.Endpoint("POST", tc.path)
		if e.Direct != tc.want {
			t.Errorf("%s: got %s, want %s", tc.path, e.Direct, tc.want)
		}
		if got := e.Header.Get("Content-Encoding"); (got == "identity") != (tc.want != partner.DirectNever) {
			t.Errorf("%s: Content-Encoding %q", tc.path, got)
		}
	}
}
