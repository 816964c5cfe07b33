package partner

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// maxRetryAfter bounds what a partner can make us wait, so that one garbled
// header does not stop a rotation for good.
const maxRetryAfter = 24 * time.Hour

// parseRetryAfter reads Retry-After (RFC 9110 §10.2.3): seconds or a date.
// A date is measured from the answer's own Date, so that our clock does not
// matter. Anything else is 0.
func parseRetryAfter(h http.Header, now time.Time) time.Duration {
	v := strings.TrimSpace(h.Get("Retry-After"))
	if isDigits(v) {
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil || n > int64(maxRetryAfter/time.Second) {
			return maxRetryAfter // more digits than fit are still a long wait
		}
		return time.Duration(n) * time.Second
	}
	at, err := http.ParseTime(v)
	if err != nil {
		return 0
	}
	if date, err := http.ParseTime(h.Get("Date")); err == nil {
		now = date
	}
	return min(max(at.Sub(now), 0), maxRetryAfter)
}

func isDigits(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}

// RetryStale calls do with a stored key and, where its error may mean that the
// key is out of date, once more with a fresh one. That is Wise's rule: keep a
// key for as long as it works, fetch once and repeat once when it does not.
// load(ctx, true) must fetch from the partner and store what it got.
func RetryStale[K any](ctx context.Context, load func(ctx context.Context, fresh bool) (K, error),
	do func(context.Context, K) error, isStale func(error) bool) error {
	key, err := load(ctx, false)
	if err != nil {
		return err
	}
	err = do(ctx, key)
	if err == nil || !isStale(err) {
		return err
	}
	key, loadErr := load(ctx, true)
	if loadErr != nil {
		return errors.Join(err, fmt.Errorf("fetching a fresh key: %w", loadErr))
	}
	return do(ctx, key)
}

// StaleKey reports whether err may mean that the request was sealed to a key
// the partner no longer uses. Wise answers everything that is wrong with an
// envelope with a general 500, so a 500 may also be an outage: repeat once,
// not more, and do not rotate on it.
func StaleKey(err error) bool {
	e, ok := errors.AsType[*Error](err)
	return ok && e.Op == opPlayground && e.Status == http.StatusInternalServerError
}
