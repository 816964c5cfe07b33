package conformance

import (
	"strings"

	"github.com/miekg/pkcs11"
)

// leftBehind destroys what is left of this and of earlier runs, and says so.
func leftBehind(l *lab) Check {
	found := 0
	for {
		left, err := l.left()
		switch {
		case err != nil:
			return fail("looking: %s", l.said("a search", err))
		case len(left) > 0 && found > 0:
			return fail("%d objects cannot be destroyed; their labels begin with %s or %s", len(left), labelPrefix, keydLabels)
		case len(left) == 0 && found > 0:
			return quirk("%d objects had to be cleared away", found)
		case len(left) == 0:
			return pass("no object of this run")
		}
		found = len(left)
		for _, o := range left {
			_ = l.pkcs11.DestroyObject(l.session, o) // seen in the next round
		}
	}
}

// left are the token's objects that were made here, or by keyd's path on our
// behalf.
func (l *lab) left() ([]pkcs11.ObjectHandle, error) {
	if err := l.pkcs11.FindObjectsInit(l.session, attributes(uint(pkcs11.CKA_TOKEN), true)); err != nil {
		return nil, err
	}
	var all, ours []pkcs11.ObjectHandle
	for {
		some, _, err := l.pkcs11.FindObjects(l.session, 256)
		if err != nil {
			_ = l.pkcs11.FindObjectsFinal(l.session) // the first error counts
			return nil, err
		}
		if len(some) == 0 {
			break
		}
		all = append(all, some...)
	}
	if err := l.pkcs11.FindObjectsFinal(l.session); err != nil {
		return nil, err
	}
	for _, o := range all {
		if l.ours(o) {
			ours = append(ours, o)
		}
	}
	return ours, nil
}

// ours reports whether an object has one of our labels. One that does not tell
// its label is somebody else's.
func (l *lab) ours(o pkcs11.ObjectHandle) bool {
	v, err := l.pkcs11.GetAttributeValue(l.session, o, attributes(uint(pkcs11.CKA_LABEL), nil))
	return err == nil && len(v) == 1 &&
		(strings.HasPrefix(string(v[0].Value), labelPrefix) || strings.HasPrefix(string(v[0].Value), keydLabels))
}
