// Package partnersim is the other side of the wire: it pretends to be Wise, so
// that key rotation can be tried and tested without Wise. It is written from
// Wise's public documents alone and shares no code with the client under test;
// a misreading on one side therefore shows up as a failure, not as agreement.
//
// Where the documents are silent, the behaviour is an option (see Options).
// Faults are armed with Sim.Fail or over HTTP under /sim/. Nothing is stored:
// all state is in memory and gone when the Sim is. It is no place for real keys.
package partnersim

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/google/uuid"
)

// Sim pretends to be Wise. It is an http.Handler, safe for concurrent use. A
// Sim used inside a testing/synctest bubble must be made inside it.
type Sim struct {
	opt   Options
	mux   *http.ServeMux
	decoy func() *rsa.PrivateKey // a key nobody holds, for replies sealed to the wrong one

	mu      sync.Mutex // guards all below
	offset  time.Duration
	tokens  map[string]time.Time // access token to its end
	uploads []Upload             // in order of arrival
	wise    []wiseKey            // in order of version
	cases   map[int64]partnerCase
	faults  []*Fault
	release chan struct{} // closed to let hung calls go on, then replaced
	hung    int
	log     []*Request
	counts  map[Endpoint]int
}

// Upload is one client key Wise has accepted.
type Upload struct {
	KeyID      string
	ValidFrom  time.Time
	ValidTill  time.Time
	Material   string // as sent: base64 of a DER SubjectPublicKeyInfo
	Public     *rsa.PublicKey
	UploadedAt time.Time
	Revoked    bool // by hand, in the Developer Hub
}

// wiseKey is one version of the key clients seal their requests to.
type wiseKey struct {
	version   int
	keyID     string
	private   *rsa.PrivateKey
	material  string
	rotatedAt time.Time // zero while it is the newest
}

// New returns a Sim with one Wise key. It panics on options that Validate
// refuses: they are the test author's mistake, not a condition to handle.
func New(opt Options) *Sim {
	opt = opt.withDefaults()
	if err := opt.Validate(); err != nil {
		panic(err)
	}
	s := &Sim{
		opt:     opt,
		decoy:   sync.OnceValue(generate),
		offset:  opt.ClockOffset,
		tokens:  make(map[string]time.Time),
		cases:   make(map[int64]partnerCase),
		release: make(chan struct{}),
		counts:  make(map[Endpoint]int),
	}
	s.RotateWiseKey()
	s.routes()
	return s
}

// generate makes an RSA key pair. crypto/rand does not fail on a working
// system (it ends the process), and 2048 is a size crypto/rsa takes.
func generate() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(fmt.Errorf("generating an RSA key: %w", err))
	}
	return key
}

// now is Wise's clock: UTC, shifted by the offset. The caller holds s.mu.
func (s *Sim) now() time.Time { return time.Now().UTC().Add(s.offset) }

// SetClockOffset shifts Wise's clock against the real one.
func (s *Sim) SetClockOffset(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.offset = d
}

// RotateWiseKey gives Wise a new key and returns its version. Older keys go on
// opening requests for Options.WiseOverlap.
func (s *Sim) RotateWiseKey() int {
	key := generate()
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		panic(fmt.Errorf("encoding an RSA public key: %w", err))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.wise); n > 0 {
		s.wise[n-1].rotatedAt = s.now()
	}
	s.wise = append(s.wise, wiseKey{
		version:  len(s.wise) + 1,
		keyID:    uuid.NewString(),
		private:  key,
		material: base64.StdEncoding.EncodeToString(der),
	})
	return len(s.wise)
}

// Uploads returns the client keys accepted so far, in order of arrival.
func (s *Sim) Uploads() []Upload {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Upload(nil), s.uploads...)
}

// Revoke is what a person does in the Developer Hub: the key is not used again.
// It reports whether there was such a key.
func (s *Sim) Revoke(keyID string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.uploads {
		if s.uploads[i].KeyID == keyID {
			s.uploads[i].Revoked = true
			return true
		}
	}
	return false
}

// ExpireTokens makes every access token issued so far unknown.
func (s *Sim) ExpireTokens() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.tokens)
}
