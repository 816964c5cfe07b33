package worker

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"sync/atomic"
	"time"

	"keyd/internal/boundary"
)

// Passing exposes passing.
var Passing = passing

// Relay exposes relay.
var Relay = relay

// Pause exposes pause.
var Pause = pause

// ErrLost exposes errLost.
var ErrLost = errLost

// ErrGrown exposes errGrown.
var ErrGrown = errGrown

// NewToken is a token that no worker serves yet.
func NewToken(cfg Config) *Token { return newToken(cfg) }

// ServedBy has the worker at the other end of p serve the token until there is a
// reason to replace it, and returns that once the worker is of no more use.
func (t *Token) ServedBy(p *Peer) error {
	w := &worker{process: &process{}, peer: p.peer, broken: make(chan error, 1)}
	p.broken = func(why error) { w.broken <- why }
	t.serving(w)
	why := t.watch(w)
	t.lost(w, why)
	w.peer.finish(why)
	return why
}

// Replace tries to start a worker in the place of one that is gone, until Close.
func (t *Token) Replace() {
	defer close(t.ended)
	t.replace(&worker{}, 1)
}

// IsSlow exposes worker.isSlow, of one that was handed the PIN or not.
func IsSlow(login bool, err error) bool {
	var w worker
	w.login.Store(login)
	return w.isSlow(err)
}

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
	Observed atomic.Int64
	Broken   chan error // what it was told of that
}

// NewPeer reads what the worker says from in; what it is told goes to conn.
func NewPeer(conn net.Conn, lines []net.Conn, most int, pin func() ([]byte, error)) *Peer {
	p := &Peer{peer: newPeer(conn, lines, most), Broken: make(chan error, 10)}
	p.pin = pin
	p.observe = func(observation) { p.Observed.Add(1) }
	p.broken = func(why error) { p.Broken <- why }
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

// FreeLines is how many lines nobody uses.
func (p *Peer) FreeLines() int { return len(p.lines.free) }

// ReadFrames reads n frames, asking again after each deadline that has passed,
// and returns their payloads.
func ReadFrames(conn io.Reader, n int) (payloads [][]byte, err error) {
	in := newReader(conn)
	for len(payloads) < n {
		f, err := in.next()
		switch {
		case err == nil:
			payloads = append(payloads, f.payload)
		case !errors.Is(err, os.ErrDeadlineExceeded):
			return payloads, err
		}
	}
	return payloads, nil
}

// Frame is a frame as it travels.
func Frame(kind byte, id uint64, payload []byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(headSize-lengthSize+len(payload)))
	b = binary.BigEndian.AppendUint64(append(b, kind), id)
	return append(b, payload...)
}

// Kinds of frames.
const (
	KindResult = byte(result)
	KindHealth = byte(opHealth)
)
