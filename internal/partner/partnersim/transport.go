package partnersim

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strconv"
)

// Transport returns an http.RoundTripper that ends in s without a socket, so
// that a client can be tested inside a testing/synctest bubble, where a
// listener would keep the clock from moving. Closed connections show as
// io.ErrUnexpectedEOF; a call goes on at the Sim when its client gives up.
func (s *Sim) Transport() http.RoundTripper { return transport{s} }

type transport struct{ sim *Sim }

// RoundTrip implements http.RoundTripper.
func (t transport) RoundTrip(req *http.Request) (*http.Response, error) {
	var body []byte
	if req.Body != nil {
		read, err := io.ReadAll(req.Body)
		if closed := req.Body.Close(); err == nil {
			err = closed
		}
		if err != nil {
			return nil, fmt.Errorf("reading the request's body: %w", err)
		}
		body = read
	}
	ctx := req.Context()
	in := req.Clone(ctx)
	in.Body = io.NopCloser(bytes.NewReader(body))
	in.RequestURI = req.URL.RequestURI()
	in.RemoteAddr = "127.0.0.1:0"
	w := &recorder{header: http.Header{}, done: make(chan struct{})}
	go w.serve(t.sim, in)
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-w.done:
	}
	if w.crash != nil {
		panic(w.crash)
	}
	return w.response(req)
}

// recorder is the server's end of one call. Its fields belong to the serving
// goroutine until done is closed.
type recorder struct {
	header http.Header
	sent   http.Header // as it was at WriteHeader
	status int
	body   bytes.Buffer
	cut    bool
	crash  any
	done   chan struct{}
}

func (w *recorder) serve(h http.Handler, r *http.Request) {
	defer close(w.done)
	defer func() {
		switch p := recover(); p {
		case nil:
			w.WriteHeader(http.StatusOK) // as net/http does for a handler that says nothing
		case http.ErrAbortHandler:
			w.cut = true
		default:
			w.crash = p // to be raised where the client's stack is
		}
	}()
	h.ServeHTTP(w, r)
}

func (w *recorder) response(req *http.Request) (*http.Response, error) {
	if w.status == 0 {
		return nil, fmt.Errorf("the connection was closed: %w", io.ErrUnexpectedEOF)
	}
	body := io.Reader(&w.body)
	if w.cut {
		body = io.MultiReader(&w.body, broken{})
	}
	length := int64(-1)
	if n, err := strconv.ParseInt(w.sent.Get("Content-Length"), 10, 64); err == nil {
		length = n
	}
	return &http.Response{
		Status:        strconv.Itoa(w.status) + " " + http.StatusText(w.status),
		StatusCode:    w.status,
		Proto:         "HTTP/1.1",
		ProtoMajor:    1,
		ProtoMinor:    1,
		Header:        w.sent,
		Body:          io.NopCloser(body),
		ContentLength: length,
		Request:       req,
	}, nil
}

// Header implements http.ResponseWriter.
func (w *recorder) Header() http.Header { return w.header }

// WriteHeader implements http.ResponseWriter.
func (w *recorder) WriteHeader(status int) {
	if w.status == 0 {
		w.status, w.sent = status, w.header.Clone()
	}
}

// Write implements http.ResponseWriter.
func (w *recorder) Write(p []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return w.body.Write(p)
}

// Flush implements http.Flusher.
func (w *recorder) Flush() {}

// broken is where a cut body ends.
type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }
