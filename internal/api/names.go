package api

import (
	"fmt"
	"regexp"
	"strings"
	"unicode"

	"github.com/google/uuid"
)

const (
	maxShown  = 64   // bytes of a caller's own text that an answer shows
	maxFind   = 255  // bytes of a label or CKA_ID
	maxHandle = 1024 // bytes of a handle
	maxReason = 1000 // bytes of the reason for a change, which the histories keep
)

var (
	// nameForm is that of keys and partners, in the config and over HTTP.
	nameForm = regexp.MustCompile(`^[a-z][a-z0-9-]{0,62}$`)
	// quoted is where errors have a caller's text.
	quoted = regexp.MustCompile(`"(?:[^"\\]|\\.)*"`)
)

// checkNames holds what a path names to the form of such names, so that nothing
// behind it sees any other.
func (x *visit) checkNames() error {
	for _, name := range []string{"partner", "key"} {
		if text := x.r.PathValue(name); text != "" && !nameForm.MatchString(text) {
			return fmt.Errorf("%w: %s %q", errNotFound, name, printable(text))
		}
	}
	if kid := x.r.PathValue("kid"); kid != "" {
		if id, err := uuid.Parse(kid); err != nil || id.String() != kid {
			return fmt.Errorf("%w: the kid %q is not a UUID in lower case", errNotFound, printable(kid))
		}
	}
	return nil
}

// printable makes a caller's text fit for a log and an answer.
func printable(text string) string {
	text = strings.Map(func(r rune) rune {
		if r == unicode.ReplacementChar || !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, text[:min(len(text), 4*maxShown+1)])
	if runes := []rune(text); len(runes) > maxShown {
		return string(runes[:maxShown-1]) + "…"
	}
	return text
}

// short refuses a text that does not fit where it is recorded.
func short(name, text string, most int) error {
	if len(text) > most || strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return fmt.Errorf("%w: %s: want at most %d bytes of printable characters", errBadRequest, name, most)
	}
	return nil
}

// detail is an error's own text, without what the title says already and with
// no more than a little of the caller's.
func detail(err error, k kind) string {
	text := err.Error()
	if says := k.err.Error(); strings.EqualFold(says, k.title) {
		text = strings.Replace(text, says+": ", "", 1)
		text = strings.TrimSuffix(strings.TrimSuffix(text, says), ": ")
	}
	text = quoted.ReplaceAllStringFunc(text, func(q string) string {
		return `"` + printable(q[1:len(q)-1]) + `"`
	})
	return strings.Map(func(r rune) rune {
		if r != '\n' && !unicode.IsPrint(r) { // errors that were joined have lines
			return '?'
		}
		return r
	}, text)
}
