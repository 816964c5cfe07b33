package worker_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"reflect"
	"testing"
	"time"

	"keyd/internal/boundary"
	"keyd/internal/hsm/worker"
)

// rawFrame is a frame as it travels, by hand.
func rawFrame(kind byte, id uint64, payload string) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(9+len(payload)))
	b = binary.BigEndian.AppendUint64(append(b, kind), id)
	return append(b, payload...)
}

// FuzzEnvelope: whatever reads as an envelope is written as the same bytes.
func FuzzEnvelope(f *testing.F) {
	f.Add(worker.EncodeEnvelope(envelope("content")))
	f.Add(worker.EncodeEnvelope(&boundary.Envelope{}))
	f.Add([]byte{0, 0, 0, 1})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 'x'})
	f.Fuzz(func(t *testing.T, raw []byte) {
		env, again, err := worker.DecodeEnvelope(raw)
		if err != nil {
			return
		}
		if !bytes.Equal(raw, again) {
			t.Fatalf("%x became %x", raw, again)
		}
		if twice, _, err := worker.DecodeEnvelope(again); err != nil || !reflect.DeepEqual(env, twice) {
			t.Fatalf("%+v became %+v, %v", env, twice, err)
		}
	})
}

// script is a connection from which fixed bytes come, and to which anything may
// be written.
type script struct {
	net.Conn
	in io.Reader
}

func (s script) Read(b []byte) (int, error)  { return s.in.Read(b) }
func (s script) Write(b []byte) (int, error) { return len(b), nil }
func (s script) Close() error                { return nil }

// FuzzWorkerHears: whatever the daemon's end sends, the worker goes on or ends.
func FuzzWorkerHears(f *testing.F) {
	begin := rawFrame(1, 1, "\x00\x00\x00\x00\x00\x00\x00\x00{}")
	f.Add(begin)
	f.Add(append(begin, rawFrame(2, 1, "")...))
	f.Add(rawFrame(3, 0, "1234"))
	f.Add(append(begin, rawFrame(9, 2, "\x00\x00\x00\x00\x00\x00\x00\x01"+string(worker.EncodeEnvelope(envelope("x"))))...))
	for kind := range byte(20) {
		f.Add(append(begin, rawFrame(kind, 2, "\x00\x00\x00\x00\x00\x00\x00\x00{}")...))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = worker.Serve(context.Background(), []worker.Conn{script{in: bytes.NewReader(raw)}}, (&echo{}).open, io.Discard)
		}()
		select {
		case <-done:
		case <-time.After(time.Minute):
			t.Fatal("the worker does not end with its input")
		}
	})
}

// FuzzDaemonHears: whatever a worker says, which runs a vendor's code, the daemon
// goes on, and everybody who waits is answered.
func FuzzDaemonHears(f *testing.F) {
	opened := "\x00" + "\x00\x00\x00\x03raw" + "\x00\x00\x00\x00\x00\x00\x00\x07" + "plaintext"
	f.Add(rawFrame(5, 1, opened))
	f.Add(append(rawFrame(5, 1, opened), rawFrame(5, 1, opened)...))
	f.Add(rawFrame(6, 1, "\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x02no"))
	f.Add(rawFrame(7, 0, ""))
	f.Add(rawFrame(8, 0, "\x00\x00\x00\x00\x00\x00\x00\x10\x00\x00\x00\x04gone"))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, raw []byte) {
		conn := script{in: bytes.NewReader(raw)}
		p := worker.NewPeer(conn, nil, 4, func() ([]byte, error) { return []byte("1234"), nil })
		answered := make(chan *boundary.Opened, 3)
		for range 3 {
			go func() {
				opened, _ := p.Open(context.Background(), "k", envelope("x"))
				answered <- opened
			}()
		}
		p.Read(conn)
		for range 3 {
			select {
			case o := <-answered:
				if o != nil && !o.Level.AtLeast("") {
					t.Fatalf("opened at the level %q", o.Level)
				}
			case <-time.After(time.Minute):
				t.Fatal("somebody waits for ever")
			}
		}
	})
}
