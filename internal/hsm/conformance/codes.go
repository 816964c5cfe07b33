package conformance

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/miekg/pkcs11"

	"keyd/internal/hsm"
)

// said notes a code and returns its name.
func (l *lab) said(when string, err error) string {
	if code, ok := errors.AsType[pkcs11.Error](err); ok {
		l.codes = append(l.codes, Code{When: when, Code: name(err), Number: uint(code)})
	}
	return name(err)
}

func is(err error, codes ...pkcs11.Error) bool {
	code, ok := errors.AsType[pkcs11.Error](err)
	for _, c := range codes {
		if ok && code == c {
			return true
		}
	}
	return false
}

// name is a return code's, or what else an error says.
func name(err error) string {
	if err == nil {
		return "CKR_OK"
	}
	code, ok := errors.AsType[pkcs11.Error](err)
	if !ok {
		return err.Error()
	}
	// The binding prints "pkcs11: 0x30: CKR_DEVICE_ERROR".
	text := code.Error()
	if i := strings.LastIndex(text, ": "); i >= 0 && strings.HasPrefix(text[i+2:], "CKR_") {
		return text[i+2:]
	}
	return fmt.Sprintf("0x%X", uint(code))
}

// Meaning is a return code, when the module said it, and what keyd makes of it.
type Meaning struct {
	Code string   `json:"code"`
	When []string `json:"when"`
	Keyd string   `json:"keyd"`
}

// meanings are the codes that were met, by their names.
func meanings(checks []Check) []Meaning {
	byCode := map[string]*Meaning{}
	all := []Meaning{}
	for _, c := range checks {
		for _, said := range c.Codes {
			m := byCode[said.Code]
			if m == nil {
				m = &Meaning{Code: said.Code, Keyd: hsm.Answer(said.Number)}
				byCode[said.Code] = m
			}
			if !slices.Contains(m.When, said.When) {
				m.When = append(m.When, said.When)
			}
		}
	}
	for _, code := range slices.Sorted(maps.Keys(byCode)) {
		all = append(all, *byCode[code])
	}
	return all
}
