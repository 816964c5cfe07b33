package rotation_test

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"keyd/internal/boundary"
	"keyd/internal/rotation/backendtest"
)

// powered is a backend whose effects the power can be cut at.
type powered struct {
	*backendtest.Memory
	power *power
}

func (b *powered) Generate(ctx context.Context, s boundary.Spec) (g boundary.Generated, err error) {
	err = b.power.do("generate", func() (err error) { g, err = b.Memory.Generate(ctx, s); return err })
	return g, err
}

func (b *powered) Discard(ctx context.Context, s boundary.Spec) error {
	return b.power.do("discard", func() error { return b.Memory.Discard(ctx, s) })
}

func (b *powered) Destroy(ctx context.Context, handle string) (gone bool, err error) {
	err = b.power.do("destroy", func() (err error) { gone, err = b.Memory.Destroy(ctx, handle); return err })
	return gone && err == nil, err
}

func (b *powered) Open(ctx context.Context, handle string, env *boundary.Envelope) (o *boundary.Opened, err error) {
	err = b.power.do("open", func() (err error) { o, err = b.Memory.Open(ctx, handle, env); return err })
	return o, err
}

// poweredKMS is a powered backend that disables keys and calls deletions off.
type poweredKMS struct {
	powered
	kms *backendtest.KMS
}

func (b *poweredKMS) Disable(ctx context.Context, handle string) error {
	return b.power.do("disable", func() error { return b.kms.Disable(ctx, handle) })
}

func (b *poweredKMS) Rescue(ctx context.Context, handle string, enable bool) error {
	return b.power.do("rescue", func() error { return b.kms.Rescue(ctx, handle, enable) })
}

// power can be cut at the nth effect on anything that outlives the daemon,
// either before the effect or after it, when only the answer is lost. From
// then on nothing has an effect any more.
type power struct {
	mu    sync.Mutex
	count int
	at    int // 0: never
	after bool
	cut   bool
	log   []string
	die   func() // ends the daemon
}

var errCut = errors.New("the power was cut")

func (p *power) do(what string, act func() error) error {
	p.mu.Lock()
	if p.cut {
		p.mu.Unlock()
		return errCut
	}
	p.count++
	p.log = append(p.log, what)
	p.cut = p.count == p.at
	cut, after := p.cut, p.after
	p.mu.Unlock()
	if !cut {
		return act()
	}
	if after {
		_ = act()
	}
	if p.die != nil {
		p.die()
	}
	return fmt.Errorf("%s: %w", what, errCut)
}

func (p *power) restore() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut, p.at = false, 0
}

// cutAfter arms the next cut n effects from now.
func (p *power) cutAfter(n int, after bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.at, p.after = p.count+n, after
}

func (p *power) dies(die func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.die = die
}

func (p *power) isCut() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cut
}
