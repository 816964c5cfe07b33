package conformance

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1" // #nosec G505 -- a padding that must not open
	"crypto/sha256"
	"fmt"
	"hash"
	"math/big"
	"slices"
	"strings"

	"github.com/miekg/pkcs11"
)

// refusalChecks are what must not work, and how the token says so.
var refusalChecks = []check{
	{"wrong OAEP paddings, decrypting", withRSA(uses{decrypt: true}, func(l *lab, k *rsaPair) Check {
		return l.badPaddings(k, func(s pkcs11.SessionHandle, block []byte) error {
			_, err := l.decrypt(s, oaep256(), k.private, block)
			return err
		})
	})},
	{"wrong OAEP paddings, unwrapping", withRSA(uses{unwrap: true}, func(l *lab, k *rsaPair) Check {
		return l.badPaddings(k, func(s pkcs11.SessionHandle, block []byte) error { _, err := l.unwrap(s, k.private, block); return err })
	})},
	{"content keys of wrong lengths, unwrapping", withRSA(uses{unwrap: true}, wrongLengths)},
	{"a session after a wrong block", withRSA(uses{decrypt: true}, afterRefusal)},
	{"AES-GCM, what was changed", changedContent},
	{"an AES key wrap that was changed", changedWrap},
	{"points that are none of the curve", withEC(badPoints)},
	{"a key of the wrong type", wrongType},
	{"a key that is not for that use", wrongUse},
	{"a mechanism that there is not", func(l *lab) Check {
		return l.mustRefuse("no such mechanism", l.within(func(s pkcs11.SessionHandle) error {
			return l.pkcs11.DigestInit(s, mechanism1(pkcs11.CKM_VENDOR_DEFINED|0x7E7E7E7, nil))
		}))
	}},
}

// mustRefuse is for what has to fail, whatever the code.
func (l *lab) mustRefuse(when string, err error) Check {
	if err == nil {
		return fail("%s was taken", when)
	}
	return pass("%s", l.said(when, err))
}

// refusals are several of them, one after the other.
type refusals struct {
	l     *lab
	taken []string
	codes []string
}

func (r *refusals) note(when string, err error) {
	if err == nil {
		r.taken = append(r.taken, when)
		return
	}
	if code := r.l.said(when, err); !slices.Contains(r.codes, code) {
		r.codes = append(r.codes, code)
	}
}

func (r *refusals) check() Check {
	if len(r.taken) > 0 {
		return fail("taken: %s", strings.Join(r.taken, ", "))
	}
	return pass("%s", strings.Join(r.codes, ", "))
}

func (l *lab) badPaddings(k *rsaPair, try func(pkcs11.SessionHandle, []byte) error) Check {
	good, err := wrapped(k.key, random(32))
	if err != nil {
		return fail("%v", err)
	}
	if err := l.within(func(s pkcs11.SessionHandle) error { return try(s, good) }); err != nil {
		return skip("it does not do right ones: %s", name(err))
	}
	noise, err := rand.Int(rand.Reader, new(big.Int).Rsh(k.key.N, 1))
	if err != nil {
		return fail("%v", err)
	}
	oaep := func(h hash.Hash, label []byte) []byte {
		block, _ := rsa.EncryptOAEP(h, rand.Reader, k.key, random(32), label) // as good above
		return block
	}
	r := refusals{l: l}
	for _, c := range []struct {
		when  string
		block []byte
	}{
		{"noise", noise.FillBytes(make([]byte, k.key.Size()))}, {"OAEP with SHA-1", oaep(sha1.New(), nil)}, // #nosec G401 -- see above
		{"OAEP with a label", oaep(sha256.New(), []byte("x"))}, {"a block that is too short", good[1:]}, {"a block that is too long", append([]byte{0}, good...)},
	} {
		r.note(c.when, l.within(func(s pkcs11.SessionHandle) error { return try(s, c.block) }))
	}
	return r.check()
}

// wrongLengths looks what the token makes of content keys that are not 32 bytes.
func wrongLengths(l *lab, k *rsaPair) Check {
	var made, refused []string
	for _, n := range []int{0, 1, 16, 24, 31, 33, 64} {
		block, err := wrapped(k.key, random(n))
		if err != nil {
			return fail("%v", err)
		}
		err = l.within(func(s pkcs11.SessionHandle) error {
			o, err := l.unwrap(s, k.private, block)
			if err != nil {
				return err
			}
			told := "of unknown length"
			if v, err := l.pkcs11.GetAttributeValue(s, o, attributes(uint(pkcs11.CKA_VALUE_LEN), nil)); err == nil && len(v[0].Value) > 0 {
				told = fmt.Sprintf("of %d", number(v[0].Value))
			}
			made = append(made, fmt.Sprintf("%d becomes a key %s", n, told))
			return nil
		})
		if is(err, pkcs11.CKR_FUNCTION_NOT_SUPPORTED, pkcs11.CKR_MECHANISM_INVALID, pkcs11.CKR_ARGUMENTS_BAD) {
			return skip("it does not unwrap: %s", name(err))
		}
		if err != nil {
			refused = append(refused, fmt.Sprintf("%d %s", n, l.said(fmt.Sprintf("a content key of %d bytes", n), err)))
		}
	}
	if len(made) == 0 {
		return pass("refused: %s", strings.Join(refused, ", "))
	}
	// AES has keys of 16, 24 and 32 bytes, so some may be taken; keyd holds the
	// length against the envelope's enc.
	return quirk("%s; keyd reads the length back", strings.Join(made, ", "))
}

func number(v []byte) uint64 {
	var n uint64
	for _, b := range slices.Backward(v) { // a CK_ULONG, as the machine has it
		n = n<<8 | uint64(b)
	}
	return n
}

// afterRefusal looks whether a session goes on.
func afterRefusal(l *lab, k *rsaPair) Check {
	good, err := wrapped(k.key, random(32))
	if err != nil {
		return fail("%v", err)
	}
	changed := slices.Clone(good)
	changed[7] ^= 1
	var without error
	for _, c := range []struct {
		mechanism []*pkcs11.Mechanism
		bad       []byte
	}{
		{oaep256(), changed}, {mechanism1(pkcs11.CKM_RSA_X_509, nil), bytes.Repeat([]byte{0xFF}, len(good))}, // more than the modulus
	} {
		var first, then error
		without = l.within(func(s pkcs11.SessionHandle) error {
			if _, err := l.decrypt(s, c.mechanism, k.private, good); err != nil {
				return err
			}
			_, first = l.decrypt(s, c.mechanism, k.private, c.bad)
			_, then = l.decrypt(s, c.mechanism, k.private, good)
			return nil
		})
		switch {
		case without != nil:
			continue
		case first == nil:
			return fail("a block that is none was taken")
		case then != nil:
			return quirk("of no more use (%s); keyd closes it", l.said("the next in a session after a wrong block", then))
		}
		return pass("goes on")
	}
	return skip("it does not decrypt: %s", name(without))
}

func changedContent(l *lab) Check {
	cek := random(32)
	good, err := sealContent(cek, []byte("plaintext"), []byte("header"))
	if err != nil {
		return fail("%v", err)
	}
	if err := l.gcm([]byte("x"), nil); err != nil {
		return skip("no AES-GCM: %s", name(err))
	}
	r := refusals{l: l}
	for _, c := range []struct {
		when   string
		change func(*sealedContent)
	}{
		{"another tag", func(c *sealedContent) { c.sealed[len(c.sealed)-1] ^= 1 }},
		{"another ciphertext", func(c *sealedContent) { c.sealed[0] ^= 1 }},
		{"another header", func(c *sealedContent) { c.aad[0] ^= 1 }},
		{"no header", func(c *sealedContent) { c.aad = nil }},
		{"another iv", func(c *sealedContent) { c.iv[0] ^= 1 }},
		{"a tag that is cut", func(c *sealedContent) { c.sealed = c.sealed[:len(c.sealed)-1] }},
	} {
		bad := sealedContent{slices.Clone(good.iv), slices.Clone(good.aad), slices.Clone(good.sealed)}
		c.change(&bad)
		r.note(c.when, l.within(func(s pkcs11.SessionHandle) error {
			o, err := l.create(s, cek, decrypts())
			if err != nil {
				return err
			}
			_, err = l.openContent(s, o, bad)
			return err
		}))
	}
	return r.check()
}

func changedWrap(l *lab) Check {
	kek := random(32)
	unwrap := func(s pkcs11.SessionHandle, block []byte) error {
		o, err := l.create(s, kek, pkcs11.NewAttribute(pkcs11.CKA_UNWRAP, true))
		if err != nil {
			return err
		}
		_, err = l.pkcs11.UnwrapKey(s, mechanism1(pkcs11.CKM_AES_KEY_WRAP, nil), o, block, sensitive(pkcs11.CKK_AES, decrypts()))
		return err
	}
	good := wrapAES(kek, random(32))
	if err := l.within(func(s pkcs11.SessionHandle) error { return unwrap(s, good) }); err != nil {
		return skip("it does not unwrap right ones: %s", name(err))
	}
	r := refusals{l: l}
	for _, at := range []int{0, 8, len(good) - 1} {
		bad := slices.Clone(good)
		bad[at] ^= 1
		r.note(fmt.Sprintf("a wrapped key with octet %d changed", at), l.within(func(s pkcs11.SessionHandle) error { return unwrap(s, bad) }))
	}
	return r.check()
}
