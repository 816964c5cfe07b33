package partner

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

const (
	maxText = 240 // characters of any text that goes into an error
	maxWord = 64  // longer words are tokens, keys or envelopes, not words
)

// clean makes text that came from outside fit for errors and logs. Whole
// secrets are taken out first, so that the cut at the end cannot leave half of
// one that would no longer be recognised.
func clean(text string, secrets []string) string {
	var forms []string
	for _, s := range secrets {
		if s != "" {
			quoted := strconv.Quote(s) // as %q, and JSON nearly so, writes it
			forms = append(forms, s, quoted[1:len(quoted)-1])
		}
	}
	// Longest first: a short secret inside a longer one must not break the
	// longer one up.
	slices.SortFunc(forms, func(a, b string) int { return cmp.Compare(len(b), len(a)) })
	for _, s := range forms {
		text = strings.ReplaceAll(text, s, "[redacted]")
	}
	text = strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case r == unicode.ReplacementChar, !unicode.IsPrint(r):
			return '?'
		}
		return r
	}, text)
	words := strings.Fields(text)
	for i, w := range words {
		if n := len([]rune(w)); n > maxWord {
			words[i] = fmt.Sprintf("[%d characters]", n)
		}
	}
	text = strings.Join(words, " ")
	if runes := []rune(text); len(runes) > maxText {
		text = string(runes[:maxText]) + "…"
	}
	return text
}

// ownWords is the text of an error if it is of our own making or the operating
// system's, and says no more than that otherwise: net/http quotes answers it
// cannot read.
func ownWords(err error) string {
	for _, ours := range []error{ErrRequest, ErrNotAllowed, ErrCredentials, ErrAnswer,
		context.DeadlineExceeded, context.Canceled, io.EOF, io.ErrUnexpectedEOF} {
		if errors.Is(err, ours) {
			return err.Error()
		}
	}
	if _, ok := errors.AsType[net.Error](err); ok {
		return err.Error()
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return err.Error()
	}
	return "no answer that can be read"
}
