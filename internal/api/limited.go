package api

import (
	"io"
	"net"
	"sync"
)

// limited lets a number of connections be open at a time. The others wait in
// the listener's backlog, where they cost keyd no file descriptor: whoever
// floods one listener must not take those that the others need.
type limited struct {
	net.Listener
	slots chan struct{}
	done  chan struct{}
	stop  func()
}

func limit(l net.Listener, most int) *limited {
	done := make(chan struct{})
	return &limited{Listener: l, slots: make(chan struct{}, most), done: done, stop: sync.OnceFunc(func() { close(done) })}
}

// Accept implements net.Listener.
func (l *limited) Accept() (net.Conn, error) {
	select {
	case l.slots <- struct{}{}:
	case <-l.done:
		return nil, net.ErrClosed
	}
	conn, err := l.Listener.Accept()
	if err != nil {
		<-l.slots
		return nil, err
	}
	return &counted{Conn: conn, release: sync.OnceFunc(func() { <-l.slots })}, nil
}

// Close implements net.Listener.
func (l *limited) Close() error {
	l.stop()
	return l.Listener.Close()
}

// counted gives its slot back when it is closed.
type counted struct {
	net.Conn
	release func()

	// While holding, what is written is held: the head of an answer that leaves
	// together with its body.
	holding bool
	held    []byte
}

// Write implements net.Conn.
func (c *counted) Write(b []byte) (int, error) {
	if c.holding {
		c.held = append(c.held, b...)
		return len(b), nil
	}
	return c.Conn.Write(b)
}

// ReadFrom implements io.ReaderFrom, through which net/http lets a body pass its
// own buffers: they are used again and never cleared.
func (c *counted) ReadFrom(r io.Reader) (int64, error) {
	if body, ok := r.(*secretBody); ok {
		return c.send(body)
	}
	return io.Copy(struct{ io.Writer }{c}, r)
}

// send writes what was held and a body, in one call.
func (c *counted) send(body *secretBody) (int64, error) {
	head := c.held
	c.holding, c.held = false, nil
	both := net.Buffers{head, body.rest}
	n, err := both.WriteTo(c.Conn)
	body.rest = nil
	return max(n-int64(len(head)), 0), err
}

// secretBody is the body of an answer that must not be left behind in memory.
type secretBody struct{ rest []byte }

// Read implements io.Reader, for a connection that is not ours.
func (b *secretBody) Read(p []byte) (int, error) {
	if len(b.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(p, b.rest)
	b.rest = b.rest[n:]
	return n, nil
}

// Close implements net.Conn.
func (c *counted) Close() error {
	defer c.release()
	return c.Conn.Close()
}
