package hsm_test

import (
	"context"
	"testing"
	"time"

	"github.com/miekg/pkcs11"

	"keyd/internal/hsm"
)

// opening opens a token and stops where both are in the module: what finds out
// what the token can do, with a throw-away key made, and what looks for keys.
// Observe says when the latter has come back.
func opening(t *testing.T, cfg hsm.Config, f *faulty) (opened <-chan *hsm.Token, swept <-chan struct{}) {
	t.Helper()
	looked, came := make(chan struct{}, 10), make(chan *hsm.Token, 1)
	cfg.Observe = func(op string, _, _ time.Duration, _ error) {
		if op == "sweep" {
			looked <- struct{}{}
		}
	}
	f.forget()
	f.fail("C_FindObjectsInit hang", "C_SignInit hang")
	go func() {
		token, err := hsm.Open(context.WithoutCancel(t.Context()), cfg)
		if err != nil {
			t.Errorf("Open: %v", err)
		}
		came <- token
	}()
	eventually(t, "both to be in the module", func() bool { return f.calls("C_FindObjectsInit") > 0 && f.calls("C_SignInit") > 0 })
	return came, looked
}

// arrived is the token that opening has opened.
func arrived(t *testing.T, opened <-chan *hsm.Token) *hsm.Token {
	t.Helper()
	token := <-opened
	if token == nil {
		t.FailNow()
	}
	t.Cleanup(func() { must(t, token.Close()) })
	return token
}

// A key that the start throws away is no key of the token's, though whoever looks
// for keys meanwhile sees it: it would be missed afterwards.
func TestThrowAwayKeyIsNotTakenForOneOfTheTokens(t *testing.T) {
	cfg := softHSM(t)
	f := withFaults(t, &cfg)
	opened, swept := opening(t, cfg, f)
	f.fail("C_SignInit hang")
	<-swept
	ctx, slot, _ := initialised(t, cfg)
	session(t, ctx, slot, func(s pkcs11.SessionHandle) {
		must(t, ctx.FindObjectsInit(s, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PRIVATE_KEY)}))
		found, _, err := ctx.FindObjects(s, 10)
		must(t, err)
		must(t, ctx.FindObjectsFinal(s))
		if len(found) != 1 {
			t.Errorf("%d private keys are there at this moment, want the throw-away one", len(found))
		}
	})
	f.heal()
	token := arrived(t, opened)
	if h := token.Health(t.Context()); h.Err != "" {
		t.Errorf("Health misses a key: %s", h.Err)
	}
	all, err := token.List(t.Context())
	must(t, err)
	if len(all) != 0 {
		t.Errorf("List = %d keys in a token that has none", len(all))
	}
}

// A session that is lost while both are in the module is lost to both, and they
// log in once.
func TestSessionsLostDuringTheStartAreMadeGoodByOneLogin(t *testing.T) {
	cfg := softHSM(t)
	f := withFaults(t, &cfg)
	broken := brokenTo(&cfg)
	before, err := hsm.Open(t.Context(), cfg)
	must(t, err)
	g := generate(t, before)
	must(t, before.Close())
	opened, _ := opening(t, cfg, f)
	ctx, slot, _ := initialised(t, cfg)
	must(t, ctx.CloseAllSessions(slot))
	f.forget()
	f.heal()
	token := arrived(t, opened)
	if n := f.calls("C_Login"); n != 1 {
		t.Errorf("%d logins after the loss, want 1", n)
	}
	opens(t, token, g)
	foundWell(t, token)
	isWell(t, broken)
}
