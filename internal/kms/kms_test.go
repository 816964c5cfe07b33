package kms_test

import (
	"testing"

	"keyd/internal/kms/kmstest"
	"keyd/internal/rotation"
	"keyd/internal/rotation/backendtest"
)

func TestKMSIsABackend(t *testing.T) {
	for name, c := range map[string]struct {
		server  kmstest.Options
		options backendtest.Options
	}{
		"in long pages":  {options: backendtest.Options{Waits: true, HoldsNothing: true}},
		"in short pages": {server: kmstest.Options{PageSize: 1}, options: backendtest.Options{Waits: true, HoldsNothing: true, Bits: []int{2048}, Curves: []string{"P-256"}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := kmstest.New(c.server)
			backendtest.Run(t, func(t *testing.T) rotation.Backend { return open(t, s) }, c.options)
		})
	}
}
