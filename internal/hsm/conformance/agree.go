package conformance

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/miekg/pkcs11"

	"keyd/internal/boundary"
)

// readable is the template of a shared secret that may be read out.
func readable() []*pkcs11.Attribute {
	return attributes(uint(pkcs11.CKA_CLASS), uint(pkcs11.CKO_SECRET_KEY), uint(pkcs11.CKA_KEY_TYPE), uint(pkcs11.CKK_GENERIC_SECRET),
		uint(pkcs11.CKA_TOKEN), false, uint(pkcs11.CKA_SENSITIVE), false, uint(pkcs11.CKA_EXTRACTABLE), true, uint(pkcs11.CKA_DERIVE), true)
}

func (l *lab) agrees(curve string, der bool) Check {
	k, err := l.ecKey(curve)
	if err != nil {
		return cannot(err)
	}
	sh, err := agreeWith(k.key)
	if err != nil {
		return fail("%v", err)
	}
	point := sh.point
	if der {
		point = append([]byte{0x04, byte(len(point))}, point...)
	}
	return l.does(pkcs11.CKM_ECDH1_DERIVE, l.within(func(s pkcs11.SessionHandle) error {
		return l.secretIs(s, k, point, sh.z)
	}))
}

// secretIs reads a shared secret out and holds it against the right one.
func (l *lab) secretIs(s pkcs11.SessionHandle, k *ecPair, point, z []byte) error {
	o, err := l.agree(s, k.private, pkcs11.CKD_NULL, nil, point, readable())
	if err != nil {
		return err
	}
	got, err := l.value(s, o)
	if err == nil && !bytes.Equal(got, z) {
		err = fmt.Errorf("%w: %d octets for %d", errWrong, len(got), len(z))
	}
	return err
}

func zeroFirst(l *lab, k *ecPair) Check {
	sh := shared{z: []byte{1}}
	for sh.z[0] != 0 {
		var err error
		if sh, err = agreeWith(k.key); err != nil {
			return fail("%v", err)
		}
	}
	err := l.within(func(s pkcs11.SessionHandle) error {
		o, err := l.agree(s, k.private, pkcs11.CKD_NULL, nil, sh.point, readable())
		if err != nil {
			return err
		}
		got, err := l.value(s, o)
		switch {
		case err != nil:
			return err
		case bytes.Equal(got, sh.z):
			return nil
		case bytes.Equal(got, bytes.TrimLeft(sh.z, "\x00")):
			return errDropped
		}
		return errWrong
	})
	switch {
	case err == nil:
		return pass("all %d octets of it", len(sh.z))
	case errors.Is(err, errDropped):
		return quirk("%v; keyd puts it back, and does not use what the token derives from it", err)
	case errors.Is(err, errWrong):
		return fail("%v", err)
	}
	return l.lacks(l.check, err)
}

var errDropped = errors.New("the zero is dropped")

func digests(l *lab, k *ecPair) Check {
	sh, err := agreeWith(k.key)
	if err != nil {
		return fail("%v", err)
	}
	want := sha256.Sum256(append([]byte{0, 0, 0, 1}, sh.z...))
	err = l.within(func(s pkcs11.SessionHandle) error {
		z, err := l.agree(s, k.private, pkcs11.CKD_NULL, nil, sh.point, sensitive(pkcs11.CKK_GENERIC_SECRET, derives()))
		if err != nil {
			return err
		}
		if err := l.pkcs11.DigestInit(s, mechanism1(pkcs11.CKM_SHA256, nil)); err != nil {
			return err
		}
		if err := l.pkcs11.DigestUpdate(s, []byte{0, 0, 0, 1}); err != nil {
			return err
		}
		if err := l.pkcs11.DigestKey(s, z); err != nil {
			return err
		}
		got, err := l.pkcs11.DigestFinal(s)
		if err == nil && !bytes.Equal(got, want[:]) {
			err = errWrong
		}
		return err
	})
	return l.does(pkcs11.CKM_SHA256, err)
}

// sealable is an agreement, and the OtherInfo of an envelope.
func (l *lab) sealable(k *ecPair) (shared, []byte, error) {
	sh, err := agreeWith(k.key)
	if err != nil {
		return sh, nil, err
	}
	d, err := boundary.DerivationOf(&boundary.Envelope{Alg: boundary.ECDHES, Enc: boundary.A256GCM, APU: []byte("Alice"), APV: []byte("Bob")})
	return sh, d.OtherInfo, err
}

// opensUnder holds a derived key against the right one: it opens what is sealed
// under that.
func (l *lab) opensUnder(s pkcs11.SessionHandle, o pkcs11.ObjectHandle, sh shared, info []byte) error {
	cek := sha256.Sum256(append(append([]byte{0, 0, 0, 1}, sh.z...), info...))
	c, err := sealContent(cek[:], []byte("plaintext"), []byte("header"))
	if err != nil {
		return err
	}
	got, err := l.openContent(s, o, c)
	if err == nil && string(got) != "plaintext" {
		err = errWrong
	}
	return err
}

func (l *lab) concats(s pkcs11.SessionHandle, k *ecPair) error {
	sh, info, err := l.sealable(k)
	if err != nil {
		return err
	}
	between := sensitive(pkcs11.CKK_GENERIC_SECRET, derives())
	o, err := l.agree(s, k.private, pkcs11.CKD_NULL, nil, sh.point, between)
	if err != nil {
		return err
	}
	for _, step := range []struct {
		mechanism uint
		data      []byte
		template  []*pkcs11.Attribute
	}{
		{pkcs11.CKM_CONCATENATE_DATA_AND_BASE, []byte{0, 0, 0, 1}, between},
		{pkcs11.CKM_CONCATENATE_BASE_AND_DATA, info, between},
		{pkcs11.CKM_SHA256_KEY_DERIVATION, nil, append(sensitive(pkcs11.CKK_AES, decrypts()), pkcs11.NewAttribute(pkcs11.CKA_VALUE_LEN, 32))},
	} {
		if o, err = l.derive(s, step.mechanism, o, step.data, step.template); err != nil {
			return err
		}
	}
	return l.opensUnder(s, o, sh, info)
}
