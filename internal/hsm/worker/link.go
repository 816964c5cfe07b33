package worker

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A frame is a length, a kind, the number of the call that it belongs to, and a
// payload: 4, 1, 8 and the rest, numbers big-endian. The length counts
// everything after itself.
const (
	lengthSize = 4
	headSize   = lengthSize + 1 + 8
	// maxFrame has room for the largest envelope that a config can allow (64 MiB
	// in base64), and for a list of tens of thousands of keys.
	maxFrame = 65 << 20
	// pooledFrame is the largest buffer that is kept for later.
	pooledFrame = 64 << 10
)

// frame is one that was read. Its payload is nobody else's.
type frame struct {
	kind    kind
	id      uint64
	payload []byte
}

// buffer is a frame that is being written, from its length on.
type buffer struct{ b []byte }

var buffers = sync.Pool{New: func() any { return &buffer{b: make([]byte, 0, 4<<10)} }}

// newBuffer begins a frame.
func newBuffer(k kind, id uint64) *buffer {
	f := buffers.Get().(*buffer)
	f.b = append(f.b[:0], 0, 0, 0, 0, byte(k))
	f.b = binary.BigEndian.AppendUint64(f.b, id)
	return f
}

// reserve makes room for n more bytes. What a slice outgrows stays behind in
// memory, so a frame with a secret is given its room first.
func (f *buffer) reserve(n int) {
	if cap(f.b)-len(f.b) < n {
		grown := append(make([]byte, 0, len(f.b)+n), f.b...)
		clear(f.b)
		f.b = grown
	}
}

// wipe ends a frame: it may have held a PIN or a plaintext.
func (f *buffer) wipe() {
	clear(f.b[:cap(f.b)])
	if cap(f.b) <= pooledFrame {
		buffers.Put(f)
	}
}

// Conn is one end of the pipe or of a line.
type Conn interface {
	io.ReadWriteCloser
	SetReadDeadline(t time.Time) error
}

// errTooLarge: a message does not fit into a frame.
var errTooLarge = errors.New("the message is too large for the pipe")

// link writes frames to the other process. Whoever sends waits neither for the
// other process to read nor for others who send: the first one writes, and takes
// along what has come meanwhile; what does not fit into the pipe at once is left
// to a goroutine. Mostly nobody else is there, and a frame is one write(2).
type link struct {
	conn Conn
	raw  syscall.RawConn // nil: not one of the kernel's

	mu      sync.Mutex
	queue   []*buffer
	writing bool  // somebody will take the queue along
	err     error // nothing is written any more
}

func newLink(conn Conn) *link {
	l := &link{conn: conn}
	if c, ok := conn.(syscall.Conn); ok {
		l.raw, _ = c.SyscallConn() // else every frame is left to a goroutine
	}
	return l
}

// send puts a frame on its way and takes it over, whatever comes of it.
func (l *link) send(f *buffer) error {
	if len(f.b) > lengthSize+maxFrame {
		f.wipe()
		return errTooLarge
	}
	binary.BigEndian.PutUint32(f.b, uint32(len(f.b)-lengthSize))
	l.mu.Lock()
	if err := l.err; err != nil {
		l.mu.Unlock()
		f.wipe()
		return err
	}
	l.queue = append(l.queue, f)
	first := !l.writing
	l.writing = true
	l.mu.Unlock()
	if first {
		l.write(false)
	}
	return nil
}

// turns is how often one who sends takes along what others have sent.
const turns = 4

// write writes what is queued until nothing is left. Who must not wait leaves
// what has to be waited for.
func (l *link) write(wait bool) {
	for turn := 1; ; turn++ {
		queue := l.take()
		if len(queue) == 0 {
			return
		}
		rest := make(net.Buffers, len(queue))
		for i, f := range queue {
			rest[i] = f.b
		}
		if turn <= turns || wait {
			l.attempt(&rest)
		}
		if len(rest) > 0 && !wait {
			go func() {
				l.finish(queue, rest)
				l.write(true)
			}()
			return
		}
		l.finish(queue, rest)
	}
}

// take returns what is queued, or makes room for another writer.
func (l *link) take() []*buffer {
	l.mu.Lock()
	defer l.mu.Unlock()
	queue := l.queue
	l.queue = nil
	l.writing = len(queue) > 0
	return queue
}

// attempt writes what fits into the pipe now. What is wrong with the pipe shows
// again when the rest is written.
func (l *link) attempt(rest *net.Buffers) {
	if l.raw == nil {
		return
	}
	_ = l.raw.Write(func(fd uintptr) bool {
		n, err := unix.Writev(int(fd), *rest)
		if err != nil {
			n = 0
		}
		for n > 0 {
			first := &(*rest)[0]
			taken := min(n, len(*first))
			*first = (*first)[taken:]
			if n -= taken; len(*first) == 0 {
				*rest = (*rest)[1:]
			}
		}
		return true // whatever was written
	})
}

// finish writes the rest of what was taken from the queue, and wipes it all.
func (l *link) finish(queue []*buffer, rest net.Buffers) {
	if len(rest) > 0 {
		if _, err := rest.WriteTo(l.conn); err != nil {
			l.close(err)
		}
	}
	for _, f := range queue {
		f.wipe()
	}
}

// close ends both directions: nothing is written any more, and whoever reads
// learns that it is over.
func (l *link) close(why error) {
	l.mu.Lock()
	queue := l.queue
	l.queue = nil
	if l.err == nil {
		l.err = fmt.Errorf("writing to the pipe: %w", why)
	}
	l.mu.Unlock()
	for _, f := range queue {
		f.wipe()
	}
	_ = l.conn.Close() // it may be closed already
}
