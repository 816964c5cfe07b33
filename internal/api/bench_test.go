package api_test

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"

	"keyd/internal/api"
	"keyd/internal/audit"
	"keyd/internal/boundary"
)

// instant is a backend that costs nothing, so that what is measured is keyd.
type instant struct {
	api.Backend
	plaintext []byte
}

func (i instant) Open(context.Context, string, *boundary.Envelope) (*boundary.Opened, error) {
	return &boundary.Opened{Plaintext: append([]byte(nil), i.plaintext...), Level: boundary.Sealed}, nil
}

// BenchmarkDecrypt is everything but the token: the socket, the caller, the
// envelope, the registry, the audit log.
func BenchmarkDecrypt(b *testing.B) {
	for _, mode := range []string{api.AuditAll, api.AuditFailures} {
		b.Run("audit="+mode, func(b *testing.B) {
			r := newRig(b, func(s *setup) {
				s.backend = instant{s.backend, make([]byte, 1024)}
				s.opener.Decrypts = mode
				s.cfg.Logger = discard()
			})
			envelope := r.seal(r.active, make([]byte, 1024), nil)
			b.ReportAllocs()
			for b.Loop() {
				res, err := r.client.Post("http://keyd/v1/partners/wise/decrypt", "application/jose+json", strings.NewReader(envelope))
				if err != nil {
					b.Fatal(err)
				}
				if n, err := io.Copy(io.Discard, res.Body); err != nil || n != 1024 || res.StatusCode != http.StatusOK {
					b.Fatalf("status %d, %d bytes, %v", res.StatusCode, n, err)
				}
				_ = res.Body.Close()
			}
		})
	}
}

// BenchmarkOpen is the same without HTTP.
func BenchmarkOpen(b *testing.B) {
	r := newRig(b, func(s *setup) {
		s.backend = instant{s.backend, make([]byte, 1024)}
		s.opener.Decrypts = api.AuditOff
	})
	envelope := []byte(r.seal(r.active, make([]byte, 1024), nil))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.opener.Open(b.Context(), audit.System, "wise", envelope); err != nil {
			b.Fatal(err)
		}
	}
}
