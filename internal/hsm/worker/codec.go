package worker

import (
	"encoding/binary"
	"fmt"
	"time"

	"keyd/internal/boundary"
)

// Values in a payload: numbers are big-endian, bytes and texts have their length
// before them. What opens an envelope is written and read by hand; everything
// that happens now and then is JSON.

func appendUint64(b []byte, n uint64) []byte { return binary.BigEndian.AppendUint64(b, n) }

func appendBytes(b, v []byte) []byte {
	return append(binary.BigEndian.AppendUint32(b, uint32(len(v))), v...)
}

func appendString(b []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint32(b, uint32(len(s))), s...)
}

func appendBool(b []byte, is bool) []byte {
	if is {
		return append(b, 1)
	}
	return append(b, 0)
}

// errMalformed: the other process speaks another language, or has been taken
// over. Its connection is of no more use.
var errMalformed = fmt.Errorf("a message of the other process cannot be read: %w", boundary.ErrUnavailable)

// decoder reads values. After the first that is not there it gives zeros, and
// done says so.
type decoder struct {
	b   []byte
	bad bool
}

// take returns the next n bytes, in place.
func (d *decoder) take(n uint64) []byte {
	if d.bad || n > uint64(len(d.b)) {
		d.bad = true
		return nil
	}
	v := d.b[:n:n]
	d.b = d.b[n:]
	return v
}

func (d *decoder) byte() byte {
	if v := d.take(1); v != nil {
		return v[0]
	}
	return 0
}

// bool is 0 or 1, so that every message has one spelling.
func (d *decoder) bool() bool {
	v := d.byte()
	d.bad = d.bad || v > 1
	return v == 1
}

func (d *decoder) uint64() uint64 {
	if v := d.take(8); v != nil {
		return binary.BigEndian.Uint64(v)
	}
	return 0
}

// bytes returns bytes in place; nil for none.
func (d *decoder) bytes() []byte {
	var n uint64
	if v := d.take(4); v != nil {
		n = uint64(binary.BigEndian.Uint32(v))
	}
	if n == 0 {
		return nil
	}
	return d.take(n)
}

// string returns a text of at most limit bytes.
func (d *decoder) string(limit int) string {
	v := d.bytes()
	if len(v) > limit {
		d.bad = true
		return ""
	}
	return string(v)
}

func (d *decoder) duration() time.Duration {
	n := d.uint64()
	if n > uint64(1<<63-1) {
		d.bad = true
		return 0
	}
	return time.Duration(n)
}

// rest is everything that is left.
func (d *decoder) rest() []byte {
	v := d.b
	d.b = nil
	return v
}

// done reports what is wrong with the message: a part that is missing, or
// something after its end.
func (d *decoder) done() error {
	if d.bad || len(d.b) != 0 {
		return errMalformed
	}
	return nil
}
