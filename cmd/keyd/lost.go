package main

import (
	"context"
	"crypto"
	"fmt"

	"keyd/internal/boundary"
	"keyd/internal/rotation"
)

// lost is a backend whose device is gone for good. It keeps the place of what
// it held: nothing opens there, and nothing is said to be destroyed.
type lost struct{ name string }

func openLost(_ context.Context, name string, _ backendConfig) (rotation.Backend, error) {
	return lost{name}, nil
}

var errLost = fmt.Errorf("%w: the config says that its device is lost", boundary.ErrUnavailable)

func (lost) Generate(context.Context, boundary.Spec) (boundary.Generated, error) {
	return boundary.Generated{}, errLost
}
func (lost) Discard(context.Context, boundary.Spec) error             { return errLost }
func (lost) Public(context.Context, string) (crypto.PublicKey, error) { return nil, errLost }
func (lost) Destroy(context.Context, string) (bool, error)            { return false, errLost }
func (lost) Find(context.Context, string) (boundary.Found, error)     { return boundary.Found{}, errLost }
func (lost) List(context.Context) ([]boundary.Found, error)           { return nil, errLost }
func (lost) Open(context.Context, string, *boundary.Envelope) (*boundary.Opened, error) {
	return nil, errLost
}

func (l lost) Health(context.Context) boundary.Health {
	return boundary.Health{Backend: l.name, Kind: typeLost, Err: errLost.Error()}
}
