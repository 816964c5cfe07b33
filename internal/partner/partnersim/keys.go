package partnersim

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/uuid"
)

// Partner names one of the partners a Sim pretends to be.
type Partner string

// The partners.
const (
	Wise      Partner = "wise"
	WiseCard  Partner = "wise-card"
	JackHenry Partner = "jackhenry"
	Powens    Partner = "powens"
	Venly     Partner = "venly"
	Generic   Partner = "jwe" // a partner of no name
)

// partners is which kind of key clients seal their requests to.
var partners = map[Partner]func(Options) crypto.Signer{
	Wise:      func(Options) crypto.Signer { return newRSA() },
	WiseCard:  func(Options) crypto.Signer { return newRSA() },
	JackHenry: func(Options) crypto.Signer { return newEC() },
	Powens:    func(Options) crypto.Signer { return newRSA() },
	Venly:     func(Options) crypto.Signer { return newRSA() },
	Generic: func(o Options) crypto.Signer {
		if o.GenericAlg == string(jose.RSA_OAEP_256) {
			return newRSA()
		}
		return newEC()
	},
}

// Partners are all that can be pretended, in the order of their names.
func Partners() []Partner { return slices.Sorted(maps.Keys(partners)) }

// theirKey is one version of the key clients seal their requests to.
type theirKey struct {
	version   int
	id        string
	private   crypto.Signer // *rsa.PrivateKey or *ecdsa.PrivateKey
	rotatedAt time.Time     // zero while it is the newest
}

// spki is base64 of a DER SubjectPublicKeyInfo.
func spki(public crypto.PublicKey) string {
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		panic(fmt.Errorf("encoding a public key: %w", err))
	}
	return base64.StdEncoding.EncodeToString(der)
}

// newRSA makes an RSA key pair. crypto/rand does not fail on a working system
// (it ends the process), and 2048 is a size crypto/rsa takes.
func newRSA() crypto.Signer {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(fmt.Errorf("generating an RSA key: %w", err))
	}
	return key
}

func newEC() crypto.Signer {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(fmt.Errorf("generating an EC key: %w", err))
	}
	return key
}

// Rotate gives a partner a new key, unannounced, and returns its version. Older
// keys go on opening requests for Options.KeyOverlap.
func (s *Sim) Rotate(p Partner) int {
	s.newest(p) // there is an old one
	key := partners[p](s.opt)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.add(p, key)
}

// add makes key the newest of p. The caller holds s.mu.
func (s *Sim) add(p Partner, key crypto.Signer) int {
	ring := s.keys[p]
	if n := len(ring); n > 0 {
		ring[n-1].rotatedAt = s.now()
	}
	s.keys[p] = append(ring, theirKey{version: len(ring) + 1, id: uuid.NewString(), private: key})
	return len(ring) + 1
}

// newest returns the latest key of a partner, which gets its first one when
// it is first asked for: making them takes time, and few tests need them all.
func (s *Sim) newest(p Partner) theirKey {
	s.first[p]()
	s.mu.Lock()
	defer s.mu.Unlock()
	ring := s.keys[p]
	return ring[len(ring)-1]
}

// openers returns the keys of a partner that still open requests, the newest
// first.
func (s *Sim) openers(p Partner) []theirKey {
	s.newest(p)
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	keys := slices.DeleteFunc(slices.Clone(s.keys[p]), func(k theirKey) bool {
		if k.rotatedAt.IsZero() || s.opt.KeyOverlap == 0 {
			return false
		}
		return !now.Before(k.rotatedAt.Add(s.opt.KeyOverlap))
	})
	slices.Reverse(keys)
	return keys
}
