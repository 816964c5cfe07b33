package api

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"syscall"
	"time"
)

// ErrSocketInUse: a daemon answers on the socket, or something that is not a
// socket stands in its place. Nothing was removed.
var ErrSocketInUse = errors.New("the socket is in use")

// listenUnix opens a unix socket under exactly the mode and group asked for,
// whatever the umask. A socket that nobody listens on any more is replaced. No
// second daemon does the same in between: the registry, which is opened first,
// is open to one alone.
func listenUnix(s Socket) (net.Listener, error) {
	if err := removeStale(s.Path); err != nil {
		return nil, err
	}
	// The mode of the socket before bind(2) is the mode that its file is made
	// with, less the umask: nobody else can connect before it is settled whom
	// it belongs to.
	closed := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var chmod error
		err := raw.Control(func(fd uintptr) { chmod = syscall.Fchmod(int(fd), 0o600) })
		return errors.Join(err, chmod)
	}}
	listener, err := closed.Listen(context.Background(), "unix", s.Path)
	if err != nil {
		return nil, err
	}
	if s.GID != 0 {
		err = os.Chown(s.Path, -1, s.GID)
	}
	if err == nil {
		err = os.Chmod(s.Path, s.Mode)
	}
	if err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	return listener, nil
}

// removeStale removes a socket that its daemon left behind when it was killed.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("%s is not a socket: %w", path, ErrSocketInUse)
	}
	conn, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		_ = conn.Close()
		return fmt.Errorf("another daemon answers on %s: %w", path, ErrSocketInUse)
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("asking who listens on %s: %w: %w", path, ErrSocketInUse, err)
	}
	return os.Remove(path)
}

// listenLoopback refuses every address that another machine could reach.
func listenLoopback(address string) (net.Listener, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
		return nil, fmt.Errorf("%s is not a loopback address", address)
	}
	return new(net.ListenConfig).Listen(context.Background(), "tcp", address)
}
