// Package backendtest holds the contract that every key backend passes (Run),
// and a backend in memory with faults on demand (Memory) for the tests of
// whatever uses one.
package backendtest

import (
	"crypto/rsa"
	"testing"

	"github.com/google/uuid"

	"keyd/internal/boundary"
	"keyd/internal/rotation"
)

// Options leave out what a backend cannot do. The zero value is all of it.
type Options struct {
	Bits []int    // RSA sizes; default 2048, 3072, 4096
	Encs []string // content encryptions; default Encs()
	// Curves are those of keys for ECDH-ES; default P-256, P-384, P-521.
	Curves []string
	// Without are the key algorithms it has no keys for.
	Without []string
	// HoldsNothing: it is no rotation.Holder.
	HoldsNothing bool
	// Waits: Destroy only schedules a deletion, and answers that the key is
	// not gone yet.
	Waits bool
	// Plant puts a key pair of 2048 bits there that keyd did not make, under a
	// label and a CKA_ID (hex). Without it, nothing is said about such keys.
	Plant func(t *testing.T, b rotation.Backend, label, id string)
}

// Run checks the contract of a backend. open returns one that is ready; it may
// be the same token each time and may hold other keys.
func Run(t *testing.T, open func(t *testing.T) rotation.Backend, opts Options) {
	if len(opts.Bits) == 0 {
		opts.Bits = []int{2048, 3072, 4096}
	}
	if len(opts.Encs) == 0 {
		opts.Encs = Encs()
	}
	if len(opts.Curves) == 0 {
		opts.Curves = boundary.Curves
	}
	s := suite{open: open, opts: opts}
	for _, c := range []struct {
		name string
		test func(*testing.T)
	}{
		{"a generated key opens what is sealed to it", s.opens},
		{"generating again leaves exactly one key", s.regenerates},
		{"a spec that cannot be met leaves nothing", s.refusesSpecs},
		{"discard removes what stands under a name", s.discards},
		{"whatever was tampered with is one and the same error", s.oracle},
		{"an envelope for another key does not open", s.otherKey},
		{"an unknown algorithm is refused", s.algorithms},
		{"nothing is opened below its floor", s.floors},
		{"a handle of no key is no key", s.handles},
		{"destroying twice is no error", s.destroys},
		{"a key is found by kid, id, label and handle", s.finds},
		{"a key that keyd did not make is seen and told apart", s.foreign},
		{"list names every key once", s.lists},
		{"health says what it is", s.health},
		{"a key on a curve opens what is agreed with it", s.agrees},
		{"an agreed envelope that was tampered with is the same one error", s.agreedOracle},
		{"an envelope of the other kind does not open", s.otherKind},
		{"a key on a curve is found, listed, made again and destroyed", s.keepsCurves},
		{"a signing key signs, and does nothing else", s.signs},
		{"a content key that is held opens its answer until it is released", s.holds},
		{"a key that is disabled is there, and of no use", s.disables},
		{"a deletion that waits can be called off", s.rescues},
		{"a caller who has gone gets an error and no effect", s.cancelled},
		{"many callers at once do not disturb each other", s.concurrent},
		{"keys come and go while others are used", s.churn},
	} {
		t.Run(c.name, c.test)
	}
}

type suite struct {
	open func(t *testing.T) rotation.Backend
	opts Options
}

// spec names a new key.
func spec(bits int) boundary.Spec {
	return boundary.Spec{Key: "contract", KID: uuid.NewString(), Material: boundary.Material{Algorithm: boundary.RSAOAEP256, Bits: bits}}
}

// generate makes a key and sees to it that it does not outlive the test.
func generate(t *testing.T, b rotation.Backend, s boundary.Spec) (boundary.Generated, *rsa.PublicKey) {
	t.Helper()
	g, err := b.Generate(t.Context(), s)
	if err != nil {
		t.Fatalf("Generate: %v", err)
	}
	discardAfter(t, b, s)
	pub, ok := g.Public.(*rsa.PublicKey)
	if !ok {
		t.Fatalf("Generate returned a public key of type %T, want *rsa.PublicKey", g.Public)
	}
	return g, pub
}
