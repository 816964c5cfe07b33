package hsm

import (
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/miekg/pkcs11"

	"keyd/internal/boundary"
)

// content is AES-GCM in the token, under a content key that only the token has.
type content struct {
	tag *refusals
	// decoys are random keys, by length in bytes, that take the place of a content
	// key that is not there or not right (RFC 7516 §11.5). They live in the session
	// that holds the login and cannot be read either.
	decoys map[int]pkcs11.ObjectHandle
}

// contentKey is what an unwrapped or derived content key is to be. Its length is
// left to the token and read back: some cut or fill up what they unwrap to the
// length that they are told.
func contentKey() secret { return secret{keyType: pkcs11.CKK_AES, decrypt: true} }

// open decrypts an envelope's content. key is 0 where there is none. What the
// token says of the key is asked for every envelope, of a decoy too, and costs
// one call: that a key which was to be sealed is not is only seen on the key.
func (c *content) open(t *Token, u *use, key pkcs11.ObjectHandle, env *boundary.Envelope) (block []byte, ok bool, err error) {
	size, _ := boundary.CEKLen(env.Enc)
	decoy := c.decoys[size]
	used := key
	if used == 0 {
		used = decoy
	}
	f, err := t.module.calls.facts(u.session, used)
	switch {
	case err != nil:
		return nil, false, inner(err)
	case !f.sensitive || f.extractable:
		return nil, false, fmt.Errorf("the token made a content key that can be taken out: %w", boundary.ErrUnavailable)
	case f.length != size:
		used = decoy
	}
	block, err = t.module.calls.decryptGCM(u.session, used, env)
	switch {
	case err == nil && used == key:
		return block, true, nil
	case err == nil: // under a key that nobody knows
		clear(block)
		return nil, false, nil
	case c.tag.mean(err):
		return nil, false, nil
	}
	return nil, false, inner(err)
}

// inner makes an error about a key of the session one that is not taken for
// the loss of a private key.
func inner(err error) error {
	if d, ok := errors.AsType[*deviceError](err); ok && errors.Is(d.is, boundary.ErrNoKey) {
		return &deviceError{call: d.call + " of a key of the session", code: d.code, is: boundary.ErrUnavailable}
	}
	return err
}

// newContent makes the decoys, in the session that holds the login.
func (t *Token) newContent() (*content, error) {
	c := &content{tag: newRefusals(), decoys: map[int]pkcs11.ObjectHandle{}}
	for _, size := range []int{16, 24, 32} {
		decoy, err := t.randomKey(size)
		if err != nil {
			return nil, fmt.Errorf("making a random key: %w", err)
		}
		c.decoys[size] = decoy
	}
	return c, nil
}

// randomKey has the token make a key or, where it does not, take one from here.
func (t *Token) randomKey(size int) (pkcs11.ObjectHandle, error) {
	k, err := t.module.ctx.GenerateKey(t.loginSession(), []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_KEY_GEN, nil)}, []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, false), pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, true),
		pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, true), pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, false),
		pkcs11.NewAttribute(pkcs11.CKA_DECRYPT, true), pkcs11.NewAttribute(pkcs11.CKA_VALUE_LEN, size),
	})
	if err == nil {
		return k, nil
	}
	value := make([]byte, size)
	defer clear(value)
	rand.Read(value)
	if k, other := t.module.calls.create(t.loginSession(), contentKey(), value); other == nil {
		return k, nil
	}
	return 0, meaning("C_GenerateKey", err)
}

// heldContent is AES-GCM in the token with a content key from here, which the
// token keeps.
type heldContent struct{ tag *refusals }

func (w *heldContent) ask(t *Token, u *use, k *key, env *boundary.Envelope) (answer, error) {
	start := time.Now()
	block, err := t.module.calls.decryptGCM(u.session, k.object, env)
	a := answer{block: block, ok: err == nil, inToken: time.Since(start)}
	if w.tag.mean(err) {
		err = nil
	}
	return a, err
}

func (w *heldContent) finish(_ *boundary.Envelope, a answer) ([]byte, error) { return opened(a) }
func (w *heldContent) refusals() []*refusals                                 { return []*refusals{w.tag} }
