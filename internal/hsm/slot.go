package hsm

import (
	"fmt"
	"strings"

	"github.com/miekg/pkcs11"

	"keyd/internal/boundary"
)

// slot is where the token was found, and what it said of itself then.
type slot struct {
	id     uint
	info   pkcs11.TokenInfo
	device map[string]string // for Evidence and Health
}

// String names the token for people.
func (s slot) String() string { return describe(s.info) }

func describe(info pkcs11.TokenInfo) string {
	return fmt.Sprintf("%q (serial %s)", info.Label, info.SerialNumber)
}

// findSlot looks for the one initialised token that has the label and serial.
// Either may be empty. Slot numbers mean nothing: SoftHSM draws new ones
// whenever a token is made.
func findSlot(ctx *pkcs11.Ctx, label, serial string) (slot, error) {
	ids, err := ctx.GetSlotList(true)
	if err != nil {
		return slot{}, meaning("C_GetSlotList", err)
	}
	var matches []slot
	var seen []string
	for _, id := range ids {
		info, err := ctx.GetTokenInfo(id)
		if err != nil {
			seen = append(seen, fmt.Sprintf("one that does not answer (%s)", codeOf(err)))
			continue
		}
		if info.Flags&pkcs11.CKF_TOKEN_INITIALIZED == 0 {
			seen = append(seen, "one that is not initialised")
			continue
		}
		seen = append(seen, describe(info))
		if (label == "" || info.Label == label) && (serial == "" || info.SerialNumber == serial) {
			matches = append(matches, slot{id: id, info: info})
		}
	}
	wanted := strings.TrimSpace(quoted("labelled", label) + quoted("with serial", serial))
	switch len(matches) {
	case 1:
		return matches[0].describe(ctx), nil
	case 0:
		if len(seen) == 0 {
			seen = []string{"none"}
		}
		return slot{}, fmt.Errorf("no token %s; the module shows: %s: %w", wanted, strings.Join(seen, ", "), boundary.ErrUnavailable)
	}
	return slot{}, fmt.Errorf("%d tokens %s; tell them apart by serial; the module shows: %s: %w",
		len(matches), wanted, strings.Join(seen, ", "), boundary.ErrAmbiguous)
}

func quoted(what, value string) string {
	if value == "" {
		return ""
	}
	return fmt.Sprintf("%s %q ", what, value)
}

func (s slot) describe(ctx *pkcs11.Ctx) slot {
	s.device = map[string]string{
		"label": s.info.Label, "serial": s.info.SerialNumber, "model": s.info.Model,
		"manufacturer": s.info.ManufacturerID,
		"hardware":     version(s.info.HardwareVersion), "firmware": version(s.info.FirmwareVersion),
	}
	if lib, err := ctx.GetInfo(); err == nil {
		s.device["library"] = strings.TrimSpace(fmt.Sprintf("%s %s %s", lib.ManufacturerID, lib.LibraryDescription, version(lib.LibraryVersion)))
		s.device["cryptoki"] = version(lib.CryptokiVersion)
	}
	return s
}

func version(v pkcs11.Version) string { return fmt.Sprintf("%d.%d", v.Major, v.Minor) }
