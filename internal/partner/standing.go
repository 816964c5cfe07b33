package partner

import (
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// standing is the authority of keyd's own that no token is asked for with: a
// password, an API key, headers that hold one. It is read for each call, so that
// one that has been changed needs no restart. In a request it is a Go string,
// which cannot be wiped and goes with it.
type standing struct {
	auth    string // AuthBasic, AuthBearer, or another, which is not put here
	id      string
	secret  func() ([]byte, error)
	headers map[string]func() ([]byte, error)
}

// put puts it on a call, and what of it is secret where errors and answers are
// cleaned of it.
func (s *standing) put(c *call) error {
	for _, name := range slices.Sorted(maps.Keys(s.headers)) {
		value, err := readValue(s.headers[name])
		if err != nil {
			return fmt.Errorf("%w: the header %s: %w", ErrCredentials, name, err)
		}
		c.header.Set(name, value)
		c.own = append(c.own, value)
	}
	if s.auth != AuthBasic && s.auth != AuthBearer {
		return nil
	}
	secret, err := readValue(s.secret)
	if err != nil {
		return fmt.Errorf("%w: the client secret: %w", ErrCredentials, err)
	}
	c.own = append(c.own, secret)
	if s.auth == AuthBearer {
		c.header.Set("Authorization", "Bearer "+secret)
		return nil
	}
	basic := base64.StdEncoding.EncodeToString([]byte(s.id + ":" + secret)) // RFC 7617 §2
	c.own = append(c.own, basic)
	c.header.Set("Authorization", "Basic "+basic)
	return nil
}

// readValue reads a secret that has to stand in a header (RFC 9110 §5.5).
func readValue(read func() ([]byte, error)) (string, error) {
	value, err := read()
	defer clear(value)
	switch text := string(value); {
	case err != nil:
		return "", err
	case text == "" || len(text) > maxHeaders || strings.TrimSpace(text) != text || !isPrintable(text):
		return "", errors.New("it is empty, too long, or has characters that do not belong in a header")
	default:
		return text, nil
	}
}

// isPrintable reports whether text can stand in a header.
func isPrintable(text string) bool {
	return !strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r > '~' })
}
