package kmstest

import (
	"crypto"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
)

// The states a key can be in here.
const (
	Enabled         = "Enabled"
	Disabled        = "Disabled"
	PendingDeletion = "PendingDeletion"
)

// The uses a key can be made for here.
const (
	encryptDecrypt = "ENCRYPT_DECRYPT"
	keyAgreement   = "KEY_AGREEMENT"
	signVerify     = "SIGN_VERIFY"
)

// spec is a kind of key that can be made.
type spec struct {
	bits   int        // RSA
	curve  ecdh.Curve // or a curve
	usages []string
}

var specs = map[string]spec{
	"RSA_2048":      {bits: 2048, usages: []string{encryptDecrypt, signVerify}},
	"RSA_3072":      {bits: 3072, usages: []string{encryptDecrypt, signVerify}},
	"RSA_4096":      {bits: 4096, usages: []string{encryptDecrypt, signVerify}},
	"ECC_NIST_P256": {curve: ecdh.P256(), usages: []string{keyAgreement, signVerify}},
	"ECC_NIST_P384": {curve: ecdh.P384(), usages: []string{keyAgreement, signVerify}},
	"ECC_NIST_P521": {curve: ecdh.P521(), usages: []string{keyAgreement, signVerify}},
}

var (
	encryptionAlgorithms = []string{"RSAES_OAEP_SHA_1", "RSAES_OAEP_SHA_256"}
	signingAlgorithms    = []string{"RSASSA_PKCS1_V1_5_SHA_256", "RSASSA_PKCS1_V1_5_SHA_384", "RSASSA_PKCS1_V1_5_SHA_512",
		"RSASSA_PSS_SHA_256", "RSASSA_PSS_SHA_384", "RSASSA_PSS_SHA_512"}
	curveSigning = map[string][]string{"ECC_NIST_P256": {"ECDSA_SHA_256"}, "ECC_NIST_P384": {"ECDSA_SHA_384"}, "ECC_NIST_P521": {"ECDSA_SHA_512"}}
)

// key is a KMS key. The server's lock guards everything that changes.
type key struct {
	id, arn     string
	spec, usage string
	description string
	multiRegion bool
	created     time.Time
	rsa         *rsa.PrivateKey  // one of the two
	ecdh        *ecdh.PrivateKey //

	state    string
	deletion time.Time // when PendingDeletion ends
	tags     map[string]string
}

// public is the key's public half as SubjectPublicKeyInfo.
func (k *key) public() ([]byte, error) {
	var pub crypto.PublicKey
	if k.rsa != nil {
		pub = &k.rsa.PublicKey
	} else {
		pub = k.ecdh.PublicKey()
	}
	return x509.MarshalPKIXPublicKey(pub)
}

// make puts a new key of a known spec there.
func (s *Server) make(specName, usage string, multiRegion bool) (*key, error) {
	id := uuid.NewString()
	if multiRegion {
		id = "mrk-" + strings.ReplaceAll(id, "-", "")
	}
	k := &key{id: id, arn: "arn:aws:kms:" + s.opts.Region + ":" + s.opts.Account + ":key/" + id, spec: specName, usage: usage,
		multiRegion: multiRegion, created: time.Now(), state: Enabled, tags: map[string]string{}}
	var err error
	if wanted := specs[specName]; wanted.curve != nil {
		k.ecdh, err = wanted.curve.GenerateKey(rand.Reader)
	} else {
		k.rsa, err = pooled(wanted.bits, s.drawn[wanted.bits])
		s.drawn[wanted.bits]++
	}
	if err != nil {
		return nil, err
	}
	s.keys[id] = k
	return k, nil
}

// reap deletes the keys whose waiting period is over, and their aliases. AWS
// takes up to 24 hours more.
func (s *Server) reap() {
	if s.leaving == 0 {
		return // tests keep thousands of keys, and ask for each
	}
	now := time.Now()
	for id, k := range s.keys {
		if k.state != PendingDeletion || now.Before(k.deletion) {
			continue
		}
		delete(s.keys, id)
		s.leaving--
		maps.DeleteFunc(s.aliases, func(_ string, a *alias) bool { return a.target == id })
	}
}

// byID finds a key by its id or ARN.
func (s *Server) byID(id string) (*key, error) {
	s.reap()
	if rest, isARN := strings.CutPrefix(id, "arn:aws:kms:"); isARN {
		parts := strings.SplitN(rest, ":", 3)
		switch {
		case len(parts) != 3:
			return nil, refuse("InvalidArnException", "Invalid ARN")
		case parts[0] != s.opts.Region:
			return nil, refuse("NotFoundException", "Invalid arn %s", parts[0])
		case parts[1] != s.opts.Account:
			// Whether it exists is not told.
			return nil, refuse("AccessDeniedException", "The ciphertext refers to a customer master key that does not exist, "+
				"does not exist in this region, or you are not allowed to access.")
		case !strings.HasPrefix(parts[2], "key/"):
			return nil, refuse("InvalidArnException", "%s is not a key ARN", id)
		}
		id = strings.TrimPrefix(parts[2], "key/")
	}
	if id == "" || len(id) > 2048 {
		return nil, refuse("ValidationException", "1 validation error detected: Value at 'keyId' failed to satisfy constraint: "+
			"Member must have length between 1 and 2048")
	}
	if k := s.keys[id]; k != nil {
		return k, nil
	}
	return nil, refuse("NotFoundException", "Key 'arn:aws:kms:%s:%s:key/%.200s' does not exist", s.opts.Region, s.opts.Account, id)
}

// byName finds a key by id, ARN, alias name or alias ARN.
func (s *Server) byName(name string) (*key, error) {
	s.reap()
	aliasName := strings.TrimPrefix(name, "arn:aws:kms:"+s.opts.Region+":"+s.opts.Account+":")
	if !strings.HasPrefix(aliasName, "alias/") {
		return s.byID(name)
	}
	a := s.aliases[aliasName]
	if a == nil {
		return nil, refuse("NotFoundException", "Alias arn:aws:kms:%s:%s:%.256s is not found.", s.opts.Region, s.opts.Account, aliasName)
	}
	return s.byID(a.target)
}

// usable reports why a key's state forbids to use it ("Key states of AWS KMS
// keys" in the developer guide).
func (k *key) usable() error {
	switch k.state {
	case Disabled:
		return refuse("DisabledException", "%s is disabled.", k.arn)
	case PendingDeletion:
		return k.invalidState()
	}
	return nil
}

func (k *key) invalidState() error {
	return refuse("KMSInvalidStateException", "%s is %s.", k.arn,
		map[string]string{PendingDeletion: "pending deletion", Disabled: "disabled", Enabled: "enabled"}[k.state])
}

// Key is what a test may know of a key.
type Key struct {
	ID, ARN     string
	Spec, Usage string
	Description string
	MultiRegion bool
	State       string
	Deletion    time.Time // zero unless PendingDeletion
	Tags        map[string]string
	Aliases     []string // sorted
}

// Keys returns every key that is not deleted, oldest first.
func (s *Server) Keys() []Key {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reap()
	var all []Key
	for _, k := range slices.SortedFunc(maps.Values(s.keys), func(a, b *key) int { return a.created.Compare(b.created) }) {
		seen := Key{ID: k.id, ARN: k.arn, Spec: k.spec, Usage: k.usage, Description: k.description, MultiRegion: k.multiRegion,
			State: k.state, Deletion: k.deletion, Tags: maps.Clone(k.tags)}
		for name, a := range s.aliases {
			if a.target == k.id {
				seen.Aliases = append(seen.Aliases, name)
			}
		}
		slices.Sort(seen.Aliases)
		all = append(all, seen)
	}
	return all
}
