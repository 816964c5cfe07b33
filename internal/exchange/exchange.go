// Package exchange keeps what opens the reply to a request that is out.
//
// Some partners seal their reply not to a standing key of ours but to something
// that belongs to the one request: the content key of its own envelope (alg
// "dir", RFC 7518 §4.5), or a public key that was made for it and sent along.
// Such a request and its reply are an exchange. It opens one reply and is then
// over; it is over too when its time is, and when keyd or the backend that
// holds its key restarts. Nothing about it is ever written down.
//
// An exchange belongs to the partner and the user it was begun for. To anybody
// else it does not exist. It opens nothing but the kind of envelope it was begun
// for, and nothing else opens that: the two parsers of package jwe share no
// envelope.
package exchange

import (
	"context"
	"errors"
	"fmt"
	"time"

	"keyd/internal/boundary"
)

var (
	// ErrUnknown: no such exchange is open for this partner and user. It may
	// never have been, may have had its reply, or its time.
	ErrUnknown = errors.New("no such exchange is open")
	// ErrLost: it was open when keyd, or the backend that held its key, was
	// restarted. What would have opened its reply is gone.
	ErrLost = errors.New("the exchange was lost")
	// ErrFull: the partner or the user has as many exchanges open as it may.
	ErrFull = errors.New("too many exchanges are open")
	// ErrMemory: no memory could be locked for what exchanges need.
	ErrMemory = errors.New("no memory for the keys of exchanges")
)

// Holder keeps content keys: a token, or this package's own memory. It is
// rotation.Holder.
type Holder interface {
	Hold(ctx context.Context, enc string, cek []byte) (ref string, err error)
	OpenHeld(ctx context.Context, ref string, env *boundary.Envelope) (*boundary.Opened, error)
	Release(ctx context.Context, ref string) error
}

// Host is where a content key was that lay in keyd's own memory, locked there,
// until the reply came. It is below every floor.
const Host boundary.Level = "host"

// Owner is whom an exchange belongs to.
type Owner struct {
	Partner string
	UID     int
}

// Kinds of exchange.
const (
	Direct    = "direct"    // the reply comes under the request's own content key
	Ephemeral = "ephemeral" // the reply is sealed to a public key made for it
)

// Ticket is an exchange as its caller knows it.
type Ticket struct {
	ID      string
	Kind    string
	Expires time.Time
	Held    boundary.Level // Host, or "" for a backend's own
}

// How an exchange ends.
const (
	Answered = "answered" // its reply was opened
	Expired  = "expired"  // there was none in time
	Spent    = "spent"    // too many replies did not open
	Lost     = "lost"     // the backend no longer has its key
	Dropped  = "dropped"  // its request did not leave after all
	Stopped  = "stopped"  // keyd stopped
)

// Ended is an exchange that is over.
type Ended struct {
	Ticket
	Owner
	How string
	// Failed is why its key could not be taken back from the backend.
	Failed error
}

// Config is what a Table works with.
type Config struct {
	// TTL is how long an exchange waits for its reply.
	TTL time.Duration
	// PerPartner and PerUser bound how many exchanges are open at a time, for
	// each partner, and for each user of one.
	PerPartner, PerUser int
	// Partners is how many there are: the memory for their exchanges is set
	// aside and locked at once.
	Partners int
	// Over, if set, is told of every exchange that ended.
	Over func(Ended)
}

func (c Config) check() error {
	if c.TTL <= 0 || c.PerPartner <= 0 || c.PerUser <= 0 || c.Partners < 0 {
		return fmt.Errorf("exchange: a time of %s, %d for each of %d partners and %d for each user: want more than nothing", c.TTL, c.PerPartner, c.Partners, c.PerUser)
	}
	return nil
}
