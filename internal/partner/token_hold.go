package partner

import (
	"crypto/sha256"
	"errors"
	"time"
)

const (
	firstHold   = time.Minute      // after credentials were refused
	longestHold = 15 * time.Minute // doubled up to this
)

// hold keeps a refusal, so that it is not asked for again and again: a token
// endpoint locks clients out.
type hold struct {
	until       time.Time
	err         *Error
	credentials [sha256.Size]byte // the refused ones; others may try at once
	refusals    int               // in a row
}

// check returns the last refusal while it holds.
func (h *hold) check(now time.Time, credentials [sha256.Size]byte) error {
	if h.err == nil || !now.Before(h.until) {
		return nil
	}
	if errors.Is(h.err, ErrCredentials) && credentials != h.credentials {
		return nil
	}
	e := *h.err
	e.retryAfter = h.until.Sub(now)
	return &e
}

// note remembers what the token endpoint said.
func (h *hold) note(err error, now time.Time, credentials [sha256.Size]byte) {
	e, ok := errors.AsType[*Error](err)
	switch {
	case ok && errors.Is(e, ErrCredentials):
		if credentials != h.credentials {
			h.refusals = 0
		}
		wait := min(firstHold<<min(h.refusals, 8), longestHold)
		e.retryAfter = max(e.retryAfter, wait)
		*h = hold{until: now.Add(e.retryAfter), err: e, credentials: credentials, refusals: h.refusals + 1}
	case ok && e.retryAfter > 0:
		*h = hold{until: now.Add(e.retryAfter), err: e, credentials: h.credentials, refusals: h.refusals}
	case err == nil:
		*h = hold{}
	}
}
