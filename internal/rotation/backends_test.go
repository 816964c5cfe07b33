package rotation_test

import (
	"context"
	"crypto/rsa"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"keyd/internal/audit"
	"keyd/internal/boundary"
	"keyd/internal/registry"
	"keyd/internal/rotation"
	"keyd/internal/rotation/backendtest"
)

func TestBackendFaultsInPairs(t *testing.T) {
	for _, op := range []string{"generate", "open", "public", "health"} {
		for _, after := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, after the effect %v", op, after), func(t *testing.T) {
				inWorld(t, func(w *world) {
					w.token.Inject(backendtest.Fault{Op: op, After: after, Times: 3})
				}, func(w *world) {
					w.create(weekly())
					if v := w.versions()[0]; v.State != registry.Pending {
						w.t.Errorf("it is %s while the backend fails", v.State)
					}
					w.pass(time.Hour)
					w.the(registry.Active)
				})
			})
		}
	}
	for _, after := range []bool{false, true} {
		t.Run(fmt.Sprintf("destroy, after the effect %v", after), func(t *testing.T) {
			inWorld(t, nil, func(w *world) {
				w.create(weekly())
				w.token.Inject(backendtest.Fault{Op: "destroy", After: after, Times: 3})
				w.pass(11 * aDay)
				if v := w.versions()[0]; v.State != registry.Destroyed || w.token.Calls("destroy") != 4 {
					w.t.Errorf("it is %s after %d calls", v.State, w.token.Calls("destroy"))
				}
			})
		})
	}
}

type wrong struct {
	*backendtest.Memory
	public func(p *rsa.PublicKey) any
	opened func(o *boundary.Opened)
}

func (b *wrong) Generate(ctx context.Context, s boundary.Spec) (boundary.Generated, error) {
	g, err := b.Memory.Generate(ctx, s)
	if err == nil && b.public != nil {
		g.Public = b.public(g.Public.(*rsa.PublicKey))
	}
	return g, err
}

func (b *wrong) Open(ctx context.Context, handle string, env *boundary.Envelope) (*boundary.Opened, error) {
	o, err := b.Memory.Open(ctx, handle, env)
	if err == nil && b.opened != nil {
		b.opened(o)
	}
	return o, err
}

func TestABadKeyPairIsNeverAnnounced(t *testing.T) {
	for name, b := range map[string]*wrong{
		"another public key":      {public: func(*rsa.PublicKey) any { return rsaKey(t, 2048) }},
		"a smaller key":           {public: func(*rsa.PublicKey) any { return rsaKey(t, 1024) }},
		"no RSA key":              {public: func(*rsa.PublicKey) any { return "key" }},
		"it opens to other bytes": {opened: func(o *boundary.Opened) { o.Plaintext[0] ^= 1 }},
		"it opens to less":        {opened: func(o *boundary.Opened) { o.Plaintext = o.Plaintext[1:] }},
		"it opens at no level":    {opened: func(o *boundary.Opened) { o.Level = "" }},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				b.Memory = w.token
				w.change = func(c *rotation.Config) { c.Backends = map[string]rotation.Backend{backendName: b} }
			}, func(w *world) {
				w.create(weekly())
				w.pass(aDay)
				if v := w.versions()[0]; v.State != registry.Pending || v.Retry.Tries < 3 || len(w.partner.known()) != 0 {
					w.t.Errorf("it is %s after %d tries, the partner has %v", v.State, v.Retry.Tries, w.partner.known())
				}
			})
		})
	}
}

func TestRunSurvivesASchedulePolicyThatCannotBeRead(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		if err := w.reg.PutKey(theKey(registry.Policy{Rotate: "garbage"})); err != nil {
			w.t.Fatal(err)
		}
		w.engine.Wake()
		w.pass(aDay)
		if f := finding(w.engine.Problems(), "stalled"); f.Subject != keyName {
			w.t.Errorf("Problems say %+v", f)
		}
	})
}

func TestAFailureThatCannotBeRecordedIsKeptInMemory(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		full := errors.New("no space left on device")
		calls := 0
		w.partner.down = func() error {
			calls++
			w.store.ail(full) // from here on, the registry cannot note the failed try
			return errors.New("503 " + strings.Repeat("ä", 400))
		}
		w.create(weekly())
		w.pass(5 * time.Hour)
		f := finding(w.engine.Problems(), "stalled")
		if f.Subject != keyName || len(f.Message) > 700 || !utf8.ValidString(f.Message) {
			w.t.Errorf("Problems say %+v", f)
		}
		if calls < 2 || calls > 60 {
			w.t.Errorf("%d tries in five hours", calls)
		}
		w.store.ail(nil)
		w.partner.set(func(p *partner) { p.down = nil })
		w.pass(2 * time.Hour)
		w.the(registry.Active)
	})
}

func TestAnAuditLogThatCannotBeReadDoesNotStopTheDaemon(t *testing.T) {
	inWorld(t, func(w *world) {
		w.change = func(c *rotation.Config) {
			c.AuditTail = func(context.Context) ([]audit.Entry, error) { return nil, errors.New("permission denied") }
		}
	}, func(w *world) {
		w.create(weekly())
		w.the(registry.Active)
	})
}

func TestAKeyLeftBehindByAnOlderConfig(t *testing.T) {
	for name, change := range map[string]func(*rotation.Config){
		"no backend": func(c *rotation.Config) { c.Backends = nil },
		"no partner": func(c *rotation.Config) { c.Partners = nil },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(w *world) {
				w.create(weekly())
				w.change = change
				w.restart()
				w.pass(5 * aDay) // Monday
				if _, err := w.engine.Rotate(w.t.Context(), operator, keyName, false); err == nil {
					w.t.Error("Rotate: want an error")
				}
				if n := len(w.versions()); n != 1 {
					w.t.Errorf("%d versions were begun for nothing", n-1)
				}
				w.change = nil
				w.restart()
				w.pass(time.Hour)
				if w.the(registry.Active).Number != 2 {
					w.t.Errorf("got %s", w.describe())
				}
			})
		})
	}
}
