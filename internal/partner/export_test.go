package partner

import (
	"crypto/sha256"
	"errors"
	"unicode/utf8"
)

// MethodJSON is the plaintext of an envelope for a header.
func MethodJSON(v *Venly, m SigningMethod) ([]byte, error) {
	if len(m.Value) == 0 || !utf8.Valid(m.Value) || !utf8.ValidString(m.PhysicalDeviceID) {
		return nil, errors.New("refused")
	}
	out := v.methodJSON(m, sha256.Sum256(nil))
	if cap(out) < len(out) || len(out) > 512+6*(len(m.ID)+len(m.Value)+len(m.PhysicalDeviceID)) {
		return nil, errors.New("outgrew its buffer")
	}
	return out, nil
}
