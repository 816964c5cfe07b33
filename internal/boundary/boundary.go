// Package boundary is the vocabulary between keyd and a key backend: what a
// backend is asked (make this key, open this envelope), what it answers, and
// how deep inside the hardware the answer was made.
//
// It also holds the part of opening that runs in host memory when a token
// cannot do all of it: constant-time OAEP removal and content decryption.
// Every backend shares it, so there is one place to review for oracles.
package boundary

import (
	"crypto"
	"errors"
	"fmt"
	"time"
)

// Level says how much of opening an envelope happens inside the hardware.
// The private key never leaves it at any level.
type Level string

const (
	// Sealed: the content key exists in the token only.
	Sealed Level = "sealed"
	// Unwrap: the token removes the padding, or keeps the shared secret and
	// gives out a digest of it; the content key is in host memory for one
	// operation and wiped.
	Unwrap Level = "unwrap"
	// Raw: the token does the bare modular exponentiation (CKM_RSA_X_509) or
	// gives out the shared secret; the host does the rest in constant time and
	// wipes what it saw.
	Raw Level = "raw"
)

// depth orders the levels; an unknown level is below every floor.
var depth = map[Level]int{Raw: 1, Unwrap: 2, Sealed: 3}

// AtLeast reports whether l is as deep inside the hardware as floor. An empty
// floor is met by every known level, an unknown one by none.
func (l Level) AtLeast(floor Level) bool {
	return depth[l] >= max(depth[floor], 1) && (floor == "" || depth[floor] != 0)
}

// ParseLevel reads a level from a config.
func ParseLevel(s string) (Level, error) {
	if depth[Level(s)] == 0 {
		return "", fmt.Errorf("boundary level %q: want sealed, unwrap or raw", s)
	}
	return Level(s), nil
}

// Errors a backend answers with. Anything else is a fault of the backend's
// own and is reported as such.
var (
	// ErrOpen: the envelope does not open under this key. Wrong padding, wrong
	// content key length and wrong tag are all this one error (RFC 7516
	// section 11.5).
	ErrOpen = errors.New("the envelope does not open")
	// ErrNoKey: the backend holds no private key under that handle.
	ErrNoKey = errors.New("no such key in the backend")
	// ErrAmbiguous: a search meant to find one key found several.
	ErrAmbiguous = errors.New("more than one key matches")
	// ErrBusy: every session was in use until the deadline.
	ErrBusy = errors.New("the backend is busy")
	// ErrUnavailable: the device is down, gone or refuses to work.
	ErrUnavailable = errors.New("the backend is unavailable")
	// ErrDisabled: somebody has put the private key out of use in the backend, and
	// can put it back.
	ErrDisabled = fmt.Errorf("%w: the private key is disabled", ErrUnavailable)
	// ErrBelowFloor: the backend could do it, but at a lower level than is asked
	// for.
	ErrBelowFloor = errors.New("the boundary is below the floor")
	// ErrUnsupported: this backend cannot do that at all.
	ErrUnsupported = errors.New("not supported by this backend")
)

// Generated is a key pair that now exists in the backend.
type Generated struct {
	Handle   string // the backend's own name; stored in the registry
	Public   crypto.PublicKey
	Evidence Evidence
}

// Found is a private key that stands in the backend.
type Found struct {
	Handle string
	KID    string // "" where the CKA_ID is not a UUID
	Label  string
	Public crypto.PublicKey // nil where the backend holds no whole public half
	// Managed: the label lies under this instance's prefix, so nothing but
	// keyd made it.
	Managed  bool
	Evidence Evidence
}

// Evidence is what the backend itself says of a key pair, read back after it
// was made or adopted. It is what an assessor is shown.
type Evidence struct {
	At         time.Time         `json:"at"`
	Backend    string            `json:"backend"` // "pkcs11", "kms"
	Device     map[string]string `json:"device"`  // label, serial, model, manufacturer, firmware, library
	Mechanism  string            `json:"mechanism,omitempty"`
	Attributes map[string]string `json:"attributes"` // CKA_SENSITIVE: "true" and so on, as read back
	Level      Level             `json:"level"`
	// Problems are attributes that are not what keyd asks for (an adopted
	// key may be extractable, and NSS says CKA_LOCAL=false of keys it made).
	Problems []string `json:"problems,omitempty"`
}

// Health is the state of a backend as status and /readyz show it.
type Health struct {
	Backend string `json:"backend"` // its name in the config
	Kind    string `json:"kind"`    // "pkcs11", "kms", "memory"
	// Levels are those at which it works, by key algorithm, found by doing. One
	// that is not there the backend cannot do at all.
	Levels map[string]Level `json:"levels"`
	// Floor is the config's: what is below it is not done. "" is none.
	Floor    Level             `json:"floor,omitempty"`
	Device   map[string]string `json:"device"`
	Sessions int               `json:"sessions"` // size of the pool
	InUse    int               `json:"in_use"`
	Err      string            `json:"error,omitempty"` // why it is not usable now
	// Process is the one that the backend's library runs in; nil where there is
	// none.
	Process *Process `json:"process,omitempty"`
}

// Process is where a PKCS #11 library runs, and how that goes. State is what a
// circuit breaker calls closed, half open and open.
type Process struct {
	// State is "ready", "starting" (the last one is gone, and the next one is
	// waited for), "down" (it could not open the token: nobody waits) or "probing"
	// (it is tried again).
	State string    `json:"state"`
	Since time.Time `json:"since"` // when the state began
	PID   int       `json:"pid,omitempty"`
	// Generation counts the processes that have come to serve, this one included;
	// what an earlier one knew of the token's objects went with it.
	Generation uint64    `json:"generation"`
	Next       time.Time `json:"next,omitzero"`      // when another one is tried
	LastEnd    string    `json:"last_end,omitempty"` // why the last one is gone
}
