package backendtest

import (
	"crypto/rand"
	"crypto/rsa"
	"fmt"
	"sync"
)

// pool keeps the RSA keys made in this process. Making one takes a tenth of a
// second, and a year of rotations needs dozens in every test, so Memory hands
// the same ones out again - within one Memory only after they were destroyed,
// and then the longest unused first.
var pool struct {
	sync.Mutex
	keys map[int][]*rsa.PrivateKey // by size in bits
}

// poolSize is how many keys of one size are made before they are used again.
const poolSize = 24

// pooled returns the process's nth key of a size, making it if need be.
func pooled(bits, n int) (*rsa.PrivateKey, error) {
	pool.Lock()
	defer pool.Unlock()
	for len(pool.keys[bits]) <= n {
		key, err := rsa.GenerateKey(rand.Reader, bits)
		if err != nil {
			return nil, fmt.Errorf("making an RSA key: %w", err)
		}
		if pool.keys == nil {
			pool.keys = map[int][]*rsa.PrivateKey{}
		}
		pool.keys[bits] = append(pool.keys[bits], key)
	}
	return pool.keys[bits][n], nil
}

// drawer hands out the pool's keys to one Memory.
type drawer struct {
	next  map[int]int
	inUse map[*rsa.PrivateKey]bool
}

func (d *drawer) take(bits int) (*rsa.PrivateKey, error) {
	for {
		n := d.next[bits]
		d.next[bits]++
		index := n % poolSize
		if n >= poolSize && d.full(bits) {
			index = n // more are alive at once than the pool was meant for
		}
		key, err := pooled(bits, index)
		if err != nil {
			return nil, err
		}
		if !d.inUse[key] {
			d.inUse[key] = true
			return key, nil
		}
	}
}

func (d *drawer) full(bits int) bool {
	alive := 0
	for key := range d.inUse {
		if key.N.BitLen() == bits {
			alive++
		}
	}
	return alive >= poolSize
}

func (d *drawer) give(key *rsa.PrivateKey) { delete(d.inUse, key) }
