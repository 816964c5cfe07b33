package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"keyd/client"
	"keyd/internal/boundary"
)

// TestEveryPlaceSaysTheLevelAtWhichAnEnvelopeIsOpened: the answer and the audit
// entry that of this one, status and metrics the best that the token has for its
// algorithm.
func TestEveryPlaceSaysTheLevelAtWhichAnEnvelopeIsOpened(t *testing.T) {
	for name, want := range map[string]struct {
		algorithm string
		best      boundary.Level
	}{
		"SoftHSM":      {boundary.RSAOAEP256, boundary.Raw},
		"SoftHSM-ECDH": {boundary.ECDHES, boundary.Unwrap},
		"NSS":          {boundary.RSAOAEP256, boundary.Sealed},
	} {
		t.Run(name, func(t *testing.T) {
			var r memoryRig
			memoryTokens[name](&r, t)
			admin := client.New(r.admin)
			transport := r.transport()
			defer transport.CloseIdleConnections()
			for _, enc := range []string{boundary.A256GCM, boundary.A256CBCHS512} {
				if status, _, level := r.open(t, transport, r.seal(t, 0, enc, 16).compact); status != http.StatusOK || level != string(r.levels[enc]) {
					t.Errorf("%s: status %d, opened at %q, want %s", enc, status, level, r.levels[enc])
				}
				if kid, level := lastDecrypt(t, admin); kid != r.kid || level != string(r.levels[enc]) {
					t.Errorf("%s: the audit log says %q, opened at %q, want %s", enc, kid, level, r.levels[enc])
				}
			}
			status, err := admin.Status(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if got := status.Backends[0].Levels[want.algorithm]; got != string(want.best) {
				t.Errorf("status says %q, want %s", got, want.best)
			}
			gauge := fmt.Sprintf(`keyd_backend_level{algorithm=%q,backend="hsm",level=%q} 1`, want.algorithm, want.best)
			if body := get(t, "http://"+r.metrics+"/metrics"); strings.Count(body, gauge) != 1 || strings.Count(body, fmt.Sprintf("keyd_backend_level{algorithm=%q", want.algorithm)) != 1 {
				t.Errorf("the metrics do not say %s alone", gauge)
			}
		})
	}
}

// lastDecrypt is what the audit log says of the last envelope: beside it, keyd
// records what it does by itself.
func lastDecrypt(t *testing.T, admin *client.Client) (kid, level string) {
	t.Helper()
	entries, err := admin.AuditTail(t.Context(), 20)
	if err != nil {
		t.Fatal(err)
	}
	for _, raw := range slices.Backward(entries) {
		var e struct {
			Action, KID string
			Detail      map[string]string
		}
		if err := json.Unmarshal(raw, &e); err != nil {
			t.Fatal(err)
		}
		if e.Action == "decrypt" {
			return e.KID, e.Detail["boundary"]
		}
	}
	t.Fatal("the audit log has no decrypt")
	return "", ""
}
