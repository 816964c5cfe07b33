package kmstest

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
)

// Transport calls the server without a socket. Inside a testing/synctest
// bubble, where a listener would keep the clock from moving, it is the only way.
func (s *Server) Transport() http.RoundTripper { return transport{s} }

type transport struct{ server *Server }

// RoundTrip runs the handler in the caller's goroutine.
func (t transport) RoundTrip(r *http.Request) (resp *http.Response, err error) {
	if r.Body == nil {
		r.Body = http.NoBody
	}
	defer r.Body.Close() // read to its end or given up
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	defer func() {
		switch dropped := recover(); {
		case dropped == nil:
		case dropped != http.ErrAbortHandler: //nolint:errorlint // the value net/http compares with
			panic(dropped)
		case r.Context().Err() != nil:
			resp, err = nil, r.Context().Err()
		default:
			resp, err = nil, fmt.Errorf("reading the answer: %w", io.ErrUnexpectedEOF)
		}
	}()
	rec := &recorder{header: http.Header{}, status: http.StatusOK}
	t.server.ServeHTTP(rec, r)
	return &http.Response{
		Status: fmt.Sprintf("%d %s", rec.status, http.StatusText(rec.status)), StatusCode: rec.status,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: rec.header,
		Body: io.NopCloser(&rec.body), ContentLength: int64(rec.body.Len()), Request: r,
	}, nil
}

// recorder keeps an answer.
type recorder struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (r *recorder) Header() http.Header         { return r.header }
func (r *recorder) WriteHeader(status int)      { r.status = status }
func (r *recorder) Write(b []byte) (int, error) { return r.body.Write(b) }
