package kmstest

import (
	"crypto/rand"
	"crypto/rsa"
	"fmt"
	"sync"
)

// pool keeps the RSA keys made in this process: every Server hands out the
// same ones, in the same order, and no Server hands out one twice. Making one
// takes a tenth of a second, and tests make many Servers.
var pool struct {
	sync.Mutex
	keys map[int][]*rsa.PrivateKey // by size in bits
}

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
