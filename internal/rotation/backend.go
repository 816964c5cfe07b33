package rotation

import (
	"context"
	"crypto"
	"time"

	"keyd/internal/boundary"
)

// Backend is where private keys live, as the engine uses it. Implementations
// answer with the sentinel errors of package boundary. backendtest.Run is the
// contract in full.
type Backend interface {
	// Generate makes the key pair spec names, non-extractable, and reads its
	// attributes back. A run after a crash first deals with what stands under
	// that name: a token destroys it (it was never announced, and may be half
	// made), a KMS adopts it.
	Generate(ctx context.Context, spec boundary.Spec) (boundary.Generated, error)
	// Discard removes whatever stands under spec's name. Nothing there is no
	// error.
	Discard(ctx context.Context, spec boundary.Spec) error
	// Public reads a private key's public half from the backend.
	Public(ctx context.Context, handle string) (crypto.PublicKey, error)
	// Open opens an envelope with the private key inside the backend.
	Open(ctx context.Context, handle string, env *boundary.Envelope) (*boundary.Opened, error)
	// Destroy asks for the deletion of a private key and reports whether it is
	// gone (a KMS waits for days). It is safe to call again; a key that is not
	// there is gone, but one whose handle is of another kind of backend is not.
	Destroy(ctx context.Context, handle string) (gone bool, err error)
	// Find looks for one existing private key by CKA_ID (hex or UUID), label or
	// handle, to adopt it. None is ErrNoKey, several are ErrAmbiguous.
	Find(ctx context.Context, query string) (boundary.Found, error)
	// List returns every private key that keyd may have made (Managed) and
	// everything else it can see, for Check.
	List(ctx context.Context) ([]boundary.Found, error)
	// Health says what the backend is and how it is. It does not fail; what is
	// wrong stands in the answer.
	Health(ctx context.Context) boundary.Health
}

// Signer is a backend whose keys made for boundary.PS256 sign.
type Signer interface {
	// Sign makes an RSASSA-PSS signature with SHA-256, MGF1-SHA-256 and a salt
	// of 32 bytes over a SHA-256 digest (RFC 7518 §3.5).
	Sign(ctx context.Context, handle string, digest []byte) (signature []byte, err error)
}

// Holder is a backend that keeps content keys for exchanges whose answer is
// sealed under the key of the request (RFC 7518 §4.5, "dir").
type Holder interface {
	// Hold takes a content key in; it cannot be read out again. The caller wipes
	// its own copy. A key that is held is gone when the backend restarts.
	Hold(ctx context.Context, enc string, cek []byte) (ref string, err error)
	// OpenHeld opens an envelope's content with a key that is held. One that is
	// not, or no longer, is boundary.ErrNoKey.
	OpenHeld(ctx context.Context, ref string, env *boundary.Envelope) (*boundary.Opened, error)
	// Release forgets a key. One that is not held is no error.
	Release(ctx context.Context, ref string) error
}

// Disabler is a backend that can put a private key out of use and keep it.
type Disabler interface {
	// Disable keeps anybody from using a private key until somebody enables it
	// at the backend. From then on using it is boundary.ErrDisabled. Repeating it
	// is no error.
	Disable(ctx context.Context, handle string) error
}

// Rescuer is a backend that deletes private keys with a delay.
type Rescuer interface {
	// Rescue calls off a deletion that waits. The key is enabled then if it is to
	// be used again, and else disabled, whatever somebody else did to it
	// meanwhile. Repeating it is no error.
	Rescue(ctx context.Context, handle string, enable bool) error
}

// Announcer tells a partner about a new public key. It must be safe to repeat
// with the same arguments. An error may carry RetryAfter() time.Duration.
type Announcer interface {
	Announce(ctx context.Context, kid string, public crypto.PublicKey, validFrom, validTill time.Time) error
}

// KeySource fetches the public key a partner wants requests sealed to.
type KeySource interface {
	FetchKey(ctx context.Context) (id string, version int, algorithm string, public crypto.PublicKey, err error)
}

// Canary asks a partner for an answer sealed to us, opens it, and says which
// of our kids it named.
type Canary interface {
	Probe(ctx context.Context, kid string) (usedKID string, err error)
}

// Partner is what the engine can do with a counterparty. A nil Announcer means
// that a person tells the partner and runs `keyd keys confirm`; a nil Canary
// that there is no playground.
type Partner struct {
	Announcer Announcer
	// Verifier is told of keys that sign, as Announcer is of those that open.
	Verifier  Announcer
	KeySource KeySource
	// Pins are the fingerprints (hex SHA-256 of the DER SubjectPublicKeyInfo) of
	// the keys that may be sealed to; none is any.
	Pins   []string
	Canary Canary
	// Withdraw says what a person does there to withdraw a public key, for the
	// list of what remains by hand after a compromise.
	Withdraw string
}
