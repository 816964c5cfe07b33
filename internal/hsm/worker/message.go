package worker

import (
	"context"
	"crypto/ecdh"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"keyd/internal/boundary"
	"keyd/internal/hsm"
)

// kind is what a frame is for. The two sides are the same binary, so nothing
// here needs to be readable by another version.
type kind byte

const (
	// From the daemon.
	start  kind = iota + 1 // open the token: a settings
	cancel                 // nobody waits for a call any more
	pin                    // the PIN that was asked for
	noPIN                  // why there is none

	// From the worker.
	result // of a call
	failed // a call's error
	askPIN // when it is about to log in
	broken // why the module must be loaded anew

	// Calls. A call begins with how long its caller will wait, in ns; 0 is for
	// ever.
	opOpen
	opPublic
	opGenerate
	opDiscard
	opDestroy
	opFind
	opList
	opHealth
	opSign
	opHold
	opOpenHeld
	opRelease
	opBare
	opClose
	endOfKinds
)

// How long names and texts may be.
const (
	maxHandle = 4 << 10
	maxName   = 1 << 10
	maxText   = 8 << 10
	maxOp     = 32
)

// curves are what an ephemeral key can be on. Their order is their number; 0 is
// no key.
var curves = []ecdh.Curve{ecdh.P256(), ecdh.P384(), ecdh.P521()}

// appendEnvelope writes an envelope.
func appendEnvelope(b []byte, env *boundary.Envelope) []byte {
	b = appendString(b, env.Alg)
	b = appendString(b, env.Enc)
	b = appendString(b, string(env.Floor))
	var curve int
	var point []byte
	if env.EPK != nil {
		curve, point = slices.Index(curves, env.EPK.Curve())+1, env.EPK.Bytes()
	}
	b = appendBytes(append(b, byte(curve)), point)
	for _, part := range [][]byte{env.APU, env.APV, env.EncryptedKey, env.IV, env.Ciphertext, env.Tag, env.AAD} {
		b = appendBytes(b, part)
	}
	return b
}

// sizeOf is about how much appendEnvelope writes.
func sizeOf(env *boundary.Envelope) int {
	return 256 + len(env.Alg) + len(env.Enc) + len(env.Floor) + len(env.APU) + len(env.APV) + len(env.EncryptedKey) +
		len(env.IV) + len(env.Ciphertext) + len(env.Tag) + len(env.AAD)
}

// envelope reads one, in place.
func (d *decoder) envelope() *boundary.Envelope {
	env := &boundary.Envelope{Alg: d.string(maxName), Enc: d.string(maxName), Floor: boundary.Level(d.string(maxName))}
	curve, point := int(d.byte()), d.bytes()
	switch {
	case curve == 0 && point == nil:
	case curve == 0 || curve > len(curves):
		d.bad = true
	default:
		var err error
		env.EPK, err = curves[curve-1].NewPublicKey(point)
		d.bad = d.bad || err != nil
	}
	for _, part := range []*[]byte{&env.APU, &env.APV, &env.EncryptedKey, &env.IV, &env.Ciphertext, &env.Tag, &env.AAD} {
		*part = d.bytes()
	}
	return env
}

// appendOpened writes an opened envelope and wipes it.
func (f *buffer) appendOpened(o *boundary.Opened) {
	f.reserve(8 + len(o.Level) + len(o.Plaintext) + 16)
	f.b = appendString(f.b, string(o.Level))
	f.b = appendUint64(f.b, uint64(max(o.InToken, 0)))
	f.b = append(f.b, o.Plaintext...)
	clear(o.Plaintext)
}

// opened reads one: the rest of the message is the plaintext, in place.
func (d *decoder) opened() (*boundary.Opened, error) {
	o := &boundary.Opened{Level: boundary.Level(d.string(maxName)), InToken: d.duration(), Plaintext: d.rest()}
	if _, err := boundary.ParseLevel(string(o.Level)); err != nil || d.done() != nil {
		clear(o.Plaintext)
		return nil, errMalformed
	}
	return o, nil
}

// sentinels are the errors that keep their identity on the way. Their order is
// their number.
var sentinels = []error{
	boundary.ErrOpen, boundary.ErrNoKey, boundary.ErrAmbiguous, boundary.ErrBusy, boundary.ErrUnavailable, boundary.ErrUnsupported,
	boundary.ErrBelowFloor,
	hsm.ErrPINRefused, hsm.ErrPINLocked, context.Canceled, context.DeadlineExceeded, errGrown,
}

// remote is an error of the other process.
type remote struct {
	text string
	is   []error
}

func (e *remote) Error() string   { return e.text }
func (e *remote) Unwrap() []error { return e.is }

// appendError writes an error: which sentinels it is, and its text.
func appendError(b []byte, err error) []byte {
	var is uint64
	for i, s := range sentinels {
		if errors.Is(err, s) {
			is |= 1 << i
		}
	}
	return appendString(appendUint64(b, is), short(err.Error()))
}

func short(text string) string {
	text = strings.ToValidUTF8(text, "?")
	if len(text) > maxText {
		text = strings.ToValidUTF8(text[:maxText-1], "?")
	}
	return text
}

// error reads one. That an envelope does not open has one value, whoever says it.
func (d *decoder) error() error {
	is, text := d.uint64(), d.string(maxText)
	e := &remote{text: text}
	for i, s := range sentinels {
		if is&(1<<i) != 0 {
			e.is = append(e.is, s)
		}
	}
	if !utf8.ValidString(text) || is>>len(sentinels) != 0 {
		d.bad = true
	}
	if len(e.is) == 1 && e.is[0] == boundary.ErrOpen { //nolint:errorlint // a value of our own table
		return boundary.ErrOpen
	}
	return e
}

// observation is what hsm.Config.Observe is told.
type observation struct {
	op            string
	wait, inToken time.Duration
	err           error
}

// appendObservations writes at most 255 of them.
func appendObservations(b []byte, all []observation) []byte {
	all = all[:min(len(all), 255)]
	b = append(b, byte(len(all)))
	for _, o := range all {
		b = appendString(b, o.op[:min(len(o.op), maxOp)])
		b = appendUint64(b, uint64(max(o.wait, 0)))
		b = appendUint64(b, uint64(max(o.inToken, 0)))
		if b = appendBool(b, o.err != nil); o.err != nil {
			b = appendError(b, o.err)
		}
	}
	return b
}

// observations reads them and hands each on.
func (d *decoder) observations(observe func(observation)) {
	for range d.byte() {
		o := observation{op: d.string(maxOp), wait: d.duration(), inToken: d.duration()}
		if d.bool() {
			o.err = d.error()
		}
		if d.bad {
			return
		}
		observe(o)
	}
}

var names = map[kind]string{
	start: "open the token", opOpen: "open", opPublic: "public", opGenerate: "generate", opDiscard: "discard",
	opDestroy: "destroy", opFind: "find", opList: "list", opHealth: "health",
	opSign: "sign", opHold: "hold", opOpenHeld: "open held", opRelease: "release", opBare: "bare", opClose: "close",
}

func (k kind) String() string {
	if name, ok := names[k]; ok {
		return name
	}
	return fmt.Sprintf("kind %d", byte(k))
}

// harmless reports whether a call changes nothing, so that one that was lost
// can be made again.
func (k kind) harmless() bool {
	switch k {
	case opOpen, opPublic, opFind, opList, opHealth, opSign, opOpenHeld:
		return true
	}
	return false
}

// bare is what is to be measured: [hsm.Token.Bare] without its context.
type bare struct {
	handle   string
	env      *boundary.Envelope
	sessions int
	d        time.Duration
}

func (w bare) append(f *buffer) {
	f.reserve(len(w.handle) + sizeOf(w.env))
	f.b = appendUint64(appendUint64(f.b, uint64(w.sessions)), uint64(w.d))
	f.b = appendEnvelope(appendString(f.b, w.handle), w.env)
}

func (d *decoder) bare() (bare, error) {
	w := bare{sessions: int(d.uint64() & 0xffff), d: d.duration(), handle: d.string(maxHandle), env: d.envelope()}
	return w, d.done()
}

func appendDurations(b []byte, all []time.Duration) []byte {
	for _, d := range all {
		b = appendUint64(b, uint64(max(d, 0)))
	}
	return b
}

// durations is all that is left.
func durations(raw []byte) ([]time.Duration, error) {
	d := decoder{b: raw}
	var all []time.Duration
	for len(d.b) > 0 && !d.bad {
		all = append(all, d.duration())
	}
	return all, d.done()
}
