package rotation_test

import (
	"context"
	"crypto"
	"crypto/rsa"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"keyd/internal/boundary"
)

// upload is a public key as the partner has it.
type upload struct {
	public     *rsa.PublicKey
	from, till time.Time
	times      int
}

// partner is Wise, as far as the engine sees it. It keeps what it was told,
// also when its answer was lost.
type partner struct {
	world *world

	mu      sync.Mutex
	uploads map[string]upload
	last    string // the kid uploaded last
	down    func() error
	silent  error          // what the playground answers
	uses    string         // the kid that it seals to; "" is the last
	theirs  *rsa.PublicKey // what requests are to be sealed to
	version int            // of theirs
	fetches int
	wait    time.Duration    // before answering
	crash   func(kid string) // called before an upload
}

func (p *partner) Announce(ctx context.Context, kid string, public crypto.PublicKey, from, till time.Time) error {
	return p.world.power.do("announce", func() error {
		if p.crash != nil {
			p.crash(kid)
		}
		if err := sleep(ctx, p.wait); err != nil {
			return err
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.down != nil {
			if err := p.down(); err != nil {
				return err
			}
		}
		pub, ok := public.(*rsa.PublicKey)
		if !ok {
			return fmt.Errorf("the partner got a %T", public)
		}
		old, again := p.uploads[kid]
		if again && (!old.public.Equal(pub) || !old.from.Equal(from) || !old.till.Equal(till)) {
			p.world.t.Errorf("%s was announced again with other material or dates", kid)
		}
		if !from.Before(time.Now()) || !till.After(time.Now()) || from.Nanosecond()+till.Nanosecond() != 0 {
			p.world.t.Errorf("%s was announced at %s as valid from %s till %s", kid, time.Now(), from, till)
		}
		p.uploads[kid] = upload{public: pub, from: from, till: till, times: old.times + 1}
		p.last = kid
		// The second it has the key, it may use it. A walk may have put a fault
		// into the token just now; that is not the version's: opensAll looks
		// again when it is healed.
		if v, err := p.world.reg.Version(kid); err != nil {
			p.world.t.Errorf("announced %s, which the registry does not know", kid)
		} else if err := p.world.opens(v, pub); err != nil && !errors.Is(err, boundary.ErrUnavailable) {
			p.world.t.Errorf("announced %s: %v", kid, err)
		}
		return nil
	})
}

func (p *partner) Probe(ctx context.Context, _ string) (string, error) {
	var used string
	err := p.world.power.do("probe", func() error {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.silent != nil {
			return p.silent
		}
		used = p.last
		if p.uses != "" {
			used = p.uses
		}
		v, err := p.world.reg.Version(used)
		if err != nil {
			return nil // sealed to a key that is not ours; the engine sees to it
		}
		return p.world.opens(v, p.uploads[used].public)
	})
	return used, err
}

func (p *partner) FetchKey(ctx context.Context) (string, int, string, crypto.PublicKey, error) {
	if err := sleep(ctx, p.wait); err != nil {
		return "", 0, "", nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fetches++
	if p.down != nil {
		if err := p.down(); err != nil {
			return "", 0, "", nil, err
		}
	}
	return "id", p.version, "RSA_OAEP_256", p.theirs, nil
}

func (p *partner) known() map[string]upload {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.uploads)
}

// set changes the partner while the engine runs.
func (p *partner) set(f func(p *partner)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f(p)
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
