package worker

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"keyd/internal/boundary"
)

// reader reads frames. What it has read ahead is wiped as soon as it has been
// handed on.
type reader struct {
	conn       io.Reader
	buf        []byte
	start, end int // what of buf has been read and not handed on

	half *frame // one that was interrupted; got bytes of its payload are there
	got  int
}

func newReader(conn io.Reader) *reader { return &reader{conn: conn, buf: make([]byte, 16<<10)} }

// next reads one frame. After an error there is no way to find the beginning of
// another one - but for a deadline that has passed: then next goes on where it
// was.
func (r *reader) next() (frame, error) {
	if r.half == nil {
		if err := r.begin(); err != nil {
			return frame{}, err
		}
	}
	for r.got < len(r.half.payload) {
		n, err := r.conn.Read(r.half.payload[r.got:])
		r.got += n
		switch {
		case err == nil || r.got == len(r.half.payload):
		case errors.Is(err, os.ErrDeadlineExceeded):
			return frame{}, err
		default:
			clear(r.half.payload)
			r.half = nil
			return frame{}, fmt.Errorf("reading a frame: %w", noEOF(err))
		}
	}
	f := *r.half
	r.half = nil
	return f, nil
}

// begin reads the head of a frame.
func (r *reader) begin() error {
	if err := r.need(headSize); err != nil {
		return err
	}
	head := r.buf[r.start:]
	size := int(binary.BigEndian.Uint32(head))
	if size < headSize-lengthSize || size > maxFrame {
		return fmt.Errorf("a frame of %d bytes, want %d to %d", size, headSize-lengthSize, maxFrame)
	}
	f := &frame{kind: kind(head[lengthSize]), id: binary.BigEndian.Uint64(head[lengthSize+1:])}
	r.taken(headSize)
	f.payload = make([]byte, size-(headSize-lengthSize))
	defer boundary.SweepStack() // a copy leaves what it copied in the registers
	r.half, r.got = f, copy(f.payload, r.buf[r.start:r.end])
	r.taken(r.got)
	return nil
}

// need reads until n bytes are in the buffer. io.EOF is an end between frames.
func (r *reader) need(n int) error {
	if r.end-r.start >= n {
		return nil
	}
	if len(r.buf)-r.start < n {
		moved := copy(r.buf, r.buf[r.start:r.end])
		clear(r.buf[max(moved, r.start):r.end])
		r.start, r.end = 0, moved
	}
	read, err := io.ReadAtLeast(r.conn, r.buf[r.end:], n-(r.end-r.start))
	r.end += read
	switch {
	case err == nil:
		return nil
	case errors.Is(err, io.EOF) && r.start == r.end:
		return io.EOF
	case errors.Is(err, os.ErrDeadlineExceeded):
		return err
	}
	return fmt.Errorf("reading a frame: %w", noEOF(err))
}

// taken wipes what has been handed on.
func (r *reader) taken(n int) {
	clear(r.buf[r.start : r.start+n])
	if r.start += n; r.start == r.end {
		r.start, r.end = 0, 0
	}
}

func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
