package hsm

import (
	"sync"

	"github.com/miekg/pkcs11"
)

// points knows the public key objects of keys on a curve: a private key does not
// carry its public half, and a search for each would be too slow. It is only a
// hint: what is under a handle is read again.
type points struct {
	mu      sync.Mutex
	objects map[name]pkcs11.ObjectHandle // guarded by mu
	all     bool                         // they were looked for; guarded by mu
}

func (p *points) filled() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.all
}

func (p *points) add(o object) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.objects == nil {
		p.objects = map[name]pkcs11.ObjectHandle{}
	}
	p.objects[o.name] = o.handle
}

func (p *points) get(n name) pkcs11.ObjectHandle {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.objects[n]
}

// fill takes the place of what was known.
func (p *points) fill(publics map[name][]object) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.objects, p.all = map[name]pkcs11.ObjectHandle{}, true
	for n, same := range publics {
		if len(same) == 1 && same[0].point != nil {
			p.objects[n] = same[0].handle
		}
	}
}
