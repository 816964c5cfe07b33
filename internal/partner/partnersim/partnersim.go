// Package partnersim is the other side of the wire: it pretends to be the
// partners, so that key rotation and sealed calls can be tried and tested
// without them. It is written from their public documents alone and shares no
// code with the clients under test; a misreading on one side therefore shows up
// as a failure, not as agreement.
//
// One Sim is all of them, told apart by path: Wise and its card data host from
// the root on, Jack Henry below /jackhenry, Powens below /powens/2.0, Venly below
// /venly, and below /generic a partner of no name. A partner is one file; what
// they share is the log, the faults, the tokens and the clock.
//
// Where the documents are silent, the behaviour is an option (see Options).
// Faults are armed with Sim.Fail or over HTTP under /sim/. Nothing is stored:
// all state is in memory and gone when the Sim is. It is no place for real keys.
package partnersim

import (
	"crypto"
	"crypto/rsa"
	"net/http"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// Sim pretends to be the partners. It is an http.Handler, safe for concurrent use. A
// Sim used inside a testing/synctest bubble must be made inside it.
type Sim struct {
	opt    Options
	mux    *http.ServeMux
	signer func() crypto.Signer // a key that nobody seals to
	first  map[Partner]func()   // makes the first key of a partner, once

	mu          sync.Mutex // guards all below
	offset      time.Duration
	tokens      map[string]access      // by token
	uploads     []Upload               // in order of arrival
	keys        map[Partner][]theirKey // in order of version
	cases       map[int64]partnerCase
	pins        map[string]string // by version of the API
	assertions  assertionKeys
	idempotency map[string]bool // keys that Venly has seen
	hasMethod   map[string]bool // users of Venly's with a signing method
	clientKeys  jose.JSONWebKey // what the partner of no name seals replies to
	faults      []*Fault
	release     chan struct{} // closed to let hung calls go on, then replaced
	hung        int
	log         []*Request
	counts      map[Endpoint]int
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

// New returns a Sim. It panics on options that Validate
// refuses: they are the test author's mistake, not a condition to handle.
func New(opt Options) *Sim {
	opt = opt.withDefaults()
	if err := opt.Validate(); err != nil {
		panic(err)
	}
	s := &Sim{
		opt:         opt,
		first:       make(map[Partner]func()),
		signer:      sync.OnceValue(newEC),
		offset:      opt.ClockOffset,
		tokens:      make(map[string]access),
		keys:        make(map[Partner][]theirKey),
		cases:       make(map[int64]partnerCase),
		pins:        make(map[string]string),
		assertions:  assertionKeys{seen: make(map[string]bool)},
		idempotency: make(map[string]bool),
		hasMethod:   make(map[string]bool),
		release:     make(chan struct{}),
		counts:      make(map[Endpoint]int),
	}
	for p, generate := range partners {
		s.first[p] = sync.OnceFunc(func() {
			key := generate(s.opt)
			s.mu.Lock()
			defer s.mu.Unlock()
			s.add(p, key)
		})
	}
	s.routes()
	return s
}

// now is Wise's clock: UTC, shifted by the offset. The caller holds s.mu.
func (s *Sim) now() time.Time { return time.Now().UTC().Add(s.offset) }

// SetClockOffset shifts Wise's clock against the real one.
func (s *Sim) SetClockOffset(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.offset = d
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
