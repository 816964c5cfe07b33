package rotation_test

import (
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"strings"
	"testing"
	"time"

	"keyd/internal/audit"
	"keyd/internal/registry"
	"keyd/internal/rotation"
)

// pin lets a config of the world pin keys.
func pin(w *world, told *[]string, keys ...*rsa.PublicKey) func(*rotation.Config) {
	return func(c *rotation.Config) {
		p := c.Partners[partnerName]
		for _, key := range keys {
			p.Pins = append(p.Pins, fingerprint(w.t, key))
		}
		c.Partners[partnerName] = p
		c.PartnerKey = func(partner, what string) { *told = append(*told, partner+" "+what) }
	}
}

func fingerprint(t testing.TB, public *rsa.PublicKey) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:])
}

// What is pinned is sealed to, and nothing else, whatever the partner shows.
func TestOnlyPinnedKeysAreTaken(t *testing.T) {
	var told []string
	now, next, other := rsaKey(t, 2048), rsaKey(t, 2048), rsaKey(t, 2048)
	inWorld(t, func(w *world) {
		w.partner.theirs = now
		w.change = pin(w, &told, now, next)
	}, func(w *world) {
		first, err := w.engine.PartnerKey(w.t.Context(), partnerName)
		if err != nil {
			w.t.Fatal(err)
		}
		w.partner.set(func(p *partner) { p.theirs = other })
		for range 2 {
			if pk, _, err := w.engine.RefreshPartnerKey(w.t.Context(), operator, partnerName); !errors.Is(err, rotation.ErrNotPinned) {
				w.t.Errorf("RefreshPartnerKey: %+v, %v", pk, err)
			}
		}
		if _, changed, err := w.engine.PeekPartnerKey(w.t.Context(), partnerName); !changed || !errors.Is(err, rotation.ErrNotPinned) {
			w.t.Errorf("PeekPartnerKey: %v, %v", changed, err)
		}
		if pk, err := w.engine.PartnerKey(w.t.Context(), partnerName); err != nil || pk.Fingerprint != first.Fingerprint {
			w.t.Errorf("the pinned one is no longer used: %+v, %v", pk, err)
		}
		strange := fingerprint(w.t, other)
		for name, found := range map[string][]rotation.Finding{"Problems": w.engine.Problems(), "Check": w.engine.Check(w.t.Context())} {
			if f := finding(found, "partner_key_refused"); f.Subject != partnerName || f.Severity != rotation.Failure || !strings.Contains(f.Message, strange) {
				w.t.Errorf("%s say %+v", name, f)
			}
		}
		events := 0
		for _, e := range w.trail.all() {
			if e.Action == "partner.key-refused" && e.Detail["fingerprint"] == strange && e.Actor == operator {
				events++
			}
		}
		if events != 2 || w.outcomes("partner.fetch-key", audit.ResultFailed, "partner_key_not_pinned") != 2 {
			w.t.Errorf("%d events in the audit log", events)
		}
		w.partner.set(func(p *partner) { p.theirs = next })
		if pk, changed, err := w.engine.RefreshPartnerKey(w.t.Context(), operator, partnerName); err != nil || !changed {
			w.t.Errorf("another pinned one: %+v, %v, %v", pk, changed, err)
		}
		if f := finding(w.engine.Problems(), "partner_key_refused"); f.Code != "" {
			w.t.Errorf("it is over, and Problems say %+v", f)
		}
		if got := strings.Join(told, ", "); got != partnerName+" refused, "+partnerName+" refused, "+partnerName+" taken" {
			w.t.Errorf("told %s", got)
		}
		w.trail.fail(true)
		w.partner.set(func(p *partner) { p.theirs = other })
		if _, _, err := w.engine.RefreshPartnerKey(w.t.Context(), operator, partnerName); !errors.Is(err, rotation.ErrAudit) {
			w.t.Errorf("with a full audit log: %v", err)
		}
		w.trail.fail(false)
	})
}

// A key that was taken before it was pinned is sealed to no more.
func TestAStoredKeyThatIsNotPinnedIsNotUsed(t *testing.T) {
	var told []string
	before, next := rsaKey(t, 2048), rsaKey(t, 2048)
	inWorld(t, func(w *world) {
		w.partner.theirs = before
		w.change = pin(w, &told, next)
	}, func(w *world) {
		der, err := x509.MarshalPKIXPublicKey(before)
		if err != nil {
			w.t.Fatal(err)
		}
		if _, err := w.reg.SawPartnerKey(registry.PartnerKey{Partner: partnerName, Public: der}, time.Now()); err != nil {
			w.t.Fatal(err)
		}
		if pk, err := w.engine.PartnerKey(w.t.Context(), partnerName); !errors.Is(err, rotation.ErrNotPinned) || w.partner.fetches != 0 {
			w.t.Errorf("PartnerKey: %+v, %v", pk, err)
		}
		if f := finding(w.engine.Problems(), "partner_key_unpinned"); f.Subject != partnerName {
			w.t.Errorf("Problems say %+v", f)
		}
		w.partner.set(func(p *partner) { p.theirs = next })
		if _, _, err := w.engine.RefreshPartnerKey(w.t.Context(), operator, partnerName); err != nil {
			w.t.Errorf("RefreshPartnerKey: %v", err)
		}
		if f := finding(w.engine.Problems(), "partner_key_unpinned"); f.Code != "" {
			w.t.Errorf("it is over, and Problems say %+v", f)
		}
	})
}
