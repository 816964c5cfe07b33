package worker

import (
	"context"
	"io"
	"net"
	"time"

	"keyd/internal/boundary"
)

// Environment exposes environment.
func Environment(all, more []string) []string { return environment(all, more) }

// Passing exposes passing.
var Passing = passing

// Relay exposes relay.
var Relay = relay

// Pause exposes pause.
var Pause = pause

// RoundTrip writes an error, reads it again and says whether it was whole.
func RoundTrip(err error) (error, bool) {
	d := decoder{b: appendError(nil, err)}
	got := d.error()
	return got, d.done() == nil
}

// DecodeEnvelope reads an envelope, and writes what it has read.
func DecodeEnvelope(raw []byte) (env *boundary.Envelope, again []byte, err error) {
	d := decoder{b: raw}
	env = d.envelope()
	if err := d.done(); err != nil {
		return nil, nil, err
	}
	return env, appendEnvelope(nil, env), nil
}

// EncodeEnvelope writes an envelope.
func EncodeEnvelope(env *boundary.Envelope) []byte { return appendEnvelope(nil, env) }

// Peer is the daemon's end of a pipe without a process at the other one.
type Peer struct {
	*peer
	Observed int
	Broken   []error
}

// NewPeer reads what the worker says from in; what it is told goes to conn.
func NewPeer(conn net.Conn, most int, pin func() ([]byte, error)) *Peer {
	p := &Peer{peer: newPeer(conn, most)}
	p.pin = pin
	p.observe = func(observation) { p.Observed++ }
	p.broken = func(why error) { p.Broken = append(p.Broken, why) }
	return p
}

// Read takes in everything that the worker says.
func (p *Peer) Read(in io.Reader) { p.read(in) }

// Finish ends it.
func (p *Peer) Finish(err error) { p.finish(err) }

// Overdue reports a call that takes longer than limit.
func (p *Peer) Overdue(limit time.Duration) error {
	return p.overdue(func(kind) time.Duration { return limit })
}

// Open asks for an envelope to be opened.
func (p *Peer) Open(ctx context.Context, handle string, env *boundary.Envelope) (*boundary.Opened, error) {
	raw, err := p.call(ctx, opOpen, func(f *buffer) { f.b = appendEnvelope(appendString(f.b, handle), env) })
	if err != nil {
		return nil, err
	}
	d := decoder{b: raw}
	return d.opened()
}

// Start asks for the token to be opened, with settings as they are.
func (p *Peer) Start(ctx context.Context, settings string) error {
	_, err := p.call(ctx, start, func(f *buffer) { f.b = append(f.b, settings...) })
	return err
}

// Close asks for the token to be closed.
func (p *Peer) Close(ctx context.Context) error {
	_, err := p.call(ctx, opClose, nothing)
	return err
}
