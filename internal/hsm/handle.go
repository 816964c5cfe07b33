package hsm

import (
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/google/uuid"

	"keyd/internal/boundary"
)

// name is what a private key is called in the token. As text it is the handle:
// a PKCS #11 URI (RFC 7512) with every octet of the CKA_ID escaped. Unlike an
// object handle it survives a restart.
type name struct{ id, label string }

const (
	handleID    = "pkcs11:id="
	handleLabel = ";object="
)

func (n name) handle() string {
	var b strings.Builder
	b.WriteString(handleID)
	for _, c := range []byte(n.id) {
		fmt.Fprintf(&b, "%%%02X", c)
	}
	b.WriteString(handleLabel)
	for _, c := range []byte(n.label) {
		if unreserved(c) {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

// unreserved: RFC 3986 §2.3.
func unreserved(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("-._~", c) >= 0
}

// parseHandle reads a handle exactly as it is written by name.handle: a key has
// one handle, not several spellings of it.
func parseHandle(handle string) (name, error) {
	rest, isURI := strings.CutPrefix(handle, handleID)
	id, label, both := strings.Cut(rest, handleLabel)
	if isURI && both {
		n := name{id: unescape(id), label: unescape(label)}
		if n != (name{}) && n.handle() == handle {
			return n, nil
		}
	}
	return name{}, fmt.Errorf("the handle %+.80q is not one of a PKCS #11 token's: %w", handle, boundary.ErrNoKey)
}

// unescape takes %XX for an octet and leaves everything else as it is. Whether
// that was right shows when the result is escaped again.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			if c, err := hex.DecodeString(s[i+1 : i+3]); err == nil {
				b.Write(c)
				i += 2
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// kid reads a CKA_ID as a UUID, or as nothing.
func (n name) kid() string {
	id, err := uuid.FromBytes([]byte(n.id))
	if err != nil {
		return ""
	}
	return id.String()
}

// prefix is what the labels of one instance's keys begin with.
func (t *Token) prefix() string { return "keyd/" + t.cfg.Instance + "/" }

// probeName is what throw-away keys are called, where they are in the token.
func (t *Token) probeName() name { return name{label: t.prefix() + "probe"} }

// made reports whether a name is one that named gives: the instance's prefix,
// and a kid that CKA_ID and label both say. Any other may be shared.
func (t *Token) made(n name) bool {
	return n.kid() != "" && strings.HasPrefix(n.label, t.prefix()) && strings.HasSuffix(n.label, "/"+n.kid())
}

// named is the name that a spec's key pair gets. The kid must be a UUID in its
// usual form, so that CKA_ID and label say the same.
func (t *Token) named(spec boundary.Spec) (name, error) {
	id, err := uuid.Parse(spec.KID)
	if err != nil || id.String() != spec.KID {
		return name{}, fmt.Errorf("the kid %+.80q is not a UUID in lower case", spec.KID)
	}
	if spec.Key == "" || len(spec.Key) > 128 || strings.ContainsFunc(spec.Key, func(r rune) bool { return r <= ' ' || r > '~' || r == '/' }) {
		return name{}, fmt.Errorf("the key name %+.80q cannot be part of a label", spec.Key)
	}
	return name{id: string(id[:]), label: t.prefix() + spec.Key + "/" + spec.KID}, nil
}
