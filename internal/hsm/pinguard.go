package hsm

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// pinGuard remembers in a file the last PIN that the token refused, and in
// another one beside it the last PIN that the token was shown without an answer
// to be seen: a module that crashes over a wrong PIN has used up a try too, and
// whoever starts keyd again would use up the rest.
//
// Either file holds a salted slow hash. A refused PIN is a secret still: it may be
// another token's, or the right one but for a letter.
type pinGuard struct{ path string }

// tokenIdentity is whose PIN it was. Another token gets its own first try.
type tokenIdentity struct {
	Module string `json:"module"`
	Label  string `json:"label"`
	Serial string `json:"serial"`
}

// refusal is the file's content.
type refusal struct {
	Token tokenIdentity `json:"token"`
	At    time.Time     `json:"at"`
	KDF   string        `json:"kdf"`
	Salt  []byte        `json:"salt"`
	Hash  []byte        `json:"hash"`
	// Proven and Tries are of a PIN that was shown without an answer: whether the
	// token had accepted it shortly before, and how often it has been shown since.
	Proven bool `json:"proven,omitempty"`
	Tries  int  `json:"tries,omitempty"`
}

// mostTries is how often a PIN that the token had accepted is shown without an
// answer. Tokens lock after three wrong ones or more.
const mostTries = 2

// The slow hash. PINs are short, so the file's mode is what protects it first.
const (
	guardKDF        = "PBKDF2-HMAC-SHA-256, 600000"
	guardIterations = 600_000
	guardSaltLen    = 16
)

// slowHash is PBKDF2 (RFC 8018 §5.2) with one block. crypto/pbkdf2 takes the
// password as a string, and makes a copy of it that cannot be wiped.
func slowHash(pin, salt []byte) []byte {
	mac := hmac.New(sha256.New, pin)
	mac.Write(salt)
	mac.Write([]byte{0, 0, 0, 1})
	u := mac.Sum(nil)
	hash := bytes.Clone(u)
	for range guardIterations - 1 {
		mac.Reset()
		mac.Write(u)
		u = mac.Sum(u[:0])
		subtle.XORBytes(hash, hash, u)
	}
	return hash
}

// pending is where a PIN stands while the token is shown it.
func (g pinGuard) pending() string { return g.path + ".new" }

// refused reports whether the token refused this PIN before, or was shown it
// and nobody knows the answer. The file that says so is named for people. Else
// tries is how often a proven PIN was shown without an answer.
func (g pinGuard) refused(id tokenIdentity, pin []byte) (file string, tries int, err error) {
	if _, found, err := holds(g.path, id, pin); found || err != nil {
		return g.path, 0, err
	}
	shown, found, err := holds(g.pending(), id, pin)
	switch {
	case err != nil || !found:
		return "", 0, err
	case shown.Proven && shown.Tries < mostTries:
		return "", shown.Tries, nil
	}
	return g.pending(), 0, nil
}

// holds reports whether a file names this PIN for this token. A file that
// cannot be read is an error: it may say yes.
func holds(path string, id tokenIdentity, pin []byte) (r refusal, found bool, err error) {
	raw, err := os.ReadFile(path) // #nosec G304 -- the config's own path
	if errors.Is(err, fs.ErrNotExist) {
		return r, false, nil
	}
	if err != nil {
		return r, false, fmt.Errorf("reading which PIN was refused: %w", err)
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&r); err != nil || r.KDF != guardKDF || len(r.Salt) != guardSaltLen || len(r.Hash) != sha256.Size {
		return r, false, fmt.Errorf("%s should say which PIN the token refused and is damaged: make sure that the PIN is right, then remove the file: %w", path, ErrPINRefused)
	}
	if r.Token != id {
		return r, false, nil
	}
	return r, subtle.ConstantTimeCompare(slowHash(pin, r.Salt), r.Hash) == 1, nil
}

// guardNote is a refusal on disk before it is known to be one. It counts from
// the start, in case that it never is.
type guardNote struct{ from, to string }

// prepare writes down that the token is shown this PIN, for the how-manieth time
// without an answer, and whether it accepted it before.
func (g pinGuard) prepare(id tokenIdentity, pin []byte, tries int, proven bool) (guardNote, error) {
	salt := make([]byte, guardSaltLen)
	rand.Read(salt)
	raw, err := json.Marshal(refusal{Token: id, At: time.Now().UTC(), KDF: guardKDF, Salt: salt, Hash: slowHash(pin, salt), Tries: tries, Proven: proven})
	if err != nil {
		return guardNote{}, fmt.Errorf("encoding a PIN guard: %w", err)
	}
	note := guardNote{from: g.pending(), to: g.path}
	if err := writeDurably(note.from, raw); err != nil {
		return guardNote{}, fmt.Errorf("the PIN was not tried, because a refusal could not be remembered: %w", err)
	}
	return note, nil
}

// keep: the token refused the PIN.
func (n guardNote) keep() error {
	if err := errors.Join(os.Rename(n.from, n.to), syncDir(filepath.Dir(n.to))); err != nil {
		return fmt.Errorf("remembering the refused PIN: %w", err)
	}
	return nil
}

// discard: the token did not refuse the PIN. That is made to last: after a power
// cut a good PIN must not count as one without an answer.
func (n guardNote) discard() error {
	if err := errors.Join(os.Remove(n.from), syncDir(filepath.Dir(n.from))); err != nil {
		return fmt.Errorf("removing a PIN guard that was not needed: %w", err)
	}
	return nil
}

// clear forgets the refused PIN, after a good one.
func (g pinGuard) clear() error {
	err := os.Remove(g.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err = errors.Join(err, syncDir(filepath.Dir(g.path))); err != nil {
		return fmt.Errorf("forgetting a PIN that was refused once: %w", err)
	}
	return nil
}

// writeDurably replaces a file at once: one that is there is whole, or somebody
// has damaged it.
func writeDurably(path string, raw []byte) error {
	temp := path + ".tmp"
	// One left by a crash is in the way, and may have another mode.
	if err := os.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(temp, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(raw)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return errors.Join(os.Rename(temp, path), syncDir(filepath.Dir(path)))
}

func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
