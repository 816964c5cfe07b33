package worker_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/rsa"
	"fmt"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"keyd/internal/boundary"
	"keyd/internal/hsm"
	"keyd/internal/hsm/worker"
)

// echo is a backend that opens an envelope to its own ciphertext. What the pipe
// does to it is what these tests are about; the real thing is tested behind the
// pipe in package hsm.
type echo struct {
	cfg   hsm.Config
	hold  chan struct{} // Open of the handle "hold" waits for it
	held  chan struct{} // is told that one does, unless it is nil
	takes time.Duration // that Open of the handle "slow" takes, and Generate

	mu        sync.Mutex
	cancelled int
	given     [][]byte // every plaintext that was handed over
}

func (e *echo) Open(ctx context.Context, handle string, env *boundary.Envelope) (*boundary.Opened, error) {
	switch handle {
	case "none":
		return nil, boundary.ErrNoKey
	case "bad":
		return nil, boundary.ErrOpen
	case "panic":
		panic("of the test")
	case "hold":
		if e.held != nil {
			e.held <- struct{}{}
		}
		select {
		case <-e.hold:
		case <-ctx.Done():
			e.mu.Lock()
			e.cancelled++
			e.mu.Unlock()
			return nil, ctx.Err()
		}
	case "slow":
		if err := e.work(ctx); err != nil {
			return nil, err
		}
	}
	plaintext := bytes.Clone(env.Ciphertext)
	e.mu.Lock()
	e.given = append(e.given, plaintext)
	e.mu.Unlock()
	if e.cfg.Observe != nil {
		e.cfg.Observe("decrypt", time.Microsecond, time.Millisecond, nil)
	}
	return &boundary.Opened{Plaintext: plaintext, Level: boundary.Raw, InToken: time.Millisecond}, nil
}

func (e *echo) Public(_ context.Context, handle string) (crypto.PublicKey, error) {
	if handle == "ec" {
		key, err := ecdh.P256().GenerateKey(rand.Reader)
		return key.PublicKey(), err
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	return &key.PublicKey, err
}

func (e *echo) work(ctx context.Context) error {
	select {
	case <-time.After(e.takes):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (e *echo) Generate(ctx context.Context, _ boundary.Spec) (boundary.Generated, error) {
	return boundary.Generated{Handle: "made"}, e.work(ctx)
}
func (e *echo) Discard(context.Context, boundary.Spec) error  { return nil }
func (e *echo) Destroy(context.Context, string) (bool, error) { return true, nil }
func (e *echo) Find(context.Context, string) (boundary.Found, error) {
	return boundary.Found{}, boundary.ErrNoKey
}
func (e *echo) List(context.Context) ([]boundary.Found, error) { return nil, nil }
func (e *echo) Health(context.Context) boundary.Health         { return boundary.Health{Backend: "echo"} }
func (e *echo) Close() error                                   { return nil }

// served connects a peer with a server of echo, by a pipe and some lines.
func served(t testing.TB, e *echo, lines int) *worker.Peer {
	t.Helper()
	var ours []net.Conn
	var theirs []worker.Conn
	for range 1 + lines {
		a, b := socketPair(t)
		ours, theirs = append(ours, a), append(theirs, b)
	}
	return connected(t, e, ours, theirs)
}

// connected is served, by connections that there are.
func connected(t testing.TB, e *echo, ours []net.Conn, theirs []worker.Conn) *worker.Peer {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		done <- worker.Serve(context.WithoutCancel(t.Context()), theirs, e.open, testWriter{t})
	}()
	p := worker.NewPeer(ours[0], ours[1:], 100, func() ([]byte, error) { return []byte("a PIN"), nil })
	go p.Read(ours[0])
	t.Cleanup(func() {
		p.Finish(net.ErrClosed)
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	if err := p.Start(t.Context(), `{"Name":"echo"}`); err != nil {
		t.Fatalf("starting: %v", err)
	}
	return p
}

// socketPair is one of the kernel's.
func socketPair(t testing.TB) (a, b net.Conn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	conns := make([]net.Conn, 2)
	for i, fd := range fds {
		file := os.NewFile(uintptr(fd), "pair")
		if conns[i], err = net.FileConn(file); err != nil {
			t.Fatal(err)
		}
		if err := file.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return conns[0], conns[1]
}

// eachWay runs a test over the pipe alone and with lines beside it.
func eachWay(t *testing.T, test func(t *testing.T, lines int)) {
	for _, lines := range []int{0, 1, 8} {
		t.Run(fmt.Sprintf("lines=%d", lines), func(t *testing.T) { test(t, lines) })
	}
}

func (e *echo) open(_ context.Context, cfg hsm.Config) (worker.Backend, error) {
	e.cfg = cfg
	return e, nil
}

type testWriter struct{ testing.TB }

func (w testWriter) Write(b []byte) (int, error) {
	w.Logf("%s", b)
	return len(b), nil
}

func envelope(content string) *boundary.Envelope {
	return &boundary.Envelope{Alg: boundary.RSAOAEP256, Enc: boundary.A256GCM, EncryptedKey: make([]byte, 256),
		IV: make([]byte, 12), Ciphertext: []byte(content), Tag: make([]byte, 16), AAD: []byte("header")}
}
