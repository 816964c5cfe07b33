package api

import (
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
}

// Close implements net.Conn.
func (c *counted) Close() error {
	defer c.release()
	return c.Conn.Close()
}
