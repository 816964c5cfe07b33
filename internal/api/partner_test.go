package api_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"keyd/internal/api"
	"keyd/internal/boundary"
)

// partner hands out a public key and takes ours.
type partner struct {
	mu      sync.Mutex
	private *rsa.PrivateKey
	fetched int
	err     error
}

func newPartner(t testing.TB) *partner {
	t.Helper()
	key, err := theirs()
	check(t, err)
	return &partner{private: key}
}

// theirs is the partner's own key.
var theirs = sync.OnceValues(func() (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, 2048) })

func (p *partner) Announce(context.Context, string, crypto.PublicKey, time.Time, time.Time) error {
	return nil
}

func (p *partner) FetchKey(context.Context) (string, int, string, crypto.PublicKey, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fetched++
	if p.err != nil {
		return "", 0, "", nil, p.err
	}
	return "their-key", 7, boundary.RSAOAEP256, &p.private.PublicKey, nil
}

func (p *partner) fails(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.err = err
}

func (p *partner) fetches() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.fetched
}

// remote is how a partner is spoken to: the replies of its PIN endpoints come
// under the keys of their requests.
type remote struct{}

func (remote) Headers(kid string) http.Header {
	return http.Header{"X-Key": {kid}, "X-Method": {"jwe"}}
}

func (remote) GetHeaders(kid string) http.Header { return http.Header{"X-Key": {kid}} }

func (remote) Endpoint(_, path string) api.Endpoint {
	if strings.HasSuffix(path, "/pin") {
		return api.Endpoint{Direct: true, Header: http.Header{"Content-Encoding": {"identity"}}}
	}
	return api.Endpoint{}
}

// lines is a log to look at.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}
