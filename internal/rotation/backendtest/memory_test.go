package backendtest_test

import (
	"testing"
	"time"

	"github.com/google/uuid"

	"keyd/internal/boundary"
	"keyd/internal/rotation"
	"keyd/internal/rotation/backendtest"
)

var _ rotation.Backend = (*backendtest.Memory)(nil)

func plant(t *testing.T, b rotation.Backend, label, id string) {
	t.Helper()
	if _, err := b.(interface {
		Plant(label, kid string, bits int) (boundary.Found, error)
	}).Plant(label, uuid.MustParse(id).String(), 2048); err != nil {
		t.Fatalf("planting a key: %v", err)
	}
}

func TestMemoryIsABackend(t *testing.T) {
	for name, c := range map[string]struct {
		memory backendtest.MemoryOptions
		suite  backendtest.Options
	}{
		"a token that unwraps":         {},
		"a token that does bare RSA":   {memory: backendtest.MemoryOptions{Level: boundary.Raw}},
		"a token that does everything": {memory: backendtest.MemoryOptions{Level: boundary.Sealed}},
		"a token that knows RSA only": {memory: backendtest.MemoryOptions{Without: []string{boundary.ECDHES, boundary.PS256}},
			suite: backendtest.Options{Without: []string{boundary.ECDHES, boundary.PS256}}},
		"a KMS": {suite: backendtest.Options{Waits: true}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c.suite.Plant = plant
			if name != "a token that unwraps" {
				c.suite.Bits = []int{2048}
			}
			backendtest.Run(t, func(*testing.T) rotation.Backend {
				if c.suite.Waits {
					return backendtest.NewKMS("kms", time.Hour)
				}
				return backendtest.NewMemory(c.memory)
			}, c.suite)
		})
	}
}
