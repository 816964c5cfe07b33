package hsm

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/miekg/pkcs11"

	"keyd/internal/boundary"
)

// mode is what a token was found to do, and how, when that was tried.
type mode struct {
	// ways are how it opens envelopes, by their alg, the deepest first.
	ways map[string][]*way
	// signing is how it signs; nil for not at all.
	signing *signing
	// held is how it opens with a content key that was given to it to keep; nil
	// where it keeps none.
	held *way
	// narrowed says by alg, where only the ways of one level are left, which that is
	// and which there were.
	narrowed map[string]string
}

// way is how a token opens the envelopes of one alg.
type way struct {
	opener
	level boundary.Level
	needs purpose // what the private key must be allowed to do
	gcm   bool    // it is for contents under GCM only
	// vague: what the token says of a bad envelope it also says of its own faults,
	// so after every envelope that did not open it is asked whether it is well.
	vague bool
	// sturdy: a session goes on after a bad envelope.
	sturdy bool
}

// assume is for a way that no bad envelope is tried on: tpm2-pkcs11 cannot destroy
// the throw-away key afterwards, and confuses others with it.
func (w *way) assume() {
	w.sturdy, w.vague = false, true
	for _, r := range w.refusals() {
		r.codes[pkcs11.CKR_GENERAL_ERROR], r.codes[pkcs11.CKR_FUNCTION_FAILED] = true, true
	}
}

// opener is what a way does.
type opener interface {
	// ask is what happens in the token. That the envelope is bad is no error.
	ask(t *Token, u *use, k *key, env *boundary.Envelope) (answer, error)
	// finish does the rest on the host. RFC 7516 §11.5: without an answer it goes on
	// as far as with one. What the answer holds is wiped or handed over.
	finish(env *boundary.Envelope, a answer) ([]byte, error)
	// refusals are what it has learned of the token's error codes.
	refusals() []*refusals
}

// answer is what came out of the token: the plaintext, or a content key, or
// something from which the host gets one.
type answer struct {
	block   []byte
	ok      bool // false: there is nothing, and nobody outside may notice
	inToken time.Duration
	way     *way // that it is the answer of
	key     *key
}

// pick returns the deepest way for an envelope and a key. Floors are the
// caller's to look at.
func (m *mode) pick(env *boundary.Envelope, k *key) (*way, error) {
	known, isKnown := boundary.ContentOf(env.Enc)
	if !isKnown {
		return nil, fmt.Errorf("the content encryption %+.32q: %w", env.Enc, boundary.ErrUnsupported)
	}
	for _, w := range m.ways[env.Alg] {
		if k.uses.allows(w.needs) && (!w.gcm || known.AEAD()) {
			return w, nil
		}
	}
	return nil, fmt.Errorf("the algorithm %+.32q with this key and token: %w", env.Alg, boundary.ErrUnsupported)
}

// level is that at which the token opens with a key, or signs, at best.
func (m *mode) level(o object) boundary.Level {
	algorithm := o.algorithm()
	if algorithm == boundary.PS256 && m.signing != nil {
		return m.signing.level()
	}
	for _, w := range m.ways[algorithm] {
		if o.uses.allows(w.needs) {
			return w.level
		}
	}
	return ""
}

// levels are those at which the token works with keys made for an algorithm.
func (m *mode) levels() map[string]boundary.Level {
	levels := map[string]boundary.Level{}
	for _, algorithm := range []string{boundary.RSAOAEP256, boundary.ECDHES} {
		if ways := m.ways[algorithm]; len(ways) > 0 {
			levels[algorithm] = ways[0].level
		}
	}
	if m.signing != nil {
		levels[boundary.PS256] = m.signing.level()
	}
	return levels
}

// narrow leaves the ways of one level.
func (m *mode) narrow(only boundary.Level) {
	m.narrowed = map[string]string{}
	for alg, ways := range m.ways {
		var all []string
		for _, w := range ways {
			all = append(all, string(w.level))
		}
		m.narrowed[alg] = fmt.Sprintf(" at %s, only at %s", only, strings.Join(all, " and "))
		m.ways[alg] = slices.DeleteFunc(ways, func(w *way) bool { return w.level != only })
	}
}

// fragile reports whether the token does not get over a bad envelope.
func (m *mode) fragile() bool {
	for _, ways := range m.ways {
		for _, w := range ways {
			if !w.sturdy {
				return true
			}
		}
	}
	return false
}

// reaches reports whether a token reaches a floor with anything that opens, or
// where it opens nothing, signs; and what it reaches at all.
func (m *mode) reaches(floor boundary.Level) (said string, reached bool) {
	levels := m.levels()
	var all []string
	for _, algorithm := range slices.Sorted(maps.Keys(levels)) {
		all = append(all, fmt.Sprintf("%s at %s", algorithm, levels[algorithm]))
		if algorithm != boundary.PS256 || len(m.ways) == 0 {
			reached = reached || levels[algorithm].AtLeast(floor)
		}
	}
	return strings.Join(all, ", "), reached
}

// wants is what a private key made for an algorithm is to be allowed. A token
// that is held to `sealed` by its config makes keys that nobody can decrypt a
// content key with, whoever has the PIN.
func (m *mode) wants(algorithm string, floor boundary.Level) purpose {
	switch algorithm {
	case boundary.ECDHES:
		return purpose{derive: true}
	case boundary.PS256:
		return purpose{sign: true}
	}
	ways := m.ways[boundary.RSAOAEP256]
	if len(ways) == 0 || ways[0].level != boundary.Sealed {
		return purpose{decrypt: true}
	}
	return purpose{unwrap: true, decrypt: floor != boundary.Sealed}
}

// refusals are the codes with which a token says that what it was given is
// wrong. Every other one is a fault of the device, or of keyd.
type refusals struct {
	codes    map[pkcs11.Error]bool
	learning bool
}

// newRefusals knows the codes that say nothing but that the input is wrong (PKCS
// #11 v2.40 §5.1.6).
func newRefusals() *refusals {
	return &refusals{codes: map[pkcs11.Error]bool{
		pkcs11.CKR_ENCRYPTED_DATA_INVALID: true, pkcs11.CKR_ENCRYPTED_DATA_LEN_RANGE: true,
		pkcs11.CKR_WRAPPED_KEY_INVALID: true, pkcs11.CKR_WRAPPED_KEY_LEN_RANGE: true, ckrAEADDecryptFailed: true,
	}}
}

// mean reports whether an error of the token is about what it was given.
func (r *refusals) mean(err error) bool {
	code, ok := codeIn(err)
	if ok && r.learning && couldRefuse(code) {
		r.codes[code] = true
	}
	return ok && r.codes[code]
}

// vague reports whether one of the codes is also what a token says of itself.
func (r *refusals) vague() bool {
	for code := range r.codes {
		if verdictOn(code).remedy != none {
			return true
		}
	}
	return false
}

// ofDevice are the codes that speak of the device or the connection to it.
var ofDevice = []pkcs11.Error{
	pkcs11.CKR_DEVICE_ERROR, pkcs11.CKR_DEVICE_MEMORY, pkcs11.CKR_DEVICE_REMOVED, pkcs11.CKR_HOST_MEMORY,
	pkcs11.CKR_TOKEN_NOT_PRESENT, pkcs11.CKR_TOKEN_NOT_RECOGNIZED, pkcs11.CKR_SLOT_ID_INVALID,
	pkcs11.CKR_SESSION_CLOSED, pkcs11.CKR_SESSION_HANDLE_INVALID, pkcs11.CKR_SESSION_COUNT,
	pkcs11.CKR_USER_NOT_LOGGED_IN, pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED,
}

// ofKey are those that speak of the key and what may be done with it.
var ofKey = []pkcs11.Error{
	pkcs11.CKR_OBJECT_HANDLE_INVALID, pkcs11.CKR_KEY_HANDLE_INVALID, pkcs11.CKR_UNWRAPPING_KEY_HANDLE_INVALID,
	pkcs11.CKR_KEY_FUNCTION_NOT_PERMITTED, pkcs11.CKR_MECHANISM_INVALID, pkcs11.CKR_FUNCTION_NOT_SUPPORTED, pkcs11.CKR_OPERATION_ACTIVE,
}

// couldRefuse: what speaks of something else is never taken for a word on the
// envelope, whenever it comes.
func couldRefuse(code pkcs11.Error) bool { return !is(code, ofDevice...) && !is(code, ofKey...) }
