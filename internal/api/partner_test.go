package api_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"fmt"
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
	id      string
}

func newPartner(t testing.TB) *partner {
	t.Helper()
	key, err := theirs()
	check(t, err)
	return &partner{private: key, id: "their-key"}
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
	return p.id, 7, boundary.RSAOAEP256, &p.private.PublicKey, nil
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

func (remote) Headers(kid, _ string) http.Header {
	return http.Header{"X-Key": {kid}, "X-Method": {"jwe"}}
}

func (remote) GetHeaders(kid string) http.Header { return http.Header{"X-Key": {kid}} }

func (remote) Frame(envelope []byte, version int) ([]byte, error) {
	return fmt.Appendf(nil, `{"keyVersion":%d,"encryptedPayload":"%s"}`, version, envelope), nil
}

// PublicKey is base64 of DER, with the kid beside it.
func (remote) PublicKey(public crypto.PublicKey, kid string) (json.RawMessage, error) {
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return nil, err
	}
	return json.Marshal(map[string]any{"spki": der, "kid": kid})
}

func (remote) Endpoint(_, path string) api.Endpoint {
	switch {
	case strings.HasSuffix(path, "/search-by-pan"):
		return api.Endpoint{Seal: []string{"/encryptedPAN"}, PublicKey: "/publicKey"}
	case strings.HasSuffix(path, "/card-tokens"):
		return api.Endpoint{Seal: []string{"/encryptedPAN"}}
	}
	if strings.HasSuffix(path, "/pin") {
		return api.Endpoint{Direct: true, Header: http.Header{"Content-Encoding": {"identity"}}}
	}
	return api.Endpoint{}
}

// Do answers with what it got.
func (remote) Allows(string, string) error { return nil }

func (remote) Do(_ context.Context, r api.Request) (*api.Response, error) {
	return &api.Response{Status: http.StatusOK, Header: http.Header{"Content-Type": {"application/json"}}, Body: r.Body}, nil
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
