package rotation_test

import (
	"context"
	"crypto/x509"
	"errors"
	"sync"
	"testing"
	"time"

	"keyd/internal/audit"
	"keyd/internal/registry"
	"keyd/internal/rotation"
)

func TestThePartnersKeyIsFetchedOnceAndKept(t *testing.T) {
	inWorld(t, func(w *world) { w.partner.theirs, w.partner.version = rsaKey(w.t, 2048), 3 }, func(w *world) {
		for range 3 {
			pk, err := w.engine.PartnerKey(w.t.Context(), partnerName)
			if err != nil || pk.Version != 3 || pk.ID != "id" || pk.Algorithm != "RSA_OAEP_256" {
				w.t.Fatalf("PartnerKey = %+v, %v", pk, err)
			}
			if got, err := x509.ParsePKIXPublicKey(pk.Public); err != nil || !w.partner.theirs.Equal(got) {
				w.t.Errorf("its public key is %v, %v", got, err)
			}
		}
		w.restart()
		if _, err := w.engine.PartnerKey(w.t.Context(), partnerName); err != nil || w.partner.fetches != 1 {
			w.t.Errorf("%v after %d fetches, want one", err, w.partner.fetches)
		}
	})
}

func TestFetchesAtTheSameTimeAreOne(t *testing.T) {
	inWorld(t, func(w *world) { w.partner.theirs, w.partner.wait = rsaKey(w.t, 2048), time.Second }, func(w *world) {
		ctx, cancel := context.WithCancel(w.t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := w.engine.PartnerKey(ctx, partnerName); !errors.Is(err, context.Canceled) {
				w.t.Errorf("the first, who went away: %v", err)
			}
		})
		time.Sleep(time.Millisecond)
		for range 50 {
			wg.Go(func() {
				if _, err := w.engine.PartnerKey(w.t.Context(), partnerName); err != nil {
					w.t.Errorf("PartnerKey: %v", err)
				}
			})
		}
		time.Sleep(time.Millisecond)
		cancel()
		wg.Wait()
		if w.partner.fetches != 1 {
			w.t.Errorf("%d fetches, want one", w.partner.fetches)
		}
	})
}

func TestPeekStoresNothing(t *testing.T) {
	inWorld(t, func(w *world) { w.partner.theirs = rsaKey(w.t, 2048) }, func(w *world) {
		pk, changed, err := w.engine.PeekPartnerKey(w.t.Context(), partnerName)
		if err != nil || changed || pk.Fingerprint == "" {
			w.t.Fatalf("the first: %+v, %v, %v", pk, changed, err)
		}
		if _, err := w.reg.PartnerKey(partnerName); !errors.Is(err, registry.ErrNotFound) {
			w.t.Errorf("it was stored: %v", err)
		}
		stored, err := w.engine.PartnerKey(w.t.Context(), partnerName)
		w.must(err)
		w.partner.set(func(p *partner) { p.theirs = rsaKey(w.t, 3072) })
		if pk, changed, err = w.engine.PeekPartnerKey(w.t.Context(), partnerName); err != nil || !changed || pk.Fingerprint == stored.Fingerprint {
			w.t.Errorf("another one: %+v, %v, %v", pk, changed, err)
		}
		if still, _ := w.reg.PartnerKey(partnerName); still.Fingerprint != stored.Fingerprint {
			w.t.Error("the other one was stored")
		}
		if _, _, err := w.engine.PeekPartnerKey(w.t.Context(), "nobody"); !errors.Is(err, rotation.ErrNoPartner) {
			w.t.Errorf("of nobody: %v", err)
		}
	})
}

func TestAChangedPartnerKeyIsNoticed(t *testing.T) {
	inWorld(t, func(w *world) { w.partner.theirs = rsaKey(w.t, 2048) }, func(w *world) {
		refresh := func() (registry.PartnerKey, bool) {
			w.t.Helper()
			pk, changed, err := w.engine.RefreshPartnerKey(w.t.Context(), operator, partnerName)
			if err != nil {
				w.t.Fatalf("RefreshPartnerKey: %v", err)
			}
			return pk, changed
		}
		first, changed := refresh()
		if changed {
			w.t.Error("the first key is no change")
		}
		w.pass(30 * aDay)
		if again, changed := refresh(); changed || !again.FirstSeen.Equal(first.FirstSeen) || !again.LastSeen.After(first.LastSeen) {
			w.t.Errorf("the same key: %+v, %v", again, changed)
		}
		if f := finding(w.engine.Problems(), "partner_key_changed"); f.Code != "" {
			w.t.Errorf("Problems say %+v", f)
		}
		w.partner.set(func(p *partner) { p.theirs = rsaKey(w.t, 3072) })
		second, changed := refresh()
		if !changed || second.Fingerprint == first.Fingerprint {
			w.t.Errorf("another key: %+v, %v", second, changed)
		}
		if f := finding(w.engine.Problems(), "partner_key_changed"); f.Subject != partnerName {
			w.t.Errorf("Problems say %+v", f)
		}
		events := 0
		for _, e := range w.trail.all() {
			if e.Action == "partner.key-changed" && e.Actor == operator && e.Detail["fingerprint"] == second.Fingerprint && e.Detail["before"] == first.Fingerprint {
				events++
			}
		}
		if events != 1 {
			w.t.Errorf("%d events in the audit log, want one", events)
		}
		w.pass(8 * aDay)
		if f := finding(w.engine.Problems(), "partner_key_changed"); f.Code != "" {
			w.t.Errorf("a week later Problems still say %+v", f)
		}
	})
}

func TestAPartnersKeyThatCannotBeHad(t *testing.T) {
	inWorld(t, func(w *world) {
		w.change = func(c *rotation.Config) { c.Partners["mute"] = rotation.Partner{} }
	}, func(w *world) {
		for name, c := range map[string]struct {
			partner string
			prepare func(p *partner)
			want    error
		}{
			"an unknown partner":        {"acme", func(*partner) {}, rotation.ErrNoPartner},
			"a partner without an API":  {"mute", func(*partner) {}, rotation.ErrNoPartnerKey},
			"a partner that is down":    {partnerName, func(p *partner) { p.down = func() error { return errDown } }, errDown},
			"a partner that hangs":      {partnerName, func(p *partner) { p.wait = time.Hour }, context.DeadlineExceeded},
			"a key that is too small":   {partnerName, func(p *partner) { p.theirs = rsaKey(w.t, 1024) }, rotation.ErrInvalid},
			"no key":                    {partnerName, func(*partner) {}, rotation.ErrInvalid},
			"an audit log that is full": {partnerName, func(p *partner) { p.theirs = rsaKey(w.t, 2048); w.trail.fail(true) }, rotation.ErrAudit},
		} {
			w.partner.set(func(p *partner) { p.down, p.wait, p.theirs = nil, 0, nil; c.prepare(p) })
			if pk, err := w.engine.PartnerKey(w.t.Context(), c.partner); !errors.Is(err, c.want) {
				w.t.Errorf("%s: %+v, %v, want %v", name, pk, err, c.want)
			}
			w.trail.fail(false)
		}
		if w.outcomes("partner.fetch-key", audit.ResultFailed, "invalid") != 2 {
			w.t.Error("a refused key left no outcome in the audit log")
		}
		if keys := w.reg.PartnerKeys(partnerName); len(keys) != 0 {
			w.t.Errorf("stored nevertheless: %v", keys)
		}
	})
}

var errDown = errors.New("down")
