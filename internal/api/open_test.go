package api_test

import (
	"testing"
)

func TestAnEnvelopeOpens(t *testing.T) {
	r := newRig(t)
	a := r.decrypt(r.seal(r.active, []byte("statement"), nil)).wants(t, 200, "")
	if string(a.body) != "statement" || a.header.Get("Keyd-Kid") != r.active.KID || a.header.Get("Keyd-Boundary") != "unwrap" ||
		a.header.Get("Cache-Control") != "no-store" || a.header.Get("Content-Type") != "application/octet-stream" || a.header.Get("Keyd-Request-Id") == "" {
		t.Errorf("got %q %v", a.body, a.header)
	}
}
